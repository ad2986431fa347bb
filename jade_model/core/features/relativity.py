"""The original's 12 relativity features: bar shape, range against its average, distance to the last swings.

Legend: N windows, T bars.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jade_model.core.features.zigzag import ATR_IN_PLACE_OF_ZERO, average_true_range, causal_zigzag

RELATIVITY_NAMES: tuple[str, ...] = (
    "open_norm",
    "close_norm",
    "body_pct",
    "upper_wick_pct",
    "lower_wick_pct",
    "range_z",
    "dist_to_prev_SH",
    "dist_to_prev_SL",
    "bars_since_SH_norm",
    "bars_since_SL_norm",
    "expansion_proxy",
    "consol_proxy",
)

# In price units, as the original has it: an instrument whose bars span less than this reads as flat.
MIN_RANGE = 1e-6
RANGE_EMA_ALPHA = 2 / 21


def relativity_features(
    open_TN: NDArray[np.float64],
    high_TN: NDArray[np.float64],
    low_TN: NDArray[np.float64],
    close_TN: NDArray[np.float64],
) -> list[NDArray[np.float64]]:
    """Compute the 12 relativity features, bit for bit what a loop over single bars gives.

    Args:
        open_TN: Opens.
        high_TN: Highs.
        low_TN: Lows.
        close_TN: Closes.

    Returns:
        One float64 [T, N] a feature, in the order of RELATIVITY_NAMES, finite.
    """
    num_bars = len(close_TN)
    range_TN = high_TN - low_TN
    divisor_TN = np.maximum(range_TN, MIN_RANGE)
    body_TN = np.clip((close_TN - open_TN) / divisor_TN, -1, 1)
    range_z_TN = np.clip(range_TN / np.maximum(_ema(range_TN), MIN_RANGE), 0, 3)

    atr_TN = average_true_range(high_TN, low_TN, close_TN)
    swings = causal_zigzag(high_TN, low_TN, close_TN, atr_TN)
    atr_TN = np.where(atr_TN > 0, atr_TN, ATR_IN_PLACE_OF_ZERO)
    since_high_TN = _known(swings.bars_since_high_TN / num_bars, 0, 3)
    since_low_TN = _known(swings.bars_since_low_TN / num_bars, 0, 3)
    # An ATR of rounding residue makes the quotient overflow: infinite, then clipped, is the right answer.
    with np.errstate(over="ignore"):
        above_TN = (swings.high_TN - close_TN) / atr_TN
        below_TN = (close_TN - swings.low_TN) / atr_TN
    return [
        np.clip((open_TN - low_TN) / divisor_TN, 0, 1),
        np.clip((close_TN - low_TN) / divisor_TN, 0, 1),
        body_TN,
        np.clip((high_TN - np.maximum(open_TN, close_TN)) / divisor_TN, 0, 1),
        np.clip((np.minimum(open_TN, close_TN) - low_TN) / divisor_TN, 0, 1),
        range_z_TN,
        _known(above_TN, -3, 3),
        _known(below_TN, -3, 3),
        since_high_TN,
        since_low_TN,
        np.clip(range_z_TN * swings.direction_TN * body_TN, -2, 2),
        np.clip((1 - range_z_TN / 3) * (1 - np.abs(body_TN)) * (since_high_TN + since_low_TN) / 2, 0, 3),
    ]


def _ema(values_TN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exponential moving average over 20 bars, started at the first one's value."""
    ema_TN = np.empty_like(values_TN)
    ema_TN[0] = values_TN[0]
    weighted_TN = RANGE_EMA_ALPHA * values_TN
    for bar in range(1, len(values_TN)):
        ema_TN[bar] = weighted_TN[bar] + (1 - RANGE_EMA_ALPHA) * ema_TN[bar - 1]
    return ema_TN


def _known(values_TN: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Clip, with 0 where there has been no swing yet (NaN)."""
    return np.where(np.isnan(values_TN), 0.0, np.clip(values_TN, low, high))
