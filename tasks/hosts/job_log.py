"""A log as lines: carriage returns folded, each line once."""

from __future__ import annotations

MAX_LINE_BYTES = 64 * 2**10


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
