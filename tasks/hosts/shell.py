"""A command whose input and output stream: what `run` and the transfers of every host are built on."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from typing import Protocol

from tasks.hosts.base import CommandResult
from tasks.hosts.errors import (
    CommandFailed,
    HostError,
    HostToolMissing,
    NameRefused,
    NoSpaceLeft,
    OutputTooLong,
    RemoteFileMissing,
    RemotePermissionDenied,
)

MAX_OUTPUT_BYTES = 64 * 2**20
MAX_STDERR_BYTES = 64 * 2**10
CHUNK_BYTES = (
    2**15 - 64
)  # what paramiko puts into a packet of OpenSSH's; of more, the rest would go as a packet of its own

TOOL_MISSING = "jade: needs "
NOT_PLAIN = "jade: not a plain file: "
NOT_PLAIN_STATUS = 65


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

    def open(self, command: str, *, timeout_s: float) -> CommandStream:
        """Start `command` with POSIX `sh -c`."""
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
        """What is kept, as text."""
        return self._data.decode("utf-8", "replace").strip()


@contextlib.contextmanager
def opened(shell: Shell, command: str, *, timeout_s: float) -> Iterator[CommandStream]:
    """A stream that is aborted when the block is left by an error."""
    stream = shell.open(command, timeout_s=timeout_s)
    try:
        yield stream
    except BaseException:
        stream.abort()
        raise


def run_over(shell: Shell, command: str, *, timeout_s: float, stdin: bytes, check: bool) -> CommandResult:
    """Run a command to its end; see `Host.run`."""
    output = bytearray()
    with opened(shell, command, timeout_s=timeout_s) as stream:
        # Beside the reading: a command that answers before it has read all must not block both sides.
        feeder = threading.Thread(target=_feed, args=(stream, stdin), daemon=True)
        feeder.start()
        while chunk := stream.read(CHUNK_BYTES):
            output += chunk
            if len(output) > MAX_OUTPUT_BYTES:
                raise OutputTooLong(shell.name, command, MAX_OUTPUT_BYTES)
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


def failure_of(host: str, result: CommandResult) -> HostError:
    """The most telling error for a command that ended with a status other than 0."""
    last_lines = "; ".join(result.stderr.splitlines()[-3:])
    for pattern, kind in _TELLING:
        if pattern.search(result.stderr):
            return kind(host, last_lines)
    if result.exit_status == NOT_PLAIN_STATUS and NOT_PLAIN in result.stderr:
        name = result.stderr.partition(NOT_PLAIN)[2].splitlines()[0]
        return NameRefused(name, f"it is a link or no plain file on {host}")
    return CommandFailed(host, result.command, result.exit_status, result.stderr)


_TELLING: tuple[
    tuple[re.Pattern[str], type[NoSpaceLeft | RemotePermissionDenied | RemoteFileMissing | HostToolMissing]],
    ...,
] = (
    (re.compile(r"No space left on device|(echo|printf): I/O error|Disk quota exceeded"), NoSpaceLeft),
    (re.compile(r"Permission denied|Operation not permitted|Read-only file system"), RemotePermissionDenied),
    (re.compile(re.escape(TOOL_MISSING)), HostToolMissing),
    (re.compile(r"no such file|can't cd to|directory nonexistent", re.IGNORECASE), RemoteFileMissing),
)
