"""Training somewhere, as the rest of the program sees it: given trainings, an executor tells events until all are over.

A training is idempotent by its run key: an executor may try it several times, or in two places at once, and what counts
is the first result whose files are in the run's folder and agree with their manifest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jade_model.core.errors import CheckpointError, ConfigError, DataError, TrainingDiverged, UserError
from jade_model.core.job import Job, Training
from jade_model.core.training_files import TrainingFiles, files_of, is_done

HERE = "this machine"
OWN_FAULTS = frozenset(kind.__name__ for kind in (TrainingDiverged, UserError, ConfigError, DataError, CheckpointError))
"""Errors that a training would meet wherever it is tried."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a training, or that its process wrote.

    Attributes:
        kind: `epoch`: one ended; `data` is what the trainer tells of it. `checkpoint`: the newest one of an unfinished
            training is in the run's folder, verified; `at_once` if its host is about to be lost. `line`: `text` as it
            was written on another host, None here; `shown` is what people should see of it, None if other events tell
            it; `gpu`, in the one that says so, what the GPU is called.
            `done`: the training's files are in the run's folder and agree with their manifest; `seconds` that it
            took, 0 if it was kept. `failed`: it will not be done in this run; `reason` for people, `error` if whoever
            ran it failed, `is_own_fault` if it would fail anywhere, and how many `attempts` there were.
        run_key: Of the training; empty for a line of the whole process.
        where: Host, worker or process, for people.
        data: See above.
    """

    kind: Literal["epoch", "checkpoint", "line", "done", "failed"]
    run_key: str
    where: str
    data: Mapping[str, Any] = field(default_factory=dict)


def done(run_key: str, where: str, seconds: float) -> Event:
    """Return the event of a training that is done."""
    return Event("done", run_key, where, {"seconds": seconds})


def failed(
    run_key: str,
    where: str,
    reason: str,
    *,
    error: Exception | None = None,
    is_own_fault: bool = False,
    attempts: int = 1,
) -> Event:
    """Return the event of a training that will not be done."""
    data = {"reason": reason, "error": error, "is_own_fault": is_own_fault, "attempts": attempts}
    return Event("failed", run_key, where, data)


class Executor(ABC):
    """Runs trainings of one run's job; `tasks.execution.opening.open_executor` makes one, and ends it.

    Args:
        folder: The run's.
        job: What the run trains.
    """

    def __init__(self, folder: Path, job: Job) -> None:
        self._folder, self._job = folder, job
        self._reason: Exception | None = None
        self._is_stopped = False

    def run(self, trainings: Sequence[Training]) -> Iterator[Event]:
        """Run trainings; tell what happens until each has ended with one `done` or `failed`, in any order.

        What is done in the run's folder already is not trained again. A training that fails does not stop the others.
        Checkpoints are told of as they come. May be called again once the iterator is exhausted. An iterator that is
        closed early stops what it started.

        Raises:
            Exception: The reason that `stop` was given, once nothing is waited for any more.
            RunError, HostError: Somebody stopped the job on its host.
        """
        pending = pending_trainings(trainings, self._folder)
        for training in trainings:
            if training.run_key not in pending:
                yield done(training.run_key, HERE, 0.0)
        if not self._is_stopped and self._reason is None:
            yield from self._train(pending)
        if self._reason is not None:
            raise self._reason

    def stop(self, reason: Exception | None = None) -> None:
        """End what runs, and run nothing more. Returns once nothing runs, or says what may; silent if nothing does.

        Args:
            reason: Why the run may not go on: `run` raises it. Jobs on other hosts are then left alone, for whoever
                goes on with the run may be attached to them.
        """
        self._reason, self._is_stopped = self._reason or reason, True
        self._end()

    @abstractmethod
    def _train(self, pending: dict[str, Training]) -> Iterator[Event]:
        """Run those that are not done, by run key; there may be none. Ends early once `_is_stopped`."""

    @abstractmethod
    def _end(self) -> None:
        """End what `_train` has begun, from another thread or after it; there may be nothing."""


def pending_trainings(trainings: Iterable[Training], folder: Path) -> dict[str, Training]:
    """Return the trainings that are not done in a run's folder, by run key."""
    return {item.run_key: item for item in trainings if not is_done(item, files_of(item, folder))}


def checkpoint_of(files: TrainingFiles, which: str = "last") -> Path:
    """Return the checkpoint that is scored: of the last epoch, or of the best validation loss."""
    return files.best if which == "best" else files.last
