"""How far trainings are, as events tell; and what of a process's lines is an event."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from jade_model.core.job import Job, Training, load_job
from jade_model.core.windows import Windows
from tasks.core.errors import TrainingFailed
from tasks.core.layout import MEMBER_SEED_STEP, RunLayout
from tasks.execution.base import Event, done, failed
from tasks.execution.local import LocalExecutor
from tasks.execution.progress import RunProgress, part_of, parts_of
from tasks.execution.run import TrainingRun
from tasks.execution.trainer_output import TrainerOutput
from tasks.experiments.plan import Plan, write_job

PLAN = Plan({"a": "seed_soft_span"}, 10, seeds=1, folds=2, split="grouped", ensemble=1)


@pytest.fixture
def trainings(small_windows: Windows, tmp_path: Path) -> tuple[Training, ...]:
    return write_job(RunLayout(tmp_path), [small_windows], PLAN).trainings


def test_a_part_is_an_arm_and_a_seed_with_all_its_folds_and_members(small_run: RunLayout) -> None:
    job = load_job(small_run.job_json)
    assert parts_of(job) == ["soft-span-seed0", "crf-seed0"]
    member = replace(job.trainings[0], seed=MEMBER_SEED_STEP, output_dir="soft_span/member1")
    assert parts_of(Job(job.run_id, job.data, (*job.trainings, member))) == parts_of(job)
    assert part_of(replace(member, seed=3)) == "soft-span-seed3"


def test_epochs_count_as_they_come_and_a_copy_that_is_behind_takes_nothing_back(
    trainings: tuple[Training, ...],
) -> None:
    first, second = trainings
    progress = RunProgress()
    progress.expect(trainings, lambda _: "seeds 0")

    def epoch(number: int) -> Event:
        return Event("epoch", first.run_key, "x", {"epoch": number, "train_loss": 1.0, "validation_loss": None})

    state = progress.state["seeds 0"]
    for event in (epoch(4), epoch(2), Event("epoch", "nobody", "x")):
        progress.take(event)
    assert (state.epochs_done, state.percent) == (4, 20.0)
    progress.take(done(first.run_key, "x", 1.0))
    progress.take(failed(second.run_key, "y", "diverged", is_own_fault=True))
    assert (state.epochs_done, state.latest) == (20, f"fold {second.fold}: failed on y")
    assert (state.finished, state.failed) == ({first.run_key}, {second.run_key})


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "training_done", "arm": "a", "run_key": "nobody", "seed": 7, "fold": 0, "dataset": "x"}',
        '{"event": "epoch", "arm": "nobody", "seed": 0}',
        '{"event": "epoch", "arm": "a", "seed": "x"}',
        '{"event": "training_done", "arm": []}',
        '{"event": "failed", "training": ["a"], "kind": 7}',
        "\x1b]0;title\x07 out of memory",
        '{"event": ',
        "7",
    ],
)
def test_what_a_host_says_that_makes_no_sense_is_for_people_and_nothing_more(
    line: str, trainings: tuple[Training, ...]
) -> None:
    output = TrainerOutput(trainings, "ci", is_remote=True)
    event, outcome = output.read(line)
    assert (outcome, event.run_key) == (None, "")
    assert event.data["shown"] == output.tail != ""
    assert "\x1b" not in event.data["text"]


@pytest.mark.parametrize(
    ("number", "loss"), [(-1, 1.0), (11, 1.0), ("9", 1.0), (None, 1.0), (1, math.nan), (1, math.inf), (1, 10**400)]
)
def test_an_epoch_that_cannot_be_is_none(number: object, loss: float, trainings: tuple[Training, ...]) -> None:
    told = {name: getattr(trainings[0], name) for name in ("arm", "dataset", "seed", "fold")}
    line = json.dumps({"event": "epoch", **told, "epoch": number, "train_loss": loss, "validation_loss": None})
    event, outcome = TrainerOutput(trainings, "ci", is_remote=True).read(line)
    assert (event.data["shown"], outcome) == (line, None)


def test_the_gpu_that_a_process_names_is_known_by_where_it_runs(trainings: tuple[Training, ...]) -> None:
    output, progress = TrainerOutput(trainings, "ci", is_remote=True), RunProgress()
    for line in ('{"event": "gpu", "name": "NVIDIA\\u001b L4"}', '{"event": "job_started"}', "a line"):
        progress.take(output.read(line)[0])
    assert progress.gpus == {"ci": "NVIDIA\N{REPLACEMENT CHARACTER} L4"}


def test_a_training_that_starts_over_for_a_damaged_checkpoint_is_told_of(trainings: tuple[Training, ...]) -> None:
    told = {name: getattr(trainings[0], name) for name in ("arm", "dataset", "seed", "fold", "run_key")}
    output = TrainerOutput(trainings, "ci", is_remote=True)
    line = json.dumps({"event": "resume_refused", **told, "reason": "c.pt is damaged"})
    assert output.read(line)[0].data["shown"] == f"{trainings[0].title} starts over: c.pt is damaged"


def test_a_process_that_fails_says_why(small_windows: Windows, tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    job = write_job(layout, [small_windows], replace(PLAN, epochs=1))
    layout.arrays(small_windows.name).write_bytes(b"not arrays")
    training = TrainingRun(job, layout, LocalExecutor(tmp_path, job, workers=1))
    training.start()
    assert training.progress.wait_for_end(60)
    assert "expected arrays with SHA-256" in str(training.failure())
    assert not (layout.root / job.trainings[0].output_dir / "manifest.json").exists()


def test_a_process_that_dies_has_failed_what_it_had(
    small_windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(RunLayout(tmp_path), [small_windows], PLAN)
    monkeypatch.setattr("tasks.execution.local.sys.executable", "/bin/false")
    training = TrainingRun(job, RunLayout(tmp_path), LocalExecutor(tmp_path, job))
    assert [event.kind for event in training.run(job.trainings, lambda _: "all")] == ["failed", "failed"]
    with pytest.raises(TrainingFailed, match="exited with 1"):
        training.raise_if_failed()


def test_a_disk_that_is_full_does_not_end_a_run(trainings: tuple[Training, ...], tmp_path: Path) -> None:
    class Chatty:
        def run(self, trainings: object) -> list[Event]:
            return [Event("line", "", "ci", {"text": "hello", "shown": "hello"})]

    (tmp_path / "remote.log").mkdir()
    job = load_job(tmp_path / "job.json")
    training = TrainingRun(job, RunLayout(tmp_path), Chatty())  # type: ignore[arg-type]
    assert [event.kind for event in training.run(job.trainings, lambda _: "all")] == ["line"]
    assert "Is a directory" in training.progress.said.take_for_log()


def test_curves_are_means_by_epoch_and_what_was_kept_or_jumped_over_counts_for_no_pace(
    trainings: tuple[Training, ...],
) -> None:
    first, second = trainings
    progress = RunProgress()
    progress.expect(trainings, lambda item: f"fold {item.fold}")

    def epoch(training: Training, number: int, loss: float, validation: float | None, where: str = "ci") -> Event:
        data = {"epoch": number, "train_loss": loss, "validation_loss": validation, "validation_f1": validation}
        return Event("epoch", training.run_key, where, data)

    for event in (epoch(first, 1, 4.0, 3.0), epoch(first, 2, 2.0, None), epoch(second, 2, 1.0, 5.0, "gpu1")):
        progress.take(event)
    progress.take(epoch(first, 1, 99.0, 99.0, "gpu1"))  # a copy that is behind
    arm = progress.arms["a"]
    assert {number: list(at.means.values()) for number, at in arm.curve.items()} == {
        1: [4.0, 3.0, 3.0],
        2: [1.5, 5.0, 5.0],
    }
    assert (arm.epochs_done, arm.epochs_trained, arm.num_under_way) == (4, 3, 2)
    assert progress.under_way() == {"gpu1": 2}
    progress.take(done(second.run_key, "gpu1", 0.0))
    progress.take(epoch(second, 9, 1.0, 5.0, "ci"))  # late news of one that is done
    assert (arm.epochs_done, arm.epochs_trained, arm.num_under_way) == (12, 3, 1)
    assert progress.under_way() == {"gpu1": 1}
