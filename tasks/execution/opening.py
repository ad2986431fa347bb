"""From a placement to an executor that is ready, and that nothing of is left afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from jade_model.core.job import Job
from tasks.execution.base import Executor, pending_trainings
from tasks.execution.placement import Placement
from tasks.settings.load import load_settings


@contextmanager
def open_executor(placement: Placement, folder: Path, job: Job, *, flow_run_id: str = "") -> Iterator[Executor]:
    """Give an executor for the trainings of a run; whatever happens, it is stopped afterwards.

    Args:
        placement: Where.
        folder: The run's.
        job: What the run trains, arrays and splits written.
        flow_run_id: The run in Prefect, if there is one, by which machines that are rented for it can be found.

    Raises:
        BadRequest: A host is in no settings file.
        BadRequest: What the executor needs is not installed, or nothing can be rented.
    """
    with ExitStack() as stack:
        executor: Executor
        if placement.is_local:
            from tasks.execution.local import LocalExecutor

            executor = LocalExecutor(folder, job, device=placement.device or "cpu", workers=placement.workers)
        elif placement.uses_dask:
            from tasks.execution.dask import dask_executor

            executor = stack.enter_context(dask_executor(placement, folder, job))
        else:
            executor = _fleet(placement, folder, job, flow_run_id, stack)
        stack.callback(executor.stop)
        yield executor


def _fleet(placement: Placement, folder: Path, job: Job, flow_run_id: str, stack: ExitStack) -> Executor:
    from tasks.execution.fleet import FleetExecutor
    from tasks.execution.lanes import HostLane, Lane
    from tasks.execution.queue import QueueRules
    from tasks.hosts.host import place_on
    from tasks.hosts.ssh import open_host

    known = load_settings()
    lanes: list[Lane] = [
        HostLane(name, partial(open_host, known, name), placement.applied_to(place_on(known.entry(name))))
        for name in placement.named_hosts
    ]
    if placement.provider is not None and pending_trainings(job.trainings, folder):
        from tasks.execution.rented_lanes import rented_lanes
        from tasks.provisioning.registry import open_registry

        registry = stack.enter_context(closing(open_registry()))
        lanes += rented_lanes(placement, registry, folder, job, flow_run_id=flow_run_id)
    # One host does all of it in one job, and if it fails nobody else could do better.
    rules = QueueRules(
        batch_s=math.inf if len(lanes) == 1 else QueueRules.batch_s,
        max_host_failures=1 if len(lanes) == len(placement.named_hosts) == 1 else QueueRules.max_host_failures,
    )
    return FleetExecutor(folder, job, lanes, rules=rules)
