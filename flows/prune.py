"""The flow `prune`: deletes the runs that no rule keeps."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from tasks.artifacts.repository import open_place
from tasks.operations.flow_runs import conclude, prefect_run
from tasks.operations.ui import show_table


@flow(name="prune", flow_run_name="prune")
@prefect_run
def prune(
    keep_last: int | None = 60, keep_days: float | None = 90, artifacts: str | None = None, *, dry_run: bool = False
) -> int:
    """Delete runs that no rule keeps; never one that a pointer stands on, such as a champion, or that goes on.

    Args:
        keep_last: The newest so many stay.
        keep_days: Runs of so many days stay.
        artifacts: A folder or s3://bucket/prefix; empty: what the settings say.
        dry_run: Only say what would go.

    Returns:
        How many went, or would go.
    """
    place = open_place(artifacts)
    plan, outcome = place.prune(keep_last=keep_last, keep_days=keep_days, dry_run=dry_run)
    gone = {decision.run_id for decision in outcome.deleted}
    rows: list[dict[str, Any]] = [
        {"run": item.run_id, "": "deleted" if item.run_id in gone else "kept", "bytes": item.size, "why": item.reason}
        for item in plan
    ]
    if rows:
        show_table("pruned", rows, f"{len(gone)} of {len(rows)} runs in {place.address}.")
    if outcome.versions_remain:
        get_run_logger().warning("%s keeps versions of what is deleted: they still take up space", place.address)
    conclude(f"{len(gone)} of {len(plan)} runs deleted, {outcome.freed_bytes} bytes freed.")
    return len(gone)
