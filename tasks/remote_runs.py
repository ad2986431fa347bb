"""What trains on the known hosts now, whoever started it; and how to end it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tasks.errors import RunNotFound
from tasks.host_access import open_host
from tasks.hosts.errors import HostError
from tasks.hosts.job import list_jobs, stop_job
from tasks.hosts.job_types import JobHandle, JobStatus
from tasks.job_places import place_on
from tasks.remote_jobs import STOP_GRACE_S
from tasks.remote_records import RemoteRun, load_records, remove_record
from tasks.settings import Settings

CONNECT_S = 15.0


@dataclass(frozen=True)
class FoundRun:
    """A job on a host, as the host and our own record tell of it.

    Attributes:
        host: Name of the host.
        key: Of the job.
        record: Ours; None if the job was started from another machine or account.
        handle: None if the host knows of no such job, or did not answer.
        status: None likewise.
        problem: Why the host did not answer; empty if it did.
    """

    host: str
    key: str
    record: RemoteRun | None
    handle: JobHandle | None
    status: JobStatus | None
    problem: str = ""

    @property
    def name(self) -> str:
        """The run that asked for it last, as far as this machine knows."""
        return self.record.run_id if self.record else self.key[:12]

    @property
    def state(self) -> str:
        """One word for people and scripts."""
        if self.status is None:
            return "unreachable" if self.problem else "gone"
        if self.status.ending is not None and not self.status.is_success:
            return "failed" if self.status.ending.value == "exited" else self.status.ending.value
        return self.status.state.value

    @property
    def may_run(self) -> bool:
        """Whether it trains, or nobody can tell that it does not."""
        return bool(self.problem) or (self.status is not None and not self.status.is_over)


def find_runs(settings: Settings) -> list[FoundRun]:
    """Ask every known host what it has of ours; hosts that do not answer are told of from our records.

    Records of jobs that their host no longer has are removed.
    """
    records = {(record.host, record.key): record for record in load_records()}
    found = [
        FoundRun(host, key, record, None, None, "no settings file has this host any more")
        for (host, key), record in records.items()
        if host not in settings.hosts
    ]
    if not settings.hosts:
        return found
    with ThreadPoolExecutor(max_workers=min(16, len(settings.hosts))) as pool:
        answers = list(pool.map(lambda name: _ask(settings, name), settings.hosts))
    for name, answer in zip(settings.hosts, answers, strict=True):
        ours = {key: record for (host, key), record in records.items() if host == name}
        if isinstance(answer, HostError):
            found += [FoundRun(name, key, record, None, None, str(answer)) for key, record in ours.items()]
            continue
        found += [FoundRun(name, handle.run_key, ours.get(handle.run_key), handle, status) for handle, status in answer]
        for key in set(ours) - {handle.run_key for handle, _ in answer}:
            remove_record(name, key)
    return found


def stop_run(settings: Settings, name: str) -> FoundRun:
    """End the job of a run on its host; return how it then stands.

    Args:
        settings: Where hosts are described.
        name: The run's name, the key of its job, or the beginning of either.

    Raises:
        RunNotFound: None or several fit.
        HostError: The host could not be reached, or the job not be ended.
    """
    known = find_runs(settings)
    fitting = [run for run in known if name in {run.name, run.key}] or [
        run for run in known if run.name.startswith(name) or run.key.startswith(name)
    ]
    if len(fitting) > 1:
        fitting = [run for run in fitting if run.may_run] or fitting
    if len(fitting) != 1:
        there = ", ".join(f"{run.name} on {run.host}" for run in known) or "nothing"
        raise RunNotFound(f"{'no run' if not fitting else f'{len(fitting)} runs'} called {name!r}; there is: {there}")
    (run,) = fitting
    if run.handle is None:
        raise RunNotFound(f"{run.name}: {run.host} did not answer, so nothing was stopped: {run.problem}")
    host = open_host(settings, run.host)
    try:
        status = stop_job(host, run.handle, grace_s=STOP_GRACE_S)
    finally:
        host.close()
    remove_record(run.host, run.key)
    return FoundRun(run.host, run.key, run.record, run.handle, status)


def _ask(settings: Settings, name: str) -> tuple[tuple[JobHandle, JobStatus], ...] | HostError:
    host = open_host(settings, name, connect_timeout_s=CONNECT_S)
    try:
        return list_jobs(host, place_on(settings.entry(name)).jobs)
    except HostError as error:
        return error
    finally:
        host.close()
