"""The Prefect tasks that follow a run's trainings: one for each arm and seed, which the UI shows side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from jade_model.core.training_files import files_of
from tasks.core.errors import BadRequest
from tasks.execution.base import checkpoint_of
from tasks.execution.placement import Placement
from tasks.execution.progress import part_of, parts_of
from tasks.execution.run import TrainingRun, trainings_of
from tasks.execution.run_page import RunPage
from tasks.operations.flow_runs import is_stopping, stopped_state
from tasks.operations.ui import show_progress, show_table
from tasks.provisioning.offers import RentalRequest
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
        trainings_of(run, placement, fresh=fresh) as training,
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
        begun = [part for part in waiting if has_ended or progress.state[part].is_begun]
        followed += [follow_training.submit(folder, part) for part in begun]
        waiting = [part for part in waiting if part not in begun]
        if waiting:
            progress.wait_for_change(seen)
    for future in followed:
        future.wait()
    training.raise_if_failed()
    for future in followed:
        future.result()


@task(name="train", task_run_name="train-{part}", cache_policy=NO_CACHE)
def follow_training(folder: str, part: str) -> list[str] | State[Any]:
    """Follow one arm and seed of a run's trainings to their end.

    Args:
        folder: The run's.
        part: Which; see `part_of`.

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
        if part_of(item) == part
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


def limit_names(provider: str, request: RentalRequest) -> list[str]:
    """Return the concurrency limits of Prefect that a machine counts against: its provider's, and that of each GPU.

    `jade up` makes `provider-runpod` and `provider-ec2`; a limit of a GPU, such as `gpu-nvidia-l4`, holds once somebody
    has made it (`prefect gcl create`). What does not exist limits nothing. A process that dies lets go within minutes.
    """
    gpus = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in request.gpu]
    return [f"provider-{provider}", *dict.fromkeys(f"gpu-{name}" for name in gpus)]


@contextmanager
def machines_admitted(provider: str | None, request: RentalRequest, number: int) -> Iterator[None]:
    """Wait until all limits admit so many machines more, and count them while the block lasts.

    All of them or none: who waits holds nothing that another one waits for.

    Args:
        provider: Of whom; None: nothing is rented.
        request: What is rented.
        number: Of machines at once.

    Raises:
        BadRequest: A limit never admits so many.
    """
    held = []
    if provider is not None and number > 0:
        with get_client(sync_client=True) as client:
            for name in limit_names(provider, request):
                try:
                    limit = client.read_global_concurrency_limit_by_name(name)
                except ObjectNotFound:
                    continue
                if limit.active and limit.limit < number:
                    raise BadRequest(
                        f"{number} machines at once are more than the limit {name} of Prefect admits, {limit.limit}: "
                        f"rent fewer, or raise it (`prefect gcl update {name} --limit {number}`)"
                    )
                held.append(name)
    if not held:
        yield
        return
    # A lease that could not be renewed counts for less than machines that train.
    with concurrency(held, occupy=number, raise_on_lease_renewal_failure=False):
        yield
