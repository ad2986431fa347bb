"""The engine `hosts` on hosts that are folders of this machine: shared out, lost, failed, stopped."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jade_model.core.job import Job
from jade_model.core.training_files import files_of, is_done
from jade_model.core.windows import Windows
from tasks.core.layout import RunLayout
from tasks.execution.base import UnitDone, UnitFailed
from tasks.execution.fleet import HostsEngine
from tasks.execution.lanes import HostLane
from tasks.execution.queue import QueueRules
from tasks.experiments.plan import Plan, write_job
from tasks.hosts.errors import HostUnreachable
from tasks.hosts.host import CommandResult
from tasks.hosts.place import RemotePlace
from tests.fakes.local_host import LocalHost

pytestmark = pytest.mark.system

PLAN = Plan({"soft_span": "seed_soft_span"}, 1, seeds=1, folds=3, split="grouped", ensemble=1)
PLACE = RemotePlace("jade", sys.executable, 600)


class FadingHost(LocalHost):
    """This machine, which is out of reach from a moment on."""

    is_gone = False

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        if self.is_gone:
            raise HostUnreachable(self.name, 0.0, 1, "gone")
        return super().run(command, timeout_s=timeout_s, stdin=stdin, check=check)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("tasks.execution.remote.check_ready", lambda host, place, **_: None)
    monkeypatch.setattr("tasks.core.retry.time.sleep", lambda seconds: None)


def lane(host: LocalHost) -> HostLane:
    return HostLane(host.name, lambda: host, PLACE, "cpu", 1)


def job_in(folder: Path, windows: Windows, plan: Plan = PLAN) -> Job:
    folder.mkdir(parents=True)
    return write_job(RunLayout(folder), [windows], plan)


def test_units_are_shared_out_and_their_files_arrive_verified(small_windows: Windows, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = job_in(run, small_windows)
    notes: list[str] = []
    hosts = [LocalHost(tmp_path / name, name=name) for name in ("x", "y")]
    engine = HostsEngine(run, job, [lane(host) for host in hosts], note=notes.append)
    outcomes = list(engine.run(job.trainings))
    assert all(isinstance(item, UnitDone) for item in outcomes), (outcomes, notes)
    assert sorted(item.run_key for item in outcomes) == sorted(item.run_key for item in job.trainings)
    assert all(is_done(item, files_of(item, run)) for item in job.trainings)
    assert not (run / "lanes").exists()
    # A second call finds all of it done.
    assert [item.where for item in engine.run(job.trainings)] == ["this machine"] * 3


def test_a_training_that_diverges_fails_alone_and_is_not_tried_again(small_windows: Windows, tmp_path: Path) -> None:
    run = tmp_path / "run"
    plain = PLAN.recipe_of("soft_span")
    wild = replace(plain, name="wild", training=replace(plain.training, learning_rate=1e30))
    job = job_in(run, small_windows, replace(PLAN, arms={"plain": plain, "wild": wild}, folds=1))
    engine = HostsEngine(run, job, [lane(LocalHost(tmp_path / "x", name="x"))], note=lambda _: None)
    outcomes = {item.run_key: item for item in engine.run(job.trainings)}
    good, bad = (outcomes[item.run_key] for item in sorted(job.trainings, key=lambda item: item.arm))
    assert isinstance(good, UnitDone)
    assert isinstance(bad, UnitFailed)
    assert bad.is_own_fault
    assert "diverged" in bad.reason


def test_without_a_host_that_can_be_reached_every_unit_fails_with_the_reason(
    small_windows: Windows, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = job_in(run, small_windows)
    gone = FadingHost(tmp_path / "x", name="x")
    gone.is_gone = True
    rules = QueueRules(pause_s=0.01)
    outcomes = list(HostsEngine(run, job, [lane(gone)], rules=rules, note=lambda _: None).run(job.trainings))
    assert len(outcomes) == 3
    assert all(isinstance(item, UnitFailed) and "gone" in item.reason for item in outcomes)


def test_closing_the_iterator_stops_what_runs(small_windows: Windows, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = job_in(run, small_windows, replace(PLAN, epochs=10_000, folds=1))
    host = LocalHost(tmp_path / "x", name="x")
    engine = HostsEngine(run, job, [lane(host)], note=lambda _: None)
    outcomes = engine.run(job.trainings)
    stopper = threading.Timer(3.0, engine.stop)
    stopper.start()
    started = time.monotonic()
    failed = list(outcomes)
    assert time.monotonic() - started < 120
    assert [type(item) for item in failed] == [UnitFailed]
    assert not list((tmp_path / "state" / "runs").glob("*.json"))
