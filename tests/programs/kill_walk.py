"""Kills a process that rents at every step that its ledger takes, and lets the reaper come after it.

    PYTHONPATH=.:tests python tests/programs/kill_walk.py FOLDER SCENARIO

A scenario is played once undisturbed, to learn its steps; then once for each step and for each side of it, in a process
that is killed there. After each, the reaper comes at once and again when every grace is over. One line of JSON a kill.
Processes are forked, so that nothing is imported anew; this one starts no thread.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tasks.execution.placement import Where
from tasks.execution.rented_lanes import RentedLane
from tasks.hosts.errors import ConnectionLost, HostError
from tasks.provisioning.entries import LeaseState
from tasks.provisioning.ledger import Ledger
from tasks.provisioning.offers import RentalRequest
from tasks.provisioning.reaper import Deed, Reaper
from tests.fakes.machines import LocalMachines
from tests.fakes.watched_ledger import Watch, WatchedLedger
from tests.helpers.rentals import renter_of

GRACE_OVER_S = 20 * 60.0
SPOT = RentalRequest(gpu=("L4",), max_price=0.8, max_hours=2.0, spot=True)


class Walk:
    """One folder of a provider and a ledger, for one kill."""

    def __init__(self, folder: Path, scenario: str) -> None:
        self.folder, self.scenario = folder, scenario
        self.machines = LocalMachines(folder / "provider")
        folder.mkdir(parents=True)

    def ledger(self, watch: Watch | None = None, *, later_s: float = 0.0) -> Ledger:
        ledger = WatchedLedger(f"sqlite:///{self.folder / 'ledger.db'}", clock=lambda: time.time() + later_s)
        assert isinstance(ledger, WatchedLedger)
        ledger.watch = watch or ledger.watch
        return ledger

    def play(self, watch: Watch | None) -> None:
        """Rent, use and free, as the scenario has it."""
        spot = self.scenario == "taken away"
        if self.scenario == "sold out":
            self.machines.tell("no_capacity", "NVIDIA GeForce RTX 4090")
        if self.scenario == "reply lost":
            self.machines.tell("lose_reply", "NVIDIA GeForce RTX 4090")
        renter = renter_of(self.ledger(watch), self.machines, self.folder, [], **({"request": SPOT} if spot else {}))
        with closing(RentedLane("fake-1", renter, self.folder, Where())) as lane:
            lane.open(lambda: False).host.run("true", timeout_s=30)
            if spot:
                lease = lane.lease
                assert lease is not None
                self.machines.take_away(lease.entry.machine)
                error = ConnectionLost(lease.name, "follow", "reset")
                assert lane.is_lost(error)
                assert lane.retire(str(error), has_worked=True)
                lane.open(lambda: False)

    def play_reaper(self, watch: Watch | None) -> None:
        """A dead renter's leavings, and the reaper that frees them."""
        rented = renter_of(self.ledger(), self.machines, self.folder, []).rent()
        rented.close()
        ledger = self.ledger(watch, later_s=GRACE_OVER_S)
        self.reaper(ledger).reap()

    def reaper(self, ledger: Ledger) -> Reaper:
        return Reaper(ledger, {"fake": self.machines}, self.folder / "keys", ledger.owner)


def forked(action: Callable[[], object]) -> int:
    """Do something in a process of its own; return how that ended."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            action()
            code = 0
        except HostError as error:
            sys.stderr.write(f"{error}\n")
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def steps_of(folder: Path, scenario: str) -> list[tuple[str, str, int]]:
    """Which steps a scenario takes undisturbed, in order: old, new, and how often that came before."""
    walk, log = Walk(folder, scenario), folder / "steps"

    def note(old: str, new: LeaseState, when: str) -> None:
        if when == "after":
            with log.open("a") as file:
                file.write(json.dumps([old, new]) + "\n")

    play = walk.play_reaper if scenario == "reaper" else walk.play
    assert forked(lambda: play(note)) == 0
    assert walk.machines.all() == [], "the scenario itself leaves a machine"
    seen: list[tuple[str, str, int]] = []
    for line in log.read_text().splitlines():
        old, new = json.loads(line)
        seen.append((old, new, sum((old, new) == item[:2] for item in seen)))
    return seen


def killed_at(folder: Path, scenario: str, old: str, new: str, number: int, side: str) -> dict[str, object]:
    """Kill the scenario at one side of one step, reap, and tell what is left."""
    walk = Walk(folder, scenario)
    forked(lambda: _rent_for_another(walk))
    others = [machine.instance_id for machine in walk.machines.all()]
    count = 0

    def kill(before: str, after: LeaseState, when: str) -> None:
        nonlocal count
        if (before, after, when) == (old, new, side):
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    play = walk.play_reaper if scenario == "reaper" else walk.play
    status = forked(lambda: play(kill))
    crashed_at = time.monotonic()
    left_by_kill = len(walk.machines.all()) - len(others)
    deeds: list[list[str]] = []
    seconds = None
    for later_s in (0.0, GRACE_OVER_S, GRACE_OVER_S):
        ledger = walk.ledger(later_s=later_s)
        deeds.append([item.deed.value for item in walk.reaper(ledger).reap()])
        still_open = [entry.state.value for entry in ledger.entries(owner=ledger.owner, only_open=True)]
        ledger.close()
        if seconds is None and len(walk.machines.all()) == len(others):
            seconds = round(time.monotonic() - crashed_at + later_s, 2)
    left = [machine.instance_id for machine in walk.machines.all()]
    touched = [call for call in walk.machines.calls() if call.split()[-1] in others and call.startswith("release")]
    for machine in others:
        walk.machines.take_away(machine)
    return {
        "scenario": scenario,
        "step": f"{old} -> {new}",
        "side": side,
        "was_killed": status == -signal.SIGKILL,
        "left_by_kill": left_by_kill,
        "left_after_reap": len(set(left) - set(others)),
        "others_lost": len(set(others) - set(left)) + len(touched),
        "still_open": still_open,
        "deeds": deeds,
        "idle_at_last": all(deed == Deed.LEFT.value for deed in deeds[-1]) and not still_open,
        "seconds_to_release": seconds,
    }


def _rent_for_another(walk: Walk) -> None:
    ledger = walk.ledger()
    rented = renter_of(ledger, walk.machines, walk.folder, [], owner="someoneelse").rent()
    rented.close()


def main(folder: Path, scenario: str) -> None:
    """Walk a scenario."""
    for number, (old, new, count) in enumerate(steps_of(folder / "steps", scenario)):
        for side in ("before", "after"):
            told = killed_at(folder / f"{number}-{side}", scenario, old, new, count, side)
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
