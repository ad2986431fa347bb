"""Pruning of a place: decided, done, and copies forgotten; for the command and the flow alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from tasks.artifacts.leases import sweep
from tasks.artifacts.repository import ArtifactPlace
from tasks.artifacts.retention import SWEEP_AGE_S, PruneDecision, PruneOutcome, plan_prune, prune


def prune_place(
    place: ArtifactPlace, *, keep_last: int | None, keep_days: float | None, dry_run: bool
) -> tuple[Sequence[PruneDecision], PruneOutcome]:
    """Delete the runs that no rule keeps, and what dead ones left; never one that a pointer stands on, or that goes on.

    Args:
        place: That keeps them.
        keep_last: The newest so many stay.
        keep_days: Runs of so many days stay.
        dry_run: Delete nothing.

    Returns:
        What was decided of each run, and what went.
    """
    plan = plan_prune(place.facts(), keep_last=keep_last, keep_days=keep_days, now=datetime.now(UTC))
    outcome = prune(place.store, plan, place.is_running, dry_run=dry_run)
    if not dry_run:
        place.forget_copies(sorted(decision.run_id for decision in outcome.deleted))
        outcome = replace(outcome, swept_leases=sweep(place.records, older_than_s=SWEEP_AGE_S))
    return plan, outcome
