"""The Prefect tasks of a sweep: a look after each round, its report, and what the UI shows of both."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from jade_model.report.numbers import interval, number, signed
from jade_model.report.sweep import SweepReport, sweep_markdown
from tasks.core.layout import RunLayout
from tasks.execution.run import TrainingRun
from tasks.experiments.publish import show_page
from tasks.experiments.report import read_sweep, write_run_report
from tasks.experiments.sweep import Sweep
from tasks.operations.ui import show_markdown, show_progress, show_table
from tasks.runs.record import read_run_record

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


@task(name="report", task_run_name="write-report", cache_policy=NO_CACHE)
def write_sweep_report(folder: str) -> None:
    """Write the report of a sweep from its files alone."""
    write_run_report(RunLayout(Path(folder)))


@task(name="publish", task_run_name="publish-report", cache_policy=NO_CACHE)
def publish_sweep(folder: str) -> None:
    """Put the report, the ranking and the way to the page among the run's artifacts."""
    layout = RunLayout(Path(folder))
    content = read_sweep(layout)
    text = sweep_markdown(SweepReport(content, read_run_record(layout)))
    show_markdown("sweep-report", text, "The report, without its figures.")
    show_table("sweep", sweep_rows(content), content["verdict"]["reason"])
    show_page("sweep-page", layout, "The report with its figures")


def sweep_rows(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row an arm, best first: what a reader looks at first."""
    metric = content["settings"]["metric"]
    return [
        {
            "place": entry["place"],
            "arm": entry["arm"],
            "F1" if metric == "f1" else "span F1": number(entry.get(metric)),
            "95 % interval": interval(entry.get(f"{metric}_interval")),
            "behind the best": signed(entry.get("best_minus_this")),
            "seeds": entry["num_seeds"],
            "state": entry["state"],
        }
        for entry in content["ranking"]
    ]
