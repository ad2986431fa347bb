"""A run's trainings: nobody trains the same at once, nothing is trained twice, and a run taken for dead stops."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from jade_model.core.files import sha256_file
from jade_model.core.job import Training
from jade_model.core.training_files import files_of, is_done
from jade_model.core.windows import Windows
from tasks.artifacts.leases import Heartbeat, claim
from tasks.artifacts.repository import ArtifactPlace, open_place
from tasks.artifacts.training_cache import KeptTrainings
from tasks.core.errors import LeaseLost
from tasks.execution import run as run_trainings
from tasks.execution.placement import Placement
from tasks.execution.run import claim_trainings, trainings_of
from tasks.experiments.plan import Plan, write_job
from tasks.runs.record import Run, recorded_run

PLAN = Plan({"soft_span": "seed_soft_span"}, 1, seeds=1, folds=2, split="grouped", ensemble=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run_trainings, "WAIT_POLL_S", 0.05)
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def place(tmp_path: Path) -> ArtifactPlace:
    return open_place(tmp_path / "artifacts")


def begin(place: ArtifactPlace, run: Run, windows: Windows) -> list[Training]:
    """Write a run's job; return its trainings."""
    return list(write_job(run.layout, [windows], PLAN).trainings)


def finish(run: Run, trainings: list[Training]) -> None:
    """Let a run's trainings look finished, and publish them."""
    for training in trainings:
        files = files_of(training, run.layout.root)
        files.folder.mkdir(parents=True, exist_ok=True)
        files.last.write_bytes(b"weights")
        entry = {"path": files.last.name, "size": 7, "sha256": sha256_file(files.last)}
        told = {"run_key": training.run_key, "epoch": 1, "complete": True, "files": [entry]}
        files.manifest.write_text(json.dumps(told))
        assert KeptTrainings(run.place).remember(training, run.layout)


def test_the_second_waits_for_the_first_and_takes_over_what_it_finished(
    place: ArtifactPlace, small_windows: Windows
) -> None:
    kept = KeptTrainings(place)
    notes: list[str] = []
    taken: list[int] = []
    with recorded_run(place, "first", {}) as first, recorded_run(place, "second", {}) as second:
        trainings = begin(place, first, small_windows)
        assert claim_trainings(first, trainings, kept) == 0

        def wait_for_it() -> None:
            taken.append(claim_trainings(second, trainings, kept, note=notes.append))

        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        finish(first, trainings)
        waiting.join(60)
        assert not waiting.is_alive()
        assert all(is_done(training, files_of(training, second.layout.root)) for training in trainings)
        second.save()
    assert taken == [2]
    assert [first.layout.run_id in note for note in notes] == [True]


def test_who_cannot_have_all_holds_nothing(place: ArtifactPlace, small_windows: Windows) -> None:
    with recorded_run(place, "first", {}) as first:
        keys = sorted(training.run_key for training in begin(place, first, small_windows))
        claim(place.records, first.layout.run_id, keys[-1])
        with recorded_run(place, "second", {}) as second:
            assert run_trainings._claim_all(second, keys) is not None
            for key in keys:
                assert claim(place.records, first.layout.run_id, key) is None


def test_a_retry_trains_nothing_again(place: ArtifactPlace, small_windows: Windows) -> None:
    seconds = []
    for _ in range(2):
        with recorded_run(place, "train", {}) as run:
            write_job(run.layout, [small_windows], replace(PLAN, folds=1))
            with trainings_of(run, Placement(workers=1)) as training:
                training.start()
                assert training.progress.wait_for_end(100)
            training.raise_if_failed()
            seconds += training.seconds.values()
    assert seconds[0] > 0
    assert seconds[1] == 0
    assert len(place.store.runs()) == 2


@pytest.mark.parametrize("in_rounds", [False, True])
def test_a_run_that_was_taken_for_dead_stops_and_says_so(
    place: ArtifactPlace, small_windows: Windows, in_rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.artifacts.leases.BEAT_EVERY_S", 0.1)
    with recorded_run(place, "train", {}) as run:
        job = write_job(run.layout, [small_windows], replace(PLAN, folds=1, epochs=10_000))
        run.heartbeat = Heartbeat(place.records, "another", beat_every_s=0.05)
        run.heartbeat.start()
        with trainings_of(run, Placement(workers=1)) as training:
            place.records.remove("running/another")
            if in_rounds:  # as a sweep does
                with pytest.raises(LeaseLost, match="newest published checkpoints"):
                    list(training.run(job.trainings, lambda item: item.title))
            else:
                training.start()
                assert training.progress.wait_for_end(100)
                with pytest.raises(LeaseLost, match="newest published checkpoints"):
                    training.raise_if_failed()
