"""A job's log, followed live: whole lines, each once, across lost connections.

Lines end with a line feed. What a carriage return overwrote is folded away, as a terminal would. Offsets count the
log's bytes up to the end of the last whole line, so whoever stores one can go on exactly there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tasks.hosts import job_scripts
from tasks.hosts.base import Host
from tasks.hosts.errors import HostError
from tasks.hosts.job_types import JobHandle, JobStatus, parse_status

MAX_LINE_BYTES = 64 * 2**10
_CHUNK_BYTES = 4 * 2**20
_CALL_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0


@dataclass(frozen=True)
class LogBatch:
    """What one look at the log brought.

    Attributes:
        lines: Whole lines in order, without their ends; bytes that are not UTF-8 shown as replacement characters.
        partial: The line that is being written, such as a progress bar; it comes again.
        offset: Where to go on after these lines, in bytes.
        status: How the job stood just before the log was read.
    """

    lines: tuple[str, ...]
    partial: str
    offset: int
    status: JobStatus


class LineFolder:
    """Cuts a byte stream into lines.

    Attributes:
        offset: Bytes up to the end of the last line that was given out.
    """

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset
        self._pending = b""

    @property
    def num_read(self) -> int:
        """Bytes up to the end of what was taken in."""
        return self.offset + len(self._pending)

    @property
    def partial(self) -> str:
        """The line that has no end yet, as a terminal shows it."""
        return _shown(self._pending)

    def add(self, data: bytes) -> list[str]:
        """Take bytes in, give whole lines out; a line that grows past 64 KiB is given out in pieces."""
        *whole, self._pending = (self._pending + data).split(b"\n")
        lines = []
        for line in whole:
            self.offset += len(line) + 1
            lines.append(_shown(line))
        while len(self._pending) > MAX_LINE_BYTES:
            piece, self._pending = self._pending[:MAX_LINE_BYTES], self._pending[MAX_LINE_BYTES:]
            self.offset += len(piece)
            lines.append(_shown(piece))
        return lines

    def finish(self) -> list[str]:
        """The last line, if it has no end and will get none."""
        rest, self._pending = self._pending, b""
        self.offset += len(rest)
        return [_shown(rest)] if rest else []


def _shown(line: bytes) -> str:
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")


def shown_tail(data: bytes) -> str:
    """The end of a log as text, carriage returns folded."""
    folder = LineFolder()
    return "\n".join([*folder.add(data), *folder.finish()])


def follow_log(
    host: Host,
    job: JobHandle,
    *,
    offset: int = 0,
    poll_s: float | Callable[[], float] = 0.5,
    patience_s: float = 300.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[LogBatch]:
    """Give out a job's log as it grows, until the job is over and all of it was given out.

    A lost connection is made anew and the log goes on where it stood; nothing comes twice, nothing is missing. The
    last batch has a status that is over; its `lines` include a last line without an end.

    Args:
        host: Where it runs.
        job: Which one.
        offset: `LogBatch.offset` of an earlier call, to go on there.
        poll_s: Pause between two looks while there is nothing new, or what tells it.
        patience_s: How long the host may be out of reach before the last error is raised.
        sleep: Waits.
        clock: Seconds that only grow.

    Raises:
        HostError: One that is not transient; or a transient one for longer than `patience_s`.
    """
    folder = LineFolder(offset)
    last_answer, pause_s = clock(), _FIRST_PAUSE_S
    while True:
        script = job_scripts.look(attempt=job.folder, offset=folder.num_read, num_bytes=_CHUNK_BYTES)
        try:
            answer = host.run(script, timeout_s=_CALL_S).stdout
        except HostError as error:
            if not error.is_transient or clock() - last_answer > patience_s:
                raise
            sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            continue
        last_answer, pause_s = clock(), _FIRST_PAUSE_S
        report, _, data = answer.partition(b"\n")
        status = parse_status(report.decode("utf-8", "replace"))
        lines = folder.add(data)
        is_last = status.is_over and len(data) < _CHUNK_BYTES
        if is_last:
            lines += folder.finish()
        yield LogBatch(tuple(lines), folder.partial, folder.offset, status)
        if is_last:
            return
        if len(data) < _CHUNK_BYTES:
            sleep(poll_s() if callable(poll_s) else poll_s)
