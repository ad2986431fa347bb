"""The training job of a run: what it says of itself, wherever it runs, and the process group that runs it here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from jade_model.core.job import Job, Training, load_job
from jade_model.core.training_files import TrainingFiles
from tasks.artifacts.publisher import Mirror
from tasks.core.errors import TrainingFailed
from tasks.core.layout import MEMBER_SEED_STEP
from tasks.execution.log_buffer import SaidLines
from tasks.execution.progress import TrainingBars
from tasks.settings.host_entries import Workers
from tasks.settings.load import training_environment

JOB_NAME = "job.json"
STOP_GRACE_S = 10.0
GONE_WITHIN_S = 5.0
"""After KILL nothing takes longer but for a call of the kernel that hangs."""
POLL_S = 1.0


@dataclass(frozen=True, order=True)
class Part:
    """One arm and seed of a run, all folds and members: what one Prefect task follows."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """As people see it: `crf-seed0`."""
        return f"{self.arm.replace('_', '-')}-seed{self.seed}"


@dataclass
class PartState:
    """How far a part is.

    Attributes:
        trainings: How many belong to it.
        epochs: Of all its trainings together.
        epochs_done: Of them.
        finished: Trainings that are done.
        latest: Line about its newest epoch.
    """

    trainings: int = 0
    epochs: int = 0
    epochs_done: int = 0
    finished: int = 0
    latest: str = ""
    done_by_training: dict[str, int] = field(default_factory=dict)


def part_of(training: Training) -> Part:
    """Return the part that a training belongs to."""
    return Part(training.arm, training.seed % MEMBER_SEED_STEP)


def parts_of(job: Job) -> list[Part]:
    """Return the job's parts, in the order in which they are trained."""
    return list(dict.fromkeys(part_of(training) for training in job.trainings))


class FollowedJob(ABC):
    """A run's trainings while they go on somewhere, and what they have said so far.

    Attributes:
        job: What is trained.
        folder: The run's.
        state: How far each part is.
        changes: How many events there were; see `wait_for_change`.
        exit_status: Of the process that trains; None while it runs, and where it left none.
        ended: Whether nothing more will happen.
        said: What the process says that is no event.
        finished: Run keys of the trainings that are done, with the seconds that each took; 0 if it was kept.
        failed: Output folders of the trainings that failed, each with the error's name and what it says.
        on_epoch: Told of each epoch, from the thread that hears of it.
    """

    def __init__(self, folder: Path, job: Job | None = None, mirror: Mirror | None = None) -> None:
        self._mirror = mirror
        self._aborted: Exception | None = None
        self.job = job or load_job(folder / JOB_NAME)
        self.folder = folder
        self.state: dict[Part, PartState] = {}
        for training in self.job.trainings:
            part = self.state.setdefault(part_of(training), PartState())
            part.trainings += 1
            part.epochs += training.recipe.training.epochs
        self.changes = 0
        self._changed = threading.Condition()
        self.exit_status: int | None = None
        self.ended = False
        self.finished: dict[str, float] = {}
        self.failed: dict[str, tuple[str, str]] = {}
        self._epochs = {training.run_key: training.recipe.training.epochs for training in self.job.trainings}
        self.said = SaidLines()
        self.trained: tuple[float, float] | None = None
        self.on_epoch: Callable[[dict[str, Any]], None] | None = None

    @abstractmethod
    def stop(self) -> None:
        """End the trainings; returns once nothing of them runs."""

    def abort(self, error: Exception) -> None:
        """End the trainings because this run may not go on; `failure` then returns the error."""
        self._aborted = error
        self.stop()

    def failure(self, what: str) -> Exception:
        """Return why the job ended without its results.

        Args:
            what: Was not done, for the message.
        """
        return self._aborted or TrainingFailed(what, self.exit_status, self.stderr_tail)

    @property
    def stderr_tail(self) -> str:
        """The last lines that were no events: what the process wrote on standard error."""
        return self.said.tail

    def wait_for_change(self, seen: int, timeout_s: float = POLL_S) -> None:
        """Return when something has happened since there were so many `changes`, or after the time."""
        with self._changed:
            self._changed.wait_for(lambda: self.changes != seen, timeout_s)

    def wait_for_end(self, timeout_s: float | None = None) -> bool:
        """Return once nothing more will happen, or after the time; whether it has ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended, timeout_s)

    def wake(self) -> None:
        """Let all who wait look again."""
        with self._changed:
            self.changes += 1
            self._changed.notify_all()

    def _end(self, exit_status: int | None) -> None:
        with self._changed:
            self.exit_status, self.ended = exit_status, True
            self.wake()

    def _hear(self, line: str) -> None:
        """Take in a line of the process's output: an event, or something for people."""
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            self.said.add(line)
        elif "arm" in event:
            self._take(event)
        elif event["event"] == "failed" and event.get("training"):
            with self._changed:
                self.failed[str(event["training"])] = (str(event["kind"]), str(event["error"]))
                self.wake()

    def _take(self, event: dict[str, Any]) -> None:
        with self._changed:
            state = self.state[Part(event["arm"], event["seed"] % MEMBER_SEED_STEP)]
            training = f"{event['dataset']}/{event['seed']}/{event['fold']}"
            now = time.monotonic()
            self.trained = (self.trained[0] if self.trained else now, now)
            match event["event"]:
                case "epoch":
                    state.done_by_training[training] = event["epoch"]
                    validation = event["validation_loss"]
                    shown = "" if validation is None else f", val_loss={validation:.4f}"
                    state.latest = (
                        f"fold {event['fold']}: Epoch {event['epoch']}: train_loss={event['train_loss']:.4f}{shown}"
                    )
                case "resume_refused":
                    self.said.add(
                        f"{event['arm']} seed {event['seed']} fold {event['fold']} starts over: {event['reason']}"
                    )
                case "training_done" | "training_skipped":
                    state.done_by_training[training] = self._epochs[event["run_key"]]
                    state.finished += 1
                    self.finished[event["run_key"]] = float(event.get("seconds", 0.0))
                    if event["event"] == "training_skipped":
                        state.latest = f"fold {event['fold']}: kept from an earlier run"
            state.epochs_done = sum(state.done_by_training.values())
            self.wake()
        if event["event"] == "epoch" and self.on_epoch is not None:
            self.on_epoch(event)
        self._publish(event)

    def _publish(self, event: dict[str, Any]) -> None:
        """Let the mirror know of a checkpoint, or of a training that is done."""
        if self._mirror is None:
            return
        match event["event"]:
            case "checkpoint":
                self._mirror.checkpoint(self._training_of(event))
            case "training_done" | "training_skipped":
                self._mirror.finished(self._training_of(event))

    def _training_of(self, event: dict[str, Any]) -> Training:
        """Return the training that an event tells of.

        Raises:
            KeyError: It is none of the job's.
        """
        names = tuple(event[name] for name in ("arm", "dataset", "seed", "fold"))
        for training in self.job.trainings:
            if (training.arm, training.dataset, training.seed, training.fold) == names:
                return training
        raise KeyError(names)


