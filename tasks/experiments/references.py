"""What the model in use was trained on, for new data to be held against."""

from __future__ import annotations

from jade_model.core.job import load_job
from jade_model.core.windows import load_arrays
from jade_model.data.checks import Reference
from tasks.core.layout import RunLayout


def reference_of(champion: RunLayout | None) -> Reference | None:
    """Return what a champion was trained on; None without one."""
    if champion is None:
        return None
    job = load_job(champion.job_json)
    windows = load_arrays(champion.root / job.data[0].arrays)
    return Reference(champion.run_id, windows, job.trainings[0].recipe.feature_set)
