"""A retraining without Prefect: the same steps as the flow's, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jade_model.core.windows import Windows
from jade_model.statistics.promotion import PromotionRule
from tasks.core.layout import RunLayout
from tasks.execution.placement import Placement
from tasks.execution.run import trainings_of
from tasks.experiments.evaluate import EvaluationSettings
from tasks.experiments.retrain import RetrainingPlan, evaluate_retraining, prepare_retraining
from tasks.runs.record import recorded_run

PLAN = RetrainingPlan("soft_span", "seed_soft_span", 2, folds=2, holdout=0.3, ensemble=1)
SETTINGS = EvaluationSettings(
    checkpoint="last",
    margin=0.03,
    confidence=0.95,
    min_span_length=1,
    merge_gap=0,
    split="grouped",
    num_folds=2,
    ensemble=1,
)


def retrained(
    artifacts: Path, windows: Windows, champion: RunLayout | None, plan: RetrainingPlan = PLAN
) -> tuple[RunLayout, dict[str, Any]]:
    """Check, train, score and decide; return the run and its card."""
    with recorded_run(artifacts, "retrain", {}) as run:
        prepare_retraining(run.layout, windows, plan, champion)
        with trainings_of(run, Placement(workers=1)) as training:
            training.start()
            training.progress.wait_for_end()
            training.raise_if_failed()
        card = evaluate_retraining(run.layout, champion, PromotionRule(), SETTINGS, run.record)
    return run.layout, card
