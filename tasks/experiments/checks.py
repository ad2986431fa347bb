"""The data checks of a run: asked and kept before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence

from jade_model.core.files import write_atomically
from jade_model.core.job import Job
from jade_model.core.windows import Windows
from jade_model.data.checks import DataRefused, DataReport, check_data
from jade_model.data.splits import group_windows
from tasks.core.layout import RunLayout
from tasks.experiments.plan import splits_of
from tasks.experiments.references import reference_of
from tasks.operations.events import DATA_REFUSED, tell


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
        )
        for windows in data
    ]
    write_atomically(layout.data_checks_json, json.dumps([report.to_json() for report in reports], indent=2) + "\n")
    refuse_failed(reports)


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
