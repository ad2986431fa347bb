"""Trailing sums and means over bars, added afresh at every bar.

A running sum would be quicker, and would leave rounding residue behind where bars are flat: 0 would not be 0.

Legend: N windows, T bars.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def true_range(
    high_TN: NDArray[np.float64], low_TN: NDArray[np.float64], previous_close_TN: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Largest of high - low, |high - previous close| and |low - previous close|.

    Args:
        high_TN: Highs.
        low_TN: Lows.
        previous_close_TN: The close before each bar.

    Returns:
        In price units, at least 0, float64 [T, N].
    """
    return np.maximum(
        high_TN - low_TN,
        np.maximum(np.abs(high_TN - previous_close_TN), np.abs(low_TN - previous_close_TN)),
    )


def trailing_sum(values_TN: NDArray[np.float64], num_bars: int) -> NDArray[np.float64]:
    """Sum the last bars, this one included, oldest first; near the window's start, those there are.

    Args:
        values_TN: Any values.
        num_bars: How many bars, at least 1.

    Returns:
        float64 [T, N].
    """
    length = len(values_TN)
    sum_TN = np.zeros_like(values_TN)
    for age in range(min(num_bars, length) - 1, -1, -1):
        sum_TN[age:] += values_TN[: length - age]
    return sum_TN
