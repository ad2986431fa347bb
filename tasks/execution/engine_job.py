"""An engine's trainings as a job that is followed, for flows that show each arm and seed by itself."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jade_model.core.job import load_job
from tasks.artifacts.publisher import Mirror
from tasks.core.errors import TrainingsFailed
from tasks.execution.base import Engine, UnitFailed
from tasks.execution.jobs import JOB_NAME, FollowedJob, drawn
from tasks.execution.opening import open_engine
from tasks.execution.placement import Placement


class EngineJob(FollowedJob):
    """All trainings of a run on an engine; see `FollowedJob`.

    Args:
        folder: The run's, with its `job.json`.
        engine: Open.
        mirror: Publishes what is done.
    """

    def __init__(self, folder: Path, engine: Engine, mirror: Mirror | None = None) -> None:
        super().__init__(folder, None, mirror)
        self._engine = engine
        self._error: Exception | None = None
        engine.on_epoch = self._hear_epoch
        # An engine may submit tasks to Prefect, which belong to the flow that this is called from.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._work,), daemon=True, name="engine")
        self._thread.start()

    def stop(self) -> None:
        """See `FollowedJob`."""
        self._engine.stop()
        self._thread.join()

    def failure(self, what: str) -> Exception:
        """See `FollowedJob`: what the engine said of the trainings that were not done."""
        return self._aborted or self._error or super().failure(what)

    def _hear_epoch(self, event: dict[str, Any]) -> None:
        # What a host or a worker says is not to be trusted to make sense.
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            self._take(event)

    def _work(self) -> None:
        trainings = {training.run_key: training for training in self.job.trainings}
        reasons: list[str] = []
        try:
            for outcome in self._engine.run(self.job.trainings):
                training = trainings[outcome.run_key]
                if isinstance(outcome, UnitFailed):
                    reasons.append(f"{training.title} ({outcome.where}): {outcome.reason}")
                    continue
                self._take(
                    {
                        "event": "training_done",
                        "arm": training.arm,
                        "dataset": training.dataset,
                        "seed": training.seed,
                        "fold": training.fold,
                        "run_key": outcome.run_key,
                        "seconds": outcome.seconds,
                    }
                )
            if reasons:
                self._error = TrainingsFailed(len(reasons), len(trainings), reasons)
        except Exception as error:  # whatever it is, those who wait must hear of it
            self._error = error
        self._end(0 if self._error is None else 1)


@contextmanager
def running_engine_job(
    placement: Placement, folder: Path, *, mirror: Mirror | None = None, flow_run_id: str = ""
) -> Iterator[FollowedJob]:
    """Run the job of a run on an engine while the block lasts; whatever happens, it is stopped afterwards.

    Raises:
        BadRequest: As `open_engine`.
    """
    with open_engine(placement, folder, load_job(folder / JOB_NAME), flow_run_id=flow_run_id) as engine:
        job = EngineJob(folder, engine, mirror)
        try:
            with drawn(job):
                yield job
        finally:
            job.stop()
