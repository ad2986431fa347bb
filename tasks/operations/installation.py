"""A complete local installation: Prefect server, work pool, worker, deployments, reports; started and stopped as one.

Everything of it lies in one folder, `server` in the state folder: Prefect's home with the database, the logs, and one
record a process with its id and start time, so that a number that the system has since given to another program is
never taken for ours. Stopping keeps the database: the next start shows the old runs.
"""

from __future__ import annotations

import fcntl
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from jade_model.core.files import write_atomically
from tasks.core.errors import BadRequest, RunError
from tasks.operations.worker import end_runs
from tasks.settings.load import load_settings, state_folder
from tasks.settings.prefect import installation_environment, too_new

DEFAULT_PORT = 4200
POOL = "jade"
LAST_PORT = 65534
"""Reports are served on the next one."""
SERVER_SETTINGS = Path("deployments/prefect.env")
SERVER, WORKER, REPORTS = "server", "worker", "reports"
START_LIMIT_S = 480.0
"""A fresh database takes some 20 s, a busy machine a multiple of it."""
DEPLOY_LIMIT_S = 900.0
STOP_GRACE_S = 30.0
KILL_GRACE_S = 10.0
_POLL_S = 0.3


@dataclass(frozen=True)
class Installation:
    """Where an installation lies and listens.

    Attributes:
        folder: Of its database, logs and records.
        checkout: Of `prefect.yaml`; deployed flows run there.
        artifacts: Folder of the runs whose reports are served; None where a bucket keeps them.
        port: Of the server, on the loopback interface; reports are served on the next one.
    """

    folder: Path
    checkout: Path
    artifacts: Path | None
    port: int = DEFAULT_PORT

    @property
    def ui_url(self) -> str:
        """What to open in a browser."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """What `PREFECT_API_URL` has to be."""
        return f"{self.ui_url}/api"

    @property
    def reports_port(self) -> int:
        """Where reports are served."""
        return self.port + 1

    def log(self, name: str) -> Path:
        """Return a process's log."""
        return self.folder / f"{name}.log"

    def record(self, name: str) -> Path:
        """Return what is known of a process while it runs."""
        return self.folder / f"{name}.json"


def local_installation(port: int = DEFAULT_PORT) -> Installation:
    """Return this user's installation.

    Raises:
        RunError: Jade does not run from a checkout, so that there is nothing to deploy.
    """
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "prefect.yaml").is_file():
        raise RunError(f"{checkout} has no prefect.yaml: run `jade up` from a checkout of Jade")
    kept = load_settings().artifacts
    # The worker's working folder is the checkout: a relative folder lies there, wherever this is called.
    artifacts = None if "://" in kept else (checkout / Path(kept).expanduser()).resolve()
    return Installation(state_folder().absolute() / "server", checkout, artifacts, port)


def start_installation(installation: Installation, *, reset: bool = False) -> list[str]:
    """Start what does not run yet, deploy what has changed, and return once all of it answers.

    Args:
        installation: What to start.
        reset: Deploy everything as prefect.yaml says: see `deploy`.

    Returns:
        What was started: `server`, `worker`, `reports`, or nothing.

    Raises:
        BadRequest: Another program listens on a port of it, or another checkout has deployed here.
        RunError: A process ended, or does not answer in time; the end of its log is in the message. What was
            started by this call is stopped again.
    """
    with _lock(installation):
        started: list[str] = []
        try:
            for name in (WORKER, REPORTS, SERVER):
                # What was started from a checkout that has moved since has lost its environment.
                if _running(installation, name) and not Path(_record(installation, name)["checkout"]).is_dir():
                    _stop(installation, name)
            if not _serves_already(installation):
                _require_free_port(installation.port, "the server")
                arguments = ["server", "start", "--host", "127.0.0.1", "--port", str(installation.port)]
                _start(installation, SERVER, ["prefect", *arguments])
                started.append(SERVER)
            if installation.artifacts is not None and _running(installation, REPORTS) is None:
                _require_free_port(installation.reports_port, "reports, which take the one after the server's")
            _wait_for(installation, SERVER, lambda: _is_healthy(installation))
            _deploy(installation, reset=reset)
            for name in (WORKER, REPORTS):
                # What another checkout has started, which was taken over, runs its code and its environment.
                if _running(installation, name) and _record(installation, name)["checkout"] != str(
                    installation.checkout
                ):
                    _stop(installation, name)
            if installation.artifacts is not None and _running(installation, REPORTS) is None:
                arguments = [str(installation.artifacts), str(installation.reports_port)]
                _start(installation, REPORTS, ["tasks.operations.report_server", *arguments])
                started.append(REPORTS)
            if _running(installation, WORKER) is None:
                _start(installation, WORKER, ["prefect", "worker", "start", "--pool", POOL, "--name", "local"])
                started.append(WORKER)
            _wait_for(installation, WORKER, lambda: _has_worker(installation))
        except BaseException:
            for name in reversed(started):
                _stop(installation, name)
            raise
        return started


