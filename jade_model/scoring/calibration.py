"""Whether probabilities mean what they say, and the temperature that makes them.

Legend: N windows, T bars, K bins, P edges' points.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from jade_model.scoring.parts import ReliabilityBin

# Probabilities are kept this far from 0 and 1 in logarithms: a saturated, wrong bar costs 27.6 nats, not
# infinity.
PROBABILITY_FLOOR = 1e-12

# Sums of exponentials leave [0, 1] by a few units in the last place.
_ROUNDING = 1e-9

TEMPERATURE_RANGE = (0.05, 20.0)
_SCAN_POINTS = 13


def brier(probability_NT: NDArray[np.float64], truth_NT: NDArray[np.bool_]) -> float:
    """Return the mean squared difference of probability and truth over bars, in [0, 1] (Brier, 1950)."""
    _check(probability_NT, truth_NT)
    return float(np.mean((probability_NT - truth_NT) ** 2))


def negative_log_likelihood(probability_NT: NDArray[np.float64], truth_NT: NDArray[np.bool_]) -> float:
    """Return the mean negative log-probability of the truth, nats per bar.

    Args:
        probability_NT: P(bar in a span), float64; kept within [1e-12, 1 - 1e-12].
        truth_NT: Bar in a labelled span, bool.

    Raises:
        ValueError: The shapes differ, or there is no bar.
    """
    _check(probability_NT, truth_NT)
    of_truth = np.where(truth_NT, probability_NT, 1 - probability_NT)
    return float(-np.log(np.clip(of_truth, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)).mean())


def reliability(
    probability_NT: NDArray[np.float64],
    truth_NT: NDArray[np.bool_],
    *,
    num_bins: int = 15,
) -> list[ReliabilityBin]:
    """Compare mean probability and observed rate, bin by bin: [k / K, (k + 1) / K), the last one closed.

    Args:
        probability_NT: P(bar in a span), in [0, 1], float64.
        truth_NT: Bar in a labelled span, bool.
        num_bins: Bins before empty ones are left out.

    Returns:
        Bins that hold a bar, ascending.

    Raises:
        ValueError: The shapes differ, there is no bar, a probability is outside [0, 1], or num_bins is not
            positive.
    """
    edges_P, num_K, mean_K, rate_K = _binned(probability_NT, truth_NT, num_bins)
    return [
        ReliabilityBin(
            lower=float(edges_P[k]),
            upper=float(edges_P[k + 1]),
            mean_probability=float(mean_K[k]),
            observed_rate=float(rate_K[k]),
            num_bars=int(num_K[k]),
        )
        for k in np.flatnonzero(num_K)
    ]


def expected_calibration_error(
    probability_NT: NDArray[np.float64],
    truth_NT: NDArray[np.bool_],
    *,
    num_bins: int = 15,
) -> float:
    """Return the bars' mean distance between their bin's mean probability and observed rate, in [0, 1].

    Arguments and errors as for reliability. After Guo et al., "On calibration of modern neural
    networks", 2017.
    """
    _, num_K, mean_K, rate_K = _binned(probability_NT, truth_NT, num_bins)
    return float(sum((num_K * np.abs(mean_K - rate_K)).tolist()) / num_K.sum())


def fit_temperature(
    probability_at: Callable[[float], NDArray[np.float64]],
    truth_NT: NDArray[np.bool_],
    *,
    tolerance: float = 1e-3,
) -> float:
    """Find the temperature whose probabilities make the truth most likely.

    A scan over the logarithm of the range finds the valley (marginals of a structured model need not have
    only one), a bounded search its floor. Where several temperatures are equally good, such as when no
    score depends on it, the one nearest to 1 is returned.

    Args:
        probability_at: Maps a temperature to P(bar in a span), float64 [N, T].
        truth_NT: Bar in a labelled span, bool.
        tolerance: Relative accuracy of the temperature.

    Returns:
        Temperature within [0.05, 20].

    Raises:
        ValueError: The shapes differ, there is no bar, or a probability is not a number.
    """

    def cost(log_temperature: float) -> float:
        return negative_log_likelihood(probability_at(math.exp(log_temperature)), truth_NT)

    lowest, highest = (math.log(bound) for bound in TEMPERATURE_RANGE)
    scan = np.linspace(lowest, highest, _SCAN_POINTS)
    scan[np.abs(scan).argmin()] = 0.0
    costs = [cost(float(point)) for point in scan]
    order = sorted(range(_SCAN_POINTS), key=lambda index: (costs[index], abs(scan[index])))
    best = order[0]
    left, right = float(scan[max(best - 1, 0)]), float(scan[min(best + 1, _SCAN_POINTS - 1)])
    found = float(minimize_scalar(cost, bounds=(left, right), method="bounded", options={"xatol": tolerance / 2}).x)
    # The scan's point stands where the search, which never tries its bracket's ends, did no better.
    return math.exp(found if cost(found) < costs[best] else float(scan[best]))


def _binned(
    probability_NT: NDArray[np.float64], truth_NT: NDArray[np.bool_], num_bins: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the bins' edges and, of each, its bars, their mean probability and observed rate (0 without bars)."""
    _check(probability_NT, truth_NT)
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}; it must be at least 1")
    probability = np.asarray(probability_NT, dtype=np.float64).ravel()
    if not (probability.min() >= -_ROUNDING and probability.max() <= 1 + _ROUNDING):
        raise ValueError(f"probabilities lie in {probability.min():g} to {probability.max():g}, not in 0 to 1")
    edges_P = np.linspace(0, 1, num_bins + 1)
    bin_of = np.clip(np.searchsorted(edges_P, probability, side="right") - 1, 0, num_bins - 1)
    num_K = np.bincount(bin_of, minlength=num_bins)
    mean_K, rate_K = (
        np.bincount(bin_of, weights=value, minlength=num_bins) / np.maximum(num_K, 1)
        for value in (probability, np.asarray(truth_NT, dtype=np.float64).ravel())
    )
    return edges_P, num_K, np.clip(mean_K, 0, 1), rate_K


def _check(probability_NT: NDArray[np.float64], truth_NT: NDArray[np.bool_]) -> None:
    if probability_NT.shape != truth_NT.shape:
        raise ValueError(f"probabilities have shape {probability_NT.shape}, labels {truth_NT.shape}")
    if probability_NT.size == 0:
        raise ValueError("there is no bar to score")
    if np.isnan(probability_NT).any():
        raise ValueError("a probability is not a number")
