"""The engine `hosts` beside its queue: lanes whose host is lost, replaced, idle, or not to be had; nothing trains."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jade_model.core.job import Job
from jade_model.core.windows import Windows
from tasks.core.errors import NothingRented
from tasks.core.layout import RunLayout
from tasks.execution.base import UnitDone, UnitFailed
from tasks.execution.fleet import HostsEngine
from tasks.execution.lanes import Station
from tasks.execution.queue import QueueRules
from tasks.experiments.plan import Plan, write_job
from tasks.hosts.errors import HostUnreachable
from tasks.hosts.place import RemotePlace

PLAN = Plan({"soft_span": "seed_soft_span"}, 1, seeds=2, folds=3, split="grouped", ensemble=1)
PLACE = RemotePlace("jade", "python", 60)


@dataclass
class LaneOfMachines:
    """Has one machine after the other; what happens to each is told beforehand: units that it does until it is lost."""

    name: str
    machines: list[int]
    idle_s: float = 0.0
    workers: int = 1
    told: list[str] = field(default_factory=list)

    def open(self) -> Station:
        self.told.append("open")
        if not self.machines:
            raise NothingRented("sold out")
        return Station(object(), PLACE, "cpu", 1.0, is_ready=True)  # type: ignore[arg-type]

    def look(self) -> None:
        pass

    def is_lost(self, error: Exception) -> bool:
        return True

    def retire(self, why: str, *, has_worked: bool) -> bool:
        self.told.append(f"retire {has_worked}")
        self.machines.pop(0)
        return True

    def rest(self, *, is_over: bool) -> None:
        self.told.append(f"rest {is_over}")

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        self.told.append("close")


class ToldEngine(HostsEngine):
    """Its batches are done, or lost, as the lane says."""

    def _do(self, shift: Any, batch: Sequence[str]) -> Exception | None:
        for unit in batch:
            if shift.lane.machines[0] == 0:
                error = HostUnreachable(shift.lane.name, 0.0, 1, "gone")
                with self._changed:
                    self._queue.lost(shift.lane.name, self._clock(), "gone")
                return error
            shift.lane.machines[0] -= 1
            shift.num_done += 1
            with self._changed:
                self._queue.finished(shift.lane.name, unit, self._clock(), seconds=1.0)
                self._changed.notify_all()
        return None


@pytest.fixture
def job(small_windows: Windows, tmp_path: Path) -> Job:
    (tmp_path / "run").mkdir()
    return write_job(RunLayout(tmp_path / "run"), [small_windows], PLAN)


def outcomes_of(job: Job, folder: Path, *lanes: LaneOfMachines) -> tuple[list[UnitDone | UnitFailed], list[str]]:
    notes: list[str] = []
    engine = ToldEngine(folder / "run", job, lanes, note=notes.append)
    found = list(engine.run(job.trainings))
    engine.stop()
    return found, notes


def test_a_lane_whose_machine_is_lost_goes_on_with_another(job: Job, tmp_path: Path) -> None:
    lane = LaneOfMachines("m", [2, 0, 99])
    found, _ = outcomes_of(job, tmp_path, lane)
    assert [type(item) for item in found] == [UnitDone] * 6
    assert lane.told == ["open", "retire True", "open", "retire False", "open", "rest True", "close"]


def test_without_any_other_machine_what_is_left_fails_with_the_reason(job: Job, tmp_path: Path) -> None:
    found, notes = outcomes_of(job, tmp_path, LaneOfMachines("m", [2]))
    failed = [item for item in found if isinstance(item, UnitFailed)]
    assert len(failed) == 4
    assert all("sold out" in item.reason or "gone" in item.reason for item in failed)
    assert "m does not take part: sold out" in notes


def test_a_machine_without_work_is_kept_for_a_while_for_what_others_lose(job: Job, tmp_path: Path) -> None:
    class Engine(ToldEngine):
        def _do(self, shift: Any, batch: Sequence[str]) -> Exception | None:
            if shift.lane is not idle:
                # The others are lost once all else is done and the first one waits.
                while self._queue.num_open > 2:
                    time.sleep(0.005)
            return super()._do(shift, batch)

    idle = LaneOfMachines("idle", [99], idle_s=30.0)
    doomed = [LaneOfMachines(name, [0]) for name in ("x", "y")]
    rules = QueueRules(max_copies=1)
    engine = Engine(tmp_path / "run", job, [*doomed, idle], rules=rules, note=lambda _: None)
    found = list(engine.run(job.trainings))
    assert [type(item) for item in found] == [UnitDone] * 6
    assert {item.where for item in found} == {"idle"}
    assert idle.told == ["open", "rest True"]
