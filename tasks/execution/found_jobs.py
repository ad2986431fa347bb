"""Jobs on a host that earlier processes of a run have left, recognised by what they train; and their end."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass

from jade_model.core.job import Job
from tasks.artifacts.leases import remove_record
from tasks.artifacts.training_cache import Note
from tasks.core.retry import retry_transient
from tasks.execution.fetching import remote_trainings, remove_folder
from tasks.execution.lanes import Station
from tasks.hosts.errors import HostError, RemoteFileMissing
from tasks.hosts.job import JobHandle, JobStatus, list_jobs, remove_job, stop_job

STOP_GRACE_S = 10


@dataclass(frozen=True)
class FoundJob:
    """A job on a host that does trainings of ours alone.

    Attributes:
        handle: Of it.
        status: When it was found.
        run_keys: Of its trainings.
    """

    handle: JobHandle
    status: JobStatus
    run_keys: frozenset[str]

    @property
    def may_be_followed(self) -> bool:
        """Whether it runs, or has left what it was to do."""
        return not self.status.is_over or self.status.is_success


def find_ours(station: Station, job: Job) -> list[FoundJob]:
    """Return the jobs on a host that do trainings of a run, into the folders of that run, and nothing else.

    On a rented machine, which is ours alone, all else is stopped; not so on a host of the settings, leased or not.

    Raises:
        HostError: The host could not be asked.
    """
    ours = {(item.run_key, item.output_dir) for item in job.trainings}
    found = []
    for handle, status in retry_transient(lambda: list_jobs(station.host, station.place.jobs)):
        run = station.place.run(handle.run_key)
        theirs = retry_transient(functools.partial(remote_trainings, station.host, run))
        if theirs and theirs <= ours:
            found.append(FoundJob(handle, status, frozenset(run_key for run_key, _ in theirs)))
        elif station.place.provider and not status.is_over:
            retry_transient(functools.partial(stop_job, station.host, handle, grace_s=STOP_GRACE_S))
    return found


def remove_all(station: Station, handle: JobHandle, note: Note, *, may_run: bool) -> None:
    """Remove a job, stopped first if it may run, and its folder; what cannot be removed is said."""
    host, place, key = station.host, station.place, handle.run_key
    run = place.run(key)

    def remove() -> None:
        if may_run:
            with contextlib.suppress(RemoteFileMissing):
                stop_job(host, handle, grace_s=STOP_GRACE_S)
        try:
            remove_job(host, place.jobs, key, also=run)
        except RemoteFileMissing:  # an earlier try, or another that was attached, removed it
            remove_folder(host, run)

    try:
        retry_transient(remove)
    except HostError as error:
        note(f"{host.name}: {run} could not be removed there: {error}")
        return
    remove_record(host.name, key)
