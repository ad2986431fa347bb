"""Windows whose expansions nobody can miss: a model learns them in a dozen epochs, within a second."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jade_model.core.windows import Windows
from jade_model.data.sample import sample_windows

WINDOW_LENGTH = 32


def plain_windows(number: int) -> Windows:
    """Return windows of which the first are the same however many there are: an expansion is a row of great bars."""
    sample = sample_windows(num_bases=number)
    windows = sample.take(np.flatnonzero(sample.offset_N == 0))
    bars, spans = zip(*(_window(np.random.default_rng(index)) for index in range(number)), strict=True)
    return replace(
        windows,
        bars_NT4=np.stack(bars),
        spans_S2=np.array(spans),
        type_N=np.arange(number) % 2,
    )


def shuffled_spans(windows: Windows) -> Windows:
    """Give every window another one's span: as many bars are labelled as before, but nothing can be learned."""
    order = np.random.default_rng(0).permutation(len(windows.spans_S2))
    return replace(windows, spans_S2=windows.spans_S2[order])


def all_labelled(windows: Windows) -> Windows:
    """Label every bar: within the schema, and useless."""
    return replace(windows, spans_S2=np.tile([0, windows.window_length], (len(windows.spans_S2), 1)))


def _window(rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
    start, length = int(rng.integers(4, WINDOW_LENGTH - 10)), int(rng.integers(5, 7))
    move_T = rng.normal(0, 0.05, WINDOW_LENGTH)
    move_T[start : start + length] += rng.choice([-1, 1])
    close_T = 100 + np.cumsum(move_T)
    open_T = close_T - move_T
    high_T, low_T = np.maximum(open_T, close_T) + 0.02, np.minimum(open_T, close_T) - 0.02
    return np.stack((open_T, high_T, low_T, close_T), axis=-1), (start, start + length)
