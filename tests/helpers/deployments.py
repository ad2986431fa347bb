"""An installation to talk to: its deployments started, its runs waited for, its notifications received."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from helpers.ports import free_port
from helpers.processes import wait_until
from helpers.servers import ROOT, PrefectServer, ask, stop_group

ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class Deployments:
    """The deployments of a server.

    Attributes:
        port: Of the server.
        env: For commands that talk to it.
    """

    port: int
    env: dict[str, str]

    @classmethod
    def of(cls, server: PrefectServer) -> Deployments:
        """Return the deployments of a server of ours."""
        return cls(int(server.url.removesuffix("/api").rpartition(":")[2]), server.env)

    @property
    def api(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/api"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Talk to the API; return what it answers."""
        answer = ask(method, f"{self.api}/{path}", body)
        return answer.json() if answer.content else None

    def jade(self, *arguments: str, text: str = "", timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Run a command of ours."""
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            cwd=ROOT,
            env=self.env,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def find(self, name: str) -> dict[str, Any]:
        """Return a deployment by `flow/name`."""
        found: dict[str, Any] = self.ask("GET", f"deployments/name/{name}")
        return found

    def change(self, name: str, **changes: Any) -> None:
        """Change a deployment as somebody in the UI would."""
        self.ask("PATCH", f"deployments/{self.find(name)['id']}", changes)

    def pause_schedules(self) -> None:
        """Let nothing fall due: what does so every few minutes costs as much as what a test is about."""
        for deployment in self.ask("POST", "deployments/filter", {}):
            for schedule in deployment["schedules"]:
                self.ask("PATCH", f"deployments/{deployment['id']}/schedules/{schedule['id']}", {"active": False})

    def start(self, name: str, parameters: dict[str, Any] | None = None) -> str:
        """Start a deployment; return the run's id."""
        body = {"parameters": parameters or {}, "state": {"type": "SCHEDULED"}}
        return str(self.ask("POST", f"deployments/{self.find(name)['id']}/create_flow_run", body)["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        """Return what is known of a run."""
        found: dict[str, Any] = self.ask("GET", f"flow_runs/{run_id}")
        return found

    def runs_of(self, name: str) -> list[dict[str, Any]]:
        """Return the runs of a deployment, the newest first."""
        body = {"deployments": {"id": {"any_": [self.find(name)["id"]]}}, "sort": "START_TIME_DESC"}
        found: list[dict[str, Any]] = self.ask("POST", "flow_runs/filter", body)
        return found

    def wait(self, run_id: str, limit_s: float = 400) -> dict[str, Any]:
        """Return a run that has ended."""
        wait_until(lambda: self.run(run_id)["state_type"] in ENDED, limit_s, lambda: self.told(run_id))
        return self.run(run_id)

    def completed(self, run_id: str, limit_s: float = 400) -> dict[str, Any]:
        """Return a run that has ended well."""
        run = self.wait(run_id, limit_s)
        assert run["state_type"] == "COMPLETED", self.told(run_id)
        return run

    def told(self, run_id: str) -> str:
        """Return a run's state and log, as evidence."""
        lines = self.ask("POST", "logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200})
        return json.dumps(self.run(run_id)["state"], indent=1) + "\n".join(line["message"] for line in lines)


@contextmanager
def working(server: PrefectServer, *limits: int) -> Iterator[None]:
    """Deploy `prefect.yaml` as it stands, and let workers run what is started while the block lasts; no more than that.

    Args:
        server: Where.
        limits: How many runs each worker, a process of its own, has at once; without any, one worker has all.
    """
    server.deploy()
    deployments = Deployments.of(server)
    deployments.pause_schedules()
    # They start the reaper after each crash.
    for automation in deployments.ask("POST", "automations/filter", {}):
        deployments.ask("PATCH", f"automations/{automation['id']}", {"enabled": False})
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


@dataclass
class Inbox:
    """A webhook on loopback, and what it was told.

    Attributes:
        url: To post to.
        received: JSON bodies, in order.
    """

    url: str
    received: list[dict[str, Any]] = field(default_factory=list)

    def of(self, occasion: str) -> list[dict[str, Any]]:
        """Return what was told of one occasion; a notification may come twice."""
        unique = {item["message"]: item for item in self.received if item["occasion"] == occasion}
        return list(unique.values())

    def wait_for(self, occasion: str, number: int = 1, limit_s: float = 200) -> list[dict[str, Any]]:
        """Return at least so many notifications of an occasion."""
        wait_until(lambda: len(self.of(occasion)) >= number, limit_s, lambda: json.dumps(self.received, indent=1))
        return self.of(occasion)


@contextmanager
def inbox() -> Iterator[Inbox]:
    """Receive notifications while the block lasts."""
    found = Inbox("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        # All that happens may be told at once, and whoever tells it does not try again.
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        found.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
        yield found
        server.shutdown()


_EAGER = """active = "eager"
[profiles.eager]
PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS = "3"
PREFECT_WORKER_QUERY_SECONDS = "2"
"""


@contextmanager
def installed(home: Path, artifacts: Path, **settings: str) -> Iterator[Deployments]:
    """Start everything with `jade up`, and end it with `jade down`: then nothing of it is left.

    Args:
        home: Of the user whom it belongs to.
        artifacts: Where runs are kept.
        settings: Further environment variables.
    """
    port = free_port(2)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {"HOME": str(home), "JADE_STATE_DIR": str(home / "state"), "JADE_ARTIFACTS": str(artifacts)}
    env |= {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_HOME": str(home / "prefect")}
    env |= settings
    # Nobody sleeps here: schedules are looked at, and work is asked for, more often than every minute and ten seconds.
    prefect = home / "state" / "server" / "prefect"
    prefect.mkdir(parents=True)
    (prefect / "profiles.toml").write_text(_EAGER)
    found = Deployments(port, env)
    try:
        started = found.jade("up", "--port", str(port), "--json")
        assert started.returncode == 0, started.stderr
        assert json.loads(started.stdout)["started"] == ["server", "reports", "worker"]
        yield found
    finally:
        stopped = found.jade("down", "--json")
    assert json.loads(stopped.stdout)["stopped"] == ["worker", "reports", "server"], stopped.stderr
    left = [item for item in psutil.process_iter(["environ"]) if str(home) in str(item.info["environ"])]
    assert not left, [item.cmdline() for item in left]
    for taken in (port, port + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", taken))
