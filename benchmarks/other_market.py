"""Made-up bars of another market, labelled by the rule of the reference file: whether an ingredient holds elsewhere.

`python -m benchmarks.other_market OUT.parquet [--seed 1]`, then `python -m benchmarks.ablations OUT.parquet ...`. A
recipe is chosen on one file of 215 windows; what helps there and not here is that file's peculiarity.

The rule: an expansion is a leg of 4 to 14 bars, at least 0.7 efficient (net move over the way travelled), whose net
move times efficiency, over the ATR of the 14 bars before it and the root of its length, is above 1.6 and the largest
within 130 bars; a window in which another leg reaches 0.8 of that is left out. Volatility moves slowly, with a daily
season, and price drifts now and then for some bars; nothing is planted.

Legend: M bars of the whole series, K steps within a bar, L leg lengths (index n is n bars), G legs, C bars before a
leg, O shifts of a window, N windows, T bars a window, 4 = open, high, low, close.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jade_model.core.windows import Windows
from jade_model.data.schema import write_windows

NUM_BARS = 60_000
STEPS_A_BAR = 16
WINDOW_LENGTH, OVERLAP, MIN_VISIBLE = 105, 52, 0.3
SHORTEST, LONGEST = 4, 14
ATR_BARS = 14
MIN_EFFICIENCY, MIN_STRENGTH, NEAR, RIVAL = 0.7, 1.6, 130, 0.8
CONTEXT_BARS, PULLBACK_ATR = 15, 1.2
BAR_VOLATILITY = 2e-3


class Leg(NamedTuple):
    """A labelled expansion and where its base window begins, bars of the series."""

    window: int
    start: int
    length: int


def main() -> None:
    """Write one market's windows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bases", type=int, default=105)
    options = parser.parse_args()
    windows = market_windows(seed=options.seed, num_bases=options.bases)
    write_windows(windows, options.out)
    print(f"{options.out}: {windows.num_windows} windows of {len(set(windows.base_window_id_N))} legs")


def market_windows(*, seed: int, num_bases: int) -> Windows:
    """Make a series, label it, and cut a base window and its shifted ones around each leg."""
    rng = np.random.default_rng(seed)
    bars_M4 = draw_bars(rng)
    atr_M, strength_ML = measure_legs(bars_M4)
    legs = find_legs(rng, strength_ML, num_bases)
    # Base windows first, each before its shifted ones, as in the original's files.
    shift_O = np.array([0, -OVERLAP, OVERLAP])
    first_GO = np.array([leg.window for leg in legs])[:, None] + shift_O
    begin_G1, length_G1 = (np.array([getattr(leg, field) for leg in legs])[:, None] for field in ("start", "length"))
    visible_GO2 = np.clip(np.stack([begin_G1 - first_GO, begin_G1 + length_G1 - first_GO], axis=2), 0, WINDOW_LENGTH)
    fraction_GO = np.diff(visible_GO2)[..., 0] / length_G1
    base_N, shift_N = np.nonzero((fraction_GO >= MIN_VISIBLE) & (np.diff(visible_GO2)[..., 0] >= 2))
    type_G = np.array([context_type(bars_M4, atr_M, leg.start) for leg in legs])
    first_N, offset_N = first_GO[base_N, shift_N], shift_O[shift_N]
    bars_NT4 = bars_M4[first_N[:, None] + np.arange(WINDOW_LENGTH)]
    name = f"made-up-{seed}"
    base_id_N = np.array([f"{base}_exp_1" for base in base_N])
    return Windows(
        name=name,
        path=f"({name})",
        sha256=hashlib.sha256(bars_NT4.tobytes()).hexdigest(),
        window_id_N=np.array([f"{base}_offset{shift}" for base, shift in zip(base_id_N, offset_N, strict=True)]),
        base_window_id_N=base_id_N,
        bars_NT4=bars_NT4,
        type_N=type_G[base_N],
        span_offsets_N1=np.arange(len(base_N) + 1),
        spans_S2=visible_GO2[base_N, shift_N],
        offset_N=offset_N,
        overlap_fraction_N=fraction_GO[base_N, shift_N],
        quality_N=np.full(len(base_N), "auto"),
        source_N=np.where(offset_N == 0, "original", "overlapped"),
        instrument_N=np.full(len(base_N), name),
        start_time_N=np.datetime64("2020-01-01", "ns") + first_N * np.timedelta64(30, "m"),
    )


