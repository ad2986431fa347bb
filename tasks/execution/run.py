"""The trainings of a run: claimed, taken over where they were done before, trained, and published as they come."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from jade_model.core.job import Job, Training, load_job
from jade_model.core.training_files import files_of, is_done
from tasks.artifacts.leases import Holder, claim, release
from tasks.artifacts.training_cache import KeptTrainings, Mirror, Note, say
from tasks.core.errors import RunError, TrainingsFailed
from tasks.core.layout import RunLayout
from tasks.execution.base import Event, Executor
from tasks.execution.opening import open_executor
from tasks.execution.placement import Placement
from tasks.execution.progress import RunProgress, drawn, part_of
from tasks.runs.live_tracking import Tracking
from tasks.runs.record import Run

WAIT_POLL_S = 5.0


class TrainingRun:
    """A run's trainings while they go on somewhere: the one who hears what their executor tells.

    Each event is counted for whoever watches, a checkpoint or a finished training is published, and what a job on
    another host writes is kept in `remote.log`. MLflow is told of epochs and results if the run wants that.

    Attributes:
        job: What the run trains.
        layout: The run's.
        progress: How far it is.
        seconds: Of each training that is done, by run key; 0 if it was kept.
        failures: Events of those that failed, by run key.
        trained: From when to when trainings ran, by `time.monotonic`; None where none did yet.
    """

    def __init__(
        self,
        job: Job,
        layout: RunLayout,
        executor: Executor,
        mirror: Mirror | None = None,
        tracking: Tracking | None = None,
    ) -> None:
        self.job, self.layout = job, layout
        self.progress = RunProgress()
        self.seconds: dict[str, float] = {}
        self.failures: dict[str, Event] = {}
        self.trained: tuple[float, float] | None = None
        self._executor, self._mirror, self._tracking = executor, mirror, tracking
        self._trainings = {training.run_key: training for training in job.trainings}
        self._error: Exception | None = None
        self._log: TextIO | None = None
        self._thread: threading.Thread | None = None

    def run(self, trainings: Sequence[Training], name_of: Callable[[Training], str]) -> Iterator[Event]:
        """Run trainings; tell each event once all that is ours to do with it is done.

        Args:
            trainings: Of the job.
            name_of: The name of those that people see together with a training.

        Raises:
            Exception: As `Executor.run`.
        """
        self.progress.expect(trainings, name_of)
        try:
            for event in self._executor.run(trainings):
                self._take(event)
                yield event
        finally:
            if self._log is not None:
                self._log.close()
                self._log = None

    def start(self) -> None:
        """Run all of the job's trainings in a thread of its own; `progress` and `failure` tell the rest."""
        # An executor may submit tasks to Prefect, which belong to the flow that this is called from.
        context = contextvars.copy_context()
        self.progress.expect(self.job.trainings, part_of)
        self._thread = threading.Thread(target=context.run, args=(self._work,), daemon=True, name="executor")
        self._thread.start()

    def stop(self) -> None:
        """End what runs; returns once nothing of it does, or what may still run was said."""
        self._executor.stop()
        if self._thread is not None:
            self._thread.join()

    def raise_if_failed(self) -> None:
        """Return if all is done once the trainings have ended.

        Raises:
            Exception: As `failure` returns.
        """
        if self._error is not None or self.failures:
            raise self.failure()

    def failure(self) -> Exception:
        """Return why not all of what was asked for is done: the one error of whoever ran it, or what each met."""
        if self._error is not None:
            return self._error
        if not self.failures:
            return RunError(
                f"{len(self._trainings) - len(self.seconds)} of {len(self._trainings)} trainings were stopped"
            )
        errors = {id(event.data["error"]): event.data["error"] for event in self.failures.values()}
        if len(errors) == 1 and isinstance(error := next(iter(errors.values())), Exception):
            return error
        reasons = [
            f"{self._trainings[key].title} ({event.where}): {event.data['reason']}"
            for key, event in self.failures.items()
        ]
        return TrainingsFailed(len(reasons), len(self._trainings), reasons)

    def _work(self) -> None:
        try:
            for _ in self.run(self.job.trainings, part_of):
                pass
        except Exception as error:  # whatever it is, those who wait must hear of it
            self._error = error
        finally:
            self.progress.end()

    def _take(self, event: Event) -> None:
        training = self._trainings.get(event.run_key)
        if event.kind == "line":
            self._keep(event)
        else:
            now = time.monotonic()
            self.trained = (self.trained[0] if self.trained else now, now)
        if training is not None and event.kind in {"done", "checkpoint"} and self._mirror is not None:
            self._mirror.publish(training, at_once=event.kind == "done" or bool(event.data.get("at_once")))
        if training is not None and self._tracking is not None:
            if event.kind == "epoch":
                self._tracking.epoch(training, event.data)
            elif event.kind == "done":
                self._tracking.trained(training)
        if event.kind == "done":
            self.seconds[event.run_key] = event.data["seconds"]
        elif event.kind == "failed":
            self.failures[event.run_key] = event
        self.progress.take(event)

    def _keep(self, event: Event) -> None:
        """Keep what a job on another host has written; a disk that is full must not end the run."""
        if event.data["text"] is None:
            return
        try:
            # Line by line: whoever watches the file sees how far it is, and a killed process loses nothing.
            self._log = self._log or self.layout.remote_log.open("a", encoding="utf-8", buffering=1)
            self._log.write(event.data["text"] + "\n")
        except OSError as error:
            self.progress.said.add(f"{self.layout.remote_log.name}: {error}")


