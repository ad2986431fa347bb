"""The flow `retrain`: the newest data, one model, and whether it becomes the champion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from flows.parameters import RetrainParameters
from flows.training_flow import training_flow
from jade_model.data.checks import DataLimits
from jade_model.statistics.promotion import PromotionRule
from tasks.artifacts.repository import open_place
from tasks.core.layout import RunLayout
from tasks.execution.placement import check_placement
from tasks.execution.prefect_tasks import follow_trainings, training_job
from tasks.experiments.evaluate import EvaluationSettings
from tasks.experiments.plan import load_joined
from tasks.experiments.promote import anchor_run, champion_run, settle
from tasks.experiments.publish import publish_card, publish_checks
from tasks.experiments.retrain import RetrainingPlan, evaluate_retraining, prepare_retraining
from tasks.operations.flow_runs import conclude
from tasks.runs.past import choose_arm
from tasks.runs.record import recorded_run

CONFIDENCE = 0.95
MAX_PARTS = 128


@training_flow(RetrainParameters, task_runner=ThreadPoolTaskRunner(max_workers=MAX_PARTS))
def retrain(parameters: RetrainParameters) -> str:
    """Train a model on all but the hold-out, judge it beside the champion, and promote it if it passes.

    Returns:
        The run's folder on this machine.
    """
    check_placement(parameters.trains_on)
    place = open_place(parameters.artifacts)
    with (
        recorded_run(place, "retrain", parameters.model_dump(mode="json"), host=str(parameters.trains_on)) as run,
    ):
        folder = str(run.layout.root)
        with run.phase("prepare"):
            run.record["data"] = prepare(folder, parameters)
            run.save()
        with (
            run.phase("train"),
            training_job(run, parameters.trains_on, fresh=parameters.fresh) as training,
        ):
            training.start()
            follow_trainings(folder)
        with run.phase("evaluate"):
            card = evaluate(folder, parameters, run.record)
        run.save()
        publish_card(folder)
    # Only what is published whole can be pointed to.
    conclude(promote(place.address, card, parameters.promote, parameters.track))
    return folder


@task(name="check-and-prepare", task_run_name="check-data-and-prepare", cache_policy=NO_CACHE)
def prepare(folder: str, parameters: RetrainParameters) -> list[dict[str, Any]]:
    """Choose the arm, check the data against the champion's, write the job; return what `run.json` says of the data."""
    place, layout = open_place(parameters.artifacts), RunLayout(Path(folder))
    arm = parameters.arm or choose_arm(place, parameters.recipe, parameters.epochs)
    get_run_logger().info("training %s", arm)
    windows = load_joined(parameters.data)
    plan = RetrainingPlan(
        arm, f"{parameters.recipe}_{arm}", parameters.epochs, parameters.folds, parameters.holdout, parameters.ensemble
    )
    limits = DataLimits(psi_failed=parameters.max_drift)
    try:
        prepare_retraining(layout, windows, plan, champion_run(place), limits)
    finally:
        publish_checks(layout)
    return [{"name": windows.name, "path": windows.path, "sha256": windows.sha256}]


@task(name="evaluate", task_run_name="judge-beside-the-champion", cache_policy=NO_CACHE)
def evaluate(folder: str, parameters: RetrainParameters, record: dict[str, Any]) -> dict[str, Any]:
    """Score the new model and the champion on windows that neither has seen, decide, and write the card."""
    settings = EvaluationSettings(
        checkpoint="last",
        margin=parameters.margin,
        confidence=CONFIDENCE,
        min_span_length=1,
        merge_gap=0,
        split="grouped",
        num_folds=parameters.folds,
        ensemble=parameters.ensemble,
    )
    promotion = PromotionRule(parameters.margin, parameters.max_calibration_error, CONFIDENCE)
    place = open_place(parameters.artifacts)
    champion, anchor = champion_run(place), anchor_run(place)
    return evaluate_retraining(RunLayout(Path(folder)), champion, promotion, settings, record, anchor)


@task(name="promote", task_run_name="promote-or-keep", cache_policy=NO_CACHE)
def promote(
    address: str,
    card: dict[str, Any],
    may_promote: bool,  # noqa: FBT001 - a task's parameter
    track: str | None,
) -> str:
    """Move the pointer `champion`, or keep the run as challenger."""
    message = settle(open_place(address), card, may_promote=may_promote, track=track)
    get_run_logger().info("%s", message)
    return message
