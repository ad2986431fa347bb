"""The flow `reap`: frees rented machines that no live run claims; and the hook that frees those of one run."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import deployment

from tasks.core.errors import RunError
from tasks.operations.dead_runs import end_dead_runs, forget_quiet_runs, name_waiting_runs, start_again
from tasks.operations.flow_runs import conclude, prefect_run
from tasks.operations.ui import show_table
from tasks.provisioning.reaper import Deed, Reaped
from tasks.provisioning.registry import ledger_exists, open_registry
from tasks.settings.prefect import has_lasting_server


@flow(name="reap", flow_run_name="reap")
@prefect_run
def reap(owner: str | None = None, *, dry_run: bool = False) -> int:
    """Free every rented machine of an owner that no live run claims, and end the runs of machines that are gone.

    Called by a deployment, it is what renting relies on where machines cannot end their own cost.

    Args:
        owner: Tag; None is the ledger's own.
        dry_run: Only tell.

    Returns:
        How many were freed.

    Raises:
        RunError: Some could not be freed; what could be was.
    """
    logger = get_run_logger()
    if deployment.id:
        forget_quiet_runs(deployment.id)
    is_served = not dry_run and has_lasting_server()
    dead = end_dead_runs() if is_served else []
    again = start_again() if is_served else []
    if is_served:
        name_waiting_runs()
    for name in dead:
        logger.warning("%s gave no sign of life, and counts as crashed", name)
    for name in again:
        logger.warning("%s crashed before it began, and is started again", name)
    with closing(open_registry()) as registry:
        reaper = registry.reaper(owner, is_dry=dry_run)
        found = reaper.reap()
        failed = [item for item in found if item.deed is Deed.FAILED]
        if deployment.id and not dry_run and not failed:
            registry.ledger.note_reaper(reaper.owner, f"deployment on {socket.gethostname()}")
    for item in found:
        logger.info("%s %s %s: %s", item.provider, item.machine_id or item.name, item.deed.value, item.why)
    freed = [item for item in found if item.deed is Deed.FREED]
    if freed or failed:
        show_table("reaped", [_row(item) for item in found], "Rented machines looked at.")
    if failed:
        raise RunError("; ".join(f"{item.provider} {item.machine_id or item.name}: {item.why}" for item in failed))
    told = f"{len(freed)} machines freed, {len(dead)} dead runs ended, {len(again)} runs started again."
    conclude(told, is_quiet=not freed and not dead and not again)
    return len(freed)


def free_machines(flow: Any, flow_run: Any, state: Any) -> None:  # noqa: ARG001 - Prefect names them
    """Free what was rented for a run that has failed, crashed or was cancelled: a hook, often in another process."""
    if not ledger_exists():
        return
    with closing(open_registry()) as registry:
        for item in registry.free_flow_run(str(flow_run.id)):
            print(f"{item.provider} {item.machine_id or item.name}: {item.deed.value}: {item.why}")


def _row(item: Reaped) -> dict[str, Any]:
    return {
        "provider": item.provider,
        "machine": item.machine_id or item.name,
        "run": item.run_id,
        "done": item.deed.value,
        "why": item.why,
        "USD": None if item.cost_usd is None else round(item.cost_usd, 2),
    }
