"""How every benchmark measures: ours beside a peer, in one process, one run, taking turns.

The clock is the CPU time of this one-threaded process, and of several turns the shortest counts: what a shared
machine does meanwhile is then neither ours nor the peer's. Where other processes or a disk do part of the work, the
clock is the wall's, and the row says so.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """One line of the table.

    Attributes:
        name: What was measured, with its size.
        ours_s: Seconds of ours.
        peer_s: Seconds of the peer, or None where the target is a time.
        peer: What the peer is; empty without one.
        target_ratio: Smallest peer_s / ours_s that passes, or None.
        note: What a reader should know: equality that was checked, sizes.
        max_s: Largest ours_s that passes, or None.
        max_overhead: Largest ours_s / peer_s that passes, or None: for a peer that is only a part of ours.
    """

    name: str
    ours_s: float
    peer_s: float | None = None
    peer: str = ""
    target_ratio: float | None = None
    note: str = ""
    max_s: float | None = None
    max_overhead: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times ours goes into the peer."""
        return None if self.peer_s is None else self.peer_s / self.ours_s

    @property
    def is_met(self) -> bool | None:
        """Whether every target holds; None where there is none."""
        checks = []
        if self.max_s is not None:
            checks.append(self.ours_s <= self.max_s)
        if self.target_ratio is not None and self.ratio is not None:
            checks.append(self.ratio >= self.target_ratio)
        if self.max_overhead is not None and self.ratio is not None:
            checks.append(1 / self.ratio <= self.max_overhead)
        return all(checks) if checks else None


Clock = Callable[[], float]


def children_s() -> float:
    """CPU seconds so far of all processes that this one started and waited for, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def elapsed(function: Callable[[], object], clock: Clock = time.process_time) -> float:
    """Seconds of one call."""
    begin = clock()
    function()
    return clock() - begin


def best_of(function: Callable[[], object], repeat: int) -> float:
    """Seconds of the quickest of several calls, after one that does not count."""
    function()
    return min(elapsed(function) for _ in range(repeat))


def interleaved(
    ours: Callable[[], object], peer: Callable[[], object], repeat: int, clock: Clock = time.process_time
) -> tuple[float, float]:
    """Seconds of the quickest call of ours and of the peer's, called by turns.

    Args:
        ours: What is measured.
        peer: What it is compared with.
        repeat: Calls of each, after one of ours that does not count.
        clock: What tells the time, in seconds.

    Returns:
        Seconds of ours, seconds of the peer.
    """
    ours()
    pairs = [(elapsed(ours, clock), elapsed(peer, clock)) for _ in range(repeat)]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
