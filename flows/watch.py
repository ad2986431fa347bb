"""The flow `watch-data`: looks at the data of a deployment now and then, and starts it once for each change."""

from __future__ import annotations

from prefect import flow, runtime

from tasks.operations.dead_runs import forget_quiet_runs
from tasks.operations.flow_runs import conclude, prefect_run
from tasks.operations.watch import look_at_data


@flow(name="watch-data", flow_run_name="watch-data")
@prefect_run
def watch_data(deployment: str = "compare/on-new-data", *, settle_s: float = 30.0) -> str:
    """Start a deployment if the digest of its data has changed since it was last started.

    Args:
        deployment: `flow/name`; its parameters say which data.
        settle_s: Files that changed within so many seconds are still being written: the next look sees to them.

    Returns:
        What was found, in one sentence.
    """
    if runtime.deployment.id:
        forget_quiet_runs(runtime.deployment.id)
    found, has_started = look_at_data(deployment, settle_s=settle_s)
    conclude(found, is_quiet=not has_started)
    return found
