"""What a training process says that is no event: whole to the terminal, in batches to a log that takes its time.

A process may say 20,000 lines a second. A terminal takes them written together; Prefect's log takes 2,000 records a
second at best and drops a whole batch where one fails. So each look at a process becomes one record there, with a bound
on its lines and their length, and with the number of lines that were left out: those are in the run's log file.
"""

from __future__ import annotations

import threading
from collections import deque

RECORD_LINES = 200
RECORD_LINE_CHARACTERS = 500
TAIL_LINES = 40


class SaidLines:
    """Lines as they come, for a terminal and a log that look at their own pace. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._for_terminal: list[str] = []
        self._for_log: deque[str] = deque(maxlen=RECORD_LINES)
        self._since_log = 0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    def add(self, line: str) -> None:
        """Take a line, without its end."""
        with self._lock:
            self._for_terminal.append(line)
            self._for_log.append(line)
            self._since_log += 1
            self._tail.append(line)

    @property
    def tail(self) -> str:
        """The last lines of all."""
        with self._lock:
            return "\n".join(self._tail)

    def take_for_terminal(self) -> str:
        """Return all that came since the last time, each line with its end."""
        with self._lock:
            taken, self._for_terminal = self._for_terminal, []
        return "".join(f"{line}\n" for line in taken)

    def take_for_log(self) -> str:
        """Return the newest lines that came since the last time, after the number of those left out; empty if none."""
        with self._lock:
            taken = [_cut(line) for line in self._for_log]
            left_out = self._since_log - len(taken)
            self._for_log.clear()
            self._since_log = 0
        if left_out:
            taken.insert(0, f"({left_out} lines left out here; the run's log file has them all)")
        return "\n".join(taken)


def _cut(line: str) -> str:
    return line if len(line) <= RECORD_LINE_CHARACTERS else line[: RECORD_LINE_CHARACTERS - 3] + "..."
