"""What is reached without training: everything marked, and the largest move.

Legend: N windows, T bars, M starts, 4 open, high, low, close.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, assert_never, get_args

import numpy as np
from numpy.typing import NDArray

from jade_model.scoring.metrics import Truth, count, pooled
from jade_model.scoring.parts import Scores

MoveUnit = Literal["price", "atr"]
MOVE_UNITS: tuple[MoveUnit, ...] = get_args(MoveUnit)

LONGEST_MOVE = 32
ATR_BARS = 14
# Fewer bars before a move say too little: there the window's mean true range stands in.
_FEWEST_ATR_BARS = 5
# After flat bars any move would be infinitely large.
_ATR_FLOOR = 0.1


def all_positive_scores(truths: Sequence[Truth]) -> Scores:
    """Score the marking of every bar: bar-level F1 2p / (1 + p) at an in-span rate of p.

    Args:
        truths: Labels of one or more data sets, pooled.
    """
    return pooled(count(np.ones_like(truth.mask_NT), truth) for truth in truths).scores()


def mark_largest_move(bars_NT4: NDArray[np.float64], num_bars: int, *, unit: MoveUnit = "price") -> NDArray[np.bool_]:
    """Mark the run of bars from whose first open to whose last close price moved farthest, in each window.

    Args:
        bars_NT4: Open, high, low, close, float64.
        num_bars: Length of the run, in [1, T].
        unit: In what moves are compared within a window: price, or the mean true range of the 14 bars before.

    Returns:
        Marked bars, bool [N, T]: the first of equally large moves; none where nothing moved.

    Raises:
        ValueError: num_bars is out of range.
    """
    window_length = bars_NT4.shape[1]
    if not 1 <= num_bars <= window_length:
        raise ValueError(f"a move of {num_bars} bars does not fit windows of {window_length}")
    start_N, moved_N = _largest_moves(bars_NT4, num_bars, _yardstick(bars_NT4, unit))
    bar_1T = np.arange(window_length)[None]
    marked_NT = (bar_1T >= start_N[:, None]) & (bar_1T < start_N[:, None] + num_bars)
    return marked_NT & moved_N[:, None]


def choose_move_length(bars_NT4: NDArray[np.float64], truth: Truth, *, unit: MoveUnit = "price") -> int:
    """Choose the length that mark_largest_move scores best with, by bar-level F1; of equals the shortest.

    Args:
        bars_NT4: Of windows that are not scored later, float64.
        truth: The same windows' labels.
        unit: As for mark_largest_move.

    Returns:
        Bars, in [1, min(32, T)].

    Raises:
        ValueError: There are no windows, or their numbers differ.
    """
    num_windows, window_length, _ = bars_NT4.shape
    if num_windows == 0 or truth.mask_NT.shape != (num_windows, window_length):
        raise ValueError(f"{num_windows} windows of {window_length} bars, labels {truth.mask_NT.shape}")
    yardstick_NT = _yardstick(bars_NT4, unit)
    inside_NT1 = np.pad(np.cumsum(truth.mask_NT, axis=1), ((0, 0), (1, 0)))
    row_N = np.arange(num_windows)
    f1_by_length = []
    for num_bars in range(1, min(LONGEST_MOVE, window_length) + 1):
        start_N, moved_N = _largest_moves(bars_NT4, num_bars, yardstick_NT)
        hits = ((inside_NT1[row_N, start_N + num_bars] - inside_NT1[row_N, start_N]) * moved_N).sum()
        f1_by_length.append(2 * hits / max(num_bars * moved_N.sum() + inside_NT1[:, -1].sum(), 1))
    return 1 + int(np.argmax(f1_by_length))


def _largest_moves(
    bars_NT4: NDArray[np.float64], num_bars: int, yardstick_NT: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return where each window's largest move of a length starts, and whether it is one."""
    num_starts = bars_NT4.shape[1] - num_bars + 1
    move_NM = np.abs(bars_NT4[:, num_bars - 1 :, 3] - bars_NT4[:, :num_starts, 0])
    move_NM /= yardstick_NT[:, :num_starts]
    start_N = move_NM.argmax(axis=1)
    return start_N, np.take_along_axis(move_NM, start_N[:, None], axis=1)[:, 0] > 0


def _yardstick(bars_NT4: NDArray[np.float64], unit: MoveUnit) -> NDArray[np.float64]:
    """Return what a move that starts at a bar is divided by, positive, [N, T]."""
    match unit:
        case "price":
            return np.ones(bars_NT4.shape[:2])
        case "atr":
            return _range_before(bars_NT4)
        case _:
            assert_never(unit)


def _range_before(bars_NT4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean true range of the bars before each bar, up to 14, floored, [N, T]."""
    window_length = bars_NT4.shape[1]
    open_NT, high_NT, low_NT, close_NT = np.moveaxis(bars_NT4, 2, 0)
    before_NT = np.concatenate([open_NT[:, :1], close_NT[:, :-1]], axis=1)
    range_NT = np.maximum(high_NT, before_NT) - np.minimum(low_NT, before_NT)
    sums_NT1 = np.pad(np.cumsum(range_NT, axis=1), ((0, 0), (1, 0)))
    mean_N1 = range_NT.mean(axis=1, keepdims=True)
    bar_T = np.arange(window_length)
    first_T = np.maximum(bar_T - ATR_BARS, 0)
    local_NT = (sums_NT1[:, bar_T] - sums_NT1[:, first_T]) / np.maximum(bar_T - first_T, 1)
    local_NT = np.where(bar_T < _FEWEST_ATR_BARS, mean_N1, local_NT)
    # Where the whole window is flat there is no move either.
    return np.asarray(np.maximum(local_NT, np.where(mean_N1 > 0, _ATR_FLOOR * mean_N1, 1.0)))
