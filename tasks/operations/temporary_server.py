"""A Prefect server for one command, where none is set: a process of its own, which ends with the command.

Prefect's own temporary server starts only when the flow is called, after the command has imported all of the server,
too; and it is in the command's process group, where a signal to the group ends it before the run can say how it ended.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import httpx

from tasks.core.errors import TaskError
from tasks.settings.prefect import TEMPORARY_SERVER, too_new

# A fresh database takes a server some 20 s, a busy machine a multiple of it.
START_LIMIT_S = 480.0
_STOP_LIMIT_S = 5.0
_LINES_TOLD = 5


class TemporaryServer:
    """The server of this command. It starts while the command goes on; `wait` before the first question to it."""

    def __init__(self, log: Path) -> None:
        """Start it on a free port, and have it ended at exit; also if this process is killed.

        Must run before `prefect` is imported: what Prefect still sends at exit goes before the server does.

        Args:
            log: File for what the server says.
        """
        with socket.create_server(("127.0.0.1", 0)) as listening, log.open("wb") as said:
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
            self._log = log
            # Its standard input ends with this process, however that ends; in a session of its own, neither Ctrl-C nor
            # a signal to the command's group reaches the server before the run has told it how it ended.
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listening.fileno())],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                pass_fds=[listening.fileno()],
                start_new_session=True,
                env={
                    **os.environ,
                    "PREFECT_UI_ENABLED": "0",
                    "PREFECT__SERVER_EPHEMERAL": "1",
                    "PREFECT__SERVER_FINAL": "1",
                },
            )
        atexit.register(self._stop)
        os.environ["PREFECT_API_URL"] = os.environ[TEMPORARY_SERVER] = self.url
        # It has no pages that Prefect could point to.
        os.environ["PREFECT_UI_URL"] = ""

    def wait(self) -> None:
        """Return once it answers.

        Raises:
            TaskError: It ended, or does not answer in time.
        """
        try:
            # The port takes questions from the first moment on; they are answered when the server has started.
            httpx.get(f"{self.url}/health", timeout=START_LIMIT_S).raise_for_status()
        except httpx.HTTPError as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_LIMIT_S)
            said = self._log.read_text("utf-8", "replace").strip()
            if why := too_new(said, self._log.parent):
                raise TaskError(f"Prefect's temporary server did not start: {why}") from error
            last = said.splitlines()[-_LINES_TOLD:]
            raise TaskError(
                "Prefect's temporary server did not start: "
                + "\n".join(last or [str(error)])
                + f"\nAll that it said is in {self._log}; set PREFECT_API_URL to use a server that runs"
            ) from error

    def _stop(self) -> None:
        try:
            # Closes its standard input.
            self._process.communicate(timeout=_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _serve(descriptor: int) -> None:
    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app, factory=True, log_level="error", lifespan="on", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)

    def end_with_command() -> None:
        while os.read(0, 1):
            pass
        server.should_exit = True

    threading.Thread(target=end_with_command, daemon=True).start()
    with socket.socket(fileno=descriptor) as listening:
        server.run([listening])


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
