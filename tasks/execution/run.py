"""The trainings of a run: claimed, taken over where they were done before, trained, and published as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jade_model.core.job import Training, load_job
from jade_model.core.training_files import files_of, is_done
from tasks.artifacts.leases import Holder, claim, release
from tasks.artifacts.publisher import Mirror, Note, say
from tasks.artifacts.training_cache import KeptTrainings, kept_trainings
from tasks.execution.job_places import trainings_on
from tasks.execution.jobs import FollowedJob
from tasks.execution.placement import Placement
from tasks.runs.record import Run

WAIT_POLL_S = 5.0


@contextmanager
def trainings_of(
    run: Run,
    placement: Placement,
    *,
    fresh: bool = False,
    flow_run_id: str = "",
    note: Note = say,
) -> Iterator[FollowedJob]:
    """Train what a run's `job.json` asks for while the block lasts; see `trainings_on`.

    Nobody trains the same run key at once: where another flow does, this one waits, and takes over what that one has
    finished. What earlier runs have published is taken over, and every checkpoint is published as it appears.

    Args:
        run: From `recorded_run`, with its job written.
        placement: Where it trains.
        fresh: Train again what earlier runs have finished or begun.
        flow_run_id: The run in Prefect; see `trainings_on`.
        note: Told what a person should know.

    Raises:
        LeaseLost: The run was taken for dead while it trained; it has stopped.
        StoreError: The artifacts could not be asked.
    """
    kept = kept_trainings(run.place)
    trainings = load_job(run.layout.job_json).trainings
    claim_trainings(run, trainings, kept, fresh=fresh, note=note)
    mirror = Mirror(kept, run.layout, note)
    try:
        with trainings_on(placement, run.layout.root, mirror=mirror, flow_run_id=flow_run_id) as job:
            run.heartbeat.when_lost(job.abort)
            yield job
            run.trained = job.trained
    finally:
        run.heartbeat.when_lost(None)
        mirror.close()


def claim_trainings(
    run: Run, trainings: Sequence[Training], kept: KeptTrainings, *, fresh: bool = False, note: Note = say
) -> int:
    """Claim what is to be trained, all of it or nothing, and take over what is published; return how much that was.

    Who holds nothing while it waits cannot be waited for in a circle.
    """
    told: set[Holder] = set()
    while True:
        missing = [training for training in trainings if not is_done(training, files_of(training, run.layout.root))]
        wanted = [training.run_key for training in missing if fresh or not kept.is_finished(training)]
        holder = _claim_all(run, sorted(set(wanted)))
        if holder is None:
            # After the claim: what its last holder published until then is seen.
            return 0 if fresh else sum(kept.take_over(training, run.layout) for training in missing)
        if holder not in told:
            told.add(holder)
            note(f"{holder} trains the same; waiting for its end")
        time.sleep(WAIT_POLL_S)


def _claim_all(run: Run, keys: Sequence[str]) -> Holder | None:
    records = run.place.records
    claimed: list[str] = []
    for key in keys:
        holder = claim(records, run.layout.run_id, key)
        if holder is not None:
            release(records, run.layout.run_id, claimed)
            return holder
        claimed.append(key)
    return None
