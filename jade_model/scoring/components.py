"""The spans that thresholding makes, over all thresholds at once.

As the threshold falls, spans appear, grow and merge: a tree of at most T spans a window. The span in which
bar t is the first lowest reaches from its nearest lower bar on the left to that on the right; it exists for
thresholds above the higher of those two values and up to bar t's own.

Legend: N windows, T bars, C components of all windows together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Rows are searched in pieces of about this many bars: the search keeps log2(T) copies of a piece.
_BARS_AT_ONCE = 1 << 18


@dataclass(frozen=True, eq=False)
class Components:
    """Every span of every threshold, once.

    Attributes:
        row_C: Window, int64.
        start_C: First bar, int64.
        end_C: Bar after the last one, int64.
        birth_C: Greatest level at which the span stands, int64.
        death_C: Greatest level at which it has become part of a longer one (or -1: never), int64.
    """

    row_C: NDArray[np.int64]
    start_C: NDArray[np.int64]
    end_C: NDArray[np.int64]
    birth_C: NDArray[np.int64]
    death_C: NDArray[np.int64]


def components(level_NT: NDArray[np.int64]) -> Components:
    """Find the maximal runs of `level_NT >= c` for every c.

    Args:
        level_NT: Levels such as ranks of probabilities, not negative, int64.

    Returns:
        Each distinct run of each row, with the levels c in (death, birth] at which it is maximal.
    """
    num_windows, num_bars = level_NT.shape
    step = max(1, _BARS_AT_ONCE // num_bars)
    parts = [_components(level_NT[first : first + step], first) for first in range(0, num_windows, step)]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Components(*columns)


def _components(level_NT: NDArray[np.int64], first_row: int) -> tuple[NDArray[np.int64], ...]:
    num_windows, num_bars = level_NT.shape
    left_NT = _nearest_lower(level_NT, or_equal=True)
    right_NT = num_bars - 1 - _nearest_lower(level_NT[:, ::-1], or_equal=False)[:, ::-1]
    # One column of -1 behind the last bar stands for both edges: index -1 and index T reach it.
    padded = np.full((num_windows, num_bars + 1), -1, dtype=np.int64)
    padded[:, :-1] = level_NT
    row_N1 = np.arange(num_windows)[:, None]
    left_level_NT, right_level_NT = padded[row_N1, left_NT], padded[row_N1, right_NT]
    # A bar with an equal one to its left, within the same run, would name that run again.
    row_C, bar_C = np.nonzero(left_level_NT != level_NT)
    death_C = np.maximum(left_level_NT[row_C, bar_C], right_level_NT[row_C, bar_C])
    return (
        row_C + first_row,
        left_NT[row_C, bar_C] + 1,
        right_NT[row_C, bar_C],
        level_NT[row_C, bar_C],
        death_C,
    )


def _nearest_lower(level_NT: NDArray[np.int64], *, or_equal: bool) -> NDArray[np.int64]:
    """Return the nearest bar to the left that is lower (or equal), or -1, descending over block minima."""
    num_windows, num_bars = level_NT.shape
    # Column 0 is lower than everything, so that every descent ends inside the row.
    minima = np.full((num_windows, num_bars + 1), -1, dtype=np.int64)
    minima[:, 1:] = level_NT
    blocks = [minima]
    for power in range(num_bars.bit_length() - 1):
        width = 1 << power
        wider = np.full_like(minima, -1)
        np.minimum(blocks[-1][:, width:], blocks[-1][:, :-width], out=wider[:, width:])
        blocks.append(wider)
    bound_NT = level_NT + 1 if or_equal else level_NT
    # Flat index of the last column of the block that is tried next.
    row_start_N1 = np.arange(num_windows)[:, None] * (num_bars + 1)
    at_NT = row_start_N1 + np.arange(num_bars)
    for power in reversed(range(len(blocks))):
        is_higher_NT = blocks[power].ravel()[at_NT] >= bound_NT
        at_NT -= is_higher_NT.astype(np.int64) << power
    return np.asarray(at_NT - row_start_N1 - 1)
