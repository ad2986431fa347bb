"""What can go wrong between this machine and a host. A class stands here because somebody catches it by its name.

Those who rent machines out have a branch of their own in tasks/provisioning.
"""

from __future__ import annotations

from tasks.core.errors import TaskError

TAIL_CHARACTERS = 4000
_SHOWN_CHARACTERS = 300


class HostError(TaskError):
    """Base of all errors that this package raises on purpose."""


def shown_command(command: str) -> str:
    """A command as a message shows it: its first line, which names our own scripts."""
    first, _, rest = command.strip().partition("\n")
    return first[:_SHOWN_CHARACTERS] + (" ..." if rest or len(first) > _SHOWN_CHARACTERS else "")


class HostUserError(HostError):
    """The person who called can put it right; the message says how."""

    exit_code = 2


class HostKeyMismatch(HostUserError):
    """The server shows another key than expected; the connection was closed before anything was sent.

    Attributes:
        expected: Fingerprints that would have been accepted.
        found: What the server showed, one for each kind of key that was tried.
    """

    def __init__(self, address: str, expected: tuple[str, ...], found: tuple[str, ...], source: str) -> None:
        self.expected, self.found = expected, found
        super().__init__(
            f"The host key of {address} is {' and '.join(found)}, but {source} says {' or '.join(expected)}. "
            "Nothing was sent. Somebody may be in between, or the host was set up anew: "
            "compare the key with what the host's console or provider shows before you replace the old one."
        )


class AuthenticationFailed(HostUserError):
    """The server let none of the keys in."""


class RemoteFileMissing(HostUserError):
    """A file that should be on the host is not there."""

    def __init__(self, host: str, evidence: str) -> None:
        super().__init__(f"A file is missing on {host}: {evidence}")


class HostUnreachable(HostError):
    """No SSH server answered, or let us in, in the time given."""

    is_transient = True

    def __init__(self, address: str, tried_s: float, attempts: int, reason: str) -> None:
        self.tried_s, self.attempts = tried_s, attempts
        times = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(f"{address} did not answer: tried {times} over {tried_s:.1f} s, last reason: {reason}")


class ConnectionLost(HostError):
    """The connection broke while a call was under way."""

    is_transient = True

    def __init__(self, address: str, doing: str, reason: str) -> None:
        super().__init__(f"The connection to {address} broke during: {shown_command(doing)} ({reason})")


class CommandTimedOut(HostError):
    """A command took longer than it was given and was ended."""

    is_transient = True

    def __init__(self, host: str, command: str, timeout_s: float, hint: str = "") -> None:
        what = f"On {host}, this took longer than {timeout_s:g} s and was ended: {shown_command(command)}"
        super().__init__(f"{what}. {hint}" if hint else what)


class TransferCorrupted(HostError):
    """What arrived is not what was sent; the damaged copy was removed."""

    is_transient = True

    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(f"{path} arrived damaged: expected {expected}, found {found}. The copy was removed.")


class CommandFailed(HostError):
    """A command ended with a status other than 0.

    Attributes:
        exit_status: 1..255, or -1 if a signal ended it.
        stderr_tail: The end of what it wrote there.
    """

    def __init__(self, host: str, command: str, exit_status: int, stderr_tail: str) -> None:
        self.exit_status, self.stderr_tail = exit_status, stderr_tail[-TAIL_CHARACTERS:]
        ending = "was ended by a signal" if exit_status < 0 else f"ended with status {exit_status}"
        super().__init__(f"On {host}, this {ending}: {shown_command(command)}\n{self.stderr_tail}".rstrip())


class NameRefused(HostError):
    """A file name would escape its folder, is listed twice, or is no plain file."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The file name {name!r} is refused: {reason}")


class JobError(HostError):
    """A detached job did not end well.

    Attributes:
        host: Where it ran.
        folder: The job's folder there.
        log_tail: The end of what it wrote.
    """

    what = "did not end well"

    def __init__(self, host: str, folder: str, log_tail: str) -> None:
        self.host, self.folder, self.log_tail = host, folder, log_tail[-TAIL_CHARACTERS:]
        super().__init__(f"The job {folder} on {host} {self.what}.\nThe end of its log:\n{self.log_tail}".rstrip())


class JobFailed(JobError):
    """The job ended by itself with a status other than 0."""

    def __init__(self, host: str, folder: str, exit_status: int, log_tail: str) -> None:
        self.exit_status = exit_status
        self.what = f"ended with status {exit_status}"
        super().__init__(host, folder, log_tail)


class JobTimedOut(JobError):
    """The host ended the job at its time limit."""

    what = "reached its time limit and was ended there"


class JobStopped(JobError):
    """Somebody asked the job to stop, and it has."""

    was_asked_for = True
    what = "was stopped on request"


class JobLost(JobError):
    """The job's processes are gone and left no exit code: killed from outside, or the host went down."""

    is_transient = True
    what = (
        "is gone without an exit code: killed from outside (memory?), or the host restarted. "
        "A new attempt goes on from the last checkpoint"
    )
