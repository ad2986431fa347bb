"""Runs that nobody runs any more: told apart by their heartbeats, and given a last state; those that never began, anew.

Prefect's server hears of a run's end from the run or from its worker. When the machine of both dies, the run stays
"Running", "Pending" or "Cancelling" for ever, and keeps its place under the deployment's limit.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry, Cancelled, Crashed

from tasks.operations.flow_runs import NEW_DATA, NOTHING_DUE, is_made_up, telling_name

FLOWS = ["compare", "sweep", "retrain", "watch-data", "prune", "reap"]
DEAD_AFTER_S = 600.0
"""More than three heartbeats."""
_AT_ONCE = 200

TRAINING_FLOWS = ["compare", "sweep", "retrain"]
"""The others come again by their schedules."""
MOST_STARTS = 3
FORGOTTEN_AFTER_S = 3600.0
"""Who crashed longer ago is not started again: nobody waits for it any more."""


def end_dead_runs(*, dead_after_s: float = DEAD_AFTER_S) -> list[str]:
    """Set runs of our flows without a sign of life for long to Crashed, or to Cancelled if that was asked for.

    A run that lives, and was only not heard of, sets itself back: see `prefect_run`.

    Args:
        dead_after_s: Since the last heartbeat and the last change of state.

    Returns:
        Names of the runs that were ended; none while the server itself has not been there for that long.
    """
    now = datetime.now(UTC)
    limit = now - timedelta(seconds=dead_after_s)
    with get_client(sync_client=True) as client:
        if not _events(client, limit - timedelta(seconds=dead_after_s), limit):
            return []
        found = _runs(client, FLOWS, StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
        dead = [run for run in found if _is_dead(client, run, limit, now)]
        for run in dead:
            client.set_flow_run_state(run.id, _last_state(run), force=True)
        return [run.name for run in dead]


def start_again() -> list[str]:
    """Schedule runs that crashed before they began once more, as when the server went away while a process started.

    Returns:
        Names of the runs; none of them for the fourth time, and none that watching data starts again.
    """
    now = datetime.now(UTC)
    started = []
    with get_client(sync_client=True) as client:
        for run in _runs(client, TRAINING_FLOWS, StateType.CRASHED):
            crashed_at = run.state.timestamp if run.state is not None else None
            if crashed_at is None or crashed_at < now - timedelta(seconds=FORGOTTEN_AFTER_S):
                continue
            if run.run_count or run.work_queue_id is None or NEW_DATA in run.tags:
                continue
            crashes = sum(state.type == StateType.CRASHED for state in client.read_flow_run_states(run.id))
            if crashes >= MOST_STARTS:
                continue
            state: State[Any] = AwaitingRetry(
                scheduled_time=now, message="It crashed before it began, and is started again."
            )
            client.set_flow_run_state(run.id, state, force=True)
            started.append(run.name)
    return started


def forget_quiet_runs(deployment_id: str) -> None:
    """Delete a deployment's runs that found nothing to do, so that they do not bury the others."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                deployment_id=FlowRunFilterDeploymentId(any_=[UUID(deployment_id)]),
                state=FlowRunFilterState(name=FlowRunFilterStateName(any_=[NOTHING_DUE])),
            ),
            limit=_AT_ONCE,
        )
        for run in found:
            with suppress(ObjectNotFound):
                client.delete_flow_run(run.id)


def name_waiting_runs() -> None:
    """Name runs that are due later as they would be named when they begin, no longer as Prefect made it up."""
    with get_client(sync_client=True) as client:
        for flow in TRAINING_FLOWS:
            for run in _runs(client, [flow], StateType.SCHEDULED):
                if is_made_up(run.name) and run.expected_start_time is not None and "data" in run.parameters:
                    name = telling_name(flow, run.parameters, run.expected_start_time, str(run.id))
                    client.update_flow_run(run.id, name=name)


def _runs(client: SyncPrefectClient, flows: list[str], *types: StateType) -> list[FlowRun]:
    """Return runs of some flows that are in one of some states, the newest first."""
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=flows)),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types)))),
        sort=FlowRunSort.START_TIME_DESC,
        limit=_AT_ONCE,
    )


def _is_dead(client: SyncPrefectClient, run: FlowRun, limit: datetime, now: datetime) -> bool:
    changed = run.state.timestamp if run.state is not None else run.created
    if changed is None or changed > limit:
        return False
    return not _events(client, limit, now, run)


def _last_state(run: FlowRun) -> State[Any]:
    match run.state_type:
        case StateType.CANCELLING:
            return Cancelled(message="Nothing of it runs any more.")
        case StateType.PENDING:
            return Crashed(message="Its worker died before it began.")
        case _:
            return Crashed(message="No sign of life for ten minutes: its machine or its process is gone.")


def _events(client: SyncPrefectClient, since: datetime, until: datetime, run: FlowRun | None = None) -> bool:
    """Whether anything happened in some time; with a run: whether it gave a sign of life."""
    wanted: dict[str, Any] = {"occurred": {"since": since.isoformat(), "until": until.isoformat()}}
    if run is not None:
        wanted |= {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        }
    answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    return bool(answer.json()["events"])
