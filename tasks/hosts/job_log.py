"""A log as lines: carriage returns folded, each line once, at offsets that count bytes."""

from __future__ import annotations

MAX_LINE_BYTES = 64 * 2**10


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
