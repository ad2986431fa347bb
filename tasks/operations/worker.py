"""Asks the runs of a Prefect worker to end before the worker itself is.

    python -m tasks.operations.worker --pool jade --with-healthcheck    # a worker that does so when it is told to end
    python -m tasks.operations.worker --end-runs PROCESS                # of the worker that is this process

Prefect's own worker kills its runs when it is asked to end: none frees its host, and all stay "Running" for ever.
Containers start the first; systemd, which stops by a command, calls the second; `jade down` calls end_runs.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

import psutil

RUNS_GRACE_S = 150.0
"""To free a rented machine takes minutes. `stop_grace_period` and `TimeoutStopSec` exceed both of these together."""
WORKER_GRACE_S = 15.0
_POLL_S = 0.2


def end_runs(worker: psutil.Process, patience_s: float) -> None:
    """Ask the runs of a worker to end, and wait until nothing of them is left, or for so long. Silent if it has ended.

    The worker takes no new run meanwhile: it is suspended, and goes on afterwards.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.suspend()
        try:
            family = worker.children(recursive=True)
            for run in worker.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    run.terminate()
            deadline = time.monotonic() + patience_s
            while _any_alive(family) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        finally:
            worker.resume()


def _any_alive(processes: Iterable[psutil.Process]) -> bool:
    """Whether any of them can still do something: a suspended parent takes no note of its dead."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def main(arguments: list[str]) -> int:
    """Do what the module's first lines say; return the exit status."""
    if arguments[:1] == ["--end-runs"]:
        with contextlib.suppress(psutil.NoSuchProcess):
            end_runs(psutil.Process(int(arguments[1])), RUNS_GRACE_S)
        return 0
    return _run_worker(arguments)


def _run_worker(arguments: list[str]) -> int:
    """Run a worker until it ends or this process is told to; return its exit status, or 0 where it was told."""
    asked = threading.Event()

    def ask(*_: Any) -> None:
        asked.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    # A session of its own: a Ctrl-C reaches this process alone.
    worker = subprocess.Popen([sys.executable, "-m", "prefect", "worker", "start", *arguments], start_new_session=True)
    while not asked.wait(_POLL_S):
        if (status := worker.poll()) is not None:
            return status if status >= 0 else 128 - status
    end_runs(psutil.Process(worker.pid), RUNS_GRACE_S)
    worker.terminate()
    try:
        worker.wait(WORKER_GRACE_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
