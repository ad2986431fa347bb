"""What can go wrong between this machine and a host.

HostError
├── HostUserError               the person who called can put it right; exit code 2
│   ├── HostNameUnknown         no address belongs to the name
│   ├── HostKeyUnknown          nobody vouched for the server's key; nothing was sent
│   ├── HostKeyMismatch         the server shows another key than expected; nothing was sent
│   ├── AuthenticationFailed    the server let none of the keys in
│   ├── PassphraseRequired      the private key is locked
│   ├── PrivateKeyUnusable      the private key's file is missing or is not one
│   ├── NoShell                 the server offers file transfer only
│   ├── RemotePermissionDenied  the account may not write (or read) there
│   ├── NoSpaceLeft             the host's disk or quota is full
│   ├── RemoteFileMissing       a file that should be on the host is not
│   └── HostToolMissing         a program that the protocol needs is not on the host
├── HostUnreachable             transient: no SSH server answered in time
├── ConnectionLost              transient: the connection broke in mid-call
├── CommandTimedOut             transient: a command took longer than it was given
├── TransferCorrupted           transient: what arrived is not what was sent
├── CommandFailed               a command ended with a status other than 0
├── OutputTooLong               a command wrote more than anybody wants to hold in memory
├── NameRefused                 a file name would escape its folder, or is no plain file
└── JobError
    ├── JobFailed               the job ended by itself with a status other than 0
    ├── JobTimedOut             the host ended the job at its time limit
    ├── JobStopped              somebody asked the job to stop
    └── JobLost                 transient: the job is gone and left no exit code

Those who lend machines have a branch of their own in provider_errors.py.

Whether trying again can help is a property of the type (`is_transient`); only such errors are retried.
"""

from __future__ import annotations

from typing import Any

TAIL_CHARACTERS = 4000
_SHOWN_CHARACTERS = 300


class HostError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = 1
    is_transient = False

    def __reduce__(self) -> tuple[Any, ...]:
        # Task runners pickle errors, and these are made of evidence, not of a message alone.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[HostError], args: tuple[Any, ...], evidence: dict[str, Any]) -> HostError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(evidence)
    return error


def _shown(command: str) -> str:
    """A command as a message shows it: its first line, which names our own scripts."""
    first, _, rest = command.strip().partition("\n")
    return first[:_SHOWN_CHARACTERS] + (" ..." if rest or len(first) > _SHOWN_CHARACTERS else "")


class HostUserError(HostError):
    """The person who called can put it right; the message says how."""

    exit_code = 2


class HostNameUnknown(HostUserError):
    """No address belongs to the host's name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"No address is known for the host name {name!r}. Check its spelling and your DNS.")


class HostKeyUnknown(HostUserError):
    """Nobody vouched for the server's key; the connection was closed before anything was sent."""

    def __init__(self, address: str, key_type: str, fingerprint: str) -> None:
        self.address, self.key_type, self.fingerprint = address, key_type, fingerprint
        super().__init__(
            f"The host key of {address} is unknown: {key_type} {fingerprint}. Nothing was sent. "
            "Compare it with what the host's console or provider shows, then pin it "
            f"(--fingerprint {fingerprint}) or accept it by name with --trust-first-use."
        )


class HostKeyMismatch(HostUserError):
    """The server shows another key than expected; the connection was closed before anything was sent.

    Attributes:
        expected: Fingerprints that would have been accepted.
        found: What the server showed, one for each kind of key that was tried.
    """

    def __init__(self, address: str, expected: tuple[str, ...], found: tuple[str, ...], source: str) -> None:
        self.address, self.expected, self.found, self.source = address, expected, found, source
        super().__init__(
            f"The host key of {address} is {' and '.join(found)}, but {source} says {' or '.join(expected)}. "
            "Nothing was sent. Somebody may be in between, or the host was set up anew: "
            "compare the key with what the host's console or provider shows before you replace the old one."
        )


class AuthenticationFailed(HostUserError):
    """The server let none of the keys in."""

    def __init__(self, address: str, tried: tuple[str, ...], reason: str) -> None:
        self.address, self.tried, self.reason = address, tried, reason
        keys = ", ".join(tried) if tried else "no key at all: there is no agent and no key file"
        super().__init__(
            f"{address} refused to log in ({reason}). Tried {keys}. "
            "Check the user name, and that the public key stands in the account's authorized_keys."
        )


class PassphraseRequired(HostUserError):
    """The private key is locked by a passphrase, and no agent holds it."""

    def __init__(self, key_file: str, *, wrong: bool = False) -> None:
        self.key_file, self.wrong = key_file, wrong
        what = "The given passphrase does not open" if wrong else "A passphrase protects"
        super().__init__(f"{what} the private key {key_file}. Unlock it once with: ssh-add {key_file}")


class PrivateKeyUnusable(HostUserError):
    """The private key's file is missing, unreadable or not a key."""

    def __init__(self, key_file: str, reason: str) -> None:
        self.key_file, self.reason = key_file, reason
        super().__init__(f"Cannot use the private key {key_file}: {reason}. Give the private key's file, not the .pub.")


