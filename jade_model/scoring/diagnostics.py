"""What a model has learned, beyond its scores: separation, errors in bars.

Legend: N windows, T bars, K bins, P bin edges. Spans are half-open; pointers are fractions of T.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jade_model.core.targets import Targets
from jade_model.core.windows import NO_TYPE
from jade_model.scoring.parts import Histogram, Separation, TypeScore
from jade_model.scoring.predictions import Predictions


def separation(probability_NT: NDArray[np.float64], truth_NT: NDArray[np.bool_]) -> Separation:
    """Compare the mean probability of in-span bars with that of the others; None where there are no such bars.

    Args:
        probability_NT: P(bar in a span), float64.
        truth_NT: Bar in a labelled span, bool.

    Raises:
        ValueError: The shapes differ.
    """
    kinds = _by_kind(probability_NT, truth_NT)
    inside, outside = (float(values.mean()) if values.size else None for values in kinds)
    apart = None if inside is None or outside is None else inside - outside
    return Separation(in_span_mean=inside, out_of_span_mean=outside, separation=apart)


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


def head_errors(
    pointers_N2: NDArray[np.float64], countdown_NT: NDArray[np.float64], targets: Targets
) -> NDArray[np.float64]:
    """Score what was said of the span's place: by the trained heads, or as read off the span posterior.

    Args:
        pointers_N2: As in Predictions.
        countdown_NT: As in Predictions.
        targets: Of the same windows, one of which has a span; of several spans in one, Targets' one is meant.

    Returns:
        Mean absolute errors in bars over windows with a span, float64 [3]: of its centre, of its length, and of the
        bars until it starts, clipped as in Targets.

    Raises:
        ValueError: The windows' numbers differ.
    """
    if countdown_NT.shape != targets.countdown_NT.shape:
        raise ValueError(f"countdowns have shape {countdown_NT.shape}, targets {targets.countdown_NT.shape}")
    has_span_N, num_bars = targets.has_span_N, countdown_NT.shape[1]
    pointers_2 = np.abs(pointers_N2 - targets.pointers_N2)[has_span_N].mean(axis=0) * num_bars
    countdown = np.abs(countdown_NT - targets.countdown_NT)[has_span_N].mean()
    return np.append(pointers_2, countdown)


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


def _by_kind(
    probability_NT: NDArray[np.float64], truth_NT: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if probability_NT.shape != truth_NT.shape:
        raise ValueError(f"probabilities have shape {probability_NT.shape}, labels {truth_NT.shape}")
    # Rounding puts some beyond 0 or 1.
    probability_NT = np.clip(probability_NT, 0, 1)
    return probability_NT[truth_NT], probability_NT[~truth_NT]