class TrainingJob(FollowedJob):
    """`python -m jade_model train` on a job of a run's folder, on this machine."""

    def __init__(
        self,
        folder: Path,
        *,
        device: str,
        workers: Workers,
        job_name: str = JOB_NAME,
        mirror: Mirror | None = None,
    ) -> None:
        super().__init__(folder, load_job(folder / job_name), mirror)
        command = [sys.executable, "-m", "jade_model", "train", str(folder / job_name)]
        command += ["--device", device, "--resume", "--progress", "json"]
        if workers is not None:
            command += ["--workers", str(workers)]
        # A group of its own, so that stopping it reaches the worker processes too.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=training_environment(),
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read_events, args=(self.process.stdout,), daemon=True),
            threading.Thread(target=self._read_errors, args=(self.process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self._waiter = threading.Thread(target=self._wait, daemon=True)
        self._waiter.start()

    def stop(self) -> None:
        """End the process group: TERM, then KILL; returns once nothing of it runs."""
        if self.process.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self.process.wait()
        # Workers outlive a leader that died alone, and a killed process takes a moment to be gone.
        deadline = time.monotonic() + GONE_WITHIN_S
        while self._signal(signal.SIGKILL) and self._is_anything_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._waiter.join(STOP_GRACE_S)

    def _is_anything_alive(self) -> bool:
        """Whether anything of the group can still do something: the dead stay listed until their parent takes note."""
        return any(_group_of(number) == self.process.pid and _is_alive(number) for number in psutil.pids())

    def _signal(self, number: signal.Signals) -> bool:
        """Send a signal to the group; return whether there was anything of it."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _wait(self) -> None:
        status = self.process.wait()
        for reader in self._readers:
            reader.join(STOP_GRACE_S)
        self._end(status)

    def _read_events(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._hear(line.rstrip())

    def _read_errors(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.said.add(line.rstrip())


def _group_of(process_id: int) -> int | None:
    try:
        return os.getpgid(process_id)
    except OSError:  # it has gone, or is none of ours
        return None


def _is_alive(process_id: int) -> bool:
    try:
        return bool(psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def running_job(folder: Path, *, device: str, workers: Workers, mirror: Mirror | None = None) -> Iterator[TrainingJob]:
    """Run the job of a run while the block lasts; whatever happens, nothing of it runs afterwards.

    Args:
        folder: The run's.
        device: Where it trains.
        workers: Trainings at once; None: one a core.
        mirror: Publishes checkpoints as they appear.
    """
    job = TrainingJob(folder, device=device, workers=workers, mirror=mirror)
    try:
        with drawn(job):
            yield job
    finally:
        job.stop()


@contextmanager
def drawn(job: FollowedJob) -> Iterator[None]:
    """Show a job's progress while the block lasts."""
    stop_drawing = threading.Event()
    drawer = threading.Thread(target=_draw, args=(job, stop_drawing), daemon=True)
    drawer.start()
    try:
        yield
    finally:
        stop_drawing.set()
        job.wake()
        drawer.join()


def checkpoint_of(files: TrainingFiles, which: str = "last") -> Path:
    """Return the checkpoint that is scored: of the last epoch, or of the best validation loss."""
    return files.best if which == "best" else files.last


def _draw(job: FollowedJob, stop: threading.Event) -> None:
    with TrainingBars() as bars:
        for part, state in job.state.items():
            bars.expect(part.name, state.epochs)
        is_last, seen = False, 0
        while not is_last:
            job.wait_for_change(seen)
            is_last, seen = stop.is_set(), job.changes
            # All at once, above the bars: neither the process nor the terminal is held up by single lines.
            if said := job.said.take_for_terminal():
                sys.stderr.write(said)
                sys.stderr.flush()
            for part, state in job.state.items():
                bars.show(part.name, state.epochs_done, state.latest)
