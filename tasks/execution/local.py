"""Trainings on this machine: `python -m jade_model train` in a process group of its own, started anew for each call."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import psutil

from jade_model.core.job import Job, Training, save_job
from tasks.core.errors import TrainingFailed
from tasks.execution.base import HERE, Event, Executor, failed
from tasks.execution.trainer_output import TrainerOutput, trainer_command
from tasks.settings.environment import training_environment
from tasks.settings.models import Workers

BATCH_NAME = "batch.json"
STOP_GRACE_S = 10.0
GONE_WITHIN_S = 5.0
"""After KILL nothing takes longer but for a call of the kernel that hangs."""


class LocalExecutor(Executor):
    """An `Executor` of processes on this machine.

    Args:
        folder, job: As of every executor.
        device: Where it trains.
        workers: Trainings at once; None: one a core; "arms": on a GPU, one of each arm.
    """

    def __init__(self, folder: Path, job: Job, *, device: str = "cpu", workers: Workers = None) -> None:
        super().__init__(folder, job)
        self._device, self._workers = device, workers
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def _train(self, pending: dict[str, Training]) -> Iterator[Event]:
        if not pending:
            return
        path = self._folder / BATCH_NAME
        save_job(replace(self._job, trainings=tuple(pending.values())), path)
        try:
            yield from self._follow(pending, path)
        finally:
            self._end()
            path.unlink(missing_ok=True)

    def _follow(self, pending: dict[str, Training], path: Path) -> Iterator[Event]:
        process = self._start(path)
        if process is None:
            return
        lines: queue.SimpleQueue[tuple[str, bool] | None] = queue.SimpleQueue()
        threading.Thread(target=_read_all, args=(process, lines), daemon=True, name="trainer").start()
        output = TrainerOutput(pending.values(), HERE, is_remote=False)
        while (item := lines.get()) is not None:
            line, outcome = output.read(item[0], may_tell=item[1])
            if line.data["shown"] is not None:
                yield line
            if outcome is not None:
                if outcome.kind in {"done", "failed"}:
                    pending.pop(outcome.run_key, None)
                yield outcome
        status = process.wait()
        error = TrainingFailed(f"{len(pending)} trainings", status, output.tail)
        for run_key in pending:
            yield failed(run_key, HERE, str(error), error=error)

    def _start(self, path: Path) -> subprocess.Popen[str] | None:
        command = trainer_command(sys.executable, path, self._job, device=self._device, workers=self._workers)
        with self._lock:
            if self._is_stopped:
                return None
            # A group of its own, so that stopping it reaches the worker processes too.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=training_environment(),
                start_new_session=True,
            )
            return self._process

    def _end(self) -> None:
        """End the process group: TERM, then KILL; returns once nothing of it runs."""
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            if process.poll() is None:
                _signal(process.pid, signal.SIGTERM)
                try:
                    process.wait(STOP_GRACE_S)
                except subprocess.TimeoutExpired:
                    _signal(process.pid, signal.SIGKILL)
                    process.wait()
            # Workers outlive a leader that died alone, and a killed process takes a moment to be gone.
            deadline = time.monotonic() + GONE_WITHIN_S
            while _signal(process.pid, signal.SIGKILL) and _is_alive(process.pid) and time.monotonic() < deadline:
                time.sleep(0.02)


def _read_all(process: subprocess.Popen[str], lines: queue.SimpleQueue[tuple[str, bool] | None]) -> None:
    """Give out the process's lines, each with whether it may be an event; None once it has ended."""
    readers = [
        threading.Thread(target=_read, args=(stream, may_tell, lines), daemon=True)
        for stream, may_tell in ((process.stdout, True), (process.stderr, False))
    ]
    for reader in readers:
        reader.start()
    process.wait()
    for reader in readers:
        # Workers that outlive a leader keep its pipes open.
        reader.join(STOP_GRACE_S)
    lines.put(None)


def _read(stream: IO[str], may_tell: bool, lines: queue.SimpleQueue[tuple[str, bool] | None]) -> None:  # noqa: FBT001
    with stream:
        for line in stream:
            lines.put((line.rstrip(), may_tell))


def _signal(group: int, number: signal.Signals) -> bool:
    """Send a signal to a process group; return whether there was anything of it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _is_alive(group: int) -> bool:
    """Whether anything of a group can still do something: the dead stay listed until their parent takes note."""
    for number in psutil.pids():
        try:
            if os.getpgid(number) == group and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
                return True
        except (OSError, psutil.NoSuchProcess):  # it has gone, or is none of ours
            continue
    return False
