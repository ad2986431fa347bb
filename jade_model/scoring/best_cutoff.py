"""The best cut-off on bars, without a curve.

Legend: N windows, T bars, I values, B bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# Up to so many values bins cost more than they save.
_FEW = 1 << 16
# Lower bits cut off, which leaves 256 bins from each power of 2 to the next; and how many bins there are.
_SHIFT, _NUM_BINS = 44, 1 << 14
_BITS_OF_INFINITY = 0x7FF0_0000_0000_0000


@dataclass(frozen=True)
class Best:
    """The best point of a sweep.

    Attributes:
        threshold: The value that attains it.
        lower: The next smaller value there is, or None where `threshold` is the smallest.
        precision: At the threshold.
        recall: At the threshold.
        f1: At the threshold.
    """

    threshold: float
    lower: float | None
    precision: float
    recall: float
    f1: float

    @property
    def cutoff(self) -> float:
        """The cut-off to use on other windows.

        Half-way to the next smaller value, which marks the same here and leaves room for values a little
        smaller; 0 (or the threshold, if negative) where everything is marked. Always finite: values may be
        infinite (the margin of a path whose rivals are forbidden), a decoder's cut-off may not.
        """
        if self.lower is None:
            return min(0.0, self.threshold)
        if np.isinf(self.threshold):
            return just_above(self.lower)
        middle = self.lower + (self.threshold - self.lower) / 2
        return middle if middle > self.lower else self.threshold


def best_bar_f1(probability_NT: NDArray[np.float64], truth_NT: NDArray[np.bool_], *, sort_up_to: int = _FEW) -> Best:
    """Return sweep_bars(...).best(), only faster.

    Raising a cut-off to the next in-span value loses no hit, so the best cut-off is an in-span bar's value (or
    marks nothing): sort the values alone, and look up those few. One cut-off, or a histogram where there are many
    values, first tell where the best can lie at all, and only values there are sorted.

    Args:
        probability_NT: Any scores, no NaN, float64.
        truth_NT: Bar in a labelled span, bool.
        sort_up_to: So many bars go without a histogram; decides how fast it is, never what comes out.

    Raises:
        ValueError: The shapes differ, there is no bar, or a value is NaN.
    """
    require_values(probability_NT, truth_NT)
    value_I, truth_I = probability_NT.ravel().astype(np.float64, copy=False), truth_NT.ravel()
    num_true = int(np.count_nonzero(truth_I))
    if num_true and value_I.size <= sort_up_to:
        return _best_of_few(value_I, truth_I)
    highest = value_I.max()
    _require_number(highest)
    if num_true == 0:
        return Best(just_above(float(highest)), float(highest), 1.0, 1.0, 1.0)
    bin_I = _bins(value_I, highest)
    if bin_I is None:
        return _best_of_few(value_I, truth_I)
    all_B = np.bincount(bin_I)
    hits_B = np.bincount(bin_I[truth_I], minlength=all_B.size)
    # Bars, and hits, in the bin or one above it; bins descend.
    marked_B, found_B = all_B.cumsum(), hits_B.cumsum()
    cases_B = marked_B + num_true
    # Half of F1: within a bin it reaches what all of it gives, and is at most what its hits give before all else.
    reached = (found_B / cases_B).max()
    candidates = (found_B / (cases_B - all_B + hits_B) >= reached).nonzero()[0]
    first, last = candidates[0], candidates[-1]
    inside = ((bin_I >= first) & (bin_I <= last)).nonzero()[0]
    best = _best_among(
        np.sort(value_I[inside]),
        np.sort(value_I[inside[truth_I[inside]]]),
        int(marked_B[first] - all_B[first]),
        int(found_B[first] - hits_B[first]),
        num_true,
    )
    if best.lower is None and marked_B[last] < value_I.size:
        return replace(best, lower=float(value_I[bin_I > last].max()))
    return best


def just_above(value: float) -> float:
    """Return the smallest float that is greater, or infinity for infinity."""
    return math.nextafter(value, math.inf)


def require_values(value: NDArray[np.float64], truth: NDArray[np.generic]) -> None:
    """Raise ValueError unless there are values, and as many labels."""
    if value.shape != truth.shape:
        raise ValueError(f"probabilities have shape {value.shape}, labels {truth.shape}")
    if value.size == 0:
        raise ValueError("there is nothing to choose a cut-off on")


def _bins(value_I: NDArray[np.float64], highest: np.float64) -> NDArray[np.int64] | None:
    """Sort values into bins that descend from 0, the highest's; None if that is negative or infinite."""
    # Read as integers, floats that are not negative keep their order; their upper bits are equal bins of each
    # power of 2. All that lies far below the highest value, or below 0, shares the last bin.
    top = int(highest.view(np.int64)) >> _SHIFT
    if not 0 <= top < _BITS_OF_INFINITY >> _SHIFT:
        return None
    bin_I = value_I.view(np.int64) >> _SHIFT
    np.subtract(top, bin_I, out=bin_I)
    np.minimum(bin_I, min(top, _NUM_BINS - 1), out=bin_I)
    return bin_I


def _best_of_few(value_I: NDArray[np.float64], truth_I: NDArray[np.bool_]) -> Best:
    """Find the best without bins; NaN raises ValueError."""
    hit_I = value_I[truth_I]
    hit_I.sort()
    num_true = hit_I.size
    # One cut-off, that of half the hits, tells what can be reached: F1 is at least 2 * rank / (marked + true).
    rank = (num_true + 1) // 2
    cases = int(np.count_nonzero(value_I >= hit_I[num_true - rank])) + num_true
    # F1 is at most 2 * true / (marked + true): whoever marks more than `most` falls short; and at most
    # 2 * hits / (hits + true): so does whoever hits fewer than `fewest`.
    most = num_true * cases // rank - num_true
    fewest = max(1, rank * num_true // (cases - rank))
    hit_I = hit_I[: num_true - fewest + 1]
    rest = value_I.size - most - 1
    if rest > 0:
        value_I = np.partition(value_I, rest)[rest:]
        value_I.sort()
        # The smallest value kept is that below the last cut-off that can be best.
        hit_I = hit_I[hit_I.searchsorted(value_I[0], side="right") :]
    else:
        value_I = np.sort(value_I)
    _require_number(value_I[-1])
    return _best_among(value_I, hit_I, 0, fewest - 1, num_true)


def _require_number(highest: np.float64) -> None:
    # NaN is the greatest of all for a maximum and for a sort.
    if math.isnan(highest):
        raise ValueError("a probability is not a number")


def _best_among(
    value_I: NDArray[np.float64], hit_I: NDArray[np.float64], num_above: int, hits_above: int, num_true: int
) -> Best:
    """Find the best in-span value among all, both ascending; so many bars and hits lie above them all."""
    first_I = value_I.searchsorted(hit_I)
    # Of equal in-span values the first counts all of them, the others fewer: they never win.
    num_hits = hits_above + hit_I.size
    f1_I = np.arange(2.0 * num_hits, 2.0 * hits_above, -2.0) / ((num_above + value_I.size + num_true) - first_I)
    # The last of the greatest: the largest threshold.
    index = hit_I.size - 1 - int(f1_I[::-1].argmax())
    first, num_hit = int(first_I[index]), num_hits - index
    return Best(
        threshold=float(hit_I[index]),
        lower=float(value_I[first - 1]) if first else None,
        precision=num_hit / (num_above + value_I.size - first),
        recall=num_hit / num_true,
        f1=float(f1_I[index]),
    )
