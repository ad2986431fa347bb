"""A command whose input and output stream: what `run` and the transfers of every host are built on."""

from __future__ import annotations

import contextlib
import re
import shlex
import threading
from collections.abc import Iterator
from importlib.resources import files
from typing import Protocol

from tasks.hosts.errors import CommandFailed, HostError, HostUserError, NameRefused, RemoteFileMissing, shown_command
from tasks.hosts.host import CommandResult

MAX_OUTPUT_BYTES = 64 * 2**20
MAX_STDERR_BYTES = 64 * 2**10
MAX_LINE_BYTES = 64 * 2**10
CHUNK_BYTES = (
    2**15 - 64
)  # what paramiko puts into a packet of OpenSSH's; of more, the rest would go as a packet of its own

NOT_PLAIN = "jade: not a plain file: "
NOT_PLAIN_STATUS = 65

SHELL_FUNCTIONS = (files("tasks.hosts") / "functions.sh").read_text("utf-8")
"""POSIX sh functions that scripts for a host share."""

MARK = b"jade-begin "
# A start-up file that asks a question reads an empty line each time. An input that a start-up file hands to another
# shell is read by that one. What start-up files set, and our scripts would stumble over, is unset.
_START = (
    "\n" * 16
    + f"""[ -z "${{ZSH_VERSION-}}" ] || emulate sh
unset CDPATH GREP_OPTIONS TAR_OPTIONS POSIXLY_CORRECT; cd
{{ echo "{MARK.decode()}$$"; echo "{MARK.decode()}" >&2
"""
)


def program_of(command: str) -> bytes:
    """What a `sh` reads from its standard input to run a command that gets the rest of it.

    No login shell has to quote anything. The mark that is printed first ends what start-up files print and carries the
    process id, which is its group's, too. All up to the end is read before anything runs: whoever has seen the mark may
    send the command's own input.
    """
    return f"{_START}{command}\n}}; exit\n".encode()


class CommandStream(Protocol):
    """A running command. Its whole life is bounded by the time that `Shell.open` was given."""

    def write(self, data: bytes) -> None:
        """Send all of `data` to standard input.

        Raises:
            BrokenPipeError: The command no longer reads; `finish` knows why.
            CommandTimedOut, ConnectionLost: As they say.
        """
        ...

    def end_input(self) -> None:
        """Close standard input. Silent if it is closed."""
        ...

    def read(self, max_bytes: int) -> bytes:
        """The next bytes of standard output; empty at its end, and also when the connection broke."""
        ...

    def finish(self) -> tuple[int, str]:
        """Wait for the end; returns exit status (-1: a signal) and the end of standard error.

        Raises:
            CommandTimedOut, ConnectionLost: As they say.
        """
        ...

    def abort(self) -> None:
        """End the command now. Silent if it has ended."""
        ...


class Shell(Protocol):
    """Something that starts commands."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    def open(self, command: str, *, timeout_s: float, takes_input: bool = True) -> CommandStream:
        """Start `command` with POSIX `sh`; without input, its standard input has ended."""
        ...


class Tail:
    """Keeps the end of a byte stream."""

    def __init__(self, max_bytes: int = MAX_STDERR_BYTES) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        """Append; what no longer fits falls off the front."""
        self._data += data
        del self._data[: -self._max_bytes]

    def text(self) -> str:
        """What is kept, as text; what came before a command began is not the command's."""
        return self._data.rpartition(MARK)[2].decode("utf-8", "replace").strip()


class LineFolder:
    """Cuts a byte stream into lines.

    Attributes:
        num_read: Bytes that were taken in.
    """

    def __init__(self) -> None:
        self.num_read = 0
        self._pending = b""

    def add(self, data: bytes) -> list[str]:
        """Take bytes in, give whole lines out; a line that grows past 64 KiB is given out in pieces."""
        self.num_read += len(data)
        *whole, self._pending = (self._pending + data).split(b"\n")
        lines = [_shown(line) for line in whole]
        while len(self._pending) > MAX_LINE_BYTES:
            piece, self._pending = self._pending[:MAX_LINE_BYTES], self._pending[MAX_LINE_BYTES:]
            lines.append(_shown(piece))
        return lines

    def finish(self) -> list[str]:
        """The last line, if it has no end and will get none."""
        rest, self._pending = self._pending, b""
        return [_shown(rest)] if rest else []


