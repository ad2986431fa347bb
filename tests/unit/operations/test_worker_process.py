"""Runs of a worker are asked to end before the worker itself is."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.operations.worker import end_runs
from tests.helpers.processes import wait_until

RUN = "import signal, sys, time, pathlib\n" + textwrap.dedent(
    """
    def end(*_):
        time.sleep(float(sys.argv[2]))
        pathlib.Path(sys.argv[1], "freed").touch()
        sys.exit()
    signal.signal(signal.SIGTERM, end)
    pathlib.Path(sys.argv[1], "running").touch()
    time.sleep(60)
    """
)
# As Prefect's: it kills what it started as soon as it is asked to end.
WORKER = textwrap.dedent(
    """
    import signal, subprocess, sys
    run = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
    def end(*_):
        run.kill()
        sys.exit()
    signal.signal(signal.SIGTERM, end)
    run.wait()
    signal.pause()
    """
)


def started(folder: Path, frees_for_s: float) -> subprocess.Popen[bytes]:
    worker = subprocess.Popen([sys.executable, "-c", WORKER, RUN, str(folder), str(frees_for_s)])
    wait_until((folder / "running").exists)
    return worker


@pytest.fixture(params=[0.5])
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    worker = started(tmp_path, request.param)
    family = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    yield worker
    for process in family:
        if process.is_running():
            process.kill()
    worker.wait()


def test_a_run_frees_its_host_and_the_worker_goes_on(tmp_path: Path, worker: subprocess.Popen[bytes]) -> None:
    end_runs(psutil.Process(worker.pid), 60.0)
    assert (tmp_path / "freed").exists()
    assert worker.poll() is None
    assert psutil.Process(worker.pid).status() != psutil.STATUS_STOPPED


def test_a_stop_command_does_the_same(tmp_path: Path, worker: subprocess.Popen[bytes]) -> None:
    command = [sys.executable, "-m", "tasks.operations.worker", "--end-runs", str(worker.pid)]
    subprocess.run(command, check=True)
    assert (tmp_path / "freed").exists()
    assert worker.poll() is None
    worker.kill()
    worker.wait()
    subprocess.run(command, check=True)


@pytest.mark.parametrize("worker", [60.0], indirect=True)
def test_patience_has_an_end(tmp_path: Path, worker: subprocess.Popen[bytes]) -> None:
    end_runs(psutil.Process(worker.pid), 0.0)
    assert not (tmp_path / "freed").exists()
    assert worker.poll() is None


def test_a_worker_that_has_ended_has_no_runs(worker: subprocess.Popen[bytes]) -> None:
    process = psutil.Process(worker.pid)
    worker.terminate()
    worker.wait()
    began = time.monotonic()
    end_runs(process, 3600.0)
    assert time.monotonic() - began < 200
