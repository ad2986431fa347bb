"""A training job is followed to its end, and stopping it leaves no process."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.processes import processes_of_group

from jade_model.core.job import Job, load_job
from jade_model.core.windows import Windows
from tasks.core.layout import MEMBER_SEED_STEP, RunLayout
from tasks.execution.jobs import Part, TrainingJob, parts_of, running_job
from tasks.experiments.plan import Plan, write_job

PLAN = Plan({"soft_span": "seed_soft_span"}, 1, seeds=1, folds=2, split="grouped", ensemble=1)


def wait(job: TrainingJob, timeout_s: float = 60) -> None:
    assert job.wait_for_end(timeout_s), "the job did not end"


def test_a_part_is_an_arm_and_a_seed_with_all_its_folds_and_members(small_run: RunLayout) -> None:
    job = load_job(small_run.job_json)
    assert parts_of(job) == [Part("soft_span", 0), Part("crf", 0)]
    member = replace(job.trainings[0], seed=MEMBER_SEED_STEP, output_dir="soft_span/member1")
    assert parts_of(Job(job.run_id, job.data, (*job.trainings, member))) == parts_of(job)
    assert Part("soft_span", 3).name == "soft-span-seed3"


def test_what_is_done_already_is_skipped_and_counts_as_done(small_run: RunLayout, tmp_path: Path) -> None:
    shutil.copytree(small_run.root, tmp_path / "run")
    with running_job(tmp_path / "run", device="cpu", workers=1) as job:
        wait(job)
    assert job.exit_status == 0
    for state in job.state.values():
        assert (state.finished, state.epochs_done) == (2, 4)
        assert "kept from an earlier run" in state.latest


def test_a_job_that_fails_says_why(small_windows: Windows, tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    job = write_job(layout, [small_windows], PLAN)
    layout.arrays(small_windows.name).write_bytes(b"not arrays")
    with running_job(layout.root, device="cpu", workers=1) as running:
        wait(running)
    assert running.exit_status == 2
    assert "expected arrays with SHA-256" in running.stderr_tail
    assert running.state[Part("soft_span", 0)].finished == 0
    assert not (layout.root / job.trainings[0].output_dir / "manifest.json").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_leaving_the_block_stops_every_process(small_windows: Windows, tmp_path: Path, workers: int) -> None:
    layout = RunLayout(tmp_path)
    write_job(layout, [small_windows], replace(PLAN, epochs=10_000))
    with running_job(layout.root, device="cpu", workers=workers) as running:
        group = running.process.pid
        deadline = time.monotonic() + 60
        while running.state[Part("soft_span", 0)].epochs_done == 0:
            assert time.monotonic() < deadline, "no epoch was trained"
            running.wait_for_change(running.changes)
        assert processes_of_group(group)
    assert processes_of_group(group) == []
    assert running.ended
