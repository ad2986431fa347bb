"""What a model has learned, beyond its scores: separation, errors in bars, the course of its loss.

Legend: N windows, T bars, K bins, P bin edges. Spans are half-open; pointers are fractions of T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jade_model.core.targets import Targets
from jade_model.core.windows import NO_TYPE
from jade_model.scoring.parts import Histogram, Separation, TypeScore
from jade_model.scoring.predictions import Predictions


@dataclass(frozen=True)
class HeadErrors:
    """Mean absolute errors, in bars, over windows with a span; of several spans, Targets' one is meant.

    Attributes:
        center: Of the span's centre.
        length: Of the span's length.
        countdown: Of the bars until the span starts, clipped as in Targets.
    """

    center: float
    length: float
    countdown: float


@dataclass(frozen=True)
class LossCourse:
    """What a loss did over epochs.

    Attributes:
        best_epoch: Of the smallest value, 1-based; of equals the first.
        reduction: (first - last) / first, a fraction; negative if it rose.
        rise_since_best: (last - best) / best, a fraction, at least 0.
    """

    best_epoch: int
    reduction: float
    rise_since_best: float


def separation(probability_NT: NDArray[np.float64], truth_NT: NDArray[np.bool_]) -> Separation:
    """Compare the mean probability of in-span bars with that of the others.

    Args:
        probability_NT: P(bar in a span), float64.
        truth_NT: Bar in a labelled span, bool.

    Raises:
        ValueError: The shapes differ, or there are no bars of one of the kinds.
    """
    inside, outside = _by_kind(probability_NT, truth_NT)
    if inside.size == 0 or outside.size == 0:
        raise ValueError(f"{inside.size} bars in-span and {outside.size} out of span: no separation without both")
    inside_mean, outside_mean = float(inside.mean()), float(outside.mean())
    return Separation(in_span_mean=inside_mean, out_of_span_mean=outside_mean, separation=inside_mean - outside_mean)


def histogram(probability_NT: NDArray[np.float64], truth_NT: NDArray[np.bool_], *, num_bins: int = 20) -> Histogram:
    """Count bars by probability, in-span and out of it, in bins of equal width over [0, 1].

    Args:
        probability_NT: P(bar in a span), float64; values that rounding put beyond 0 or 1 count at the edge.
        truth_NT: Bar in a labelled span, bool.
        num_bins: K, at least 1.

    Raises:
        ValueError: The shapes differ.
    """
    inside, outside = _by_kind(probability_NT, truth_NT)
    in_span_K, edges_P = np.histogram(inside, bins=num_bins, range=(0, 1))
    out_of_span_K, _ = np.histogram(outside, bins=num_bins, range=(0, 1))
    return Histogram(edges=edges_P.tolist(), in_span=in_span_K.tolist(), out_of_span=out_of_span_K.tolist())


def head_errors(pointers_N2: NDArray[np.float64], countdown_NT: NDArray[np.float64], targets: Targets) -> HeadErrors:
    """Score what was said of the span's place: by the trained heads, or as read off the span posterior.

    Args:
        pointers_N2: As in Predictions.
        countdown_NT: As in Predictions.
        targets: Of the same windows.

    Raises:
        ValueError: The windows' numbers differ, or none has a span.
    """
    if countdown_NT.shape != targets.countdown_NT.shape:
        raise ValueError(f"countdowns have shape {countdown_NT.shape}, targets {targets.countdown_NT.shape}")
    has_span_N = targets.has_span_N
    if not has_span_N.any():
        raise ValueError("no window has a span: there are no pointers to be wrong about")
    num_bars = countdown_NT.shape[1]
    pointers_2 = np.abs(pointers_N2 - targets.pointers_N2)[has_span_N].mean(axis=0) * num_bars
    countdown = np.abs(countdown_NT - targets.countdown_NT)[has_span_N].mean()
    return HeadErrors(center=float(pointers_2[0]), length=float(pointers_2[1]), countdown=float(countdown))


def type_scores(predictions: Predictions, targets: Targets) -> TypeScore | None:
    """Score the type head; None where no window has a type.

    Args:
        predictions: Of N windows.
        targets: Of the same windows.
    """
    has_type_N = targets.type_N != NO_TYPE
    if not has_type_N.any():
        return None
    type_M = targets.type_N[has_type_N]
    said_M = predictions.type_probability_N3[has_type_N].argmax(axis=1)
    return TypeScore(
        accuracy=float((said_M == type_M).mean()),
        majority_accuracy=float(np.bincount(type_M).max() / type_M.size),
    )


def loss_course(losses: Sequence[float]) -> LossCourse:
    """Describe a loss over epochs.

    Args:
        losses: One value an epoch; the first and the smallest must be positive.

    Raises:
        ValueError: There is no epoch, or a value that is divided by is not positive.
    """
    if not losses:
        raise ValueError("a loss without any epoch has no course")
    first, best, last = losses[0], min(losses), losses[-1]
    if not best > 0:
        raise ValueError(f"the smallest loss is {best}; fractions of it need a positive one")
    return LossCourse(losses.index(best) + 1, (first - last) / first, (last - best) / best)


def _by_kind(
    probability_NT: NDArray[np.float64], truth_NT: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if probability_NT.shape != truth_NT.shape:
        raise ValueError(f"probabilities have shape {probability_NT.shape}, labels {truth_NT.shape}")
    # Rounding puts some beyond 0 or 1.
    probability_NT = np.clip(probability_NT, 0, 1)
    return probability_NT[truth_NT], probability_NT[~truth_NT]
