"""Jobs that outlive the connection that started them: start or attach, look, follow, stop.

Everything goes through `Host.run`, so it is the same for this machine and for one behind SSH. What happens over there
is in `job_scripts.py`; all times are told by the host's own clock, so a wrong one does no harm.
"""

from __future__ import annotations

import secrets
import shlex
from typing import assert_never

from tasks.hosts import job_scripts
from tasks.hosts.base import Host
from tasks.hosts.errors import (
    TAIL_CHARACTERS,
    CommandFailed,
    JobFailed,
    JobLost,
    JobStopped,
    JobTimedOut,
)
from tasks.hosts.job_log import shown_tail
from tasks.hosts.job_types import Ending, JobHandle, JobSpec, JobStatus, check_key, parse_status

CALL_S = 60.0
"""Limit of one short call to a host."""


def start_job(host: Host, jobs_folder: str, spec: JobSpec) -> JobHandle:
    """Start a job, or attach to the one of this key that is starting, running or well done.

    A job that failed, was stopped, timed out or is lost is followed by a new attempt. Of several callers at once, one
    starts it and the others attach. Safe to call again after a lost connection.

    Raises:
        CommandFailed: It could not be started; more exactly as `Host.run` says.
    """
    environment = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in spec.environment.items()).encode()
    script = job_scripts.start(
        jobs=jobs_folder,
        key=spec.run_key,
        new_id=secrets.token_hex(16),
        command=shlex.join(spec.command),
        workdir=spec.workdir,
        num_environment_bytes=len(environment),
        limit_s=spec.time_limit_s,
        grace_s=spec.stop_grace_s,
    )
    result = host.run(script, timeout_s=CALL_S, stdin=environment)
    how, _, number = result.text.strip().rpartition(" ")
    if how not in {"started", "attached"} or not number.isdigit():
        raise CommandFailed(host.name, script, result.exit_status, f"unexpected answer {result.text!r}")
    return _handle(jobs_folder, spec.run_key, int(number), was_attached=how == "attached")


def find_job(host: Host, jobs_folder: str, run_key: str) -> JobHandle | None:
    """The newest attempt of a run key, or None."""
    check_key(run_key)
    answer = host.run(job_scripts.find(jobs=jobs_folder, key=run_key), timeout_s=CALL_S).text.strip()
    return _handle(jobs_folder, run_key, int(answer), was_attached=True) if answer else None


def list_jobs(host: Host, jobs_folder: str) -> tuple[tuple[JobHandle, JobStatus], ...]:
    """The newest attempt of every run key on a host, with its status."""
    found = []
    for line in host.run(job_scripts.list_all(jobs=jobs_folder), timeout_s=CALL_S).text.splitlines():
        key, number, report = line.split(" ", 2)
        handle = _handle(jobs_folder, key, int(number), was_attached=True)
        found.append((handle, parse_status(report)))
    return tuple(found)


def job_status(host: Host, job: JobHandle) -> JobStatus:
    """How an attempt stands now.

    Raises:
        RemoteFileMissing: Its folder is gone.
    """
    script = job_scripts.look(attempt=job.folder, offset=0, num_bytes=0)
    return parse_status(host.run(script, timeout_s=CALL_S).text)


def stop_job(host: Host, job: JobHandle, *, grace_s: int = 20) -> JobStatus:
    """End a job and everything that it started: TERM, then KILL. Returns when nothing of it runs any more.

    Silent if it is over. The grace that counts is the one that the job was started with; `grace_s` says how long this
    call waits for the supervisor before it kills by itself, and should not be less.
    """
    wait_s = grace_s + job_scripts.STOP_SLACK_S
    script = job_scripts.stop(attempt=job.folder, wait_s=wait_s)
    return parse_status(host.run(script, timeout_s=wait_s + CALL_S).text)


def remove_job(host: Host, jobs_folder: str, run_key: str, *, also: str = "") -> None:
    """Remove all attempts of a run key from the host, and then one more folder if it is named.

    Raises:
        CommandFailed: One still runs.
        RemoteFileMissing: There is none.
    """
    check_key(run_key)
    host.run(job_scripts.remove(jobs=jobs_folder, key=run_key, also=also), timeout_s=CALL_S)


def read_log_tail(host: Host, job: JobHandle, *, num_bytes: int = TAIL_CHARACTERS) -> str:
    """The end of what a job wrote, carriage returns folded."""
    size = job_status(host, job).num_log_bytes
    script = job_scripts.look(attempt=job.folder, offset=max(size - num_bytes, 0), num_bytes=num_bytes)
    _, _, tail = host.run(script, timeout_s=CALL_S).stdout.partition(b"\n")
    return shown_tail(tail)


def raise_unless_success(host: Host, job: JobHandle, status: JobStatus) -> None:
    """Return if a job that is over did well; else raise what happened, with the end of its log.

    Raises:
        JobFailed, JobTimedOut, JobStopped, JobLost: As they say.
    """
    if not status.is_over:
        raise ValueError(f"the job {job.folder} is not over: {status.state.value}")
    if status.is_success:
        return
    tail = read_log_tail(host, job)
    match status.ending:
        case None:
            raise JobLost(host.name, job.folder, tail)
        case Ending.STOPPED:
            raise JobStopped(host.name, job.folder, tail)
        case Ending.TIMED_OUT:
            raise JobTimedOut(host.name, job.folder, tail)
        case Ending.EXITED:
            raise JobFailed(host.name, job.folder, status.exit_status or 0, tail)
        case _:
            assert_never(status.ending)


def _handle(jobs_folder: str, run_key: str, attempt: int, *, was_attached: bool) -> JobHandle:
    return JobHandle(run_key, attempt, f"{jobs_folder}/{run_key}/attempt-{attempt}", was_attached)
