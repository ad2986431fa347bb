"""The Prefect tasks that follow a training job: one for each arm and seed, so that the UI shows them side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from jade_model.core.training_files import files_of
from tasks.execution.jobs import FollowedJob, Part, checkpoint_of, part_of
from tasks.execution.placement import Placement
from tasks.execution.run import trainings_of
from tasks.operations.ui import show_progress, show_table
from tasks.provisioning.limits import machines_admitted
from tasks.provisioning.rental_record import read_rental, rental_rows, rental_sentence
from tasks.runs.record import Run

LOG_EVERY_EPOCHS = 10

_followed: dict[str, FollowedJob] = {}
"""Jobs of this process by run folder: tasks take paths, never live objects."""


def job_of(folder: str) -> FollowedJob:
    """Return the job of a run folder.

    A function, for where a task runs elsewhere Prefect sends the flow along by value, with all globals that tasks name:
    a function of a module goes by its name, and the jobs stay here.
    """
    return _followed[folder]


@contextmanager
def training_job(run: Run, placement: Placement, *, fresh: bool = False) -> Iterator[FollowedJob]:
    """Run the job of a run while the block lasts, for tasks to follow; see `trainings_of`.

    What was rented for it, and what that cost, is among the run's artifacts, however it ended.
    """
    folder = str(run.layout.root)
    with (
        machines_admitted(placement.provider, placement.rental, placement.machines),
        rental_shown(run.layout.root),
        trainings_of(run, placement, fresh=fresh, flow_run_id=str(flow_run.id or "")) as job,
    ):
        _followed[folder] = job
        try:
            yield job
        finally:
            del _followed[folder]


@task(name="train", task_run_name="train-{part}", cache_policy=NO_CACHE)
def follow_training(folder: str, part: str, arm: str, seed: int) -> list[str]:
    """Follow one arm and seed of the run's training job to its end.

    Args:
        folder: The run's.
        part: Its name, for the UI.
        arm: Which arm.
        seed: Which seed.

    Returns:
        The checkpoints' paths relative to the run's folder.

    Raises:
        TrainingFailed, HostError: The job ended before this part was done, or its host was lost.
    """
    logger = get_run_logger()
    job, key = job_of(folder), Part(arm, seed)
    bar, title = f"train-{part}", f"Epochs of {part}"
    logged, shown = -1, 0
    state = job.state[key]
    while True:
        # Asked before the results are, so that what came last is not passed over.
        has_ended, seen = job.ended, job.changes
        if state.finished >= state.trainings:
            break
        if has_ended:
            raise job.failure(f"train-{part}")
        job.wait_for_change(seen)
        if said := job.said.take_for_log():
            logger.info(said)
        step = state.epochs_done // LOG_EVERY_EPOCHS
        if step != logged and state.latest:
            logger.info("%s (%d of %d epochs)", state.latest, state.epochs_done, state.epochs)
            logged = step
        if state.epochs_done != shown:
            show_progress(bar, 100.0 * state.epochs_done / state.epochs, title)
            shown = state.epochs_done
    show_progress(bar, 100.0, title)
    logger.info("done: %d trainings, %d epochs", state.trainings, state.epochs)
    return [
        checkpoint_of(files_of(training, job.folder)).relative_to(job.folder).as_posix()
        for training in job.job.trainings
        if part_of(training) == key
    ]


@contextmanager
def rental_shown(folder: Path) -> Iterator[None]:
    """Put what a run has rented by the end of the block among its artifacts, however the block ends."""
    try:
        yield
    finally:
        rental = read_rental(folder)
        if rental is not None:
            show_table("rental", rental_rows(rental), rental_sentence(rental))
