"""Trainings on this machine: a pool of processes, one a core, started anew for each call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from jade_model.core.job import Job, Training, save_job
from jade_model.core.training_files import files_of, is_done
from tasks.execution.base import OnEpoch, Outcome, UnitDone, unheard
from tasks.execution.followed import outcomes_of
from tasks.execution.jobs import TrainingJob
from tasks.settings.host_entries import Workers

WHERE = "this machine"
BATCH_NAME = "batch.json"


class ProcessEngine:
    """`python -m jade_model train` in a process group of its own; see `Engine`.

    Args:
        folder: The run's.
        job: What the run trains.
        device: Where it trains.
        workers: Trainings at once; None: one a core.
    """

    def __init__(self, folder: Path, job: Job, *, device: str = "cpu", workers: Workers = None) -> None:
        self._folder, self._job, self._device, self._workers = folder, job, device, workers
        self._running: TrainingJob | None = None
        self.on_epoch: OnEpoch = unheard

    def run(self, trainings: Sequence[Training]) -> Iterator[Outcome]:
        """See `Engine`."""
        pending = []
        for training in trainings:
            if is_done(training, files_of(training, self._folder)):
                yield UnitDone(training.run_key, WHERE, 0.0)
            else:
                pending.append(training)
        if not pending:
            return
        save_job(replace(self._job, trainings=tuple(pending)), self._folder / BATCH_NAME)
        self._running = TrainingJob(self._folder, device=self._device, workers=self._workers, job_name=BATCH_NAME)
        self._running.on_epoch = self.on_epoch
        try:
            yield from outcomes_of(self._running, WHERE)
        finally:
            self.stop()
            (self._folder / BATCH_NAME).unlink(missing_ok=True)

    def stop(self) -> None:
        """See `Engine`."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()
