"""What an arm's trainings and probabilities come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jade_model.comparison import model
from jade_model.core.checkpoint import Checkpoint
from jade_model.core.targets import Targets, build_targets
from jade_model.scoring.calibration import brier, expected_calibration_error, reliability
from jade_model.scoring.diagnostics import head_errors, histogram, separation, type_scores
from jade_model.scoring.evaluate import DataEvaluation, FoldEvaluation
from jade_model.scoring.parts import TypeScore
from jade_model.scoring.predictions import Predictions

HISTOGRAM_BINS = 100
"""Fine enough to tell two heaps below 0.1 apart: what a model that has learned nothing shows."""


@dataclass(frozen=True, eq=False)
class ArmTraining:
    """One training of an arm.

    Attributes:
        dataset: Name of the data set.
        seed: Of the comparison.
        fold: 0-based.
        checkpoint: What was scored; an ensemble's first member.
        path: Of the checkpoint, relative to the run's folder.
    """

    dataset: str
    seed: int
    fold: int
    checkpoint: Checkpoint
    path: str


def run_of(training: ArmTraining, evaluation: FoldEvaluation) -> model.Run:
    """Return an entry of `runs`: a training, and how it scored."""
    history = training.checkpoint.history
    validation = [record["validation_loss"] for record in history if record["validation_loss"] is not None]
    # Without validation windows there is no course of their loss to speak of; of equals the first is the best.
    first, best, last = (validation[0], min(validation), validation[-1]) if validation else (None, None, None)
    return model.Run(
        dataset=training.dataset,
        seed=training.seed,
        fold=training.fold,
        epochs=len(history),
        train_loss=[record["train_loss"] for record in history],
        validation_loss=validation,
        best_epoch=None if best is None else validation.index(best) + 1,
        validation_loss_reduction=_fraction(first, last, first),
        validation_loss_rise_since_best=_fraction(last, best, best),
        sigma=history[-1]["sigma"],
        task_weight=history[-1]["task_weight"],
        seconds=model.Seconds(train=sum(record["seconds"] for record in history), evaluate=evaluation.seconds),
        checkpoint=training.path,
        run_key=training.checkpoint.run_key,
        temperature=evaluation.temperature,
    )


def _fraction(start: float | None, end: float | None, whole: float | None) -> float | None:
    """Return how far a loss fell, as a fraction of another; a loss of one's own may be negative, or 0."""
    return None if start is None or end is None or not whole else (start - end) / abs(whole)


def summarise_probabilities(evaluations: Sequence[DataEvaluation]) -> dict[str, Any]:
    """Return what an arm's probabilities on all scored windows are worth: those fields of a Summary that need them."""
    folds = [(evaluation, fold) for evaluation in evaluations for fold in evaluation.folds]
    # Data sets may differ in window length: bars are pooled in one row.
    probability_1B = np.concatenate([fold.predictions.probability_NT.ravel() for _, fold in folds])[None]
    truth_1B = np.concatenate([item.truth.mask_NT[fold.rows_M].ravel() for item, fold in folds])[None]
    targets = [build_targets(item.windows.take(fold.rows_M)) for item, fold in folds]
    predictions = [fold.predictions for _, fold in folds]
    by_source = {
        "trained_head": _mean_errors([(said.pointers_N2, said.countdown_NT) for said in predictions], targets),
        "posterior": _mean_errors(
            [(said.posterior_pointers_N2, said.posterior_countdown_NT) for said in predictions], targets
        ),
    }
    return {
        "separation": separation(probability_1B, truth_1B),
        "calibration": model.Calibration(
            brier=brier(probability_1B, truth_1B),
            ece=expected_calibration_error(probability_1B, truth_1B),
            temperature=float(np.mean([fold.temperature for _, fold in folds])),
            reliability=reliability(probability_1B, truth_1B),
        ),
        "histogram": histogram(probability_1B, truth_1B, num_bins=HISTOGRAM_BINS),
        "pointer_error_bars": model.PointerErrors(
            **{name: model.SpanError(center=errors[0], length=errors[1]) for name, errors in by_source.items()}
        ),
        "countdown_error_bars": model.CountdownErrors(**{name: errors[2] for name, errors in by_source.items()}),
        "type": _mean_type_score(predictions, targets),
    }


def _mean_type_score(predictions: Sequence[Predictions], targets: Sequence[Targets]) -> TypeScore | None:
    """Average over folds, each weighted by its windows with a type."""
    num_typed = [int((target.type_N >= 0).sum()) for target in targets]
    if not any(num_typed):
        return None
    found = [type_scores(said, target) for said, target in zip(predictions, targets, strict=True)]
    return TypeScore(
        **{
            name: float(np.average([0.0 if item is None else getattr(item, name) for item in found], weights=num_typed))
            for name in TypeScore.model_fields
        }
    )


def _mean_errors(
    said: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], targets: Sequence[Targets]
) -> list[float] | list[None]:
    """Average over folds, each weighted by its windows with a span; folds without any have nothing to say."""
    kept = [(heads, target) for heads, target in zip(said, targets, strict=True) if target.has_span_N.any()]
    if not kept:
        return [None] * 3
    found = [head_errors(*heads, target) for heads, target in kept]
    weights = [int(target.has_span_N.sum()) for _, target in kept]
    return [float(value) for value in np.average(found, axis=0, weights=weights)]
