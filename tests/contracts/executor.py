"""What every executor promises, whatever it trains on: one suite, run over each by tests/system/test_executors.py.

A world is a place to train in that outlives who trains there: `train` is a controller from its beginning to its end.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from jade_model.core.job import Job
from jade_model.core.training_files import files_of, is_done
from jade_model.core.windows import Windows
from tasks.artifacts.leases import Heartbeat
from tasks.artifacts.repository import open_place
from tasks.artifacts.training_cache import KeptTrainings, Mirror
from tasks.core.errors import LeaseLost
from tasks.core.layout import RunLayout
from tasks.execution.base import Event, Executor
from tasks.execution.run import TrainingRun
from tasks.experiments.plan import Plan, write_job
from tests.helpers.processes import wait_until

PLAN = Plan({"soft_span": "seed_soft_span"}, 12, seeds=1, folds=3, split="grouped", ensemble=1)
LONG = replace(PLAN, epochs=10_000, folds=1)


@dataclass
class World:
    """A place to train in.

    Attributes:
        folder: Below which everything lies.
        notes: What people were told.
        is_remote: Whether it trains elsewhere, so that `remote.log` keeps what is written there.
        outlives_controller: Whether jobs go on without whoever started them.
    """

    folder: Path
    notes: list[str] = field(default_factory=list)
    is_remote: bool = True
    outlives_controller: bool = True

    def executor(self, layout: RunLayout, job: Job) -> AbstractContextManager[Executor]:
        """Return an executor of a new controller."""
        raise NotImplementedError

    def running(self) -> list[int]:
        """Return the processes that train."""
        raise NotImplementedError

    def lose_one(self) -> None:
        """Let a host at work be lost for good."""
        raise NotImplementedError

    def killed_at(self, kind: str, layout: RunLayout, job: Job) -> None:
        """Be a controller that is killed at its first event of a kind."""
        process = os.fork()
        if process == 0:
            try:
                self.train(layout, job, lambda event, _: event.kind == kind and os.kill(os.getpid(), signal.SIGKILL))
            finally:
                os._exit(1)
        _, status = os.waitpid(process, 0)
        assert os.WIFSIGNALED(status), f"it ended by itself: {status}, {self.notes}"

    def train(
        self, layout: RunLayout, job: Job, heard: Callable[[Event, Executor], object] = lambda *_: None
    ) -> Trained:
        """Train a job as one controller does, and publish what comes."""
        published = KeptTrainings(open_place(layout.root.parent))
        mirror = Mirror(published, layout, self.notes.append)
        try:
            with self.executor(layout, job) as executor:
                training = TrainingRun(job, layout, executor, mirror)
                found = Trained(training)
                for event in training.run(job.trainings, lambda item: item.title):
                    found.events.append(event)
                    heard(event, executor)
                return found
        finally:
            mirror.close()


@dataclass
class Trained:
    """What a controller has heard."""

    run: TrainingRun
    events: list[Event] = field(default_factory=list)

    @property
    def reasons(self) -> list[str]:
        """Why trainings failed."""
        return [event.data["reason"] for event in self.of("failed")]

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


def job_in(folder: Path, windows: Windows, plan: Plan = PLAN) -> tuple[RunLayout, Job]:
    layout = RunLayout(folder / "artifacts" / "run")
    layout.root.mkdir(parents=True)
    return layout, write_job(layout, [windows], plan)


def events_in(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


class ExecutorContract:
    """All of it holds for one machine, for several, for rented ones, and for a cluster."""

    @pytest.fixture
    def world(self) -> Iterator[World]:
        raise NotImplementedError

    def test_each_training_is_done_once_its_files_are_verified_and_what_another_host_writes_is_in_the_run_s_log(
        self, world: World, small_windows: Windows, tmp_path: Path
    ) -> None:
        layout, job = job_in(tmp_path, small_windows)
        trained = world.train(layout, job)
        assert trained.reasons == [], (trained.reasons, world.notes)
        assert Counter(event.run_key for event in trained.of("done")) == Counter(t.run_key for t in job.trainings)
        assert all(is_done(training, files_of(training, layout.root)) for training in job.trainings)
        assert all(event.data["seconds"] > 0 for event in trained.of("done"))
        assert all(state.percent == 100.0 for state in trained.run.progress.state.values())
        assert world.running() == []
        if world.is_remote:
            told = Counter(str(event["event"]) for event in events_in(layout.remote_log))
            assert told["training_started"] == told["training_done"] == len(job.trainings)
            assert told["job_started"] == told["job_done"]
        else:
            assert not layout.remote_log.exists()
        again = world.train(layout, job)
        assert [event.data["seconds"] for event in again.events] == [0.0] * len(job.trainings)
        assert not (layout.root / "lanes").exists()

    def test_a_training_that_diverges_fails_alone(self, world: World, small_windows: Windows, tmp_path: Path) -> None:
        plain = PLAN.recipe_of("soft_span")
        wild = replace(plain, name="wild", training=replace(plain.training, learning_rate=1e30))
        layout, job = job_in(tmp_path, small_windows, replace(PLAN, arms={"plain": plain, "wild": wild}, folds=1))
        trained = world.train(layout, job)
        good, bad = sorted(job.trainings, key=lambda item: item.arm)
        assert [event.run_key for event in trained.of("done")] == [good.run_key]
        (failed,) = trained.of("failed")
        assert (failed.run_key, failed.data["is_own_fault"]) == (bad.run_key, True)
        assert "diverged" in str(trained.run.failure())

    def test_checkpoints_are_published_while_it_trains(
        self, world: World, small_windows: Windows, tmp_path: Path
    ) -> None:
        layout, job = job_in(tmp_path, small_windows, replace(PLAN, epochs=60, folds=1))
        (training,) = job.trainings
        index, seen = KeptTrainings(open_place(layout.root.parent)), list[int]()

        def look(event: Event, _: Executor) -> None:
            if event.kind == "checkpoint" and not seen:
                another = RunLayout(tmp_path / "artifacts" / "another")
                wait_until(lambda: index.take_over(training, another), 60)
                manifest = json.loads(files_of(training, another.root).manifest.read_text())
                seen.append(manifest["epoch"])
                assert manifest["complete"] is False

        trained = world.train(layout, job, look)
        assert len(seen) == 1
        assert 0 < seen[0] < 60
        assert [event.run_key for event in trained.of("done")] == [training.run_key]
        assert not files_of(training, layout.root).resume.exists()
        assert index.is_finished(training)

    def test_a_controller_that_is_killed_is_gone_on_from(
        self, world: World, small_windows: Windows, tmp_path: Path
    ) -> None:
        layout, job = job_in(tmp_path, small_windows, replace(PLAN, epochs=60, folds=1))
        (training,) = job.trainings
        world.killed_at("checkpoint", layout, job)
        trained = world.train(layout, job)
        assert [event.run_key for event in trained.of("done")] == [training.run_key], world.notes
        assert is_done(training, files_of(training, layout.root))
        assert world.running() == []
        if world.outlives_controller:
            assert any("attached to the job that does these trainings already" in note for note in world.notes)
            starts = [event for event in events_in(layout.remote_log) if event["event"] == "training_started"]
            assert {event["first_epoch"] for event in starts} == {1}
        elif world.is_remote:
            _, again = (event for event in events_in(layout.remote_log) if event["event"] == "training_started")
            assert again["first_epoch"] != 1

    def test_stopping_leaves_no_process(self, world: World, small_windows: Windows, tmp_path: Path) -> None:
        layout, job = job_in(tmp_path, small_windows, LONG)
        stopped: list[threading.Thread] = []

        def stop(event: Event, executor: Executor) -> None:
            if event.kind == "epoch" and not stopped:
                assert world.running()
                stopped.append(threading.Thread(target=executor.stop))
                stopped[0].start()

        world.train(layout, job, stop)
        stopped[0].join(60)
        wait_until(lambda: world.running() == [], 60)
        assert not is_done(job.trainings[0], files_of(job.trainings[0], layout.root))

    def test_an_interruption_leaves_no_process(self, world: World, small_windows: Windows, tmp_path: Path) -> None:
        layout, job = job_in(tmp_path, small_windows, LONG)

        def interrupt(event: Event, _: Executor) -> None:
            if event.kind == "epoch":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            world.train(layout, job, interrupt)
        wait_until(lambda: world.running() == [], 60)

    def test_a_lost_lease_stops_everything(self, world: World, small_windows: Windows, tmp_path: Path) -> None:
        layout, job = job_in(tmp_path, small_windows, LONG)
        heartbeat = Heartbeat(open_place(tmp_path / "artifacts").records, "run", beat_every_s=0.05)
        heartbeat.start()

        def take_for_dead(event: Event, executor: Executor) -> None:
            if event.kind == "epoch" and heartbeat.records.read("running/run") is not None:
                heartbeat.when_lost(executor.stop)
                heartbeat.records.remove("running/run")

        with pytest.raises(LeaseLost):
            world.train(layout, job, take_for_dead)
        if not world.is_remote:
            assert world.running() == []


class LosingContract:
    """Where there is more than one host, or another one to be had."""

    def test_a_host_that_is_lost_costs_no_training(self, world: World, small_windows: Windows, tmp_path: Path) -> None:
        layout, job = job_in(tmp_path, small_windows, replace(PLAN, seeds=2))
        lost: list[str] = []

        def lose(event: Event, _: Executor) -> None:
            if event.kind == "done" and not lost:
                lost.append(event.where)
                world.lose_one()

        trained = world.train(layout, job, lose)
        assert trained.reasons == [], (trained.reasons, world.notes)
        assert Counter(event.run_key for event in trained.of("done")) == Counter(t.run_key for t in job.trainings)
        assert all(is_done(training, files_of(training, layout.root)) for training in job.trainings)
