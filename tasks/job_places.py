"""Where a run's trainings go: this machine, or a host that the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.bundle import RemotePlace
from tasks.host_entries import LOCAL, HostEntry
from tasks.jobs import FollowedJob, running_job
from tasks.mirroring import Mirror
from tasks.settings import load_settings


def check_host_known(host: str) -> None:
    """Refuse a host's name that nobody knows, before anything is prepared for it.

    Raises:
        HostUnknown: The closest name is offered.
    """
    if host != LOCAL:
        load_settings().entry(host)


def place_on(entry: HostEntry) -> RemotePlace:
    """Return how a host of the settings is used."""
    return RemotePlace(entry.remote_folder, entry.python, entry.time_limit_s)


@contextmanager
def trainings_on(
    host: str, folder: Path, *, device: str | None, workers: int | None, mirror: Mirror | None = None
) -> Iterator[FollowedJob]:
    """Run the job of a run while the block lasts, or attach to it where it runs on another host.

    Args:
        host: `local` or a host's name.
        folder: The run's.
        device: Where it trains there; None: the host's own setting, the CPU on this machine.
        workers: Trainings at once; None: one a core, or four on a GPU.
        mirror: Publishes checkpoints as they appear.

    Raises:
        HostUnknown, HostNotReady, HostError: The host is not known, not ready, or something went wrong on the way.
    """
    if host == LOCAL:
        with running_job(folder, device=device or "cpu", workers=workers, mirror=mirror) as here:
            yield here
        return
    from tasks.host_access import open_host
    from tasks.remote_jobs import running_remote_job

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
