"""A command whose input and output stream: what `run` and the transfers of every host are built on."""

from __future__ import annotations

import contextlib
import re
import shlex
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.resources import files
from typing import Protocol

from tasks.hosts.errors import CommandFailed, HostError, HostUserError, NameRefused, RemoteFileMissing, shown_command
from tasks.hosts.host import CommandResult

MAX_OUTPUT_BYTES = 64 * 2**20
MAX_STDERR_BYTES = 64 * 2**10
MAX_LINE_BYTES = 64 * 2**10
# What paramiko puts into a packet of OpenSSH's; of more, the rest would go as a packet of its own.
CHUNK_BYTES = 2**15 - 64
NOT_PLAIN = "jade: not a plain file: "

SHELL_FUNCTIONS = (files("tasks.hosts") / "functions.sh").read_text("utf-8")
"""POSIX sh functions that scripts for a host share."""

NO_SPACE = "No space left on {}: {}. Free some, or choose a folder on another disk."
_TELLING = {
    r"No space left on device|(echo|printf): I/O error|Disk quota exceeded": NO_SPACE,
    r"Permission denied|Operation not permitted|Read-only file system": (
        "No permission on {}: {}. Choose another folder or fix its owner."
    ),
    "jade: needs ": "A program is missing on {}: {}. Install it there, or use another image.",
}
"""What standard error says -> what the person who called can do."""

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
    """A running command. Its whole life is bounded by the time that `Shell.open` was given.

    Each of these raises CommandTimedOut or ConnectionLost where that is so, but for `read` and `abort`.
    """

    def write(self, data: bytes) -> None:
        """Send all of `data` to standard input; BrokenPipeError: nobody reads it any more, and `finish` knows why."""
        ...

    def end_input(self) -> None:
        """Close standard input. Silent if it is closed."""
        ...

    def read(self, max_bytes: int) -> bytes:
        """The next bytes of standard output; empty at its end, and also when the connection broke."""
        ...

    def finish(self) -> tuple[int, str]:
        """Wait for the end; returns exit status (-1: a signal) and the end of standard error."""
        ...

    def abort(self) -> None:
        """End the command now. Silent if it has ended."""
        ...


class Tail:
    """Keeps the end of what a command writes to standard error."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        """Append; what no longer fits falls off the front."""
        self._data += data
        del self._data[:-MAX_STDERR_BYTES]

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


def assigned(**values: str | int) -> str:
    """Shell variables, quoted, a line each."""
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items())


class Shell(ABC):
    """A machine on which commands run and stream.

    Attributes:
        name: How messages call it.
    """

    name: str

    @abstractmethod
    def open(self, command: str, *, timeout_s: float, takes_input: bool = True) -> CommandStream:
        """Start `command` with POSIX `sh`; without input, its standard input has ended."""

    @contextlib.contextmanager
    def opened(self, command: str, *, timeout_s: float, stdin: bytes | None = None) -> Iterator[CommandStream]:
        """A stream that is aborted when the block is left by an error; gets `stdin`, or None: the caller writes."""
        stream = self.open(command, timeout_s=timeout_s, takes_input=stdin != b"")
        try:
            if stdin:
                # Beside the reading: a command that answers before it has read all must not block both sides.
                threading.Thread(target=_feed, args=(stream, stdin), daemon=True).start()
            yield stream
        except BaseException:
            stream.abort()
            raise

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        """Run a command to its end, as `Host.run`."""
        output = bytearray()
        with self.opened(command, timeout_s=timeout_s, stdin=stdin) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                output += chunk
                if len(output) > MAX_OUTPUT_BYTES:
                    raise HostError(
                        f"On {self.name}, this wrote more than {MAX_OUTPUT_BYTES} bytes and was ended: "
                        f"{shown_command(command)}"
                    )
            return self.end(command, stream, bytes(output), check=check)

    def end(self, command: str, stream: CommandStream, stdout: bytes = b"", *, check: bool = True) -> CommandResult:
        """Wait for a command's end; the most telling error is raised where its status is not 0 and `check` says so."""
        exit_status, stderr = stream.finish()
        said = "; ".join(stderr.splitlines()[-3:])
        if not check or exit_status == 0:
            return CommandResult(command, exit_status, stdout, stderr)
        for pattern, advice in _TELLING.items():
            if re.search(pattern, stderr):
                raise HostUserError(advice.format(self.name, said))
        if re.search(r"(?i)no such file|can't cd to|directory nonexistent", stderr):
            raise RemoteFileMissing(self.name, said)
        if name := re.search(f"{NOT_PLAIN}(.*)", stderr):
            raise NameRefused(name[1], f"it is a link or no plain file on {self.name}")
        raise CommandFailed(self.name, command, exit_status, stderr)


def _feed(stream: CommandStream, data: bytes) -> None:
    # Whatever goes wrong here, the reading side meets it too and reports it.
    with contextlib.suppress(BrokenPipeError, HostError):
        for start in range(0, len(data), CHUNK_BYTES):
            stream.write(data[start : start + CHUNK_BYTES])
    with contextlib.suppress(BrokenPipeError, HostError):
        stream.end_input()
