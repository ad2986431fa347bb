"""Made-up windows that look like real ones, so that everything can be tried without data.

Legend: G base windows, M bars of the series around a base window, K steps within a bar, N windows, T bars a
window.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from jade_model.core.windows import TYPE_NAMES, Windows

NAME = "sample"
WINDOW_LENGTH = 105
OVERLAP = 52
MIN_VISIBLE_FRACTION = 0.3

_STEPS_A_BAR = 16
_TICK = 0.25
_FIRST_PRICE = 15_000.0
_BAR_VOLATILITY = 5e-4
_CONTEXT_BARS = 15
_PULLBACK_BARS = 6


def sample_windows(*, num_bases: int = 100, seed: int = 0) -> Windows:
    """Make windows of minute bars with one expansion each, and shifted windows of the same bars.

    Returns have slowly moving, fat-tailed volatility; the bars before an expansion (a leg of 4 to 14 bars)
    rest or pull back, which is its type. Every base window comes again shifted by -52 and +52 bars where at
    least 30 % of its expansion stays visible, as in the original's data: about two windows a base. Marking
    the largest move over five bars finds about as much as it does on real windows (bar F1 0.6).

    Args:
        num_bases: Base windows, at least 1.
        seed: Other seeds give other windows; the same one gives the same, on every platform.

    Returns:
        Labelled windows, each base before its shifted ones.
    """
    rng = np.random.Generator(np.random.PCG64([seed, num_bases]))
    num_bars = WINDOW_LENGTH + 2 * OVERLAP
    span_G2 = OVERLAP + _draw_spans(rng, num_bases)
    type_G = (rng.random(num_bases) < 1 / 3).astype(np.int64)
    bars_GM4 = _draw_bars(rng, span_G2, type_G, num_bars)
    offset_O = np.array([0, -OVERLAP, OVERLAP])
    first_O = OVERLAP + offset_O
    visible_GO2 = np.clip(span_G2[:, None, :] - first_O[:, None], 0, WINDOW_LENGTH)
    fraction_GO = np.diff(visible_GO2)[..., 0] / np.diff(span_G2)
    base_N, shift_N = np.nonzero(fraction_GO >= MIN_VISIBLE_FRACTION)
    bars_NT4 = bars_GM4[base_N[:, None], first_O[shift_N, None] + np.arange(WINDOW_LENGTH)]
    spans_N2 = visible_GO2[base_N, shift_N]
    offset_N = offset_O[shift_N]
    num_windows = len(base_N)
    base_id_N = [f"{base}_exp_1" for base in base_N.tolist()]
    endings = {0: "_offset0", -OVERLAP: f"_offset-{OVERLAP}", OVERLAP: f"_offset+{OVERLAP}"}
    window_id_N = [base + endings[offset] for base, offset in zip(base_id_N, offset_N.tolist(), strict=True)]
    return Windows(
        name=NAME,
        path="(built-in sample)",
        sha256=hashlib.sha256(bars_NT4.tobytes() + spans_N2.tobytes()).hexdigest(),
        window_id_N=np.array(window_id_N),
        base_window_id_N=np.array(base_id_N),
        bars_NT4=bars_NT4,
        type_N=type_G[base_N],
        span_offsets_N1=np.arange(num_windows + 1),
        spans_S2=spans_N2,
        offset_N=offset_N,
        overlap_fraction_N=fraction_GO[base_N, shift_N],
        quality_N=np.full(num_windows, "auto"),
        source_N=np.where(offset_N == 0, "original", "overlapped"),
        instrument_N=np.full(num_windows, "SAMPLE"),
        # One base window a day, from the same hour on: no two of them overlap in time.
        start_time_N=np.datetime64("2024-01-01T14:30", "ns")
        + base_N * np.timedelta64(1, "D")
        + first_O[shift_N] * np.timedelta64(1, "m"),
    )


def _draw_spans(rng: np.random.Generator, num_bases: int) -> NDArray[np.int64]:
    """Return where in its base window each expansion lies, half-open [G, 2]."""
    length_G = np.minimum(3 + rng.geometric(0.4, num_bases), 14)
    room_G = WINDOW_LENGTH - _CONTEXT_BARS - 5 - length_G
    start_G = _CONTEXT_BARS + np.floor(rng.random(num_bases) * room_G).astype(np.int64)
    return np.stack((start_G, start_G + length_G), axis=1)


def _draw_bars(
    rng: np.random.Generator, span_G2: NDArray[np.int64], type_G: NDArray[np.int64], num_bars: int
) -> NDArray[np.float64]:
    """Return bars, on a grid of ticks, with the legs that the spans ask for, float64 [G, M, 4]."""
    num_bases = len(span_G2)
    bar_M = np.arange(num_bars)
    start_G1, end_G1 = span_G2[:, :1], span_G2[:, 1:]
    length_G1 = end_G1 - start_G1
    in_leg_GM = (bar_M >= start_G1) & (bar_M < end_G1)
    before_GM = (bar_M >= start_G1 - _CONTEXT_BARS) & (bar_M < start_G1)
    pulls_back_G1 = type_G[:, None] == TYPE_NAMES.index("retracement")
    in_pullback_GM = (bar_M >= start_G1 - _PULLBACK_BARS) & (bar_M < start_G1) & pulls_back_G1

    volatility_GM = _BAR_VOLATILITY * _draw_volatility(rng, num_bases, num_bars)
    volatility_GM *= np.where(before_GM & ~pulls_back_G1, 0.7, 1.0)
    # A leg is measured against the volatility around it, not against the bars' own luck.
    usual_G1 = np.exp(np.log(volatility_GM).mean(axis=1, keepdims=True))
    volatility_GM = np.where(in_leg_GM, np.maximum(volatility_GM, usual_G1), volatility_GM)
    direction_G1 = np.where(rng.random((num_bases, 1)) < 0.5, -1.0, 1.0)
    strength_G1 = 3.8 + 2.0 * rng.random((num_bases, 1))
    drift_GM = in_leg_GM * strength_G1 / np.sqrt(length_G1)
    drift_GM -= in_pullback_GM * (1.5 + rng.random((num_bases, 1))) * 1.6 / _PULLBACK_BARS
    drift_GM *= direction_G1 * usual_G1 * (0.5 + rng.random((num_bases, num_bars)))

    noise_GMK = rng.standard_normal((num_bases, num_bars, _STEPS_A_BAR)) / np.sqrt(_STEPS_A_BAR)
    step_GMK = volatility_GM[..., None] * noise_GMK + drift_GM[..., None] / _STEPS_A_BAR
    path_GMK = np.cumsum(step_GMK.reshape(num_bases, -1), axis=1).reshape(step_GMK.shape)
    # Each day starts where a slow walk over the days has led.
    level_G = np.log(_FIRST_PRICE) + np.cumsum(0.01 * rng.standard_normal(num_bases))
    # On the grid, the last bits, in which platforms' exponentials differ, are gone.
    price_GMK = np.round(np.exp(level_G[:, None, None] + path_GMK) / _TICK) * _TICK
    close_GM = price_GMK[:, :, -1]
    open_GM = np.concatenate((price_GMK[:, :1, 0], close_GM[:, :-1]), axis=1)
    high_GM = np.maximum(open_GM, price_GMK.max(axis=2))
    low_GM = np.minimum(open_GM, price_GMK.min(axis=2))
    return np.stack((open_GM, high_GM, low_GM, close_GM), axis=2)


def _draw_volatility(rng: np.random.Generator, num_bases: int, num_bars: int) -> NDArray[np.float64]:
    """Return volatility about 1: an autoregressive logarithm, times the scale of a Student t of 4."""
    shock_GM = rng.standard_normal((num_bases, num_bars))
    log_GM = np.zeros((num_bases, num_bars))
    log_GM[:, 0] = 0.4 * shock_GM[:, 0]
    for bar in range(1, num_bars):
        log_GM[:, bar] = 0.95 * log_GM[:, bar - 1] + 0.13 * shock_GM[:, bar]
    chi_square_GM = (rng.standard_normal((num_bases, num_bars, 4)) ** 2).mean(axis=2)
    volatility_GM: NDArray[np.float64] = np.exp(log_GM) / np.sqrt(np.maximum(chi_square_GM, 0.1))
    return volatility_GM
