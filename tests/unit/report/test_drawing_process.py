"""A second process that draws: the same bytes, no process left, and a report all the same where it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers.report_inputs import make_report_input

from jade_model.report import DrawingProcess, ReportInput, write_report


@pytest.fixture(scope="module")
def report() -> ReportInput:
    return make_report_input(num_folds=2, num_windows=20)


@pytest.fixture(scope="module")
def alone(report: ReportInput, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return written(report, tmp_path_factory.mktemp("alone"))


def written(report: ReportInput, folder: Path, beside: DrawingProcess | None = None) -> dict[str, bytes]:
    write_report(report, folder, beside)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def test_two_processes_draw_what_one_does(report: ReportInput, alone: dict[str, bytes], tmp_path: Path) -> None:
    with DrawingProcess() as beside:
        assert written(report, tmp_path, beside) == alone
    assert {"thresholds.png", "gallery.png", "forest.png"} <= set(alone)


def test_where_it_is_killed_everything_is_drawn_here_and_the_log_says_so(
    report: ReportInput, alone: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {child.pid for child in children()}
    with DrawingProcess() as beside:
        (started,) = [child for child in children() if child.pid not in before]
        started.send_signal(signal.SIGKILL)
        assert written(report, tmp_path, beside) == alone
    assert "ended with -9: drawing here" in caplog.text


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_one_that_was_asked_for_nothing_ends_with_its_block(error: type[BaseException] | None) -> None:
    before = {child.pid for child in children()}
    try:
        with DrawingProcess():
            started = [child for child in children() if child.pid not in before]
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert len(started) == 1
    assert not started[0].is_running()


def test_it_does_not_outlive_a_process_that_was_killed() -> None:
    code = "import time; from jade_model.report import DrawingProcess; d = DrawingProcess(); time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 60
    while not (found := psutil.Process(parent.pid).children()):
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    psutil.wait_procs(found, timeout=60)
    assert not found[0].is_running()