def _shown(line: bytes) -> str:
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")


def shown_tail(data: bytes) -> str:
    """The end of a log as text, carriage returns folded."""
    folder = LineFolder()
    return "\n".join([*folder.add(data), *folder.finish()])


def assigned(**values: str | int) -> str:
    """Shell variables, quoted, a line each."""
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items())


@contextlib.contextmanager
def opened(shell: Shell, command: str, *, timeout_s: float, takes_input: bool = True) -> Iterator[CommandStream]:
    """A stream that is aborted when the block is left by an error."""
    stream = shell.open(command, timeout_s=timeout_s, takes_input=takes_input)
    try:
        yield stream
    except BaseException:
        stream.abort()
        raise


def run_over(shell: Shell, command: str, *, timeout_s: float, stdin: bytes, check: bool) -> CommandResult:
    """Run a command to its end, as `Host.run`."""
    output = bytearray()
    with opened(shell, command, timeout_s=timeout_s, takes_input=bool(stdin)) as stream:
        # Beside the reading: a command that answers before it has read all must not block both sides.
        feeder = threading.Thread(target=_feed, args=(stream, stdin), daemon=True)
        feeder.start()
        while chunk := stream.read(CHUNK_BYTES):
            output += chunk
            if len(output) > MAX_OUTPUT_BYTES:
                raise HostError(
                    f"On {shell.name}, this wrote more than {MAX_OUTPUT_BYTES} bytes and was ended: "
                    f"{shown_command(command)}"
                )
        exit_status, stderr = stream.finish()
        feeder.join()
    result = CommandResult(command, exit_status, bytes(output), stderr)
    if check and exit_status != 0:
        raise failure_of(shell.name, result)
    return result


def _feed(stream: CommandStream, data: bytes) -> None:
    # Whatever goes wrong here, the reading side meets it too and reports it.
    with contextlib.suppress(BrokenPipeError, HostError):
        for start in range(0, len(data), CHUNK_BYTES):
            stream.write(data[start : start + CHUNK_BYTES])
    with contextlib.suppress(BrokenPipeError, HostError):
        stream.end_input()


_NO_SPACE = re.compile(r"No space left on device|(echo|printf): I/O error|Disk quota exceeded")
_NO_PERMISSION = re.compile(r"Permission denied|Operation not permitted|Read-only file system")
_NO_FILE = re.compile(r"no such file|can't cd to|directory nonexistent", re.IGNORECASE)


def no_space(host: str, evidence: str) -> HostUserError:
    """The error for a full disk or quota."""
    return HostUserError(f"No space left on {host}: {evidence}. Free some, or choose a folder on another disk.")


def failure_of(host: str, result: CommandResult) -> HostError:
    """The most telling error for a command that ended with a status other than 0."""
    last_lines = "; ".join(result.stderr.splitlines()[-3:])
    if _NO_SPACE.search(result.stderr):
        return no_space(host, last_lines)
    if _NO_PERMISSION.search(result.stderr):
        return HostUserError(f"No permission on {host}: {last_lines}. Choose another folder or fix its owner.")
    if "jade: needs " in result.stderr:
        return HostUserError(f"A program is missing on {host}: {last_lines}. Install it there, or use another image.")
    if _NO_FILE.search(result.stderr):
        return RemoteFileMissing(host, last_lines)
    if result.exit_status == NOT_PLAIN_STATUS and NOT_PLAIN in result.stderr:
        name = result.stderr.partition(NOT_PLAIN)[2].splitlines()[0]
        return NameRefused(name, f"it is a link or no plain file on {host}")
    return CommandFailed(host, result.command, result.exit_status, result.stderr)
