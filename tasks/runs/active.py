"""What trains now, whoever started it: on the known hosts, on rented machines, and in flows that go on; and its end."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tasks.artifacts.errors import StoreError
from tasks.artifacts.leases import Holder, RemoteRun, holders, interrupt, load_records, remove_record
from tasks.artifacts.repository import ArtifactPlace
from tasks.core.errors import RunError, RunNotFound, TaskError
from tasks.hosts.errors import HostError
from tasks.hosts.host import Host, place_on
from tasks.hosts.job import JobHandle, JobStatus, list_jobs, stop_job
from tasks.hosts.ssh import open_host
from tasks.provisioning.entries import LedgerEntry
from tasks.provisioning.keys import RentalKeys
from tasks.provisioning.registry import Registry, ledger_exists, open_registry
from tasks.settings.load import Settings

CONNECT_S = 15.0
STOP_GRACE_S = 10
"""Of training jobs; see `tasks.execution.remote`."""


@dataclass(frozen=True)
class FoundRun:
    """Something that trains, as its host, the ledger, the artifacts and our own record tell of it.

    Attributes:
        host: Name of the host; `local` for a flow that trains on its own machine.
        key: Of the job there; empty for a flow, or a machine, without one.
        record: Ours; None if the job was started from another machine or account.
        handle: None if the host knows of no such job, or did not answer.
        status: None likewise.
        problem: Why the host did not answer; empty if it did.
        rental: The rented machine that it is on; None for a host of the settings.
        holder: The flow that is at it, as the artifacts tell; None if none is, or it keeps its run elsewhere.
        is_stopped: Whether that flow was ended from here.
    """

    host: str
    key: str = ""
    record: RemoteRun | None = None
    handle: JobHandle | None = None
    status: JobStatus | None = None
    problem: str = ""
    rental: LedgerEntry | None = None
    holder: Holder | None = None
    is_stopped: bool = False

    @property
    def run_id(self) -> str:
        """The run that asked for it last, as far as anybody knows; empty if nobody does."""
        if self.record is not None:
            return self.record.run_id
        if self.holder is not None:
            return self.holder.run_id
        return self.rental.run_id if self.rental is not None else ""

    @property
    def name(self) -> str:
        """What people call it."""
        return self.run_id or self.key[:12]

    @property
    def state(self) -> str:
        """One word for people and scripts."""
        if self.is_stopped:
            return "stopped"
        if self.status is not None:
            if self.status.ending is not None and not self.status.is_success:
                return "failed" if self.status.ending.value == "exited" else self.status.ending.value
            return self.status.state.value
        if self.problem:
            return "unreachable"
        if self.rental is not None:
            return self.rental.state.value
        return "running" if self.holder is not None else "gone"

    @property
    def may_run(self) -> bool:
        """Whether it trains, or nobody can tell that it does not."""
        if self.is_stopped:
            return False
        if self.status is not None:
            return not self.status.is_over
        return bool(self.problem) or self.rental is not None or self.holder is not None


@dataclass(frozen=True)
class _Machine:
    """A machine that can be asked: a host of the settings, or a rented one."""

    name: str
    jobs: str
    open: Callable[[], Host]
    rental: LedgerEntry | None = None


def find_runs(settings: Settings, place: ArtifactPlace) -> tuple[list[FoundRun], list[str]]:
    """Ask everybody what goes on; machines that do not answer are told of from our records and the ledger.

    Records of jobs that their host no longer has are removed.

    Args:
        settings: Where hosts are described.
        place: Whose flows are told of.

    Returns:
        What was found, and what could not be asked.
    """
    with _registry(settings) as (registry, unreadable):
        machines, found = _machines(settings, registry)
        ended = (
            {rental.host_name for rental in registry.ledger.entries() if rental.state.is_over} if registry else set()
        )
        answered, silent = _ask_all(machines, found, ended)
        found, problems = found + answered, unreadable + silent
    try:
        going_on = holders(place.records)
    except StoreError as error:
        return found, [*problems, f"{place.address}: {error}"]
    by_run = {holder.run_id: holder for holder in going_on}
    found = [dataclasses.replace(run, holder=by_run.get(run.run_id)) for run in found]
    told = {run.run_id for run in found}
    return found + [FoundRun(holder.host, holder=holder) for holder in going_on if holder.run_id not in told], problems


def stop_run(settings: Settings, place: ArtifactPlace, name: str) -> list[FoundRun]:
    """End what a run has on its machines, or a flow of this machine that trains here; return how that then stands.

    Args:
        settings: Where hosts are described.
        place: As in `find_runs`.
        name: The run's name, the key of a job of its, or the beginning of either.

    Raises:
        RunNotFound: None or several fit.
        RunError: Only a flow is at it, on another machine or one that does not end.
        HostError: A host could not be reached, or a job not be ended.
    """
    known, problems = find_runs(settings, place)
    fitting = [run for run in known if name in {run.name, run.key}] or [
        run for run in known if run.name.startswith(name) or run.key.startswith(name)
    ]
    if len(fitting) > 1:
        fitting = [run for run in fitting if run.may_run] or fitting
    names = {run.name for run in fitting}
    if len(names) != 1:
        there = ", ".join(f"{run.name} on {run.host}" for run in known if run.name) or "nothing"
        there += "".join(f"; {problem}" for problem in problems)
        raise RunNotFound(f"{'no run' if not names else f'{len(names)} runs'} called {name!r}; there is: {there}")
    return [_stop(settings, run) for run in fitting]


def _stop(settings: Settings, run: FoundRun) -> FoundRun:
    if run.problem:
        raise RunNotFound(f"{run.name}: {run.host} did not answer, so nothing was stopped: {run.problem}")
    if run.handle is not None:
        return _stop_job(settings, run, run.handle)
    if run.holder is None:
        raise RunNotFound(f"{run.name}: nothing trains on {run.host}, which is {run.state}; `jade reap` frees it")
    if not interrupt(run.holder):
        holder = run.holder
        what = (
            f"runs on {holder.machine}: `jade runs stop {holder.run_id}` there, or cancelling it in Prefect, stops it"
            if holder.process_id is None
            else f"was asked to stop (process {holder.process_id} of this machine) and has not ended yet"
        )
        raise RunError(f"{holder.run_id} {what}")
    return dataclasses.replace(run, is_stopped=True)


def _stop_job(settings: Settings, run: FoundRun, handle: JobHandle) -> FoundRun:
    with _registry(settings) as (registry, _):
        machines, _ = _machines(settings, registry)
        (machine,) = (machine for machine in machines if machine.name == run.host)
        host = machine.open()
        try:
            status = stop_job(host, handle, grace_s=STOP_GRACE_S)
        finally:
            host.close()
    remove_record(run.host, run.key)
    return dataclasses.replace(run, status=status)


@contextlib.contextmanager
def _registry(settings: Settings) -> Iterator[tuple[Registry | None, list[str]]]:
    """The ledger and those who lend, if anything was ever rented; or why it cannot be read."""
    if not ledger_exists():
        yield None, []
        return
    try:
        registry = open_registry(settings)
    except (RunError, HostError) as error:
        yield None, [str(error)]
        return
    with contextlib.closing(registry):
        yield registry, []


def _machines(settings: Settings, registry: Registry | None) -> tuple[list[_Machine], list[FoundRun]]:
    """Return what can be asked, and rented machines that cannot, each with the reason or its state."""
    machines = [
        _Machine(name, place_on(entry).jobs, functools.partial(open_host, settings, name, connect_timeout_s=CONNECT_S))
        for name, entry in settings.hosts.items()
    ]
    found: list[FoundRun] = []
    for rental in registry.ledger.entries(only_open=True) if registry is not None else ():
        assert registry is not None  # noqa: S101 -- there are none otherwise
        name = rental.host_name
        try:
            lender = registry.provider(rental.provider)
        except (RunError, HostError) as error:
            found.append(FoundRun(name, rental=rental, problem=str(error)))
            continue
        if lender.has_own_keys:
            continue  # its machines are hosts of the settings
        keys = RentalKeys(registry.keys_folder / rental.request_id)
        address, pin = rental.address, rental.fingerprint
        if address is None or pin is None or rental.instance_id is None:
            found.append(FoundRun(name, rental=rental))
        elif not keys.exist():
            problem = "its key lies on the machine that rented it"
            found.append(FoundRun(name, rental=rental, problem=problem))
        else:
            opening = functools.partial(lender.open, rental, address, keys, pin, connect_timeout_s=CONNECT_S)
            machines.append(_Machine(name, lender.place(rental.instance_id).jobs, opening, rental))
    return machines, found


def _ask_all(machines: list[_Machine], unasked: list[FoundRun], ended: set[str]) -> tuple[list[FoundRun], list[str]]:
    """What the machines tell, and which of them could not be asked."""
    records = {(record.host, record.key): record for record in load_records()}
    found, problems = list[FoundRun](), list[str]()
    with ThreadPoolExecutor(max_workers=16) as pool:
        answers = list(pool.map(_ask, machines))
    for machine, answer in zip(machines, answers, strict=True):
        ours = {key: record for (host, key), record in records.items() if host == machine.name}
        name, rental = machine.name, machine.rental
        if isinstance(answer, str):
            # No answer is not none: whatever is known of it, the host is told of.
            told = [FoundRun(name, key, record, problem=answer, rental=rental) for key, record in ours.items()]
            found += told or [FoundRun(name, problem=answer, rental=rental)]
            problems.append(f"{name} could not be asked: {answer}")
            continue
        there = [FoundRun(name, job.run_key, ours.get(job.run_key), job, status, "", rental) for job, status in answer]
        found += there or ([FoundRun(name, rental=rental)] if rental is not None else [])
        for key in set(ours) - {run.key for run in there}:
            remove_record(name, key)
    asked = {machine.name for machine in machines} | {run.host for run in unasked}
    for (host, key), record in records.items():
        if host in ended and host not in asked:
            remove_record(host, key)  # the machine is no more, and the job with it
        elif host not in asked:
            found.append(FoundRun(host, key, record, problem="no settings file has this host any more"))
    return found, problems


def _ask(machine: _Machine) -> tuple[tuple[JobHandle, JobStatus], ...] | str:
    """A machine's jobs, or why it could not be asked."""
    try:
        with contextlib.closing(machine.open()) as host:
            return list_jobs(host, machine.jobs)
    except (TaskError, ValueError) as error:  # the latter: what it answered makes no sense
        return str(error)