def stop_installation(installation: Installation) -> list[str]:
    """End every process of the installation: TERM, then KILL. Silent if nothing runs.

    Returns:
        What was stopped.

    Raises:
        RunError: A process does not end.
    """
    if not installation.folder.is_dir():
        return []
    with _lock(installation):
        # The worker first: its runs free their hosts, and tell the server that they ended.
        return [name for name in (WORKER, REPORTS, SERVER) if _stop(installation, name)]


def _start(installation: Installation, name: str, module: list[str]) -> None:
    with installation.log(name).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=installation.checkout,
            env=_environment(installation),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Neither a Ctrl-C nor the end of the terminal shall reach it.
            start_new_session=True,
        )
    record = {"pid": process.pid, "start_time": psutil.Process(process.pid).create_time(), "port": installation.port}
    record["checkout"] = str(installation.checkout)
    write_atomically(installation.record(name), json.dumps(record) + "\n")


def _running(installation: Installation, name: str) -> psutil.Process | None:
    """Return a process of ours that lives, or None."""
    try:
        record = _record(installation, name)
        process = psutil.Process(int(record["pid"]))
        alive = process.create_time() == record["start_time"] and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ValueError, KeyError, psutil.NoSuchProcess):
        return None
    return process if alive else None


def _record(installation: Installation, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"checkout": ""} | json.loads(installation.record(name).read_text())
    return found


def _serves_already(installation: Installation) -> bool:
    if _running(installation, SERVER) is None:
        return False
    port = int(_record(installation, SERVER)["port"])
    if port != installation.port:
        raise RunError(f"an installation runs on port {port} already; `jade down` stops it")
    return True


def _stop(installation: Installation, name: str) -> bool:
    process = _running(installation, name)
    if process is None:
        installation.record(name).unlink(missing_ok=True)
        return False
    # Runs and their trainings lead sessions of their own: only the tree of parents leads to all of them.
    family = [process, *process.children(recursive=True)]
    if name == WORKER:
        end_runs(process, STOP_GRACE_S)
    process.terminate()
    _, living = psutil.wait_procs(family, timeout=STOP_GRACE_S)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for left in living:
            with suppress(psutil.NoSuchProcess):
                end(left)
        _, living = psutil.wait_procs(living, timeout=KILL_GRACE_S)
    if living:
        raise RunError(f"processes {', '.join(str(left.pid) for left in living)} of the {name} do not end")
    installation.record(name).unlink(missing_ok=True)
    return True


def _require_free_port(port: int, whose: str) -> None:
    with socket.socket() as probe:
        # As the server itself does: a port whose last connections are still being closed is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BadRequest(
                f"port {port} on 127.0.0.1, for {whose}, is taken by another program. Stop it, or choose another port: "
                f"`jade up --port N` (`make up PORT=N`)"
            ) from error


def _wait_for(installation: Installation, name: str, answers: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not answers():
        if _running(installation, name) is None:
            end = _log_end(installation, name)
            raise RunError(f"the {name} ended at once: {too_new(end, installation.folder / 'prefect') or end}")
        if time.monotonic() > deadline:
            raise RunError(f"the {name} does not answer after {START_LIMIT_S:.0f} s; {_log_end(installation, name)}")
        time.sleep(_POLL_S)


def _is_healthy(installation: Installation) -> bool:
    try:
        return httpx.get(f"{installation.api_url}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _has_worker(installation: Installation) -> bool:
    answer = httpx.post(f"{installation.api_url}/work_pools/{POOL}/workers/filter", json={}, timeout=10)
    return answer.status_code == httpx.codes.OK and any(item.get("status") == "ONLINE" for item in answer.json())


def _deploy(installation: Installation, *, reset: bool) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tasks.operations.deploy", *(["--reset"] if reset else [])],
            cwd=installation.checkout,
            env=_environment(installation),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEPLOY_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(
            f"deploying was not done after {DEPLOY_LIMIT_S:.0f} s: is this machine very busy? `jade up` again goes on"
        ) from error
    if done.returncode == BadRequest.exit_code:
        raise BadRequest(done.stderr.strip())
    if done.returncode != 0:
        raise RunError(f"nothing could be deployed:\n{done.stderr[-3000:]}")


def _environment(installation: Installation) -> dict[str, str]:
    reports = f"http://127.0.0.1:{installation.reports_port}"
    return installation_environment(
        installation.checkout / SERVER_SETTINGS,
        home=installation.folder / "prefect",
        api_url=installation.api_url,
        reports=None if installation.artifacts is None else (installation.artifacts, reports),
    )


def _log_end(installation: Installation, name: str) -> str:
    text = installation.log(name).read_text("utf-8", errors="replace")
    return f"the end of {installation.log(name)}:\n{text[-2000:]}"


@contextmanager
def _lock(installation: Installation) -> Iterator[None]:
    """Let one `jade up` or `jade down` work at a time; the system lets go of it if its owner dies."""
    (installation.folder / "prefect").mkdir(mode=0o700, parents=True, exist_ok=True)
    with (installation.folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
