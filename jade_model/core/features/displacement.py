"""Displacement features: how far price has moved, in units of the volatility before the move.

Legend: N windows, T bars, P = T + 1 points of the price path: the first bar's open, then every close.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jade_model.core.features.rolling import trailing_sum, true_range

RETURN_LAGS: tuple[int, ...] = (1, 2, 3, 4, 5, 7, 10, 14)
EFFICIENCY_LAGS: tuple[int, ...] = (5, 10)
EFFICIENT_RETURN_LAGS: tuple[int, ...] = (3, 4, 5, 7, 10)

DISPLACEMENT_NAMES: tuple[str, ...] = (
    "body",
    "range",
    *(f"return_{lag}" for lag in RETURN_LAGS),
    *(f"efficiency_{lag}" for lag in EFFICIENCY_LAGS),
    *(f"efficient_return_{lag}" for lag in EFFICIENT_RETURN_LAGS),
)

PATH_NAMES: tuple[str, ...] = ("opening", "closing", "travelled", "volatility")

ATR_BARS = 14
# Far enough out that only freaks touch it: which of two strong moves is the stronger must stay visible, and a
# tighter limit, or a logarithm or root instead, did measurably worse.
LIMIT = 20.0
# Volatility never counts as less than this share of the window's average so far, nor than this share of the
# price: the first move after a flat stretch would be as good as infinite otherwise.
FLOOR_OF_MEAN_RANGE = 0.1
FLOOR_OF_PRICE = 1e-6


def displacement_features(
    open_TN: NDArray[np.float64],
    high_TN: NDArray[np.float64],
    low_TN: NDArray[np.float64],
    close_TN: NDArray[np.float64],
) -> list[NDArray[np.float64]]:
    """Compute body, range and returns over lags in units of the ATR before, and how straight the way was.

    The return over k bars is (close[t] - close[t - k]) / (ATR[t - k] sqrt(k)), where ATR[j] is the mean true
    range of the 14 bars up to j. The efficiency ratio over k bars is that net move over the sum of its absolute
    steps, with its sign; the efficient return is the return times the ratio's size. Body and range are in units
    of the previous bar's ATR.

    Near the window's start a lag is cut to the t + 1 bars there are, the path beginning at the first open, and
    the ATR is that of the window's first bars, 14 or as many as have closed, be they before the move or in it:
    an average over the one or two bars before it would be so uncertain that quiet openings looked like moves.

    Args:
        open_TN: Opens.
        high_TN: Highs.
        low_TN: Lows.
        close_TN: Closes.

    Returns:
        One float64 [T, N] a feature, in the order of DISPLACEMENT_NAMES, finite, within +-20.
    """
    bars_T = np.arange(len(close_TN))
    path_PN = np.concatenate([open_TN[:1], close_TN])
    step_TN = np.abs(np.diff(path_PN, axis=0))
    atr_TN = _floored_atr(high_TN, low_TN, close_TN, path_PN[:-1])

    def atr_before(lag: int) -> NDArray[np.float64]:
        before_TN: NDArray[np.float64] = atr_TN[np.maximum(bars_T - lag, np.minimum(bars_T, ATR_BARS - 1))]
        return before_TN

    def net_move(lag: int) -> NDArray[np.float64]:
        begin_TN: NDArray[np.float64] = path_PN[np.maximum(bars_T + 1 - lag, 0)]
        return close_TN - begin_TN

    def unlimited_return(lag: int) -> NDArray[np.float64]:
        root_T: NDArray[np.float64] = np.sqrt(np.minimum(bars_T + 1, lag))
        return net_move(lag) / (atr_before(lag) * root_T[:, None])

    def efficiency(lag: int) -> NDArray[np.float64]:
        net_TN, travelled_TN = net_move(lag), trailing_sum(step_TN, lag)
        ratio_TN = np.divide(net_TN, travelled_TN, out=np.zeros_like(net_TN), where=travelled_TN > 0)
        return np.clip(ratio_TN, -1, 1)

    return [
        _limited((close_TN - open_TN) / atr_before(1)),
        _limited((high_TN - low_TN) / atr_before(1)),
        *(_limited(unlimited_return(lag)) for lag in RETURN_LAGS),
        *(efficiency(lag) for lag in EFFICIENCY_LAGS),
        *(_limited(unlimited_return(lag) * np.abs(efficiency(lag))) for lag in EFFICIENT_RETURN_LAGS),
    ]


def path_features(
    open_TN: NDArray[np.float64],
    high_TN: NDArray[np.float64],
    low_TN: NDArray[np.float64],
    close_TN: NDArray[np.float64],
) -> list[NDArray[np.float64]]:
    """Compute from what a head can read how far, and how straight, price went from any bar to any other.

    Opening and closing are open and close less the window's first open, travelled is the sum of the absolute steps
    from close to close up to here, volatility the ATR that the displacement features are in units of. All are
    fractions of the first open's size, which cancels wherever one is divided by another.

    Args:
        open_TN: Opens.
        high_TN: Highs.
        low_TN: Lows.
        close_TN: Closes.

    Returns:
        One float64 [T, N] a feature, in the order of PATH_NAMES, finite; unbounded.
    """
    path_PN = np.concatenate([open_TN[:1], close_TN])
    size_N = np.where(open_TN[0] != 0, np.abs(open_TN[0]), 1.0)
    travelled_TN = np.cumsum(np.abs(np.diff(path_PN, axis=0)), axis=0)
    atr_TN = _floored_atr(high_TN, low_TN, close_TN, path_PN[:-1])
    return [
        (open_TN - open_TN[0]) / size_N,
        (close_TN - open_TN[0]) / size_N,
        travelled_TN / size_N,
        atr_TN / size_N,
    ]


def displacement_and_path(
    open_TN: NDArray[np.float64],
    high_TN: NDArray[np.float64],
    low_TN: NDArray[np.float64],
    close_TN: NDArray[np.float64],
) -> list[NDArray[np.float64]]:
    """Compute path_features, then displacement_features."""
    bars = open_TN, high_TN, low_TN, close_TN
    return [*path_features(*bars), *displacement_features(*bars)]


def _limited(values_TN: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(values_TN, -LIMIT, LIMIT)


def _floored_atr(
    high_TN: NDArray[np.float64],
    low_TN: NDArray[np.float64],
    close_TN: NDArray[np.float64],
    previous_close_TN: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mean true range of the last 14 bars, or as many as there are, kept clear of 0."""
    true_range_TN = true_range(high_TN, low_TN, previous_close_TN)
    count_T1 = np.arange(1, len(close_TN) + 1)[:, None]
    mean_so_far_TN = np.cumsum(true_range_TN, axis=0) / count_T1
    atr_TN = trailing_sum(true_range_TN, ATR_BARS) / np.minimum(count_T1, ATR_BARS)
    floor_TN = np.maximum(FLOOR_OF_MEAN_RANGE * mean_so_far_TN, FLOOR_OF_PRICE * np.abs(close_TN))
    return np.maximum(atr_TN, floor_TN)
