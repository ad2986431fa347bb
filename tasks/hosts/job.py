"""Jobs that outlive the connection that started them: start or attach, look, follow, stop.

Everything goes through `Host.run`, so it is the same for every host. What happens over there is in job.sh; all times
are told by the host's own clock, so a wrong one does no harm.
"""

from __future__ import annotations

import enum
import functools
import re
import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import NamedTuple

from tasks.core.names import is_plain_name
from tasks.core.retry import retry_transient
from tasks.hosts.errors import TAIL_CHARACTERS, CommandFailed, JobFailed, JobLost, JobStopped, JobTimedOut
from tasks.hosts.host import Host
from tasks.hosts.shell import SHELL_FUNCTIONS, LineFolder, assigned

CALL_S = 60.0
"""Limit of one short call to a host."""
HEARTBEAT_S = 5
STARTING_S = 60
"""A claim whose supervisor has not come up after this long was abandoned by its starter."""
STOP_SLACK_S = 10
"""What a stop may take beyond the grace that the job was given."""
_CHUNK_BYTES = 4 * 2**20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED_VARIABLES = {"JADE_JOB_ID", "PYTHONUNBUFFERED"}
_PROGRAM = "\n".join(
    line
    for line in (SHELL_FUNCTIONS + (files("tasks.hosts") / "job.sh").read_text("utf-8")).splitlines()
    if not line.lstrip().startswith("#")
)


class JobState(enum.Enum):
    """Where a job stands."""

    STARTING = "starting"
    RUNNING = "running"
    DONE = "done"
    LOST = "lost"


class Ending(enum.Enum):
    """Why a job that is done has ended."""

    EXITED = "exited"
    STOPPED = "stopped"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True)
class JobSpec:
    """What to run.

    Attributes:
        run_key: Names the job; the same key never runs twice at once on a host. Letters, digits, `.`, `_`, `-`.
        command: Program and arguments; everybody on the host can see them.
        workdir: Where it runs; must be there.
        time_limit_s: The host itself ends the job after this long.
        environment: Variables, secrets among them; they travel by standard input and a file of mode 0600 that is
            removed once it is read.
        stop_grace_s: Seconds between TERM and KILL.
    """

    run_key: str
    command: tuple[str, ...]
    workdir: str
    time_limit_s: int
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    stop_grace_s: int = 20

    def __post_init__(self) -> None:
        _check_key(self.run_key)
        if not self.command or any("\0" in word for word in self.command):
            raise ValueError("command must name a program and have no NUL in it")
        if self.time_limit_s <= 0 or self.stop_grace_s < 0:
            raise ValueError("time_limit_s must be positive and stop_grace_s not negative")
        for name, value in self.environment.items():
            if not _VARIABLE.fullmatch(name) or name in _RESERVED_VARIABLES:
                raise ValueError(f"{name!r} cannot be set as an environment variable of a job")
            if "\0" in value:
                raise ValueError(f"the value of {name} has a NUL in it")


@dataclass(frozen=True)
class JobHandle:
    """One attempt, from 1, and its folder on the host: enough to find it again from another process.

    `was_attached` says whether it was there before the call that gave this handle.
    """

    run_key: str
    attempt: int
    folder: str
    was_attached: bool


@dataclass(frozen=True)
class JobStatus:
    """How an attempt stands.

    Attributes:
        exit_status: Of the job's own process; None unless done. 128 and the signal's number if one ended it.
        ending: None unless done.
        heartbeat_age_s: By the host's clock; None before the first beat.
        num_log_bytes: What it has written so far.
    """

    state: JobState
    exit_status: int | None
    ending: Ending | None
    heartbeat_age_s: int | None
    num_log_bytes: int

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in {JobState.DONE, JobState.LOST}

    @property
    def is_success(self) -> bool:
        """Whether it ended by itself with status 0."""
        return self.ending is Ending.EXITED and self.exit_status == 0


class LogBatch(NamedTuple):
    """What one look at the log brought: whole lines without their ends, and how the job stood just before."""

    lines: tuple[str, ...]
    status: JobStatus


def parse_status(report: str) -> JobStatus:
    """Read the line that the host's scripts write; a ValueError says that it is none."""
    match report.split():
        case ["jade-job", state, code, ending, now, heartbeat, size]:
            return JobStatus(
                JobState(state),
                exit_status=None if code == "-" else int(code),
                ending=None if ending == "-" else Ending(ending),
                heartbeat_age_s=None if heartbeat == "-" else int(now) - int(heartbeat),
                num_log_bytes=int(size),
            )
    raise ValueError(f"not a job's status: {report[:200]!r}")


def _check_key(run_key: str) -> None:
    if not is_plain_name(run_key):
        raise ValueError(f"a run key has letters, digits, '.', '_' and '-', and starts with no dot: {run_key!r}")


def start_job(host: Host, jobs_folder: str, spec: JobSpec) -> JobHandle:
    """Start a job, or attach to the one of this key that is starting, running or well done.

    A job that failed, was stopped, timed out or is lost is followed by a new attempt. Of several callers at once, one
    starts it and the others attach. Safe to call again after a lost connection.

    Raises:
        CommandFailed: It could not be started; more exactly as `Host.run` says.
    """
    environment = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in spec.environment.items()).encode()
    script = _script(
        "start",
        f"start job {spec.run_key}",
        jobs=jobs_folder,
        key=spec.run_key,
        new_id=secrets.token_hex(16),
        command=shlex.join(spec.command),
        workdir=spec.workdir,
        num_environment_bytes=len(environment),
        limit_s=spec.time_limit_s,
        grace_s=spec.stop_grace_s,
        heartbeat_s=HEARTBEAT_S,
    )
    result = host.run(script, timeout_s=CALL_S, stdin=environment)
    how, _, number = result.text.strip().rpartition(" ")
    if how not in {"started", "attached"} or not number.isdigit():
        raise CommandFailed(host.name, script, result.exit_status, f"unexpected answer {result.text!r}")
    return _handle(jobs_folder, spec.run_key, number, was_attached=how == "attached")


