"""Where a run's trainings go: this machine, or a host that the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tasks.artifacts.publisher import Mirror
from tasks.execution.jobs import FollowedJob, running_job
from tasks.execution.placement import Placement
from tasks.hosts.place import RemotePlace
from tasks.provisioning.registry import open_registry
from tasks.settings.host_entries import HostEntry
from tasks.settings.load import load_settings


def place_on(entry: HostEntry) -> RemotePlace:
    """Return how a host of the settings is used."""
    return RemotePlace(entry.remote_folder, entry.python, entry.time_limit_s)


@contextmanager
def trainings_on(
    placement: Placement, folder: Path, *, mirror: Mirror | None = None, flow_run_id: str = ""
) -> Iterator[FollowedJob]:
    """Run the job of a run while the block lasts, or attach to it where it runs on another host.

    Args:
        placement: Where. What is rented for it is freed whatever happens.
        folder: The run's.
        mirror: Publishes checkpoints as they appear.
        flow_run_id: The run in Prefect, if there is one, by which its machines can be found.

    Raises:
        BadRequest, HostNotReady, HostError: The host is not known, not ready, or something went wrong on the way.
    """
    device, workers = placement.device, placement.workers
    if placement.is_local:
        with running_job(folder, device=device or "cpu", workers=workers, mirror=mirror) as here:
            yield here
    elif len(placement.host) == 1 and placement.machines == 1:
        from tasks.execution.rented_trainings import running_rented_job

        with (
            closing(open_registry()) as registry,
            running_rented_job(folder, registry, placement, flow_run_id=flow_run_id, mirror=mirror) as rented,
        ):
            yield rented
    elif len(placement.named_hosts) == 1 and not placement.machines:
        from tasks.execution.remote import running_remote_job
        from tasks.hosts.ssh import open_host

        settings = load_settings()
        (name,) = placement.named_hosts
        entry = settings.entry(name)
        with running_remote_job(
            folder,
            open_host(settings, name),
            place_on(entry),
            device=device or entry.device,
            workers=workers,
            mirror=mirror,
        ) as there:
            yield there
    else:
        from tasks.execution.engine_job import running_engine_job

        with running_engine_job(placement, folder, mirror=mirror, flow_run_id=flow_run_id) as shared:
            yield shared
