"""A Prefect server to talk to, and waiting for things to happen."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from helpers.homes import STARTUP_LIMIT_S, clean_environment
from helpers.ports import free_port
from helpers.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
HTTP = httpx.Client(timeout=90, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
"""For those who ask twice a second: `httpx.get` reads all certificates each time. No connection outlives an answer."""


@dataclass
class PrefectServer:
    """A server of its own, on a database of its own.

    Attributes:
        url: Of the API.
        env: Environment for whatever talks to it.
        process: The server, while it runs.
    """

    url: str
    env: dict[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        """What the server says."""
        return Path(self.env["PREFECT_HOME"]) / "server.log"

    def start(self) -> None:
        """Start it, for the first time or again, and return once it answers."""
        port = self.url.removesuffix("/api").rpartition(":")[2]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port],
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.process = process
        wait_until(lambda: process.poll() is not None or _is_healthy(self.url), STARTUP_LIMIT_S, self._end_of_log)
        assert process.poll() is None, self._end_of_log()

    def kill(self) -> None:
        """End it without a word, as a power cut does."""
        assert self.process is not None
        kill_group(self.process)
        self.process = None

    def _end_of_log(self) -> str:
        return self.log.read_text()[-3000:]

    def prefect(self, *arguments: str, timeout_s: float = 300) -> str:
        """Run the `prefect` command; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"prefect {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def deploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Deploy prefect.yaml as `jade up` does."""
        command = [sys.executable, "-m", "tasks.operations.deploy", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def read(self, kind: str, **body: object) -> list[dict[str, object]]:
        """Return what the API filters: flow_runs, task_runs, artifacts, deployments."""
        found: list[dict[str, object]] = ask("POST", f"{self.url}/{kind}/filter", body).json()
        return found


@contextlib.contextmanager
def serving(home: Path, database: Path | None, **settings: str) -> Iterator[PrefectServer]:
    """Run `prefect server` on a free port while the block lasts.

    Args:
        home: An empty folder, of the server's own.
        database: Of SQLite, as `make_database` leaves it; copied. None: the settings name another.
        settings: Further environment variables, for the server and whoever talks to it.
    """
    if database is not None:
        shutil.copy(database, home)
    url = f"http://127.0.0.1:{free_port()}/api"
    env = (
        clean_environment(home)
        | server_settings()
        | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": url,
            "PREFECT_UI_API_URL": url,
            **settings,
        }
    )
    server = PrefectServer(url, env)
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            stop_group(server.process)


def ask(method: str, url: str, body: object = None) -> httpx.Response:
    """Talk to Prefect's API; return an answer that says that it went well."""
    for pause_s in (1, 4, 16, 0):
        answer = HTTP.request(method, url, json=body)
        # "Ask again": SQLite was locked, for a moment or for a minute. Prefect's own client does ask again.
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(pause_s)
    assert answer.is_success, f"{method} {url}: {answer.status_code} {answer.text[:2000]}"
    return answer


def server_settings() -> dict[str, str]:
    """Return what every server of Jade's is set to."""
    lines = (ROOT / "deployments" / "prefect.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _is_healthy(url: str) -> bool:
    try:
        return HTTP.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            continue


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that leads a group, with what a killed one leaves behind, such as its ephemeral server."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