class NoShell(HostUserError):
    """The server offers file transfer only, and a command was asked for."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__(f"{address} offers SFTP but no shell: files can be moved, but nothing can run there.")


class RemotePermissionDenied(HostUserError):
    """The account may not write, or read, there."""

    def __init__(self, host: str, evidence: str) -> None:
        self.host, self.evidence = host, evidence
        super().__init__(f"No permission on {host}: {evidence}. Choose another folder or fix its owner.")


class NoSpaceLeft(HostUserError):
    """The host's disk or quota is full."""

    def __init__(self, host: str, evidence: str) -> None:
        self.host, self.evidence = host, evidence
        super().__init__(f"No space left on {host}: {evidence}. Free some, or choose a folder on another disk.")


class RemoteFileMissing(HostUserError):
    """A file that should be on the host is not there."""

    def __init__(self, host: str, evidence: str) -> None:
        self.host, self.evidence = host, evidence
        super().__init__(f"A file is missing on {host}: {evidence}")


class HostToolMissing(HostUserError):
    """A program that the protocol needs is not on the host."""

    def __init__(self, host: str, evidence: str) -> None:
        self.host, self.evidence = host, evidence
        super().__init__(f"A program is missing on {host}: {evidence}. Install it there, or use another image.")


class HostUnreachable(HostError):
    """No SSH server answered in the time given."""

    is_transient = True

    def __init__(self, address: str, tried_s: float, attempts: int, reason: str) -> None:
        self.address, self.tried_s, self.attempts, self.reason = address, tried_s, attempts, reason
        times = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(f"{address} did not answer: tried {times} over {tried_s:.1f} s, last reason: {reason}")


class ConnectionLost(HostError):
    """The connection broke while a call was under way."""

    is_transient = True

    def __init__(self, address: str, doing: str, reason: str) -> None:
        self.address, self.doing, self.reason = address, doing, reason
        super().__init__(f"The connection to {address} broke during: {_shown(doing)} ({reason})")


class CommandTimedOut(HostError):
    """A command took longer than it was given and was ended."""

    is_transient = True

    def __init__(self, host: str, command: str, timeout_s: float) -> None:
        self.host, self.command, self.timeout_s = host, command, timeout_s
        super().__init__(f"On {host}, this took longer than {timeout_s:g} s and was ended: {_shown(command)}")


class TransferCorrupted(HostError):
    """What arrived is not what was sent; the damaged copy was removed."""

    is_transient = True

    def __init__(self, path: str, expected: str, found: str) -> None:
        self.path, self.expected, self.found = path, expected, found
        super().__init__(f"{path} arrived damaged: expected {expected}, found {found}. The copy was removed.")


class CommandFailed(HostError):
    """A command ended with a status other than 0."""

    def __init__(self, host: str, command: str, exit_status: int, stderr_tail: str) -> None:
        self.host, self.command, self.exit_status = host, command, exit_status
        self.stderr_tail = stderr_tail[-TAIL_CHARACTERS:]
        ending = "was ended by a signal" if exit_status < 0 else f"ended with status {exit_status}"
        super().__init__(f"On {host}, this {ending}: {_shown(command)}\n{self.stderr_tail}".rstrip())


class OutputTooLong(HostError):
    """A command wrote more than anybody wants to hold in memory; it was ended."""

    def __init__(self, host: str, command: str, limit_bytes: int) -> None:
        self.host, self.command, self.limit_bytes = host, command, limit_bytes
        super().__init__(f"On {host}, this wrote more than {limit_bytes} bytes and was ended: {_shown(command)}")


class NameRefused(HostError):
    """A file name would escape its folder, is listed twice, or is no plain file."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"The file name {name!r} is refused: {reason}")


class JobError(HostError):
    """A detached job did not end well.

    Attributes:
        host: Where it ran.
        folder: The job's folder there.
        log_tail: The end of what it wrote.
    """

    def __init__(self, host: str, folder: str, what: str, log_tail: str) -> None:
        self.host, self.folder, self.log_tail = host, folder, log_tail[-TAIL_CHARACTERS:]
        super().__init__(f"The job {folder} on {host} {what}\n{self.log_tail}".rstrip())


class JobFailed(JobError):
    """The job ended by itself with a status other than 0."""

    def __init__(self, host: str, folder: str, exit_status: int, log_tail: str) -> None:
        super().__init__(host, folder, f"ended with status {exit_status}. The end of its log:", log_tail)
        self.exit_status = exit_status


class JobTimedOut(JobError):
    """The host ended the job at its time limit."""

    def __init__(self, host: str, folder: str, log_tail: str) -> None:
        super().__init__(host, folder, "reached its time limit and was ended there. The end of its log:", log_tail)


class JobStopped(JobError):
    """Somebody asked the job to stop, and it has."""

    def __init__(self, host: str, folder: str, log_tail: str) -> None:
        super().__init__(host, folder, "was stopped on request. The end of its log:", log_tail)


class JobLost(JobError):
    """The job's processes are gone and left no exit code: killed from outside, or the host went down."""

    is_transient = True

    def __init__(self, host: str, folder: str, log_tail: str) -> None:
        super().__init__(
            host,
            folder,
            "is gone without an exit code: killed from outside (memory?), or the host restarted. "
            "A new attempt goes on from the last checkpoint. The end of its log:",
            log_tail,
        )
