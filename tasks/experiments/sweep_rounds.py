"""The Prefect tasks of a sweep: one a round and one a look, so that the UI shows how the race goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.execution.run import TrainingRun
from tasks.experiments.sweep import Sweep
from tasks.operations.ui import show_progress

LOG_EVERY_S = 1.0

_open: dict[str, Sweep] = {}
"""Sweeps of this process by run folder: tasks take paths, never live objects."""


def sweep_of(folder: str) -> Sweep:
    """Return the sweep of a run folder. A function, so that it does not travel with the flow, as `training_of` is."""
    return _open[folder]


@contextmanager
def opened_sweep(sweep: Sweep) -> Iterator[None]:
    """Let tasks find the sweep by its folder while the block lasts."""
    folder = str(sweep.layout.root)
    _open[folder] = sweep
    try:
        yield
    finally:
        del _open[folder]


def train_round(folder: str, training: TrainingRun, seeds: Sequence[int]) -> None:
    """Train the arms that are still in the race on some seeds; how far that is, is an artifact in Prefect.

    Not a task of its own: an executor may submit tasks for its trainings, which belong to the flow.
    """
    sweep, logger = sweep_of(folder), get_run_logger()
    name, key = f"seeds {', '.join(map(str, seeds))}", f"sweep-seed-{seeds[0]}"
    logger.info("%s: %d trainings", name, len(sweep.trainings_of(seeds)))
    show_progress(key, 0.0, f"Epochs of {name}")
    logged_at = time.monotonic()
    for event in sweep.train(training, seeds, name):
        if event.kind in {"epoch", "done", "failed"}:
            show_progress(key, training.progress.state[name].percent, f"Epochs of {name}")
        if time.monotonic() - logged_at >= LOG_EVERY_S:
            logged_at = time.monotonic()
            if said := training.progress.said.take_for_log():
                logger.info(said)
    if said := training.progress.said.take_for_log():
        logger.info(said)


@task(name="look", task_run_name="score-and-look", cache_policy=NO_CACHE)
def look(folder: str, *, is_last: bool) -> int:
    """Score what was trained, stop the arms that cannot win any more; return how many are left."""
    sweep, logger = sweep_of(folder), get_run_logger()
    sweep.score()
    if not is_last:
        for item in sweep.look():
            logger.info(
                "%s is stopped: %s is better by %.3f (%.3f to %.3f)",
                item.arm,
                item.better,
                item.difference,
                *item.confidence_interval,
            )
    return sweep.num_racing


def finish_sweep(sweep: Sweep, created_at: str) -> None:
    """Rank the arms and write the result; see `Sweep.finish`."""
    sweep.finish(created_at=created_at)
