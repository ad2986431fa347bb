"""From a placement to an engine that is ready, and that nothing of is left afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jade_model.core.job import Job
from tasks.execution.base import Engine
from tasks.execution.placement import Placement


@contextmanager
def open_engine(placement: Placement, folder: Path, job: Job, *, flow_run_id: str = "") -> Iterator[Engine]:
    """Give an engine for the trainings of a run; whatever happens, it is stopped afterwards.

    Args:
        placement: Where.
        folder: The run's.
        job: What the run trains, arrays and splits written.
        flow_run_id: The run in Prefect, if there is one, by which machines that are rented for it can be found.

    Raises:
        BadRequest: What the engine needs is not installed or not known.
    """
    if placement.is_local:
        from tasks.execution.local import ProcessEngine

        engine: Engine = ProcessEngine(folder, job, device=placement.device or "cpu", workers=placement.workers)
        try:
            yield engine
        finally:
            engine.stop()
    elif placement.uses_dask:
        from tasks.execution.dask import open_dask_engine

        with open_dask_engine(placement, folder, job) as on_cluster:
            yield on_cluster
    else:
        from tasks.execution.fleet import open_hosts_engine

        with open_hosts_engine(placement, folder, job, flow_run_id=flow_run_id) as on_hosts:
            yield on_hosts
