"""What tests share: a small data file, and a small finished run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
# No settings, hosts or records of whoever runs the tests.
os.environ.update(JADE_CONFIG_DIR="/nonexistent/jade", JADE_STATE_DIR="/nonexistent/jade")
os.environ.pop("JADE_HOST", None)

from jade_model.sample import sample_windows
from jade_model.schema import write_windows
from jade_model.windows import Windows
from tasks.evaluation import EvaluationSettings, evaluate_run
from tasks.jobs import POLL_S, running_job
from tasks.layout import RunLayout
from tasks.planning import Plan, load_data, remember_trainings, write_job
from tasks.reporting import write_run_report
from tasks.runs import recorded_run

SMALL_PLAN = Plan({"soft_span": "seed_soft_span", "crf": "seed_crf"}, 2, seeds=1, folds=2, split="grouped", ensemble=1)
SMALL_SETTINGS = EvaluationSettings(
    checkpoint="last",
    margin=0.03,
    confidence=0.95,
    min_span_length=1,
    merge_gap=0,
    split="grouped",
    num_folds=2,
    ensemble=1,
)


@pytest.fixture(scope="session")
def small_windows() -> Windows:
    """Some forty windows of a dozen bases."""
    return sample_windows(num_bases=20)


@pytest.fixture(scope="session")
def small_file(small_windows: Windows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a Parquet file."""
    path = tmp_path_factory.mktemp("data") / "small.parquet"
    write_windows(small_windows, path)
    return path


@pytest.fixture(scope="session")
def small_run(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    """A finished comparison of two arms, two folds, two epochs; read only."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    with recorded_run(artifacts, "compare", {"data": [str(small_file)], "epochs": 2}) as run:
        job = write_job(run.layout, load_data([str(small_file)]), SMALL_PLAN)
        with running_job(run.layout.root, device="cpu", workers=1) as running:
            while not running.ended:
                running.wait_for_change(POLL_S)
        assert running.exit_status == 0, running.stderr_tail
        remember_trainings(job, run.layout, artifacts)
        evaluate_run(run.layout, SMALL_SETTINGS, created_at=run.record["started_at"])
    write_run_report(run.layout)
    return run.layout
