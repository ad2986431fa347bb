"""The data checks of a run: asked and kept before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jade_model.core.errors import DataError
from jade_model.core.files import write_atomically
from jade_model.core.job import Job, load_job
from jade_model.core.windows import Windows, load_arrays
from jade_model.data.checks import DataRefused, DataReport, Reference, check_data
from jade_model.data.parquet.files import find_files
from jade_model.data.retraining import assign_roles
from jade_model.data.sample import NAME as SAMPLE
from jade_model.data.splits import group_windows
from tasks.core.layout import RunLayout
from tasks.experiments.plan import Plan, check_each_once, load_data, load_joined, make_splits, splits_of
from tasks.operations.events import DATA_REFUSED, tell

MOST_BYTES = 256 * 1024**2
"""Data above this size are only looked for beforehand: the run reads them, and once is long enough."""


def check_sources(
    sources: list[str],
    *,
    folds: int,
    seeds: int = 1,
    split: Literal["grouped", "seed"] = "grouped",
    checked_by_run: bool = False,
) -> None:
    """Refuse data that a run could not use, before anything is started for it.

    Args:
        sources: As `load_data` takes them.
        folds: Of each seed; 1 is a single split.
        seeds: Repetitions.
        split: How windows are divided.
        checked_by_run: Whether the run would refuse what fails a data check.

    Raises:
        DataError: A file is missing or breaks the contract.
        BadRequest, ConfigError: A data set is named twice, has no span, or too few groups for the split.
        DataRefused: A check failed.
    """
    check_each_once(sources)
    if _is_large(sources):
        return
    plan = Plan({}, None, seeds, folds, split, ensemble=1)
    reports = []
    for windows in load_data(sources):
        grouping = group_windows(windows)
        reports.append(check_data(windows, grouping, make_splits(windows, grouping, plan)))
    if checked_by_run and any(report.failed for report in reports):
        raise DataRefused(reports)


def check_pooled_sources(sources: list[str], *, folds: int, holdout: float) -> None:
    """Refuse data that a retraining could not use, likewise.

    Args:
        sources: As `load_joined` takes them.
        folds: Of the retraining.
        holdout: Share of groups that no model sees.

    Raises:
        DataError, BadRequest, ConfigError, DataRefused: As check_sources.
    """
    if _is_large(sources):
        return
    windows = load_joined(sources)
    grouping = group_windows(windows)
    report = check_data(windows, grouping)
    if report.failed:
        raise DataRefused([report])
    assign_roles(windows, grouping, num_folds=folds, holdout_fraction=holdout)


def _is_large(sources: list[str]) -> bool:
    files, violations = find_files([source for source in sources if source != SAMPLE] or [])
    if violations and sources != [SAMPLE]:
        raise DataError(violations)
    return sum(Path(file).expanduser().stat().st_size for file in files) > MOST_BYTES


def check_job_data(layout: RunLayout, job: Job, data: Sequence[Windows], champion: RunLayout | None) -> None:
    """Ask everything of a comparison's data, and keep the answers in `data_checks.json`.

    Args:
        layout: Of the run; its job is written.
        job: What would be trained.
        data: The job's data sets.
        champion: What the model in use was trained on is the reference for drift, where it is an earlier state of the
            same data set: a comparison may be about anything.

    Raises:
        DataRefused: A check failed.
    """
    reference = reference_of(champion)
    reports = [
        check_data(
            windows,
            group_windows(windows),
            splits_of(layout, job, windows.name),
            reference=reference if reference is not None and reference.windows.name == windows.name else None,
            feature_sets={item.recipe.feature_set for item in job.trainings if item.dataset == windows.name},
        )
        for windows in data
    ]
    write_atomically(layout.data_checks_json, json.dumps([report.to_json() for report in reports], indent=2) + "\n")
    refuse_failed(reports)


def reference_of(champion: RunLayout | None) -> Reference | None:
    """Return what a champion was trained on, for new data to be held against; None without one."""
    if champion is None:
        return None
    job = load_job(champion.job_json)
    windows = load_arrays(champion.root / job.data[0].arrays)
    return Reference(champion.run_id, windows, job.trainings[0].recipe.feature_set)


def refuse_failed(reports: Sequence[DataReport]) -> None:
    """Tell whoever wants to know, and raise, if a check failed.

    Raises:
        DataRefused: As said.
    """
    if any(report.failed for report in reports):
        refusal = DataRefused(reports)
        names = ", ".join(report.dataset for report in reports if report.failed)
        tell(DATA_REFUSED, "data", names, message=str(refusal))
        raise refusal
