"""The causal zigzag: swing highs and lows as they are confirmed, one closed bar at a time.

Legend: N windows, T bars.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jade_model.core.features.rolling import trailing_sum, true_range

ATR_BARS = 10
ATR_IN_PLACE_OF_ZERO = 1e-8
RETRACE_ATR = 1.2
CANDIDATE_RETRACE_ATR = 0.5
CANDIDATE_MAX_AGE_BARS = 5


@dataclass(frozen=True, eq=False)
class Swings:
    """What is known of the swings once each bar has closed.

    Attributes:
        direction_TN: +1 in an up leg, -1 in a down leg, 0 before the first leg, float64.
        high_TN: Price of the last confirmed swing high; NaN before the first one.
        low_TN: Likewise of the swing low.
        bars_since_high_TN: Bars since the swing high's own bar, float64; NaN before the first one.
        bars_since_low_TN: Likewise for the swing low.
    """

    direction_TN: NDArray[np.float64]
    high_TN: NDArray[np.float64]
    low_TN: NDArray[np.float64]
    bars_since_high_TN: NDArray[np.float64]
    bars_since_low_TN: NDArray[np.float64]


def average_true_range(
    high_TN: NDArray[np.float64], low_TN: NDArray[np.float64], close_TN: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average the last 10 true ranges, fewer while warming up; the first bar has none and gets 0.

    Args:
        high_TN: Highs.
        low_TN: Lows.
        close_TN: Closes.

    Returns:
        In price units, at least 0, float64 [T, N].
    """
    true_range_TN = np.zeros_like(close_TN)
    true_range_TN[1:] = true_range(high_TN[1:], low_TN[1:], close_TN[:-1])
    count_T1 = np.clip(np.arange(len(close_TN)), 1, ATR_BARS)[:, None]
    return trailing_sum(true_range_TN, ATR_BARS) / count_T1


def causal_zigzag(
    high_TN: NDArray[np.float64],
    low_TN: NDArray[np.float64],
    close_TN: NDArray[np.float64],
    atr_TN: NDArray[np.float64],
) -> Swings:
    """Follow the legs of every window at once, bar by bar.

    The first bar with a positive ATR starts an up leg at its close. On every later bar the leg's extreme
    and the candidate extreme (unset until then) are extended; the swing is confirmed once the close has
    retraced 1.2 ATR from the leg's extreme, or the bar's far end 0.5 ATR from a candidate at most 5 bars old.
    Then the leg turns, and this bar's far end is the new leg's extreme and candidate. An ATR that falls back
    to 0 counts as 1e-8, so that standing still confirms nothing.

    Args:
        high_TN: Highs.
        low_TN: Lows.
        close_TN: Closes.
        atr_TN: As `average_true_range` gives it.

    Returns:
        The state after each bar.
    """
    num_bars, num_windows = close_TN.shape
    swings = Swings(*(np.empty_like(close_TN) for _ in range(5)))
    divisor_TN = np.where(atr_TN > 0, atr_TN, ATR_IN_PLACE_OF_ZERO)
    retrace_TN = RETRACE_ATR * divisor_TN
    candidate_retrace_TN = CANDIDATE_RETRACE_ATR * divisor_TN
    # Prices are multiplied by the leg's direction, which is exact: every leg then reads as an up leg.
    direction_N = np.zeros(num_windows)
    extreme_N, extreme_bar_N = np.full(num_windows, -np.inf), np.zeros(num_windows)
    candidate_N, candidate_bar_N = np.full(num_windows, -np.inf), np.zeros(num_windows)
    swing_high_N, swing_high_bar_N = np.full(num_windows, np.nan), np.full(num_windows, np.nan)
    swing_low_N, swing_low_bar_N = np.full(num_windows, np.nan), np.full(num_windows, np.nan)

    for bar in range(num_bars):
        high_N, low_N, close_N = high_TN[bar], low_TN[bar], close_TN[bar]
        follows_N = direction_N != 0
        is_up_N = direction_N > 0
        near_N = np.where(is_up_N, high_N, -low_N)
        far_N = np.where(is_up_N, low_N, -high_N)

        grows_N = follows_N & (near_N > extreme_N)
        np.copyto(extreme_N, near_N, where=grows_N)
        np.copyto(extreme_bar_N, bar, where=grows_N)
        grows_N = follows_N & (near_N > candidate_N)
        np.copyto(candidate_N, near_N, where=grows_N)
        np.copyto(candidate_bar_N, bar, where=grows_N)

        is_confirmed_N = extreme_N - direction_N * close_N >= retrace_TN[bar]
        is_confirmed_N |= (candidate_N - far_N >= candidate_retrace_TN[bar]) & (
            candidate_bar_N >= bar - CANDIDATE_MAX_AGE_BARS
        )
        is_confirmed_N &= follows_N

        is_high_N = is_confirmed_N & is_up_N
        np.copyto(swing_high_N, extreme_N, where=is_high_N)
        np.copyto(swing_high_bar_N, extreme_bar_N, where=is_high_N)
        is_low_N = is_confirmed_N & ~is_up_N
        np.copyto(swing_low_N, -extreme_N, where=is_low_N)
        np.copyto(swing_low_bar_N, extreme_bar_N, where=is_low_N)

        np.negative(direction_N, out=direction_N, where=is_confirmed_N)
        np.copyto(extreme_N, -far_N, where=is_confirmed_N)
        np.copyto(extreme_bar_N, bar, where=is_confirmed_N)
        np.copyto(candidate_N, -far_N, where=is_confirmed_N)
        np.copyto(candidate_bar_N, bar, where=is_confirmed_N)

        starts_N = ~follows_N & (atr_TN[bar] > 0)
        np.copyto(direction_N, 1.0, where=starts_N)
        np.copyto(extreme_N, close_N, where=starts_N)
        np.copyto(extreme_bar_N, bar, where=starts_N)

        swings.direction_TN[bar] = direction_N
        swings.high_TN[bar], swings.bars_since_high_TN[bar] = swing_high_N, bar - swing_high_bar_N
        swings.low_TN[bar], swings.bars_since_low_TN[bar] = swing_low_N, bar - swing_low_bar_N
    return swings
