"""A retraining from its data to its card: checked, planned, scored beside the champion, decided.

Legend: N windows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jade_model.comparison.document import EvaluatedArm
from jade_model.core.config import Loss
from jade_model.core.files import atomic_path, write_atomically
from jade_model.core.job import load_job
from jade_model.core.recipes import recipe
from jade_model.core.windows import Windows, load_arrays
from jade_model.data.checks import DataLimits, DataReport, check_data
from jade_model.data.groups import Grouping, group_windows
from jade_model.data.retraining import (
    UNJUDGED,
    Roles,
    assign_roles,
    honest_models,
    retraining_splits,
    window_digests,
)
from jade_model.scoring.baselines import all_positive_scores
from jade_model.scoring.calibration import expected_calibration_error
from jade_model.scoring.decoding import decode
from jade_model.scoring.evaluate import evaluate_rule
from jade_model.scoring.metrics import Counts, count, truth_of
from jade_model.scoring.predict import predict
from jade_model.scoring.trained import open_model
from jade_model.statistics.pool import DataSet, verdict_decoder
from jade_model.statistics.promotion import PromotionRule, decide_promotion, judge
from tasks.core.errors import RunNotFound
from tasks.core.layout import RunLayout
from tasks.experiments.checks import reference_of, refuse_failed
from tasks.experiments.evaluate import (
    EvaluationSettings,
    evaluate_arms,
    write_curves,
    write_decodings,
    write_predictions,
)
from tasks.experiments.model_card import SEED, compose_card
from tasks.experiments.plan import Plan, members_of, splits_of, write_job

_UNKNOWN = -9


@dataclass(frozen=True)
class RetrainingPlan:
    """What is trained.

    Attributes:
        arm: Which loss.
        recipe: Name of its recipe.
        epochs: Instead of the recipe's, or None.
        folds: Whose models give out-of-fold predictions.
        holdout: Share of groups that no model sees.
        ensemble: Members a model.
    """

    arm: Loss
    recipe: str
    epochs: int | None
    folds: int
    holdout: float
    ensemble: int


def prepare_retraining(
    layout: RunLayout,
    windows: Windows,
    plan: RetrainingPlan,
    champion: RunLayout | None,
    limits: DataLimits = DataLimits(),  # noqa: B008 - frozen
) -> DataReport:
    """Check the data, give every group its role, and write the job.

    Raises:
        DataRefused: A check failed; `data_checks.json` says which.
        ConfigError: There are too few groups for the folds and the hold-out.
    """
    grouping = group_windows(windows)
    features = {recipe(plan.recipe).feature_set}
    early = check_data(windows, grouping, reference=reference_of(champion), limits=limits, feature_sets=features)
    _save_checks(layout, early)
    roles = assign_roles(windows, grouping, num_folds=plan.folds, holdout_fraction=plan.holdout)
    splits = retraining_splits(roles, seed=SEED)
    report = check_data(
        windows, grouping, splits, reference=reference_of(champion), limits=limits, feature_sets=features
    )
    _save_checks(layout, report)
    trained = Plan({plan.arm: plan.recipe}, plan.epochs, 1, plan.folds, "grouped", plan.ensemble)
    write_job(layout, [windows], trained, splits={windows.name: splits})
    save_roles(layout, windows, roles)
    return report


def _save_checks(layout: RunLayout, report: DataReport) -> None:
    write_atomically(layout.data_checks_json, json.dumps([report.to_json()], indent=2) + "\n")
    refuse_failed([report])


def evaluate_retraining(
    layout: RunLayout,
    champion: RunLayout | None,
    promotion: PromotionRule,
    settings: EvaluationSettings,
    record: Mapping[str, Any],
    anchor: RunLayout | None = None,
) -> dict[str, Any]:
    """Score the trained models, judge them beside the champion, decide, and write the card.

    Args:
        layout: Of the run.
        champion: The run that the champion comes from.
        promotion: What the new model has to show.
        settings: How models are scored.
        record: `run.json` so far.
        anchor: The run of the best champion so far; None: the champion.

    Returns:
        The card.
    """
    job = load_job(layout.job_json)
    (data,) = job.data
    windows = load_arrays(layout.root / data.arrays)
    grouping, roles = group_windows(windows), load_roles(layout)[1]
    splits = splits_of(layout, job, data.name)
    (arm,) = evaluate_arms(layout, job, {data.name: windows}, {data.name: splits}, settings)
    rule, rule_bars = evaluate_rule(windows, splits)
    folds = arm.evaluations[0].folds
    decoder = verdict_decoder(list(folds[0].choices), [DataSet(windows, grouping, splits, rule, rule_bars)])
    write_curves(layout, arm)
    write_decodings(layout, job, arm, decoder, settings.checkpoint)
    write_predictions(layout, arm, decoder)
    shape = windows.num_windows
    champion_counts, judged_N = (
        (None, np.ones(shape, dtype=bool)) if champion is None else _count_champion(champion, windows, grouping)
    )
    judgement = judge(
        roles,
        grouping,
        _joined(shape, ((fold.rows_M, fold.counts[decoder]) for fold in folds)),
        _joined(shape, ((scored.rows_M, scored.counts) for scored in rule)),
        champion_counts,
        judged_N=judged_N,
        all_positive_f1=all_positive_scores([truth_of(windows)]).f1,
        calibration_error=_calibration_error(arm),
        promotion=promotion,
        anchor=_count_champion(anchor, windows, grouping) if anchor is not None and anchor != champion else None,
    )
    (checks,) = json.loads(layout.data_checks_json.read_text("utf-8"))
    failed = [check["name"] for check in checks["checks"] if check["status"] == "failed"]
    decision = decide_promotion(judgement, promotion, failed_checks=failed)
    card = compose_card(layout, arm, decoder, windows, grouping, roles, judgement, decision, checks, record)
    card["champion"] = champion.run_id if champion is not None else None
    best = anchor or champion
    # Whom the next challenger is held against too, should this one become champion.
    card["anchor"] = layout.run_id if best is None or decision.is_best else best.run_id
    card["held_against"] = None if best is None else best.run_id
    write_atomically(layout.card_json, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    return card


def save_roles(layout: RunLayout, windows: Windows, roles: Roles) -> None:
    """Write who trains on which window, windows by the digest of their bars."""
    with atomic_path(layout.roles) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            digest=window_digests(windows),
            role=roles.role_N,
            watched=roles.watched_N,
            num_folds=np.array(roles.num_folds),
        )


def load_roles(layout: RunLayout) -> tuple[NDArray[np.str_], Roles]:
    """Read what save_roles wrote: digests of the windows, and their roles.

    Raises:
        RunNotFound: The run has none.
    """
    try:
        with np.load(layout.roles, allow_pickle=False) as data:
            return data["digest"], Roles(data["role"], data["watched"], int(data["num_folds"]))
    except (OSError, ValueError, KeyError) as error:
        raise RunNotFound(f"{layout.run_id} has no readable roles.npz: it is no run of `retrain` ({error})") from error


def _count_champion(champion: RunLayout, windows: Windows, grouping: Grouping) -> tuple[Counts, NDArray[np.bool_]]:
    """Score the champion on every window with one of its models that has seen nothing of the window's group.

    Returns:
        Counts of all windows, 0 where no such model is; and where there is one.
    """
    digests, roles = load_roles(champion)
    known = dict(zip(digests.tolist(), roles.role_N.tolist(), strict=True))
    known_N = np.array([known.get(digest, _UNKNOWN) for digest in window_digests(windows).tolist()])
    model_N = honest_models(grouping, known_N, final=roles.final, unknown=_UNKNOWN)
    job, truth = load_job(champion.job_json), truth_of(windows)
    parts = []
    for model in np.unique(model_N[model_N != UNJUDGED]).tolist():
        rows = np.flatnonzero(model_N == model)
        first = members_of(job, job.trainings[0].arm, job.data[0].name, SEED, model)[0]
        opened = open_model(champion.root / first.output_dir)
        if not opened.was_evaluated:
            raise RunNotFound(f"{champion.run_id}: {first.output_dir} has no decoding.json; the run is not whole")
        predictions = predict(opened.predictor, windows.take(rows), temperature=opened.temperature)
        parts.append((rows, count(decode(predictions, opened.choice), truth.take(rows))))
    return _joined(windows.num_windows, parts), model_N != UNJUDGED


def _joined(num_windows: int, parts: Iterable[tuple[NDArray[np.intp], Counts]]) -> Counts:
    """Return the counts of all windows from those of some rows each."""
    bars_N3 = np.zeros((num_windows, 3), dtype=np.int64)
    events: NDArray[np.int64] | None = None
    for rows, counts in parts:
        if events is None:
            events = np.zeros((num_windows, *counts.spans_NJ3.shape[1:]), dtype=np.int64)
        bars_N3[rows], events[rows] = counts.bars_N3, counts.spans_NJ3
    return Counts(bars_N3, np.zeros((num_windows, 1, 3), dtype=np.int64) if events is None else events)


def _calibration_error(arm: EvaluatedArm) -> float:
    evaluation = arm.evaluations[0]
    probability = np.concatenate([fold.predictions.probability_NT.ravel() for fold in evaluation.folds])
    truth = np.concatenate([evaluation.truth.mask_NT[fold.rows_M].ravel() for fold in evaluation.folds])
    return expected_calibration_error(probability[None], truth[None])
