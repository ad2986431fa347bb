"""The fleet's lanes, whose hosts are lost, replaced, idle, or not to be had. Each host is a folder of this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jade_model.core.job import Job
from jade_model.core.windows import Windows
from tasks.core.errors import RentingCancelled, RunError
from tasks.core.layout import RunLayout
from tasks.core.names import FileEntry
from tasks.execution.base import Event
from tasks.execution.fleet import FleetExecutor
from tasks.execution.lanes import Lane, Station
from tasks.execution.local import LocalExecutor
from tasks.execution.placement import Where
from tasks.execution.queue import QueueRules
from tasks.execution.rented_lanes import RentedLane
from tasks.experiments.plan import Plan, write_job
from tasks.hosts.errors import HostUnreachable
from tasks.hosts.host import CommandResult, RemotePlace
from tasks.provisioning.connect import Provider
from tasks.provisioning.keys import open_rented
from tasks.provisioning.ledger import Ledger
from tests.fakes.local_host import LocalHost
from tests.helpers.rentals import renter_of
from tests.helpers.waiting_trainer import waiting_python

PLAN = Plan({"soft_span": "seed_soft_span"}, 12, seeds=2, folds=3, split="grouped", ensemble=1)


class DyingHost(LocalHost):
    """This machine in a folder, until it has given out the results of so many trainings."""

    left = 0

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        if self.left < 0:
            raise HostUnreachable(self.name, 0.0, 1, "gone")
        return super().run(command, timeout_s=timeout_s, stdin=stdin, check=check)

    def get(self, entries: Sequence[FileEntry], folder: str, into: Path, *, timeout_s: float) -> None:
        self.left -= any(entry.path.startswith("checkpoint_") for entry in entries)
        if self.left < 0:
            raise HostUnreachable(self.name, 0.0, 1, "gone")
        super().get(entries, folder, into, timeout_s=timeout_s)


@dataclass
class LaneOfMachines(Lane):
    """Has one machine after the other; how many trainings each does until it is lost is told beforehand."""

    name: str
    folder: Path
    machines: list[int]
    idle_s: float = 0.0
    told: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    host: DyingHost | None = None

    def open(self, is_over: Callable[[], bool]) -> Station:
        self.told.append("open")
        if not self.machines:
            raise RunError("sold out")
        self.host = DyingHost(self.folder / f"{self.name}-{len(self.machines)}", name=self.name)
        self.host.left = self.machines[0]
        place = RemotePlace("jade", str(self.folder / "python"), 60, workers=1)
        return Station(self.name, self.host, place, costs=True, is_rented=True)

    def is_lost(self, error: Exception) -> bool:
        return self.host is not None and self.host.left < 0

    def retire(self, why: str, *, has_worked: bool) -> bool:
        self.told.append(f"retire {has_worked}")
        self.machines.pop(0)
        return True

    def rest(self, why: str, *, is_over: bool) -> None:
        self.reasons.append(why)
        self.told.append(f"rest {is_over}")

    def close(self) -> None:
        self.told.append("close")


@pytest.fixture
def job(small_windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("tasks.execution.remote.POLL_S", 0.05)
    monkeypatch.setattr("tasks.core.retry.LONGEST_PAUSE_S", 0.0)
    waiting_python(tmp_path / "python", 0.1)
    (tmp_path / "run").mkdir()
    return write_job(RunLayout(tmp_path / "run"), [small_windows], PLAN)


def outcomes_of(
    job: Job, folder: Path, *lanes: LaneOfMachines, rules: QueueRules | None = None
) -> tuple[list[Event], list[str]]:
    notes: list[str] = []
    executor = FleetExecutor(folder / "run", job, lanes, rules=rules, note=notes.append)
    found = [event for event in executor.run(job.trainings) if event.kind in {"done", "failed"}]
    executor.stop()
    return found, notes


def test_a_lane_whose_machine_is_lost_goes_on_with_another(job: Job, tmp_path: Path) -> None:
    lane = LaneOfMachines("m", tmp_path, [2, 0, 99])
    found, notes = outcomes_of(job, tmp_path, lane)
    assert [event.kind for event in found] == ["done"] * 6, notes
    assert [word for word in lane.told if word.startswith(("open", "close"))] == ["open"] * 3 + ["close"]
    assert "retire True" in lane.told


def test_a_machine_that_is_lost_before_it_was_asked_for_anything_is_replaced_too(job: Job, tmp_path: Path) -> None:
    lane = LaneOfMachines("m", tmp_path, [-1, 99])
    found, notes = outcomes_of(job, tmp_path, lane)
    assert [event.kind for event in found] == ["done"] * 6, notes
    assert lane.told[:3] == ["open", "retire False", "open"]


def test_without_any_other_machine_what_is_left_fails_with_the_reason(job: Job, tmp_path: Path) -> None:
    found, notes = outcomes_of(job, tmp_path, LaneOfMachines("m", tmp_path, [2]))
    failed = [event for event in found if event.kind == "failed"]
    assert len(failed) == 4
    assert all("sold out" in event.data["reason"] or "gone" in event.data["reason"] for event in failed)
    assert "m does not take part: sold out" in notes


def test_a_machine_without_work_is_kept_for_a_while_for_what_others_lose(job: Job, tmp_path: Path) -> None:
    idle = LaneOfMachines("idle", tmp_path, [99], idle_s=30.0)
    doomed = [LaneOfMachines(name, tmp_path, [0]) for name in ("x", "y")]
    found, notes = outcomes_of(job, tmp_path, *doomed, idle, rules=QueueRules(max_copies=1))
    assert [event.kind for event in found] == ["done"] * 6, notes
    assert {event.where for event in found} == {"idle"}
    assert idle.told == ["open", "rest True", "close"]


def test_a_reason_that_comes_just_as_a_round_begins_ends_it(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = LaneOfMachines("m", tmp_path, [99])
    executor = FleetExecutor(tmp_path / "run", job, [lane], note=lambda _: None)
    monkeypatch.setattr("tasks.execution.fleet.load_records", lambda: executor.stop(RunError("lost its claim")) or [])
    with pytest.raises(RunError, match="lost its claim"):
        list(executor.run(job.trainings))
    assert lane.told == ["close"]


def test_an_executor_that_was_stopped_before_it_began_runs_nothing(job: Job, tmp_path: Path) -> None:
    lane = LaneOfMachines("m", tmp_path, [99])
    for executor in (FleetExecutor(tmp_path / "run", job, [lane]), LocalExecutor(tmp_path / "run", job)):
        executor.stop()
        assert list(executor.run(job.trainings)) == []
    assert lane.told == ["close"]


def test_a_lane_rents_nothing_more_once_the_run_is_over(tmp_path: Path) -> None:
    with closing(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        renter = renter_of(ledger, None, tmp_path, [], lender=Provider(None, open_rented, lambda _: None))  # type: ignore[arg-type,return-value]
        lane = RentedLane("fake-1", renter, tmp_path, Where())
        with pytest.raises(RentingCancelled):
            lane.open(lambda: True)
        assert ledger.entries() == []


def test_a_lane_that_still_waits_for_a_silent_host_sits_out_every_later_round(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.execution.fleet.STOP_WITHIN_S", 0.1)
    answers = threading.Event()

    class Stuck(LaneOfMachines):
        def open(self, is_over: Callable[[], bool]) -> Station:
            self.told.append("open")
            assert answers.wait(120)
            raise RunError("too late")

    stuck, lane = Stuck("stuck", tmp_path, []), LaneOfMachines("m", tmp_path, [99])
    executor = FleetExecutor(tmp_path / "run", job, [stuck, lane], note=lambda _: None)
    try:
        for trainings in (job.trainings[:2], job.trainings[:4], job.trainings):
            found = [event.kind for event in executor.run(trainings)]
            assert found.count("done") == len(trainings)
            while any(thread.name == "lane-m" for thread in threading.enumerate()):
                time.sleep(0.05)
        assert stuck.told == ["open"]
    finally:
        answers.set()
        executor.stop()


def test_a_host_that_never_answers_is_the_reason_of_all(job: Job, tmp_path: Path) -> None:
    class Silent(LaneOfMachines):
        """Its machine is there, and does not answer."""

        def is_lost(self, error: Exception) -> bool:
            return False

        def retire(self, why: str, *, has_worked: bool) -> bool:
            return False

    lane = Silent("x", tmp_path, [-1])
    found, _ = outcomes_of(job, tmp_path, lane, rules=QueueRules(pause_s=0.01))
    assert len(found) == 6
    assert all(event.kind == "failed" and "gone" in event.data["reason"] for event in found)
    assert all(isinstance(event.data["error"], HostUnreachable) for event in found)
    # The ledger of rented machines says it, too.
    assert all("gone" in why for why in lane.reasons)
