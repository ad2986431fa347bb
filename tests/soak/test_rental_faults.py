"""Random faults over whole lives of rented runs, on a virtual clock: nothing is left, nothing of others touched."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.core.errors import RunError
from tasks.core.names import HostAddress
from tasks.execution.placement import Where
from tasks.execution.rented_lanes import RentedLane
from tasks.hosts.errors import HostError
from tasks.hosts.host import Host, RemotePlace
from tasks.provisioning.connect import Provider
from tasks.provisioning.entries import LedgerEntry
from tasks.provisioning.keys import RentalKeys
from tasks.provisioning.lease import Lease
from tasks.provisioning.ledger import Purpose
from tasks.provisioning.offers import RentalRequest
from tasks.provisioning.reaper import Reaper
from tasks.provisioning.renter import Renter
from tests.fakes.rental_world import (
    REAP_EVERY_S,
    Gate,
    Killed,
    SimHost,
    SimLedger,
    SimMachine,
    SimProvisioner,
    World,
)

pytestmark = pytest.mark.soak

SCHEDULES = 500
EPOCHS = 60
BUDGET_USD = 5.0


@dataclass
class Told:
    """What became of one schedule."""

    left: int
    others_touched: int
    lost_checkpoints: int
    over_budget: bool
    kills: int
    machines: int
    finished: bool
    release_s: list[float]


class Life:
    """One schedule: a command that may be killed and given again, and the reaper every ten minutes."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.world, self.folder = World(seed), folder
        self.ledger = SimLedger(self.world)
        self.provisioner = SimProvisioner(self.world)
        self.published = 0
        self.lost = 0
        self.is_finished = False
        rng = self.world.rng
        keys = RentalKeys(folder / "other")
        keys.make()
        self.new_key = keys.public_key
        for number in range(3):
            other = SimMachine(f"other{number}", "training", "others", 1.0, 0.0, 0.0, 0.0, float("inf"))
            self.world.machines[other.instance_id] = other
        self.request = RentalRequest(
            gpu=("A", "B"),
            max_price=1.0,
            max_hours=rng.uniform(0.3, 2.0),
            budget=BUDGET_USD,
            spot=rng.random() < 0.5,
            orphan_grace=15.0,
        )
        self.world.at(self.world.now + rng.uniform(0, REAP_EVERY_S), self._scheduled_reap)

    def _scheduled_reap(self) -> None:
        self.reap()
        self.world.at(self.world.now + REAP_EVERY_S, self._scheduled_reap)

    def reap(self) -> None:
        Reaper(self.ledger, {"fake": self.provisioner}, self.folder, self.ledger.owner, sleep=self.world.sleep).reap()

    def open(
        self, entry: LedgerEntry, address: HostAddress, keys: RentalKeys, pin: str | None, *, connect_timeout_s: float
    ) -> Host:
        return SimHost(self.world, self.world.machines[entry.machine], self.new_key)

    def command(self, number: int, gate: Gate) -> None:
        """The command once, as long as it lives."""
        place = RemotePlace(".jade", "python3", 3600, device="cuda")
        lender = Provider(self.provisioner, self.open, lambda _: place)
        renter = Renter(
            self.ledger,
            lender,
            self.folder,
            f"life-{number}",
            lambda note: None,
            self.world.sleep,
            request=self.request,
            purpose=Purpose(f"run{number}", "", ("k",)),
        )
        lane = RentedLane("fake-1", renter, self.folder, Where())
        with self.world.process(gate):
            try:
                with closing(lane):
                    self._train(lane)
                    self.is_finished = True
            finally:
                if lane.lease is not None:
                    lane.lease.stop_heartbeat()

    def _train(self, lane: RentedLane) -> None:
        kept, machine = self._begin(lane)
        while self.published < EPOCHS:
            self.world.sleep(20)
            kept.beat()
            try:
                epoch = int(kept.run("epoch", timeout_s=30).text)
            except HostError as error:
                if not error.is_transient or kept.over is not None:
                    if not lane.is_lost(error) or not lane.retire(str(error), has_worked=True):
                        raise
                    kept.stop_heartbeat()
                    kept, machine = self._begin(lane)
                continue
            assert not machine.is_gone
            self.published = max(self.published, epoch)

    def _begin(self, lane: RentedLane) -> tuple[Lease, SimMachine]:
        lane.open(lambda: False)
        kept = lane.lease
        assert kept is not None
        machine = self.world.machines[kept.entry.machine]
        if machine.trains_since is None:
            machine.epoch, machine.trains_since = self.published, self.world.now
        self.lost += machine.epoch < self.published
        return kept, machine

    def play(self) -> Told:
        rng, kills, waits = self.world.rng, 0, []
        for number in range(rng.randint(1, 4)):
            gate = Gate(rng.randint(1, 150) if rng.random() < 0.7 else None)
            try:
                self.command(number, gate)
            except Killed:
                kills += 1
            except (HostError, RunError):
                pass  # told to the person; nothing may be left all the same
            waits += self._wait(rng.uniform(0, 1800) if not self.is_finished else 0.0)
            if self.is_finished:
                break
        waits += self._wait(3 * 3600.0)
        others = [item for item in self.world.machines.values() if item.owner == "others"]
        told = Told(
            left=len(self.world.ours(self.ledger.owner)),
            others_touched=self.world.touched_others + sum(item.is_gone for item in others),
            lost_checkpoints=self.lost,
            over_budget=self.ledger.spent_usd() > BUDGET_USD * 1.02,
            kills=kills,
            machines=len(self.world.machines) - len(others),
            finished=self.is_finished,
            release_s=waits,
        )
        assert not self.ledger.entries(owner=self.ledger.owner, only_open=True)
        self.ledger.close()
        return told

    def _wait(self, seconds: float) -> list[float]:
        """Let time pass; tell how long the machines of a dead command lived on, if they ended within it."""
        began, had = self.world.now, bool(self.world.ours(self.ledger.owner))
        released = None
        while self.world.now < began + seconds:
            self.world.pass_time(5)
            if had and released is None and not self.world.ours(self.ledger.owner):
                released = self.world.now - began
        return [] if released is None else [released]


@pytest.mark.timeout(3600)
def test_over_500_random_schedules_nothing_of_ours_is_left_and_nothing_of_others_touched() -> None:
    told = []
    for seed in range(SCHEDULES):
        with tempfile.TemporaryDirectory() as folder:
            told.append(Life(seed, Path(folder)).play())
    waits = sorted(wait for item in told for wait in item.release_s)
    print(
        f"\n{SCHEDULES} schedules, {sum(item.machines for item in told)} machines, {sum(item.kills for item in told)} "
        f"kills, {sum(item.finished for item in told)} runs finished: machines left {sum(item.left for item in told)}, "
        f"of others touched {sum(item.others_touched for item in told)}, lost checkpoints "
        f"{sum(item.lost_checkpoints for item in told)}, over budget {sum(item.over_budget for item in told)}; seconds "
        f"from crash to release: median {waits[len(waits) // 2]:.0f}, worst {waits[-1]:.0f} of {len(waits)}"
    )
    assert sum(item.left for item in told) == 0
    assert sum(item.others_touched for item in told) == 0
    assert sum(item.lost_checkpoints for item in told) == 0
    assert not any(item.over_budget for item in told)
    # The grace, a schedule of ten minutes, and slow ends that need the next one.
    assert waits[-1] <= 900 + 3 * REAP_EVERY_S
