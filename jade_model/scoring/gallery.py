"""Which scored windows are worth a look: the best, the median, the worst, sure mistakes, and disagreements.

Legend: N windows, T bars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jade_model.scoring.decoding import DecoderName
from jade_model.scoring.evaluate import DataEvaluation
from jade_model.scoring.metrics import f1_of, spans_from_mask

WINDOWS_A_KIND = 2


@dataclass(frozen=True, eq=False)
class _ArmView:
    """One arm's out-of-fold output on the first data set and seed, in the order of the rows.

    Attributes:
        row_N: Rows of the data set.
        f1_N: Bar-level, of each window.
        confidence_N: Mean probability of the marked bars; 0 where nothing is marked.
        probability_NT: P(bar in a span).
        predicted_NT: Marked bars.
    """

    row_N: NDArray[np.intp]
    f1_N: NDArray[np.float64]
    confidence_N: NDArray[np.float64]
    probability_NT: NDArray[np.float64]
    predicted_NT: NDArray[np.bool_]


def compose_gallery(
    arms: Mapping[str, Sequence[DataEvaluation]], judged: Mapping[str, DecoderName]
) -> list[dict[str, Any]]:
    """Choose windows and return what a figure of each needs, as JSON values.

    Args:
        arms: Arm -> evaluations, all on the same splits; the first data set and seed are shown.
        judged: Arm -> its decoder.
    """
    views = {name: _view(evaluations[0], judged[name]) for name, evaluations in arms.items()}
    first = next(iter(arms.values()))[0]
    mean_f1_N = np.mean([view.f1_N for view in views.values()], axis=0)
    return [_entry(first, views, position, kind) for position, kind in _chosen(views, mean_f1_N)]


def _chosen(views: Mapping[str, _ArmView], mean_f1_N: NDArray[np.float64]) -> list[tuple[int, str]]:
    """Return positions and why each is shown; no window twice."""
    spread_N = np.ptp([view.f1_N for view in views.values()], axis=0)
    surest_error_N = np.max([np.where(view.f1_N == 0, view.confidence_N, -1.0) for view in views.values()], axis=0)
    by_f1 = np.argsort(mean_f1_N, kind="stable")
    middle = len(by_f1) // 2
    candidates = {
        "best": by_f1[::-1],
        "median": by_f1[np.argsort(np.abs(np.arange(len(by_f1)) - middle), kind="stable")],
        "worst": by_f1,
        "error": np.array([row for row in np.argsort(-surest_error_N, kind="stable") if surest_error_N[row] >= 0]),
        "disagreement": np.array([row for row in np.argsort(-spread_N, kind="stable") if spread_N[row] > 0]),
    }
    taken: set[int] = set()
    chosen: list[tuple[int, str]] = []
    for kind, ranked in candidates.items():
        fresh = [int(row) for row in ranked if int(row) not in taken][:WINDOWS_A_KIND]
        taken.update(fresh)
        chosen += [(row, kind) for row in fresh]
    return chosen


def _view(evaluation: DataEvaluation, decoder: DecoderName) -> _ArmView:
    seed = evaluation.folds[0].seed
    folds = [fold for fold in evaluation.folds if fold.seed == seed]
    row_N = np.concatenate([fold.rows_M for fold in folds])
    order = np.argsort(row_N)
    predicted_NT = np.concatenate([fold.predicted[decoder] for fold in folds])[order]
    probability_NT = np.concatenate([fold.predictions.probability_NT for fold in folds])[order]
    marked_N = predicted_NT.sum(axis=1)
    confidence_N = np.where(predicted_NT, probability_NT, 0).sum(axis=1) / np.maximum(marked_N, 1)
    counts_N3 = np.concatenate([fold.counts[decoder].bars_N3 for fold in folds])[order]
    return _ArmView(row_N[order], f1_of(counts_N3), confidence_N, probability_NT, predicted_NT)


def _entry(evaluation: DataEvaluation, views: Mapping[str, _ArmView], position: int, kind: str) -> dict[str, Any]:
    windows = evaluation.windows
    row = int(next(iter(views.values())).row_N[position])
    return {
        "window_id": str(windows.window_id_N[row]),
        "kind": kind,
        "bars": windows.bars_NT4[row].tolist(),
        "true_spans": windows.spans_of(row).tolist(),
        "predicted": {name: _spans(view.predicted_NT[position]) for name, view in views.items()},
        "probability": {name: view.probability_NT[position].round(5).tolist() for name, view in views.items()},
        "confidence": {name: float(view.confidence_N[position]) for name, view in views.items()},
        "f1": {name: float(view.f1_N[position]) for name, view in views.items()},
    }


def _spans(mask_T: NDArray[np.bool_]) -> list[list[int]]:
    _, start_S, end_S = spans_from_mask(mask_T[None])
    return [[int(start), int(end)] for start, end in zip(start_S, end_S, strict=True)]
