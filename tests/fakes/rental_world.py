"""A provider, its machines and a controller's life on a virtual clock, with faults drawn from a seed.

Time passes in provider calls, commands on machines, and sleeps; whatever is due meanwhile happens: machines boot, train
and are taken away, or end by their switch; the scheduled reaper comes. A controller that is killed does nothing more:
every effect of a dead one raises `Killed` before it happens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tasks.core.names import HostAddress
from tasks.hosts.errors import ConnectionLost, HostUnreachable
from tasks.hosts.host import CommandResult
from tasks.provisioning.entries import LedgerEntry
from tasks.provisioning.errors import NoCapacity, NothingDone, ProviderUnavailable
from tasks.provisioning.provisioner import Instance, InstanceRequest, InstanceScripts, InstanceState, Offer
from tests.fakes.local_host import OnlyAsked
from tests.fakes.watched_ledger import WatchedLedger

EPOCH_S = 12.0
REAP_EVERY_S = 600.0
OFFERS = (
    Offer("fake", "A", "A", 24, 0.5, available=True),
    Offer("fake", "B", "B", 24, 0.4, available=True),
    Offer("fake", "A", "A", 24, 0.2, spot=True, available=True),
    Offer("fake", "B", "B", 24, 0.1, spot=True, available=True),
)
_READY = """clock 0
free 99999999 /root
gpu A, 560, 24000, 24000
{"python_version": [3, 12], "python": "py", "numpy_version": "2", "torch_version": "2.6.0", "torch_devices": ["A"]}
"""


class Killed(BaseException):
    """The process that did this is dead."""


@dataclass
class Gate:
    """The life of one process: it ends at its Nth effect; None: not before its time."""

    ends_at: int | None
    is_dead: bool = False

    def effect(self) -> None:
        if self.ends_at is not None:
            self.ends_at -= 1
            self.is_dead = self.is_dead or self.ends_at <= 0
        if self.is_dead:
            raise Killed


@dataclass
class SimMachine:
    """A machine of anybody."""

    instance_id: str
    name: str
    owner: str
    price: float
    born: float
    boots_at: float
    listed_at: float
    taken_at: float
    is_gone: bool = False
    ends_at: float | None = None
    """An end that was asked for and takes its time."""
    heard_at: float | None = None
    grace_s: float = 0.0
    max_age_s: float = 0.0
    epoch: int = 0
    trains_since: float | None = None
    port: int = 2200


@dataclass
class Faults:
    """How often what goes wrong, per call."""

    unavailable: float
    lost_reply: float
    no_capacity: float
    rate_limited: float
    unproven: float
    unfit: float
    cut: float
    taken: float
    switch_works: bool


class World:
    """See the module."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 1_795_500_000.0
        self.machines: dict[str, SimMachine] = {}
        self.gate = Gate(None)
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.touched_others = 0
        draw = self.rng.random
        self.faults = Faults(
            unavailable=draw() * 0.15,
            lost_reply=draw() * 0.4,
            no_capacity=draw() * 0.4,
            rate_limited=draw() * 0.1,
            unproven=draw() * 0.3,
            unfit=draw() * 0.3,
            cut=draw() * 0.1,
            taken=draw() * 0.5,
            switch_works=draw() < 0.5,
        )

    def clock(self) -> float:
        return self.now

    def at(self, when: float, what: Callable[[], None]) -> None:
        self.due.append((when, what))

    def sleep(self, seconds: float) -> None:
        self.gate.effect()
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.due and min(when for when, _ in self.due) <= until:
            self.due.sort(key=lambda item: item[0])
            when, what = self.due.pop(0)
            self._go_on(max(when, self.now))
            with self.process(Gate(None)):
                what()
        self._go_on(max(until, self.now))

    @contextmanager
    def process(self, gate: Gate) -> Iterator[None]:
        """Let another process act for a while."""
        before, self.gate = self.gate, gate
        try:
            yield
        finally:
            self.gate = before

    def ours(self, owner: str) -> list[SimMachine]:
        return [item for item in self.machines.values() if item.owner == owner and not item.is_gone]

    def _go_on(self, now: float) -> None:
        self.now = now
        for machine in self.machines.values():
            if machine.is_gone:
                continue
            if machine.trains_since is not None:
                machine.epoch += int((now - machine.trains_since) / EPOCH_S)
                machine.trains_since = now - (now - machine.trains_since) % EPOCH_S
            silent = machine.heard_at is not None and now - machine.heard_at >= machine.grace_s
            aged = machine.max_age_s > 0 and now - machine.born >= machine.max_age_s
            fired = self.faults.switch_works and machine.heard_at is not None and (silent or aged)
            asked = machine.ends_at is not None and now >= machine.ends_at
            machine.is_gone = fired or asked or now >= machine.taken_at


