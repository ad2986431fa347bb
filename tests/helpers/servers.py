"""A Prefect server to talk to, and waiting for things to happen."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from helpers.homes import STARTUP_LIMIT_S, clean_environment
from helpers.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class PrefectServer:
    """A server of its own, on a database of its own.

    Attributes:
        url: Of the API.
        env: Environment for whatever talks to it.
    """

    url: str
    env: dict[str, str]

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

    def read(self, kind: str, **body: object) -> list[dict[str, object]]:
        """Return what the API filters: flow_runs, task_runs, artifacts, deployments."""
        answer = httpx.post(f"{self.url}/{kind}/filter", json=body, timeout=30)
        answer.raise_for_status()
        found: list[dict[str, object]] = answer.json()
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
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = clean_environment(home) | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_UI_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        **settings,
    }
    log_path = home / "server.log"
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until(
                lambda: server.poll() is not None or _is_healthy(url),
                STARTUP_LIMIT_S,
                lambda: log_path.read_text()[-3000:],
            )
            assert server.poll() is None, log_path.read_text()[-3000:]
            yield PrefectServer(url, env)
        finally:
            stop_group(server)


@contextlib.contextmanager
def working(server: PrefectServer, *limits: int) -> Iterator[None]:
    """Deploy `prefect.yaml` as it stands, and let workers run it while the block lasts.

    Args:
        server: Where.
        limits: How many runs each worker, a process of its own, has at once; without any, one worker has all.
    """
    server.prefect("work-pool", "create", "jade", "--type", "process")
    server.prefect("--no-prompt", "deploy", "--all")
    started = []
    try:
        for number, limit in enumerate(limits or (None,)):
            at_once = [] if limit is None else ["--limit", str(limit)]
            with worker_log(server, number).open("wb") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-m", "prefect", "worker", "start", "--pool", "jade", *at_once],
                    cwd=ROOT,
                    env=server.env,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            started.append(worker)
        yield
    finally:
        for worker in started:
            stop_group(worker)


def worker_log(server: PrefectServer, number: int = 0) -> Path:
    """Return what a worker of `working` has said."""
    return Path(server.env["PREFECT_HOME"]) / f"worker-{number}.log"


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK
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


def wait_until(holds: Callable[[], bool], limit_s: float, evidence: Callable[[], str] = str) -> None:
    """Poll until it holds; fail with the evidence when the time is up."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {limit_s} s\n{evidence()}"
        time.sleep(0.5)
