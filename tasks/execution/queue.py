"""Which host does which training next: all of the fleet that can be thought through without a host.

Nothing here waits, connects or reads a clock: the caller says what happened and when, and asks what to do. Times are
seconds that only grow.

How it decides:

* A host is given a *batch*: as many units as it will do in about `batch_s`, by how long it took so far, and never more
  than its share of what is left. The first batch of a host is as many as it has places. Without a `batch_s`, all that
  is left is one batch.
* When nothing is left to give out, a host without work takes over what is still running elsewhere, the unit that is
  expected last first, if it would be done sooner there. The first result counts.
* A host that fails gives its units back and pauses, twice as long after each failure in a row; after
  `max_host_failures` in a row it is not asked any more. A unit that was tried `max_attempts` times is reported as
  failed; so is what is left when there is no host any more.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from tasks.execution.base import Event, done, failed


@dataclass(frozen=True)
class QueueRules:
    """How the queue decides; see the module.

    Attributes:
        batch_s: Length that a batch should have; infinite: all that is left.
        max_batch: Units in a batch at most.
        max_attempts: Times that a unit is tried at most, not counting attempts that a host was lost in.
        max_losses: Times that a unit may go down with its host without having come further; then it is taken to be what
            brings hosts down.
        max_host_failures: In a row; then the host is quarantined.
        pause_s: After a host's first failure.
        longest_pause_s: After any.
        max_copies: Places that one unit may run in at once. Three: of two, one may be silent and the other slow.
        gain: A copy must be expected to be done in less than this share of the time that all who have it still need.
        first_guess_s: How long a unit takes, as long as none is done.
    """

    batch_s: float = 60.0
    max_batch: int = 64
    max_attempts: int = 3
    max_losses: int = 5
    max_host_failures: int = 3
    pause_s: float = 5.0
    longest_pause_s: float = 300.0
    max_copies: int = 3
    gain: float = 0.8
    first_guess_s: float = 60.0


@dataclass(frozen=True)
class Next:
    """The answer to a host that asks. Neither batch nor time to wait: there is nothing for it, and will not be.

    Attributes:
        batch: Units to do.
        wait_s: After so long it should ask again, or when something has changed.
    """

    batch: tuple[str, ...] = ()
    wait_s: float | None = None


@dataclass
class _Unit:
    attempts: int = 0
    losses: int = 0
    holders: set[str] = field(default_factory=set)
    last_reason: str = ""
    last_host: str = ""


@dataclass
class _Host:
    places: int
    costs: bool
    batch: dict[str, None] = field(default_factory=dict)
    last_done: float = 0.0
    unit_s: float | None = None
    failures: int = 0
    free_at: float = 0.0
    is_quarantined: bool = False


class UnitQueue:
    """Units, hosts, and what becomes of them.

    Args:
        units: Names, each once, in the order in which they should be begun.
        rules: How it decides.
        num_expected: Hosts that may still join, as the caller knows: until then nothing is given up for want of one.
    """

    def __init__(self, units: Iterable[str], rules: QueueRules | None = None, *, num_expected: int = 0) -> None:
        self.rules, self.num_expected = rules or QueueRules(), num_expected
        self._open = {unit: _Unit() for unit in units}
        self._waiting = deque(self._open)
        self._hosts: dict[str, _Host] = {}
        self._last_trouble = ""
        self._ended: list[Event] = []
        self._unit_s: float | None = None

    @property
    def num_open(self) -> int:
        """Units that are neither done nor given up."""
        return len(self._open)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Those that have joined and not left."""
        return tuple(self._hosts)

    def drain(self) -> list[Event]:
        """Return what ended since the last call: `done` or `failed`, of the host that did it or tried it last."""
        ended, self._ended = self._ended, []
        return ended

    def join(self, host: str, now: float, *, places: int = 1, costs: bool = False) -> None:
        """A host is there: it can do `places` units at once, and may cost something for as long as it is there.

        Raises:
            ValueError: It is there already.
        """
        if host in self._hosts:
            raise ValueError(f"host {host!r} has joined already")
        self._hosts[host] = _Host(max(1, places), costs, last_done=now)

    def assign(self, host: str, units: Iterable[str], now: float) -> tuple[str, ...]:
        """A host has units already, from before; return those that are still open.

        Raises:
            ValueError: It has a batch, or has not joined.
        """
        known = self._known(host)
        if known.batch:
            raise ValueError(f"host {host!r} still has {len(known.batch)} units")
        taken = tuple(unit for unit in self._open if unit in set(units))
        for unit in taken:
            if not self._open[unit].holders:
                self._waiting.remove(unit)
            self._open[unit].holders.add(host)
        known.batch = dict.fromkeys(taken)
        known.last_done = now
        return taken

    def progressed(self, host: str, unit: str) -> None:
        """A unit has come further, and goes on from there whatever becomes of its host. Silent if it is over."""
        if host in self._hosts:
            self._hosts[host].failures = 0
        if unit in self._open:
            self._open[unit].losses = 0

    def leave(self, host: str, reason: str = "it was let go") -> None:
        """A host is gone for good. Silent if it is not there.

        It was let go, ended by its owner, or lost. What it was doing is given to others.
        """
        self._last_trouble = f"{host}: {reason}"
        known = self._hosts.get(host)
        if known is not None:
            self._give_back(host, known, f"{host}: {reason}")
            del self._hosts[host]
        self.give_up_if_alone()

    def take(self, host: str, now: float) -> Next:
        """Say what a host without a batch should do next.

        Raises:
            ValueError: It still has a batch, or has not joined.
        """
        known = self._known(host)
        if known.batch:
            raise ValueError(f"host {host!r} still has {len(known.batch)} units")
        if known.is_quarantined or not self._open:
            return Next()
        if now < known.free_at:
            return Next(wait_s=known.free_at - now)
        batch = self._fresh_batch(known) or self._copies(known, now)
        if batch:
            known.batch = dict.fromkeys(batch)
            known.last_done = now
            for unit in batch:
                self._open[unit].holders.add(host)
            return Next(tuple(batch))
        # What runs elsewhere may come back. A host that costs is not kept for that, unless it is the only other one.
        at_work = sum(bool(other.batch) for other in self._hosts.values())
        if known.costs and at_work > 1:
            return Next()
        return Next(wait_s=max(1.0, self._patience_s(now)))

    def finished(self, host: str, unit: str, now: float, *, seconds: float = 0.0) -> bool:
        """A unit is done; return whether this is its first result."""
        known = self._hosts.get(host)
        if known is not None:
            known.failures = 0
            if known.batch.pop(unit, 0) is None:
                self._learn(known, now)
        state = self._open.pop(unit, None)
        if state is None:
            return False
        if not state.holders:
            self._waiting.remove(unit)  # it had been given back, and a late result has come
        self._ended.append(done(unit, host, seconds))
        return True

    def failed(self, host: str, unit: str, reason: str, *, is_own_fault: bool) -> None:
        """A unit failed, and its host goes on. Silent if it is over already."""
        known = self._hosts.get(host)
        if known is not None:
            known.batch.pop(unit, None)
        state = self._open.get(unit)
        if state is None or host not in state.holders:
            return
        state.holders.discard(host)
        state.attempts += 1
        state.last_reason, state.last_host = reason, host
        if is_own_fault or (state.attempts >= self.rules.max_attempts and not state.holders):
            self._end_failed(unit, is_own_fault=is_own_fault)
        elif not state.holders:
            self._waiting.append(unit)

    def lost(self, host: str, now: float, reason: str) -> None:
        """A host failed, or is out of reach: its units go to others, and it pauses. Silent if it is not there."""
        known = self._hosts.get(host)
        if known is None:
            return
        self._give_back(host, known, f"{host}: {reason}")
        known.failures += 1
        known.is_quarantined = known.failures >= self.rules.max_host_failures
        pause_s = self.rules.pause_s * 2.0 ** (known.failures - 1)
        known.free_at = now + min(self.rules.longest_pause_s, pause_s)
        self.give_up_if_alone()

    def is_quarantined(self, host: str) -> bool:
        """Whether a host has failed so often that it is not asked any more."""
        known = self._hosts.get(host)
        return known is not None and known.is_quarantined

    def is_open(self, unit: str) -> bool:
        """Whether a unit is neither done nor given up."""
        return unit in self._open

    def drop(self, host: str) -> None:
        """A host has stopped what it was doing, or is silent; what of it is not done goes to others.

        What it may bring later counts if it is the first result.
        """
        self._give_back(host, self._known(host), "", counts=False)

    def _known(self, host: str) -> _Host:
        if host not in self._hosts:
            raise ValueError(f"host {host!r} has not joined")
        return self._hosts[host]

    def _guess_s(self, known: _Host) -> float:
        """How long one unit takes on a host, divided by its places: seconds from one result to the next."""
        if known.unit_s is not None:
            return known.unit_s
        if self._unit_s is not None:
            return self._unit_s
        return self.rules.first_guess_s / known.places

    def _learn(self, known: _Host, now: float) -> None:
        seen = max(1e-3, now - known.last_done)
        known.last_done = now
        known.unit_s = seen if known.unit_s is None else 0.7 * known.unit_s + 0.3 * seen
        self._unit_s = seen if self._unit_s is None else 0.95 * self._unit_s + 0.05 * seen

    def _fresh_batch(self, known: _Host) -> list[str]:
        if math.isinf(self.rules.batch_s):
            batch = list(self._waiting)
            self._waiting.clear()
            return batch
        guess_s = self._guess_s(known)
        wanted = known.places if known.unit_s is None else max(known.places, int(self.rules.batch_s / guess_s))
        # By how fast it is among all, so that all end at about the same time; what then is late is copied.
        speed = 1 / guess_s
        total = sum(1 / self._guess_s(other) for other in self._hosts.values() if not other.is_quarantined)
        share = math.ceil(len(self._waiting) * speed / total) if total > 0 else wanted
        number = min(wanted, self.rules.max_batch, max(known.places, share), len(self._waiting))
        return [self._waiting.popleft() for _ in range(number)]

    def _copies(self, known: _Host, now: float) -> list[str]:
        """Units that run elsewhere and would be done sooner here, those that are expected last first."""
        if self._waiting:
            return []
        guess_s = self._guess_s(known)
        here_s = guess_s * known.places
        left_s: dict[str, float] = {}
        for state in self._hosts.values():
            each_s = self._guess_s(state)
            for place, unit in enumerate(state.batch):
                if unit not in self._open:
                    continue
                # By the plan, unless it is late already: then it may take as long again.
                planned_s = (place + 1) * each_s - (now - state.last_done)
                expected_s = planned_s if planned_s >= 0 else now - state.last_done
                left_s[unit] = min(expected_s, left_s.get(unit, math.inf))
        late = [
            (-expected_s, unit)
            for unit, expected_s in left_s.items()
            if here_s < self.rules.gain * expected_s and len(self._open[unit].holders) < self.rules.max_copies
        ]
        late.sort()
        number = min(known.places, len(late))
        return [unit for _, unit in late[:number]]

    def _patience_s(self, now: float) -> float:
        """When something may have changed for a host that waits."""
        ends = [
            max(0.0, self._guess_s(host) * len(host.batch) - (now - host.last_done))
            for host in self._hosts.values()
            if host.batch
        ]
        return min(ends, default=self.rules.pause_s) / 2

    def _give_back(self, host: str, known: _Host, reason: str, *, counts: bool = True) -> None:
        for unit in reversed(known.batch):
            state = self._open.get(unit)
            if state is None:
                continue
            state.holders.discard(host)
            if counts:
                state.losses += 1
                state.last_reason, state.last_host = reason, host
                self._last_trouble = reason
            if state.holders:
                continue
            if state.losses >= self.rules.max_losses:
                self._end_failed(unit, is_own_fault=False)
            else:
                self._waiting.appendleft(unit)
        known.batch = {}

    def give_up_if_alone(self) -> None:
        """Fail what waits if nobody is left to do it, and nobody is expected."""
        if not self.num_expected and all(host.is_quarantined for host in self._hosts.values()):
            # A unit that no host ever took has no reason of its own.
            for unit in list(self._waiting):
                state = self._open[unit]
                last = state.last_reason or self._last_trouble
                state.last_reason = "no host is left that could do it" + (f" (last: {last})" if last else "")
                self._end_failed(unit, is_own_fault=False)
            self._waiting.clear()

    def _end_failed(self, unit: str, *, is_own_fault: bool) -> None:
        state = self._open.pop(unit)
        attempts = state.attempts + state.losses
        told = failed(unit, state.last_host, state.last_reason, is_own_fault=is_own_fault, attempts=attempts)
        self._ended.append(told)