class SimLedger(WatchedLedger):
    """In memory; a dead process writes nothing, and each step is an effect."""

    def __init__(self, world: World) -> None:
        self._world = world
        super().__init__("sqlite://", clock=world.clock)
        self.watch = lambda old, new, when: world.gate.effect()

    def touch(self, request_id: str, claim: str) -> LedgerEntry:
        self._check()
        return super().touch(request_id, claim)

    def take(self, request_id: str, claim: str, *, instead_of: str) -> bool:
        self._check()
        return super().take(request_id, claim, instead_of=instead_of)

    def let_go(self, request_id: str, claim: str) -> None:
        self._check()
        super().let_go(request_id, claim)

    def correct(self, request_id: str, instance: Instance | None = None, **changes: str) -> LedgerEntry:
        self._check()
        return super().correct(request_id, instance, **changes)

    def _check(self) -> None:
        if self._world.gate.is_dead:
            raise Killed


@dataclass
class SimProvisioner:
    """See `Provisioner`."""

    world: World
    provider: str = "fake"
    scripts: InstanceScripts = field(default_factory=lambda: InstanceScripts("end", True, "renew"))

    def offers(self) -> Sequence[Offer]:
        self._call("offers")
        return OFFERS

    def create(self, request: InstanceRequest) -> Instance:
        world, faults = self.world, self.world.faults
        self._call("create")
        if world.rng.random() < faults.rate_limited:
            raise NothingDone("fake", "create", "slow down", retry_after_s=5)
        if world.rng.random() < faults.no_capacity:
            raise NoCapacity("fake", "create", "none")
        found = next((item for item in world.ours(request.owner) if item.name == request.name), None)
        if found is None:
            taken = request.offer.spot and world.rng.random() < faults.taken
            found = SimMachine(
                f"m{len(world.machines)}",
                request.name,
                request.owner,
                request.offer.price_usd_per_hour,
                world.now,
                boots_at=world.now + world.rng.uniform(5, 200),
                listed_at=world.now + world.rng.choice([0, 0, 10, 60]),
                taken_at=world.now + world.rng.uniform(60, 3000) if taken else float("inf"),
                max_age_s=request.max_age_s,
            )
            world.machines[found.instance_id] = found
        world.gate.effect()
        if world.rng.random() < faults.lost_reply:
            world.pass_time(30)
            raise ProviderUnavailable("fake", "create", "read timed out")
        return self._shown(found)

    def describe(self, instance_id: str) -> Instance:
        self._call("describe")
        return self._shown(self.world.machines[instance_id])

    def list(self, owner: str) -> Sequence[Instance]:
        self._call("list")
        return [self._shown(item) for item in self.world.ours(owner) if self.world.now >= item.listed_at]

    def terminate(self, instance_id: str) -> Instance:
        self._call("terminate")
        machine, world = self.world.machines[instance_id], self.world
        if machine.owner == "others":
            world.touched_others += 1
        if machine.ends_at is None:
            machine.ends_at = world.now + (
                world.rng.uniform(0, 400) if world.rng.random() < world.faults.unproven else 1
            )
        world.pass_time(2)
        return self._shown(machine)

    def _call(self, doing: str) -> None:
        self.world.gate.effect()
        self.world.pass_time(self.world.rng.uniform(0.1, 2))
        if self.world.rng.random() < self.world.faults.unavailable:
            self.world.pass_time(10)
            raise ProviderUnavailable("fake", doing, "503")

    def _shown(self, machine: SimMachine) -> Instance:
        booted = self.world.now >= machine.boots_at
        state = InstanceState.GONE if machine.is_gone else InstanceState.RUNNING if booted else InstanceState.STARTING
        return Instance(
            "fake",
            machine.instance_id,
            machine.name,
            machine.owner,
            state,
            HostAddress("192.0.2.1", machine.port) if booted else None,
            machine.price,
            datetime.fromtimestamp(machine.born, UTC),
        )


@dataclass
class SimHost(OnlyAsked):
    """The `Host` of a machine."""

    world: World
    machine: SimMachine
    new_key: str
    name: str = "sim"

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        world, machine = self.world, self.machine
        world.gate.effect()
        world.pass_time(world.rng.uniform(0.05, 1))
        if machine.is_gone:
            world.pass_time(15)
            raise HostUnreachable(self.name, 15, 3, "no route")
        if world.rng.random() < world.faults.cut:
            raise ConnectionLost(self.name, command, "reset")
        return CommandResult(command, 0, self._answer(command.partition("\n")[0]).encode(), "")

    def _answer(self, what: str) -> str:
        machine, world = self.machine, self.world
        if what.startswith("# jade: make a new host key"):
            return self.new_key
        if what.startswith("# jade: list jobs"):
            return ""
        if what.startswith("# jade: check host"):
            return _READY if world.rng.random() >= world.faults.unfit else "clock 0\nfree 0 /root\n"
        if what.startswith(("# jade: arm", "# jade: beat")):
            if what.startswith("# jade: arm") and machine.heard_at is None:
                machine.grace_s = 900.0
            was_armed = machine.heard_at is not None
            machine.heard_at = world.now if was_armed or "arm" in what else None
            return "armed" if machine.heard_at is not None else "missing"
        return str(machine.epoch)
