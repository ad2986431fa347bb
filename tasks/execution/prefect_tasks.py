"""The Prefect tasks that follow a run's trainings: one for each arm and seed, which the UI shows side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from jade_model.core.training_files import files_of
from tasks.execution.base import checkpoint_of
from tasks.execution.placement import Placement
from tasks.execution.progress import Part, part_of, parts_of
from tasks.execution.run import TrainingRun, trainings_of
from tasks.execution.run_page import RunPage
from tasks.operations.flow_runs import is_stopping, stopped_state
from tasks.operations.ui import show_progress, show_table
from tasks.provisioning.limits import machines_admitted
from tasks.provisioning.rental_record import read_rental, rental_rows, rental_sentence
from tasks.runs.record import Run

LOG_EVERY_EPOCHS = 10

_followed: dict[str, TrainingRun] = {}
"""Trainings of this process by run folder: tasks take paths, never live objects."""


def training_of(folder: str) -> TrainingRun:
    """Return what trains in a run folder.

    A function, for where a task runs elsewhere Prefect sends the flow along by value, with all globals that tasks name:
    a function of a module goes by its name, and what it returns stays here.
    """
    return _followed[folder]


@contextmanager
def training_job(run: Run, placement: Placement, *, fresh: bool = False) -> Iterator[TrainingRun]:
    """Hold the trainings of a run while the block lasts, for tasks to follow; see `trainings_of`.

    How far it is, and what was rented for it and what that cost, is among the run's artifacts, however it ended.
    """
    folder = str(run.layout.root)
    page = RunPage(run.layout.root, placement)
    with (
        page.kept(),
        machines_admitted(placement.provider, placement.rental, placement.machines),
        rental_shown(run.layout.root),
        trainings_of(run, placement, fresh=fresh, flow_run_id=str(flow_run.id or "")) as training,
    ):
        page.progress = training.progress
        _followed[folder] = training
        try:
            yield training
        finally:
            del _followed[folder]


def follow_trainings(folder: str) -> None:
    """Follow a run's trainings to their end: one task for each arm and seed, begun when its first training begins.

    Raises:
        TrainingsFailed, HostError, RunError: One of them failed, or whoever ran it did.
    """
    training, progress = training_of(folder), training_of(folder).progress
    waiting, followed = parts_of(training.job), []
    while waiting:
        has_ended, seen = progress.ended, progress.changes
        begun = [part for part in waiting if has_ended or progress.state[part.name].is_begun]
        followed += [follow_training.submit(folder, part.name, part.arm, part.seed) for part in begun]
        waiting = [part for part in waiting if part not in begun]
        if waiting:
            progress.wait_for_change(seen)
    for future in followed:
        future.wait()
    training.raise_if_failed()
    for future in followed:
        future.result()


@task(name="train", task_run_name="train-{part}", cache_policy=NO_CACHE)
def follow_training(folder: str, part: str, arm: str, seed: int) -> list[str] | State[Any]:
    """Follow one arm and seed of a run's trainings to their end.

    Args:
        folder: The run's.
        part: Its name, for the UI.
        arm: Which arm.
        seed: Which seed.

    Returns:
        The checkpoints' paths relative to the run's folder; the state Cancelled if the run was stopped.

    Raises:
        TrainingsFailed, HostError, RunError: One of them failed, or whoever ran it did.
    """
    logger = get_run_logger()
    training, progress = training_of(folder), training_of(folder).progress
    state = progress.state[part]
    logged, shown = -1, 0
    while True:
        # Asked before the results are, so that what came last is not passed over.
        has_ended, seen = progress.ended, progress.changes
        if len(state.finished) == len(state.trainings):
            break
        if has_ended:
            error = training.failure()
            if is_stopping() or getattr(error, "was_asked_for", False):
                return stopped_state()
            raise error
        progress.wait_for_change(seen)
        if said := progress.said.take_for_log():
            logger.info(said)
        step = state.epochs_done // LOG_EVERY_EPOCHS
        if step != logged and state.latest:
            logger.info("%s (%d of %d epochs)", state.latest, state.epochs_done, state.epochs)
            logged = step
        if state.epochs_done != shown:
            show_progress(f"train-{part}", state.percent, f"Epochs of {part}")
            shown = state.epochs_done
    show_progress(f"train-{part}", 100.0, f"Epochs of {part}")
    logger.info("done: %d trainings, %d epochs", len(state.trainings), state.epochs)
    root = training.layout.root
    return [
        checkpoint_of(files_of(item, root)).relative_to(root).as_posix()
        for item in training.job.trainings
        if part_of(item) == Part(arm, seed)
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
