"""The original's way to the 12 relativity features: one window as a table, one bar, one dictionary at a time.

Rebuilt from the description of that system, to be measured against; nothing but benchmarks uses it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

EPS = 1e-6


def original_features(bars_T4: NDArray[np.float64]) -> NDArray[np.float32]:
    """Compute one window's 12 relativity features, row by row of a data frame.

    Args:
        bars_T4: Open, high, low, close.

    Returns:
        float32 [T, 12].
    """
    frame = pd.DataFrame(bars_T4, columns=["open", "high", "low", "close"])
    extractor = FeatureExtractor(len(frame))
    rows = [extractor.update(frame.iloc[index]) for index in range(len(frame))]
    return pd.DataFrame(rows).to_numpy(np.float32)


class FeatureExtractor:
    """Keeps the state of one window's bars."""

    def __init__(self, num_bars: int) -> None:
        self.num_bars = num_bars
        self.index = -1
        self.ema_range: float | None = None
        self.zigzag = Zigzag()

    def update(self, bar: pd.Series[Any]) -> dict[str, float]:
        """Take one closed bar and return its features by name."""
        self.index += 1
        open_, high = float(bar["open"]), float(bar["high"])
        low, close = float(bar["low"]), float(bar["close"])
        self.zigzag.update(self.index, high, low, close)

        bar_range = high - low
        alpha = 2 / 21
        if self.ema_range is None:
            self.ema_range = bar_range
        else:
            self.ema_range = alpha * bar_range + (1 - alpha) * self.ema_range
        divisor = max(bar_range, EPS)
        body = float(np.clip((close - open_) / divisor, -1, 1))
        range_z = float(np.clip(bar_range / max(self.ema_range, EPS), 0, 3))

        above = below = since_high = since_low = 0.0
        if self.zigzag.swing_high is not None:
            price, at = self.zigzag.swing_high
            above = float(np.clip((price - close) / self.zigzag.atr, -3, 3))
            since_high = float(np.clip((self.index - at) / self.num_bars, 0, 3))
        if self.zigzag.swing_low is not None:
            price, at = self.zigzag.swing_low
            below = float(np.clip((close - price) / self.zigzag.atr, -3, 3))
            since_low = float(np.clip((self.index - at) / self.num_bars, 0, 3))
        calm = (1 - range_z / 3) * (1 - abs(body)) * (since_high + since_low) / 2
        return {
            "open_norm": float(np.clip((open_ - low) / divisor, 0, 1)),
            "close_norm": float(np.clip((close - low) / divisor, 0, 1)),
            "body_pct": body,
            "upper_wick_pct": float(np.clip((high - max(open_, close)) / divisor, 0, 1)),
            "lower_wick_pct": float(np.clip((min(open_, close) - low) / divisor, 0, 1)),
            "range_z": range_z,
            "dist_to_prev_SH": above,
            "dist_to_prev_SL": below,
            "bars_since_SH_norm": since_high,
            "bars_since_SL_norm": since_low,
            "expansion_proxy": float(np.clip(range_z * self.zigzag.direction * body, -2, 2)),
            "consol_proxy": float(np.clip(calm, 0, 3)),
        }


class Zigzag:
    """The causal zigzag, one bar at a time."""

    def __init__(self) -> None:
        self.previous_close: float | None = None
        self.true_ranges: list[float] = []
        self.direction = 0
        self.extreme = (0.0, 0)
        self.candidate: tuple[float, int] | None = None
        self.swing_high: tuple[float, int] | None = None
        self.swing_low: tuple[float, int] | None = None
        self.atr = 1e-8

    def update(self, index: int, high: float, low: float, close: float) -> None:
        """Take one closed bar."""
        previous_close, self.previous_close = self.previous_close, close
        if previous_close is None:
            return
        self.true_ranges.append(max(high - low, abs(high - previous_close), abs(low - previous_close)))
        total = 0.0
        for value in self.true_ranges[-10:]:
            total += value
        self.atr = total / min(len(self.true_ranges), 10) or 1e-8
        if self.direction == 0:
            if total > 0:
                self.direction, self.extreme = 1, (close, index)
            return
        # A down leg is an up leg of the negated prices.
        near, far = (high, low) if self.direction > 0 else (-low, -high)
        if near > self.extreme[0]:
            self.extreme = (near, index)
        if self.candidate is None or near > self.candidate[0]:
            self.candidate = (near, index)
        has_retraced = self.extreme[0] - self.direction * close >= 1.2 * self.atr
        is_fresh = index - self.candidate[1] <= 5
        if has_retraced or (is_fresh and self.candidate[0] - far >= 0.5 * self.atr):
            swing = (self.direction * self.extreme[0], self.extreme[1])
            if self.direction > 0:
                self.swing_high = swing
            else:
                self.swing_low = swing
            self.direction = -self.direction
            self.extreme = self.candidate = (-far, index)
