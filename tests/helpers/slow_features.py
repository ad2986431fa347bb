"""The slow truth of the feature sets: one window, one bar, one number at a time, in plain Python floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Bar = Sequence[float]  # open, high, low, close

EPS = 1e-6


def clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def true_range(bar: Bar, previous_close: float | None) -> float:
    _, high, low, _ = bar
    if previous_close is None:
        return high - low
    return max(high - low, abs(high - previous_close), abs(low - previous_close))


def mean(values: Sequence[float]) -> float:
    """Add from left to right: the built-in `sum` compensates rounding in newer versions of Python."""
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


class CausalZigzag:
    """Updated with one closed bar after the other."""

    k = 1.2
    hybrid_lookback = 5
    hybrid_min_retrace = 0.5

    def __init__(self) -> None:
        self.previous_close: float | None = None
        self.true_ranges: list[float] = []
        self.direction = 0
        self.extreme = math.nan
        self.extreme_index = 0
        self.candidate: float | None = None
        self.candidate_index = 0
        self.swing_high: float | None = None
        self.swing_high_index = 0
        self.swing_low: float | None = None
        self.swing_low_index = 0

    @property
    def raw_atr(self) -> float:
        return mean(self.true_ranges[-10:]) if self.true_ranges else 0.0

    @property
    def atr(self) -> float:
        return self.raw_atr if self.raw_atr > 0 else 1e-8

    def update(self, index: int, bar: Bar) -> None:
        if self.previous_close is not None:
            self.true_ranges.append(true_range(bar, self.previous_close))
            self._follow(index, bar)
        self.previous_close = bar[3]

    def _follow(self, index: int, bar: Bar) -> None:
        _, high, low, close = bar
        if self.direction == 0:
            if self.raw_atr > 0:
                self.direction, self.extreme, self.extreme_index = 1, close, index
            return
        if self.direction == 1:
            if high > self.extreme:
                self.extreme, self.extreme_index = high, index
            if self.candidate is None or high > self.candidate:
                self.candidate, self.candidate_index = high, index
            retrace, candidate_retrace = self.extreme - close, self.candidate - low
        else:
            if low < self.extreme:
                self.extreme, self.extreme_index = low, index
            if self.candidate is None or low < self.candidate:
                self.candidate, self.candidate_index = low, index
            retrace, candidate_retrace = close - self.extreme, high - self.candidate
        is_recent = index - self.candidate_index <= self.hybrid_lookback
        if retrace >= self.k * self.atr or (is_recent and candidate_retrace >= self.hybrid_min_retrace * self.atr):
            self._confirm(index, high, low)

    def _confirm(self, index: int, high: float, low: float) -> None:
        if self.direction == 1:
            self.swing_high, self.swing_high_index = self.extreme, self.extreme_index
            self.direction, self.extreme, self.candidate = -1, low, low
        else:
            self.swing_low, self.swing_low_index = self.extreme, self.extreme_index
            self.direction, self.extreme, self.candidate = 1, high, high
        self.extreme_index = self.candidate_index = index


def slow_relativity(bars: Sequence[Bar]) -> list[list[float]]:
    """The 12 relativity features of one window."""
    zigzag = CausalZigzag()
    ema_range = 0.0
    rows = []
    for index, bar in enumerate(bars):
        o, h, l, c = bar  # noqa: E741 - as the formulas call them
        zigzag.update(index, bar)
        bar_range = h - l
        ema_range = bar_range if index == 0 else 2 / 21 * bar_range + (1 - 2 / 21) * ema_range
        r = max(bar_range, EPS)
        body = clip((c - o) / r, -1, 1)
        range_z = clip(bar_range / max(ema_range, EPS), 0, 3)
        distance_high = distance_low = since_high = since_low = 0.0
        if zigzag.swing_high is not None:
            distance_high = clip((zigzag.swing_high - c) / zigzag.atr, -3, 3)
            since_high = clip((index - zigzag.swing_high_index) / len(bars), 0, 3)
        if zigzag.swing_low is not None:
            distance_low = clip((c - zigzag.swing_low) / zigzag.atr, -3, 3)
            since_low = clip((index - zigzag.swing_low_index) / len(bars), 0, 3)
        rows.append(
            [
                clip((o - l) / r, 0, 1),
                clip((c - l) / r, 0, 1),
                body,
                clip((h - max(o, c)) / r, 0, 1),
                clip((min(o, c) - l) / r, 0, 1),
                range_z,
                distance_high,
                distance_low,
                since_high,
                since_low,
                clip(range_z * zigzag.direction * body, -2, 2),
                clip((1 - range_z / 3) * (1 - abs(body)) * (since_high + since_low) / 2, 0, 3),
            ]
        )
    return rows


RETURN_LAGS = (1, 2, 3, 4, 5, 7, 10, 14)
EFFICIENCY_LAGS = (5, 10)
EFFICIENT_RETURN_LAGS = (3, 4, 5, 7, 10)


def slow_displacement(bars: Sequence[Bar]) -> list[list[float]]:
    """The 17 displacement features of one window."""
    path = [bars[0][0], *(bar[3] for bar in bars)]  # path[t] is the price at which bar t begins
    true_ranges = [true_range(bar, path[t]) for t, bar in enumerate(bars)]

    def atr(t: int) -> float:
        floor = max(0.1 * mean(true_ranges[: t + 1]), 1e-6 * abs(bars[t][3]))
        return max(mean(true_ranges[max(t - 13, 0) : t + 1]), floor)

    def atr_before(t: int, lag: int) -> float:
        """Of the bar before the move; near the window's start, of its first 14 bars or those there are."""
        return atr(max(t - lag, min(t, 13)))

    def unlimited_return(t: int, lag: int) -> float:
        num_bars = min(lag, t + 1)
        net = path[t + 1] - path[t + 1 - num_bars]
        return net / (atr_before(t, lag) * math.sqrt(num_bars))

    def efficiency(t: int, lag: int) -> float:
        points = path[max(t + 1 - lag, 0) : t + 2]
        travelled = sum(abs(after - before) for before, after in pairwise(points))
        return clip((points[-1] - points[0]) / travelled, -1, 1) if travelled > 0 else 0.0

    return [
        [
            clip((c - o) / atr_before(t, 1), -20, 20),
            clip((h - l) / atr_before(t, 1), -20, 20),
            *(clip(unlimited_return(t, lag), -20, 20) for lag in RETURN_LAGS),
            *(efficiency(t, lag) for lag in EFFICIENCY_LAGS),
            *(clip(unlimited_return(t, lag) * abs(efficiency(t, lag)), -20, 20) for lag in EFFICIENT_RETURN_LAGS),
        ]
        for t, (o, h, l, c) in enumerate(bars)  # noqa: E741 - as the formulas call them
    ]


def slow_displacement_and_path(bars: Sequence[Bar]) -> list[list[float]]:
    """The path's 4 features of one window, then the 17 displacement features."""
    path = [bars[0][0], *(bar[3] for bar in bars)]
    true_ranges = [true_range(bar, path[t]) for t, bar in enumerate(bars)]
    rows = []
    for t, rest in enumerate(slow_displacement(bars)):
        floor = max(0.1 * mean(true_ranges[: t + 1]), 1e-6 * abs(bars[t][3]))
        atr = max(mean(true_ranges[max(t - 13, 0) : t + 1]), floor)
        travelled = sum(abs(after - before) for before, after in pairwise(path[: t + 2]))
        measured = (bars[t][0] - path[0], path[t + 1] - path[0], travelled, atr)
        rows.append([*(value / abs(path[0]) for value in measured), *rest])
    return rows
