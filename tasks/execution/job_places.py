"""Where a run's trainings go: this machine, or a host that the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tasks.artifacts.publisher import Mirror
from tasks.execution.base import EngineSettings
from tasks.execution.jobs import FollowedJob, running_job
from tasks.hosts.place import RemotePlace
from tasks.provisioning.registry import check_provider, is_provider, open_registry
from tasks.provisioning.rental_wish import RentalWish
from tasks.settings.host_entries import LOCAL, HostEntry, Workers
from tasks.settings.load import load_settings


def check_host_known(host: str) -> None:
    """Refuse a host's name that nobody knows, or a provider that is not set up, before anything is prepared for it.

    Raises:
        HostUnknown: The closest name is offered.
        SettingsError, HostError: The provider's settings make no sense, or its API key is missing.
    """
    if is_provider(host):
        check_provider(host)
    elif host != LOCAL:
        load_settings().entry(host)


def place_on(entry: HostEntry) -> RemotePlace:
    """Return how a host of the settings is used."""
    return RemotePlace(entry.remote_folder, entry.python, entry.time_limit_s)


@contextmanager
def trainings_on(
    host: str,
    folder: Path,
    *,
    device: str | None,
    workers: Workers,
    mirror: Mirror | None = None,
    wish: RentalWish | None = None,
    flow_run_id: str = "",
    engine: EngineSettings | None = None,
) -> Iterator[FollowedJob]:
    """Run the job of a run while the block lasts, or attach to it where it runs on another host.

    Args:
        host: `local`, a host's name, or a provider's: then a machine is rented, and freed whatever happens.
        folder: The run's.
        device: Where it trains there; None: the host's own setting, the CPU on this machine.
        workers: Trainings at once; None: one a core, or four on a GPU; "arms": on a GPU, one of each arm.
        mirror: Publishes checkpoints as they appear.
        wish: What is to be rented of a provider; None: with no more limits than the defaults.
        flow_run_id: The run in Prefect, if there is one, by which its machines can be found.
        engine: Runs the trainings instead of one host; None, or processes: the host does.

    Raises:
        HostUnknown, HostNotReady, HostError: The host is not known, not ready, or something went wrong on the way.
    """
    if engine is not None and engine.engine != "processes":
        from tasks.execution.engine_job import running_engine_job

        with running_engine_job(engine, folder, mirror=mirror, flow_run_id=flow_run_id) as shared:
            yield shared
        return
    if host == LOCAL:
        with running_job(folder, device=device or "cpu", workers=workers, mirror=mirror) as here:
            yield here
        return
    if is_provider(host):
        from tasks.execution.rented_trainings import running_rented_job

        with (
            closing(open_registry()) as lending,
            running_rented_job(
                folder,
                lending,
                wish or RentalWish(host),
                device=device,
                workers=workers,
                flow_run_id=flow_run_id,
                mirror=mirror,
            ) as rented,
        ):
            yield rented
        return
    from tasks.execution.remote import running_remote_job
    from tasks.hosts.access import open_host

    settings = load_settings()
    entry = settings.entry(host)
    with running_remote_job(
        folder,
        open_host(settings, host),
        place_on(entry),
        device=device or entry.device,
        workers=workers,
        mirror=mirror,
    ) as there:
        yield there