@contextmanager
def trainings_of(
    run: Run,
    placement: Placement,
    *,
    fresh: bool = False,
) -> Iterator[TrainingRun]:
    """Hold what a run's `job.json` asks for, ready to be trained, while the block lasts.

    Nobody trains the same run key at once: where another flow does, this one waits, and takes over what that one has
    finished. What earlier runs have published is taken over, and every checkpoint is published as it appears. A run
    that is taken for dead stops.

    Args:
        run: From `recorded_run`, with its job written.
        placement: Where it trains.
        fresh: Train again what earlier runs have finished or begun.

    Raises:
        BadRequest: As `open_executor`.
        StoreError: The artifacts could not be asked.
    """
    kept = KeptTrainings(run.place)
    job = load_job(run.layout.job_json)
    claim_trainings(run, job.trainings, kept, fresh=fresh)
    mirror = Mirror(kept, run.layout, say)
    # By which machines are found that are rented for a run of Prefect.
    flow_run_id = str(run.record.get("flow_run_id") or "")
    try:
        with open_executor(placement, run.layout.root, job, flow_run_id=flow_run_id) as executor:
            training = TrainingRun(job, run.layout, executor, mirror, run.tracking)
            run.heartbeat.when_lost(executor.stop)
            try:
                with drawn(training.progress):
                    yield training
                run.trained = training.trained
            finally:
                training.stop()
    finally:
        run.heartbeat.when_lost(None)
        mirror.close()


def claim_trainings(
    run: Run, trainings: Sequence[Training], kept: KeptTrainings, *, fresh: bool = False, note: Note = say
) -> int:
    """Claim what is to be trained, all of it or nothing, and take over what is published; return how much that was.

    Who holds nothing while it waits cannot be waited for in a circle.
    """
    told: set[Holder] = set()
    while True:
        missing = [training for training in trainings if not is_done(training, files_of(training, run.layout.root))]
        wanted = [training.run_key for training in missing if fresh or not kept.is_finished(training)]
        holder = _claim_all(run, sorted(set(wanted)))
        if holder is None:
            # After the claim: what its last holder published until then is seen.
            return 0 if fresh else sum(kept.take_over(training, run.layout) for training in missing)
        if holder not in told:
            told.add(holder)
            note(f"{holder} trains the same; waiting for its end")
        time.sleep(WAIT_POLL_S)


def _claim_all(run: Run, keys: Sequence[str]) -> Holder | None:
    records = run.place.records
    claimed: list[str] = []
    for key in keys:
        holder = claim(records, run.layout.run_id, key)
        if holder is not None:
            release(records, run.layout.run_id, claimed)
            return holder
        claimed.append(key)
    return None
