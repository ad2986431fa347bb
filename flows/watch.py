"""The flow `watch-data`: looks at the data of a deployment now and then, and starts it once for each change."""

from __future__ import annotations

from prefect import flow
from prefect.logging import get_run_logger

from tasks.operations.events import events_delivered
from tasks.operations.watch import look_at_data


@flow(name="watch-data", flow_run_name="watch-data")
def watch_data(deployment: str = "compare/on-new-data", *, settle_s: float = 30.0) -> str:
    """Start a deployment if the digest of its data has changed since it was last started.

    Args:
        deployment: `flow/name`; its parameters say which data.
        settle_s: Files that changed within so many seconds are still being written: the next look sees to them.

    Returns:
        What was found, in one sentence.
    """
    with events_delivered():
        found = look_at_data(deployment, settle_s=settle_s)
    get_run_logger().info("%s", found)
    return found
