"""What can go wrong between this machine and a host. A class stands here because somebody catches it by its name.

Those who rent machines out have a branch of their own in tasks/provisioning.
"""

from __future__ import annotations

from typing import Any

from tasks.core.errors import EvidencedError

TAIL_CHARACTERS = 4000
_SHOWN_CHARACTERS = 300


class HostError(EvidencedError):
    """Base of all errors that this package raises on purpose."""


def shown_command(command: str) -> str:
    """A command as a message shows it: its first line, which names our own scripts."""
    first, _, rest = command.strip().partition("\n")
    return first[:_SHOWN_CHARACTERS] + (" ..." if rest or len(first) > _SHOWN_CHARACTERS else "")


class HostUserError(HostError):
    """The person who called can put it right; the message says how."""

    exit_code = 2


class HostKeyMismatch(HostUserError):
    """The server shows other keys (`found`) than any that would be accepted; nothing was sent."""

    text = (
        "The host key of {address} is {found}, but {source} says {expected}. "
        "Nothing was sent. Somebody may be in between, or the host was set up anew: "
        "compare the key with what the host's console or provider shows before you replace the old one."
    )

    def __init__(self, address: str, expected: tuple[str, ...], found: tuple[str, ...], source: str) -> None:
        super().__init__(address, " and ".join(found), source, " or ".join(expected))
        self.expected, self.found = expected, found


class AuthenticationFailed(HostUserError):
    """The server let none of the keys in."""


class RemoteFileMissing(HostUserError):
    """A file that should be on the host is not there."""

    text = "A file is missing on {host}: {reason}"


class HostUnreachable(HostError):
    """No SSH server answered, or let us in, in the time given."""

    is_transient = True
    text = (
        "{address} did not answer: tried for {tried_s:.1f} s (attempt {attempts}), last reason: {reason}. Does it run, "
        "are address and port right, and does a firewall let this machine through?"
    )


class ConnectionLost(HostError):
    """The connection broke while a call was under way."""

    is_transient = True
    text = "The connection to {address} broke during: {doing} ({reason})"

    def __init__(self, address: str, doing: str, reason: str) -> None:
        super().__init__(address, shown_command(doing), reason)


class CommandTimedOut(HostError):
    """A command took longer than it was given and was ended."""

    is_transient = True
    text = "On {host}, this took longer than {timeout_s:g} s and was ended: {command}. {hint}"

    def __init__(self, host: str, command: str, timeout_s: float, hint: str = "") -> None:
        super().__init__(host, timeout_s, shown_command(command), hint)


class TransferCorrupted(HostError):
    """What arrived is not what was sent; the damaged copy was removed."""

    is_transient = True
    text = "{path} arrived damaged: expected {expected}, found {found}. The copy was removed."


class CommandFailed(HostError):
    """A command ended with a status other than 0: 1..255, or -1 if a signal ended it."""

    text = "On {host}, this {ending}: {command}\n{stderr_tail}"

    def __init__(self, host: str, command: str, exit_status: int, stderr_tail: str) -> None:
        ending = "was ended by a signal" if exit_status < 0 else f"ended with status {exit_status}"
        super().__init__(host, ending, shown_command(command), stderr_tail[-TAIL_CHARACTERS:])
        self.exit_status = exit_status


class NameRefused(HostError):
    """A file name would escape its folder, is listed twice, or is no plain file."""

    text = "The file name {name!r} is refused: {reason}"


_JOB = "The job {{folder}} on {{host}} {}.\nThe end of its log:\n{{log_tail}}"


class JobError(HostError):
    """A detached job did not end well; `log_tail` is the end of what it wrote."""

    host: str
    folder: str
    text = _JOB.format("did not end well")

    def __init__(self, host: str, folder: str, *evidence: Any) -> None:
        *others, log_tail = evidence
        super().__init__(folder, host, *others, log_tail[-TAIL_CHARACTERS:])


class JobFailed(JobError):
    """The job ended by itself with a status other than 0."""

    exit_status: int
    text = _JOB.format("ended with status {exit_status}")


class JobTimedOut(JobError):
    """The host ended the job at its time limit."""

    text = _JOB.format("reached its time limit and was ended there")


class JobStopped(JobError):
    """Somebody asked the job to stop, and it has."""

    was_asked_for = True
    text = _JOB.format("was stopped on request")


class JobLost(JobError):
    """The job's processes are gone and left no exit code: killed from outside, or the host went down."""

    is_transient = True
    text = _JOB.format(
        "is gone without an exit code: killed from outside (memory?), or the host restarted. A new attempt goes on "
        "from the last checkpoint"
    )
