"""A comparison without Prefect: the same steps as the flow's, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jade_model.__main__ import main as train
from tasks.core.layout import RunLayout
from tasks.execution.placement import Placement
from tasks.execution.run import trainings_of
from tasks.experiments.evaluate import EvaluationSettings, evaluate_run
from tasks.experiments.plan import Plan, load_data, write_job
from tasks.experiments.report import write_run_report
from tasks.runs.record import Run, recorded_run

SMALL_PLAN = Plan({"soft_span": "seed_soft_span", "crf": "seed_crf"}, 2, seeds=1, folds=2, split="grouped", ensemble=1)


def settings_of(plan: Plan, **changes: Any) -> EvaluationSettings:
    """Return the flow's default settings for a plan."""
    given = {
        "checkpoint": "last",
        "margin": 0.03,
        "confidence": 0.95,
        "min_span_length": 1,
        "merge_gap": 0,
        "split": plan.split,
        "num_folds": plan.folds,
        "ensemble": plan.ensemble,
    }
    return EvaluationSettings(**{**given, **changes})


def finished_run(
    artifacts: Path, data: list[str], plan: Plan, *, workers: int | None = 1, here: bool = False, report: bool = True
) -> RunLayout:
    """Train, evaluate and report; return the run.

    Args:
        artifacts: Where it goes.
        data: Paths of Parquet files.
        plan: What to train.
        workers: Trainings at once.
        here: Train in this process, one after the other: what a test of the results needs, without another interpreter.
        report: Write the report; its figures cost more than all the rest.
    """
    with recorded_run(artifacts, "compare", {"data": data, "epochs": plan.epochs}) as run:
        write_job(run.layout, load_data(data), plan)
        if here:
            assert train(["train", str(run.layout.job_json), "--workers", "1"]) == 0
        else:
            _train_beside(run, workers)
        evaluate_run(run.layout, settings_of(plan), created_at=run.record["started_at"])
    if report:
        write_run_report(run.layout)
        run.place.publish_report(run.layout)
    return run.layout


def _train_beside(run: Run, workers: int | None) -> None:
    with trainings_of(run, Placement(device="cpu", workers=workers)) as training:
        training.start()
        training.progress.wait_for_end()
        training.raise_if_failed()
