"""Which runs may go, decided by a pure function; and their deletion, which looks again before each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tasks.artifacts.errors import ArtifactNotFound, ManifestCorrupted, RunProtected, StoreUserError
from tasks.artifacts.store import ArtifactStore

SWEEP_AGE_S = 24 * 3600.0
"""Nobody uploads one file for that long: what is older and belongs to nothing has no living writer."""


@dataclass(frozen=True)
class RunFacts:
    """What is known about a stored run.

    Attributes:
        published_at: When its newest manifest was made, with a time zone; None if that cannot be read.
        size: Bytes of its files, of which there are `files`.
        pointers: Names that stand for it: it is promoted, or the latest.
        is_running: Whether somebody trains it now.
        is_complete: Whether it ended well and is published as a whole.
    """

    run_id: str
    published_at: datetime | None
    size: int
    pointers: tuple[str, ...] = ()
    is_running: bool = False
    is_complete: bool = False
    files: int = 0


@dataclass(frozen=True)
class PruneDecision:
    """Whether a run of so many bytes goes, and why."""

    run_id: str
    size: int
    delete: bool
    reason: str


@dataclass(frozen=True)
class PruneOutcome:
    """What pruning did, or would do.

    Attributes:
        swept_bytes: What dead writers had left; 0 in a dry run, which does not look.
        swept_leases: Claims and signs of life of dead runs that went; 0 likewise.
        versions_remain: Whether the store keeps versions of what was deleted: the space is not free yet.
    """

    deleted: tuple[PruneDecision, ...]
    swept_bytes: int = 0
    swept_leases: int = 0
    versions_remain: bool = False

    @property
    def freed_bytes(self) -> int:
        """Of runs and left-overs together."""
        return self.swept_bytes + sum(decision.size for decision in self.deleted)


def gather_facts(store: ArtifactStore, is_running: Callable[[str], bool]) -> tuple[RunFacts, ...]:
    """Return what is known about each run of a store; whether one is running is asked from several threads."""
    pointers = store.pointers()

    def look(run_id: str) -> RunFacts | None:
        known = tuple(sorted(name for name, to in pointers.items() if to == run_id)), is_running(run_id)
        try:
            found = store.manifest(run_id)
        except ManifestCorrupted:
            return RunFacts(run_id, None, 0, *known)
        except ArtifactNotFound:
            return None  # somebody has deleted it meanwhile
        return RunFacts(run_id, found.published_at, found.size, *known, found.complete, len(found.files))

    with ThreadPoolExecutor(max_workers=8) as pool:
        return tuple(facts for facts in pool.map(look, store.runs()) if facts is not None)


def plan_prune(
    runs: Sequence[RunFacts], *, keep_last: int | None = None, keep_days: float | None = None, now: datetime
) -> tuple[PruneDecision, ...]:
    """Decide which runs go: those that no rule keeps; one decision a run, the newest first.

    Kept are the newest `keep_last`, those published within `keep_days`, whatever is pointed to or running, and what
    cannot be read, for it may be anything.

    Raises:
        StoreUserError: Neither rule is given.
        ValueError: One is negative.
    """
    if keep_last is None and keep_days is None:
        raise StoreUserError(
            "Say what to keep: the newest N runs (--keep-last), runs of the last D days (--keep-days)."
        )
    if (keep_last or 0) < 0 or (keep_days or 0) < 0:
        raise ValueError(f"keep_last {keep_last} and keep_days {keep_days} must not be negative")

    def reason_to_keep(run: RunFacts, place: int) -> str:
        if run.is_running:
            return "it is running"
        if run.pointers:
            return f"{', '.join(run.pointers)} points to it"
        if run.published_at is None:
            return "its manifest cannot be read: look at it, then delete it by name"
        if place < (keep_last or 0):
            return f"it is among the newest {keep_last}"
        if keep_days is not None and now - run.published_at <= timedelta(days=keep_days):
            return f"it is not older than {keep_days:g} days"
        return ""

    never = datetime.min.replace(tzinfo=UTC)
    plan = []
    for place, run in enumerate(sorted(runs, key=lambda run: (run.published_at or never, run.run_id), reverse=True)):
        reason = reason_to_keep(run, place)
        plan.append(PruneDecision(run.run_id, run.size, not reason, reason or "no rule keeps it"))
    return tuple(plan)


def prune(
    store: ArtifactStore,
    plan: Sequence[PruneDecision],
    is_running: Callable[[str], bool],
    *,
    dry_run: bool = False,
    sweep_age_s: float = SWEEP_AGE_S,
) -> PruneOutcome:
    """Delete what the plan says, and what dead writers left; return what went, or would go in a dry run.

    Before each deletion it is asked again whether the run is running or pointed to by now.
    """
    gone = []
    for decision in plan:
        if decision.delete and not is_running(decision.run_id):
            with suppress(RunProtected):
                if not dry_run:
                    store.delete(decision.run_id)
                gone.append(decision)
    if dry_run:
        return PruneOutcome(tuple(gone))
    running = [decision.run_id for decision in plan if is_running(decision.run_id)]
    swept_bytes = store.sweep(older_than_s=sweep_age_s, running=running)
    return PruneOutcome(tuple(gone), swept_bytes, versions_remain=store.backend.keeps_versions)