def draw_bars(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a series of half-hour bars, [M, 4]."""
    log_volatility_M, drift_M = np.zeros(NUM_BARS), np.zeros(NUM_BARS)
    drift = 0.0
    for bar in range(NUM_BARS):
        if bar:
            log_volatility_M[bar] = 0.97 * log_volatility_M[bar - 1] + 0.16 * rng.standard_normal()
        if rng.random() < 0.06:
            drift = 0.55 * rng.standard_normal()
        elif rng.random() < 0.2:
            drift = 0.0
        drift_M[bar] = drift
    season_M = 0.35 * np.sin(np.arange(NUM_BARS) * 2 * np.pi / 48)
    volatility_M = BAR_VOLATILITY * np.exp(log_volatility_M + season_M)
    noise_MK = rng.standard_t(4, (NUM_BARS, STEPS_A_BAR)) / np.sqrt(2 * STEPS_A_BAR)
    steps_MK = (noise_MK + drift_M[:, None] / STEPS_A_BAR) * volatility_M[:, None]
    price_MK = 15_000 * np.exp(np.cumsum(steps_MK.ravel())).reshape(steps_MK.shape)
    open_M = np.concatenate([[15_000.0], price_MK[:-1, -1]])
    high_M, low_M = np.maximum(price_MK.max(1), open_M), np.minimum(price_MK.min(1), open_M)
    return np.stack([open_M, high_M, low_M, price_MK[:, -1]], axis=1).round(2)


def measure_legs(bars_M4: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ATR up to each bar (NaN where there are no 14), and each leg's strength by start and length, or -1."""
    open_M, high_M, low_M, close_M = bars_M4.T
    before_M = np.concatenate([open_M[:1], close_M[:-1]])
    range_M = np.maximum(high_M, before_M) - np.minimum(low_M, before_M)
    atr_M = np.full(NUM_BARS, np.nan)
    atr_M[ATR_BARS - 1 :] = np.convolve(range_M, np.full(ATR_BARS, 1 / ATR_BARS), mode="valid")
    way_M = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(close_M)))])
    strength_ML = np.full((NUM_BARS, LONGEST + 1), -1.0)
    for length in range(SHORTEST, LONGEST + 1):
        start = np.arange(ATR_BARS, NUM_BARS - length)
        last = start + length - 1
        net = np.abs(close_M[last] - open_M[start])
        way = way_M[last] - way_M[start] + np.abs(close_M[start] - open_M[start])
        efficiency = net / np.maximum(way, 1e-9)
        strength = net * efficiency / (atr_M[start - 1] * np.sqrt(length))
        strength_ML[start, length] = np.where(efficiency >= MIN_EFFICIENCY, strength, -1)
    return atr_M, strength_ML


def find_legs(rng: np.random.Generator, strength_ML: NDArray[np.float64], num_bases: int) -> list[Leg]:
    """Walk along the series and keep legs by the rule, far enough apart that no two share a window's bars."""
    best_M = strength_ML.max(1)
    legs: list[Leg] = []
    bar = 300
    while len(legs) < num_bases and bar < NUM_BARS - 400:
        start = bar + int(np.argmax(best_M[bar : bar + 2 * NEAR]))
        strength, length = best_M[start], int(strength_ML[start].argmax())
        bar += 200
        if strength <= MIN_STRENGTH or strength < best_M[start - NEAR : start + NEAR + 1].max():
            continue
        offset = int(rng.integers(8, WINDOW_LENGTH - length - 4))
        rivals = best_M[start - offset : start - offset + WINDOW_LENGTH - SHORTEST].copy()
        rivals[max(0, offset - LONGEST) : offset + length] = -1
        if rivals.max() < RIVAL * strength:
            legs.append(Leg(start - offset, start, length))
            bar = start + 2 * WINDOW_LENGTH + 2 * OVERLAP
    return legs


def context_type(bars_M4: NDArray[np.float64], atr_M: NDArray[np.float64], start: int) -> int:
    """Return 1 (retracement) where the bars before moved by more than PULLBACK_ATR, else 0 (consolidation)."""
    before_C4 = bars_M4[start - CONTEXT_BARS : start]
    return int(abs(before_C4[-1, 3] - before_C4[0, 0]) > PULLBACK_ATR * atr_M[start - 1])


if __name__ == "__main__":
    main()
