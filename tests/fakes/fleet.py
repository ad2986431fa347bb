"""Hosts on a virtual clock that do a queue's units, and have bad days: lost, preempted."""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from dataclasses import dataclass, field

from tasks.execution.base import Event
from tasks.execution.queue import QueueRules, UnitQueue


@dataclass(frozen=True)
class FleetHost:
    """One host.

    Attributes:
        name: Of it.
        unit_s: That it takes for one unit, on average.
        lost_at_s: When it falls silent for good; infinite: never.
    """

    name: str
    unit_s: float
    lost_at_s: float = math.inf


@dataclass
class FleetResult:
    """What became of a fleet.

    Attributes:
        ended: Every unit.
        seconds: Virtual ones, until the last unit ended.
        queue_s: Processor seconds in the queue's own code, and a little of the simulation's.
        num_lost: Host failures.
        num_preempted: Hosts that were taken away.
        num_copies: Results that came second.
    """

    ended: list[Event] = field(default_factory=list)
    seconds: float = 0.0
    queue_s: float = 0.0
    num_lost: int = 0
    num_preempted: int = 0
    num_copies: int = 0


class Fleet:
    """Runs a queue to its end without waiting.

    Args:
        hosts: Each with one place.
        num_units: To do.
        seed: Of all chance.
        loss_rate: Probability, for each unit begun, that its host fails and comes back later.
        preemption_rate: Probability, likewise, that it is taken away; another one takes its place a while later.
        failure_rate: Probability, likewise, that the unit fails and its host goes on.
    """

    def __init__(
        self,
        hosts: list[FleetHost],
        *,
        num_units: int,
        seed: int,
        loss_rate: float = 0.01,
        preemption_rate: float = 0.003,
        failure_rate: float = 0.01,
    ) -> None:
        self.units = [f"unit{number}" for number in range(num_units)]
        self.queue = UnitQueue(self.units, QueueRules(max_losses=10))
        self.queue.num_expected = len(hosts)
        self._hosts = {host.name: host for host in hosts}
        self._random = random.Random(seed)
        self._rates = (loss_rate, preemption_rate, failure_rate)
        self._events: list[tuple[float, int, str, str, str]] = []
        self._order = itertools.count()
        self._born: dict[str, int] = dict.fromkeys(self._hosts, 0)
        self.result = FleetResult()

    def run(self) -> FleetResult:
        """Return once every unit has ended, or nothing is left to happen."""
        for name in self._hosts:
            self._later(0.0, "join", name)
        now = 0.0
        while self._events and self.queue.num_open:
            now, _, what, name, unit = heapq.heappop(self._events)
            began = time.thread_time()
            self._handle(now, what, name, unit)
            ended = self.queue.drain()
            self.result.queue_s += time.thread_time() - began
            if ended:
                self.result.ended += ended
                self.result.seconds = now
        for name in self.queue.hosts:
            self.queue.leave(name)
        self.queue.num_expected = 0
        self.queue.give_up_if_alone()
        self.result.ended += self.queue.drain()
        return self.result

    def _later(self, at: float, what: str, name: str, unit: str = "") -> None:
        heapq.heappush(self._events, (at, next(self._order), what, name, unit))

    def _handle(self, now: float, what: str, name: str, unit: str) -> None:
        queue = self.queue
        base, _, _ = name.partition("#")
        if what == "join":
            queue.num_expected -= 1
            queue.join(name, now)
            self._ask(now, name)
        elif name not in queue.hosts:
            return
        elif what == "ask":
            self._ask(now, name)
        elif what == "done":
            self.result.num_copies += not queue.finished(name, unit, now)
        elif what == "failed":
            queue.failed(name, unit, "it failed", is_own_fault=False)
        elif what == "lost":
            self.result.num_lost += 1
            queue.lost(name, now, "out of reach")
            self._ask(now, name)
        elif what == "preempted":
            self.result.num_preempted += 1
            queue.num_expected += 1
            queue.leave(name, "preempted")
            self._born[base] += 1
            self._later(now + 120.0, "join", f"{base}#{self._born[base]}")

    def _ask(self, now: float, name: str) -> None:
        host = self._hosts[name.partition("#")[0]]
        if now >= host.lost_at_s:
            self.queue.leave(name, "silent")
            return
        answer = self.queue.take(name, now)
        if answer.wait_s is not None:
            self._later(now + answer.wait_s, "ask", name)
            return
        if not answer.batch:
            self.queue.leave(name)
            return
        at = now
        loss_rate, preemption_rate, failure_rate = self._rates
        for unit in answer.batch:
            chance = self._random.random()
            at += host.unit_s * self._random.uniform(0.8, 1.2)
            if at >= host.lost_at_s:
                self._later(host.lost_at_s, "lost", name)
                return
            if chance < loss_rate:
                self._later(at, "lost", name)
                return
            if chance < loss_rate + preemption_rate:
                self._later(at, "preempted", name)
                return
            is_failure = chance < loss_rate + preemption_rate + failure_rate
            self._later(at, "failed" if is_failure else "done", name, unit)
        self._later(at, "ask", name)