def find_job(host: Host, jobs_folder: str, run_key: str) -> JobHandle | None:
    """The newest attempt of a run key, or None."""
    _check_key(run_key)
    number = _call(host, "find", f"find job {run_key}", jobs=jobs_folder, key=run_key).strip()
    return _handle(jobs_folder, run_key, number) if number else None


def list_jobs(host: Host, jobs_folder: str) -> tuple[tuple[JobHandle, JobStatus], ...]:
    """The newest attempt of every run key on a host, with its status."""
    lines = [line.split(" ", 2) for line in _call(host, "list", "list jobs", jobs=jobs_folder).splitlines()]
    return tuple((_handle(jobs_folder, key, number), parse_status(report)) for key, number, report in lines)


def job_status(host: Host, job: JobHandle) -> JobStatus:
    """How an attempt stands now; a RemoteFileMissing if its folder is gone."""
    return parse_status(host.run(_look_script(job, 0, 0), timeout_s=CALL_S).text)


def stop_job(host: Host, job: JobHandle, *, grace_s: int = 20) -> JobStatus:
    """End a job and everything that it started: TERM, then KILL. Returns when nothing of it runs any more.

    Silent if it is over. The grace that counts is the one that the job was started with; `grace_s` says how long this
    call waits for the supervisor before it kills by itself, and should not be less.
    """
    wait_s = grace_s + STOP_SLACK_S
    what = f"stop job {job.folder!r}"
    return parse_status(_call(host, "stop", what, wait_s + CALL_S, attempt=job.folder, wait_s=wait_s))


def remove_job(host: Host, jobs_folder: str, run_key: str, *, also: str = "") -> None:
    """Remove all attempts of a run key from the host, and then one more folder if it is named.

    Raises:
        CommandFailed: One still runs.
        RemoteFileMissing: There is none.
    """
    _check_key(run_key)
    _call(host, "remove", f"remove job {run_key}", jobs=jobs_folder, key=run_key, also=also)


def read_log_tail(host: Host, job: JobHandle) -> str:
    """The end of what a job wrote, carriage returns folded."""
    start = max(job_status(host, job).num_log_bytes - TAIL_CHARACTERS, 0)
    _, _, tail = host.run(_look_script(job, start, TAIL_CHARACTERS), timeout_s=CALL_S).stdout.partition(b"\n")
    folder = LineFolder()
    return "\n".join([*folder.add(tail), *folder.finish()])


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
    if status.ending is Ending.EXITED:
        raise JobFailed(host.name, job.folder, status.exit_status or 0, tail)
    kinds = {None: JobLost, Ending.STOPPED: JobStopped, Ending.TIMED_OUT: JobTimedOut}
    raise kinds[status.ending](host.name, job.folder, tail)


def follow_log(
    host: Host,
    job: JobHandle,
    *,
    poll_s: float | Callable[[], float] = 0.5,
    patience_s: float = 300.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[LogBatch]:
    """Give out a job's log as it grows, until the job is over and all of it was given out.

    A lost connection is made anew and the log goes on where it stood; nothing comes twice, nothing is missing. The
    last batch has a status that is over; its `lines` include a last line without an end. `poll_s` is the pause between
    two looks while there is nothing new, or what tells it; the host may be out of reach for `patience_s` before the
    last error is raised.
    """
    folder = LineFolder()
    while True:
        answer = retry_transient(
            functools.partial(host.run, _look_script(job, folder.num_read, _CHUNK_BYTES), timeout_s=CALL_S),
            attempts=None,
            limit_s=patience_s,
            pause_s=_FIRST_PAUSE_S,
            longest_pause_s=_LONGEST_PAUSE_S,
            sleep=sleep,
            clock=clock,
        ).stdout
        report, _, data = answer.partition(b"\n")
        status = parse_status(report.decode("utf-8", "replace"))
        lines = folder.add(data)
        has_more = len(data) == _CHUNK_BYTES
        if status.is_over and not has_more:
            yield LogBatch((*lines, *folder.finish()), status)
            return
        yield LogBatch(tuple(lines), status)
        if not has_more:
            sleep(poll_s() if callable(poll_s) else poll_s)


def _handle(jobs_folder: str, run_key: str, attempt: str, *, was_attached: bool = True) -> JobHandle:
    return JobHandle(run_key, int(attempt), f"{jobs_folder}/{run_key}/attempt-{attempt}", was_attached)


def _script(action: str, what: str, **values: str | int) -> str:
    # The program goes as a word, for a start writes it down over there.
    values |= {"action": action, "starting_s": STARTING_S, "program": _PROGRAM}
    return f'# jade: {what}\n{assigned(**values)}eval "$program"'


def _call(host: Host, action: str, what: str, limit_s: float = CALL_S, **values: str | int) -> str:
    return host.run(_script(action, what, **values), timeout_s=limit_s).text


def _look_script(job: JobHandle, offset: int, num_bytes: int) -> str:
    """One line of status, then at most `num_bytes` of the log from `offset` on."""
    return _script("look", f"look at job {job.folder!r}", attempt=job.folder, offset=offset, num_bytes=num_bytes)
