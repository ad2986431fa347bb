"""The switch on a rented machine that ends it when nobody looks after it any more; deadman.sh says how it works."""

from __future__ import annotations

import secrets
from enum import StrEnum
from importlib.resources import files

from tasks.hosts.errors import CommandFailed
from tasks.hosts.host import Host
from tasks.hosts.shell import SHELL_FUNCTIONS, assigned

CALL_S = 60.0
WATCH_EVERY_S = 5
END_EVERY_S = 30
JOB_GRACE_S = 20
_PROGRAM = SHELL_FUNCTIONS + (files("tasks.provisioning") / "deadman.sh").read_text("utf-8")
_MARK = "JADE_END"


class Switch(StrEnum):
    """How the switch of a machine stands."""

    ARMED = "armed"
    MISSING = "missing"
    """Nobody watches: it was never armed, or was killed."""
    ENDING = "ending"
    """It has fired: the machine is about to go."""


def arm(
    host: Host, folder: str, jobs_folder: str, request_id: str, *, end: str, max_age_s: float, grace_s: float
) -> Switch:
    """Start the switch of a machine, unless it is armed; safe to repeat.

    Args:
        host: The machine.
        folder: Ours over there.
        jobs_folder: Where its jobs are.
        request_id: Of the rental.
        end: How the machine is ended from inside, POSIX sh.
        max_age_s: From now on.
        grace_s: How long nobody may be heard of.

    Raises:
        CommandFailed: It does not come up.
    """
    if _MARK in end.splitlines():
        raise ValueError(f"end must not have a line {_MARK}")
    limits = assigned(
        max_age_s=max(int(max_age_s), 1),
        grace_s=max(int(grace_s), 1),
        watch_every_s=min(WATCH_EVERY_S, max(int(grace_s) // 4, 1)),
        end_every_s=END_EVERY_S,
        job_grace_s=JOB_GRACE_S,
    )
    script = f"# jade: arm dead-man switch {request_id}\n{_values(folder, request_id, jobs=jobs_folder)}{_PROGRAM}arm\n"
    result = host.run(script, timeout_s=CALL_S, stdin=f"{limits}{_PROGRAM}{_MARK}\n{end}\n".encode())
    switch = _switch(result.text)
    if switch is Switch.MISSING:
        raise CommandFailed(host.name, script, result.exit_status, f"it does not run: {result.text!r}")
    return switch


def beat(host: Host, folder: str, request_id: str) -> Switch:
    """Show the switch a sign of life; return how it stands."""
    script = f"# jade: beat {request_id}\n{_values(folder, request_id)}{_PROGRAM}beat\n"
    return _switch(host.run(script, timeout_s=CALL_S).text)


def _values(folder: str, request_id: str, **further: str) -> str:
    return assigned(folder=f"{folder}/deadman/{request_id}", beat=secrets.token_hex(4), **further)


def _switch(answer: str) -> Switch:
    return Switch(answer.split(maxsplit=1)[0]) if answer.strip() else Switch.MISSING
