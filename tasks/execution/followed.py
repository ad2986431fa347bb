"""From a job that is followed to the outcomes of its trainings."""

from __future__ import annotations

from collections.abc import Iterator

from jade_model.core.errors import CheckpointError, ConfigError, DataError, TrainingDiverged, UserError
from tasks.execution.base import Outcome, UnitDone, UnitFailed
from tasks.execution.jobs import FollowedJob

OWN_FAULTS = frozenset(kind.__name__ for kind in (TrainingDiverged, UserError, ConfigError, DataError, CheckpointError))
"""Errors that a training would meet wherever it is tried."""


def outcomes_of(job: FollowedJob, where: str) -> Iterator[Outcome]:
    """Tell of each training of a running job how it ended, until all have.

    A job that ends before its trainings do has failed them all.
    """
    open_units = {training.run_key: training for training in job.job.trainings}
    while open_units:
        # Asked before the results are, so that what came last is not passed over.
        is_last, seen = job.ended, job.changes
        for run_key, training in list(open_units.items()):
            if run_key in job.finished:
                del open_units[run_key]
                yield UnitDone(run_key, where, job.finished[run_key])
            elif training.output_dir in job.failed:
                del open_units[run_key]
                kind, reason = job.failed[training.output_dir]
                yield UnitFailed(run_key, where, reason, is_own_fault=kind in OWN_FAULTS)
        if is_last:
            break
        if open_units:
            job.wait_for_change(seen)
    for run_key, training in open_units.items():
        yield UnitFailed(run_key, where, str(job.failure(training.title)), is_own_fault=False)
