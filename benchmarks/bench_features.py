"""Features: vectorised over windows, against the original's loop over each window's bars in a data frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Measurement, best_of, interleaved
from benchmarks.peers.original_features import original_features
from jade_model.core.features import feature_set

NUM_WINDOWS = 210
NUM_BARS = 105
SIZES = (10**3, 10**4, 10**5)


def measure() -> list[Measurement]:
    """Compare on 210 windows, check bit for bit, then time both feature sets on 1e3 to 1e5 windows."""
    relativity = feature_set("relativity-12")
    bars_NT4 = random_bars(NUM_WINDOWS)

    def peer() -> NDArray[np.float32]:
        return np.stack([original_features(bars_T4) for bars_T4 in bars_NT4])

    is_equal = np.array_equal(relativity.compute(bars_NT4), peer())
    if not is_equal:
        raise AssertionError("relativity-12 differs from the original's loop: its speed means nothing")
    ours_s, peer_s = interleaved(lambda: relativity.compute(bars_NT4), peer, repeat=3)
    return [
        Measurement(
            f"relativity-12, {NUM_WINDOWS} windows",
            ours_s,
            peer_s,
            "bar-by-bar pandas loop",
            target_ratio=100,
            note="bit-identical",
        ),
        *(scale("relativity-12", size) for size in SIZES),
        *(scale("displacement-17", size) for size in SIZES),
    ]


def scale(name: str, num_windows: int) -> Measurement:
    """Time one feature set on many windows."""
    chosen, bars_NT4 = feature_set(name), random_bars(num_windows)
    seconds = best_of(lambda: chosen.compute(bars_NT4), repeat=1 if num_windows >= 10**5 else 3)
    return Measurement(
        f"{name}, {num_windows:,} windows", seconds, note=f"{seconds / num_windows * 1e6:.0f} us a window"
    )


def random_bars(num_windows: int) -> NDArray[np.float64]:
    """Draw windows of a random walk, float64 [N, T, 4]."""
    rng = np.random.default_rng(0)
    close_NT = 100 * np.exp(np.cumsum(rng.normal(0, 0.003, (num_windows, NUM_BARS)), axis=1))
    open_NT = close_NT * np.exp(rng.normal(0, 0.003, close_NT.shape))
    high_NT = np.maximum(open_NT, close_NT) * np.exp(rng.exponential(0.001, close_NT.shape))
    low_NT = np.minimum(open_NT, close_NT) * np.exp(-rng.exponential(0.001, close_NT.shape))
    return np.stack([open_NT, high_NT, low_NT, close_NT], axis=-1)
