"""How far the features of new windows lie from those of the windows that a model was trained on.

Two measures, feature by feature: the population stability index, which says how much mass moved between the reference's
tenths, and the Kolmogorov-Smirnov statistic, the largest distance of the two distribution functions. Bars of one window
say almost the same, so that p-values count groups of windows, not bars.

Legend: N windows, T bars, F features, K bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jade_model.core.features import feature_set
from jade_model.core.windows import Windows
from jade_model.data.groups import Grouping

NUM_BINS = 10
# An empty bin would make the index infinite; half a permille is less than any bin that matters holds.
SHARE_FLOOR = 5e-4
_SERIES_TERMS = 100


@dataclass(frozen=True)
class FeatureDrift:
    """One feature, new against reference.

    Attributes:
        feature: Its name.
        psi: Population stability index, >= 0; under 0.1 is commonly called stable, above 0.25 shifted.
        ks: Kolmogorov-Smirnov statistic, [0, 1].
        p_value: Of `ks`, were every group of windows one observation.
    """

    feature: str
    psi: float
    ks: float
    p_value: float


def feature_drift(
    windows: Windows, grouping: Grouping, reference: Windows, reference_grouping: Grouping, feature_set_name: str
) -> list[FeatureDrift]:
    """Compare every feature's distribution over bars.

    Args:
        windows: New ones.
        grouping: Of them.
        reference: What the model was trained on.
        reference_grouping: Of them.
        feature_set_name: The model's.

    Returns:
        One entry a feature, in the set's order.
    """
    features = feature_set(feature_set_name)
    new_NTF, old_NTF = features.compute(windows.bars_NT4), features.compute(reference.bars_NT4)
    drift = []
    for index, name in enumerate(features.names):
        new, old = new_NTF[:, :, index].ravel(), old_NTF[:, :, index].ravel()
        distance = ks_statistic(new, old)
        drift.append(
            FeatureDrift(
                name,
                population_stability_index(new, old),
                distance,
                ks_p_value(distance, grouping.num_groups, reference_grouping.num_groups),
            )
        )
    return drift


def population_stability_index(
    new: NDArray[np.floating], reference: NDArray[np.floating], *, num_bins: int = NUM_BINS
) -> float:
    """Return the sum over bins of (share - reference share) * log(share / reference share).

    Bins are the reference's quantiles; where many values are equal, they fall into one bin.

    Args:
        new: Values, one axis, at least one.
        reference: Likewise.
        num_bins: Quantiles, at least 2.
    """
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, num_bins + 1)[1:-1]))
    # Values equal to an edge go right of it on both sides, so that a heap at one value is a bin of its own.
    shares = [
        np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) / len(values)
        for values in (new, reference)
    ]
    new_K, old_K = (np.maximum(share_K, SHARE_FLOOR) for share_K in shares)
    return float(((new_K - old_K) * np.log(new_K / old_K)).sum())


def ks_statistic(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the largest distance between two empirical distribution functions, [0, 1]."""
    first, second = np.sort(first), np.sort(second)
    everything = np.concatenate([first, second])
    below_first = np.searchsorted(first, everything, side="right") / len(first)
    below_second = np.searchsorted(second, everything, side="right") / len(second)
    return float(np.abs(below_first - below_second).max())


def ks_p_value(statistic: float, num_first: float, num_second: float) -> float:
    """Return the two-sample p-value of a Kolmogorov-Smirnov statistic, by Kolmogorov's series (Stephens, 1970).

    Args:
        statistic: [0, 1].
        num_first: Independent observations of the first sample.
        num_second: Of the second.
    """
    root = math.sqrt(num_first * num_second / (num_first + num_second))
    scaled = (root + 0.12 + 0.11 / root) * statistic
    if scaled < 0.2:
        return 1.0  # the series converges slowly there, to 1 within 1e-10
    total = sum((-1) ** (k - 1) * math.exp(-2 * k * k * scaled * scaled) for k in range(1, _SERIES_TERMS))
    return float(min(max(2 * total, 0.0), 1.0))
