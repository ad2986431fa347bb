"""From settings to an engine that is ready, and that nothing of is left afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import assert_never

from jade_model.core.job import Job
from tasks.artifacts.publisher import say
from tasks.execution.base import Engine, EngineSettings
from tasks.provisioning.lease import Served
from tasks.provisioning.registry import open_registry
from tasks.settings.load import load_settings


def check_engine(settings: EngineSettings) -> None:
    """Refuse an engine that cannot run, before anything is prepared for it.

    Raises:
        BadRequest: What it needs is not installed, or nothing that is offered may be rented.
        HostUnknown: A host is in no settings file; the closest name is offered.
        ProviderRefused, ProviderUnavailable: The provider could not be asked.
    """
    if settings.engine == "dask":
        from tasks.execution.dask import dask_runner_class

        dask_runner_class()
    if settings.hosts:
        known = load_settings()
        for name in settings.hosts:
            known.entry(name)
    if settings.wish is not None:
        with closing(open_registry()) as lending:
            lending.renter(settings.wish, Served("plan", "", ()), note=say).plan()


@contextmanager
def open_engine(settings: EngineSettings, folder: Path, job: Job, *, flow_run_id: str = "") -> Iterator[Engine]:
    """Give an engine for the trainings of a run; whatever happens, it is stopped afterwards.

    Args:
        settings: Which, and where.
        folder: The run's.
        job: What the run trains, arrays and splits written.
        flow_run_id: The run in Prefect, if there is one, by which machines that are rented for it can be found.

    Raises:
        BadRequest: What the engine needs is not installed or not known.
    """
    match settings.engine:
        case "processes":
            from tasks.execution.local import ProcessEngine

            engine: Engine = ProcessEngine(folder, job, device=settings.device or "cpu", workers=settings.workers)
            try:
                yield engine
            finally:
                engine.stop()
        case "dask":
            from tasks.execution.dask import open_dask_engine

            with open_dask_engine(settings, folder, job) as on_cluster:
                yield on_cluster
        case "hosts":
            from tasks.execution.fleet import open_hosts_engine

            with open_hosts_engine(settings, folder, job, flow_run_id=flow_run_id) as on_hosts:
                yield on_hosts
        case _:
            assert_never(settings.engine)
