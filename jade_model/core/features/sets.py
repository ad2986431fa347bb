"""The feature sets: what the network sees of each bar.

Legend: N windows, T bars, F features, 4 = open, high, low, close.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import ConfigError
from jade_model.core.features.displacement import (
    DISPLACEMENT_NAMES,
    PATH_NAMES,
    displacement_and_path,
    displacement_features,
)
from jade_model.core.features.relativity import RELATIVITY_NAMES, relativity_features

POSITION_NAME = "position_encoding"

# Windows are worked on in blocks of about this many bars: enough to make numpy's overhead a call negligible,
# few enough that a block's arrays stay in the cache and the peak memory beside the result stays flat.
BARS_PER_BLOCK = 2**16

# Takes open, high, low and close, each float64 [T, N], and yields one float64 [T, N] a feature, in order.
Kernel = Callable[
    [NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    list[NDArray[np.float64]],
]


@dataclass(frozen=True)
class FeatureSet:
    """A named choice of features.

    Attributes:
        name: As recipes and checkpoints write it.
        names: Each feature's name, in the order of the last axis.
        kernel: What computes them, without the position encoding.
        has_position: Whether the position encoding t / (T - 1) stands last.

    Features of PATH_NAMES stand first. They are no view of a bar but what a head measures spans with, and the LSTM
    does not see them.
    """

    name: str
    names: tuple[str, ...]
    kernel: Kernel
    has_position: bool

    @property
    def num_path(self) -> int:
        """How many of the first features are of PATH_NAMES: all of them or none."""
        return len(PATH_NAMES) if self.names[: len(PATH_NAMES)] == PATH_NAMES else 0

    def compute(self, bars_NT4: NDArray[np.float64]) -> NDArray[np.float32]:
        """Compute the features of every bar; a bar's depend on it and on its window's earlier bars only.

        Args:
            bars_NT4: Open, high, low, close; valid bars (finite, low <= open, close <= high), which may be
                negative (`mirror_bars`).

        Returns:
            Finite values, float32 [N, T, F].

        Raises:
            ValueError: The shape is not [N, T, 4] with T at least 1.
        """
        if bars_NT4.ndim != 3 or bars_NT4.shape[1] < 1 or bars_NT4.shape[2] != 4:
            raise ValueError(f"bars have shape {bars_NT4.shape}; expected [windows, bars >= 1, 4]")
        num_windows, num_bars, _ = bars_NT4.shape
        features_NTF = np.empty((num_windows, num_bars, len(self.names)), np.float32)
        rows_per_block = max(1, BARS_PER_BLOCK // num_bars)
        for first in range(0, num_windows, rows_per_block):
            rows = slice(first, first + rows_per_block)
            # Bars first: the loops over bars then read and write contiguous rows of windows.
            open_TN, high_TN, low_TN, close_TN = np.ascontiguousarray(bars_NT4[rows].T, np.float64)
            for index, values_TN in enumerate(self.kernel(open_TN, high_TN, low_TN, close_TN)):
                features_NTF[rows, :, index] = values_TN.T
        if self.has_position:
            features_NTF[:, :, -1] = np.arange(num_bars) / max(num_bars - 1, 1)
        return features_NTF


def feature_set(name: str) -> FeatureSet:
    """Look a feature set up by its name.

    Raises:
        ConfigError: There is none of that name; the message lists them.
    """
    if name not in _FEATURE_SETS:
        closest = difflib.get_close_matches(name, FEATURE_SET_NAMES, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"unknown feature set {name!r}; did you mean {closest!r}? Choices: {', '.join(FEATURE_SET_NAMES)}"
        )
    return _FEATURE_SETS[name]


def mirror_bars(bars_NT4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn windows upside down: every price is negated, so that high and low change places.

    Args:
        bars_NT4: Open, high, low, close.

    Returns:
        -open, -low, -high, -close, of the same shape; mirroring twice gives the windows back.
    """
    return -bars_NT4[..., [0, 2, 1, 3]]


def _variants(name: str, names: tuple[str, ...], kernel: Kernel) -> list[FeatureSet]:
    return [
        FeatureSet(name, names, kernel, has_position=False),
        FeatureSet(f"{name}+position", (*names, POSITION_NAME), kernel, has_position=True),
    ]


_FEATURE_SETS = {
    each.name: each
    for each in (
        *_variants("relativity-12", RELATIVITY_NAMES, relativity_features),
        *_variants("displacement-17", DISPLACEMENT_NAMES, displacement_features),
        *_variants("displacement-21", (*PATH_NAMES, *DISPLACEMENT_NAMES), displacement_and_path),
    )
}
FEATURE_SET_NAMES: tuple[str, ...] = tuple(_FEATURE_SETS)
