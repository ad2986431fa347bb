"""What passes through the detached-job protocol."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from tasks.hosts import job_scripts

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED_VARIABLES = {"JADE_JOB_ID", "PYTHONUNBUFFERED"}


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
        check_key(self.run_key)
        if not self.command or any("\0" in word for word in self.command):
            raise ValueError("command must name a program and have no NUL in it")
        if any(job_scripts.END_OF_SUPERVISOR in word for word in self.command):
            raise ValueError(f"command must not have {job_scripts.END_OF_SUPERVISOR} in it")
        if self.time_limit_s <= 0 or self.stop_grace_s < 0:
            raise ValueError("time_limit_s must be positive and stop_grace_s not negative")
        for name, value in self.environment.items():
            if not _VARIABLE.fullmatch(name) or name in _RESERVED_VARIABLES:
                raise ValueError(f"{name!r} cannot be set as an environment variable of a job")
            if "\0" in value:
                raise ValueError(f"the value of {name} has a NUL in it")


@dataclass(frozen=True)
class JobHandle:
    """One attempt on a host; enough to find it again from another process.

    Attributes:
        run_key: See `JobSpec`.
        attempt: From 1.
        folder: Of the attempt, on the host.
        was_attached: Whether it was there before the call that gave this handle.
    """

    run_key: str
    attempt: int
    folder: str
    was_attached: bool


@dataclass(frozen=True)
class JobStatus:
    """How an attempt stands.

    Attributes:
        state: Starting, running, done or lost.
        exit_status: Of the job's own process; None unless done. 128 and the signal's number if one ended it.
        ending: None unless done.
        heartbeat_age_s: By the host's clock; None before the first beat.
        num_log_bytes: What it has written so far.
        process_id: Of the job's own process, on the host; None before it is there.
    """

    state: JobState
    exit_status: int | None
    ending: Ending | None
    heartbeat_age_s: int | None
    num_log_bytes: int
    process_id: int | None

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        match self.state:
            case JobState.STARTING | JobState.RUNNING:
                return False
            case JobState.DONE | JobState.LOST:
                return True
            case _:
                assert_never(self.state)

    @property
    def is_success(self) -> bool:
        """Whether it ended by itself with status 0."""
        return self.ending is Ending.EXITED and self.exit_status == 0


def parse_status(report: str) -> JobStatus:
    """Read the line that the host's scripts write.

    Raises:
        ValueError: It is not one.
    """
    fields = report.split()
    if len(fields) != 8 or fields[0] != job_scripts.STATUS_MARK:
        raise ValueError(f"not a job's status: {report[:200]!r}")
    state, code, ending, now, heartbeat, size, process = fields[1:]
    return JobStatus(
        state=JobState(state),
        exit_status=None if code == "-" else int(code),
        ending=None if ending == "-" else Ending(ending),
        heartbeat_age_s=None if heartbeat == "-" else int(now) - int(heartbeat),
        num_log_bytes=int(size),
        process_id=None if process == "-" else int(process),
    )


def check_key(run_key: str) -> None:
    """Refuse a run key that is no plain name.

    Raises:
        ValueError: With what is allowed.
    """
    if not _KEY.fullmatch(run_key):
        raise ValueError(f"a run key has letters, digits, '.', '_' and '-', and starts with no dot: {run_key!r}")
