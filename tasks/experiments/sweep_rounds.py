"""The Prefect tasks of a sweep: one a round and one a look, so that the UI shows how the race goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.execution.base import Engine
from tasks.experiments.sweep import Sweep
from tasks.experiments.sweep_progress import round_shown

_open: dict[str, Sweep] = {}
"""Sweeps of this process by run folder: tasks take paths, never live objects."""


def sweep_of(folder: str) -> Sweep:
    """Return the sweep of a run folder. A function, so that it does not travel with the flow; see `training.job_of`."""
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


def train_round(folder: str, engine: Engine, seeds: Sequence[int]) -> None:
    """Train the arms that are still in the race on some seeds.

    Not a task of its own: an engine may submit tasks for its trainings, which belong to the flow.
    """
    sweep = sweep_of(folder)
    trainings, name = sweep.trainings_of(seeds), f"seeds {', '.join(map(str, seeds))}"
    get_run_logger().info("%s: %d trainings", name, len(trainings))
    with round_shown(name, f"sweep-seed-{seeds[0]}", engine, trainings) as progress:
        sweep.train(engine, seeds, progress.ended)


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
