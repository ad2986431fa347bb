"""Small windows with one obvious span each, for tests that train."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jade_model.core.config import Recipe
from jade_model.core.windows import NO_TYPE, Windows


def random_windows(
    num_windows: int, num_bars: int = 24, *, seed: int = 0, spans_of: list[list[tuple[int, int]]] | None = None
) -> Windows:
    """Return random walks with a steep leg of 3 to 6 bars each, labelled; or with the spans given."""
    generator = np.random.default_rng(seed)
    steps_NT = generator.normal(0, 1, (num_windows, num_bars))
    if spans_of is None:
        spans_of = []
        for row in range(num_windows):
            length = int(generator.integers(3, 7))
            start = int(generator.integers(1, num_bars - length))
            spans_of.append([(start, start + length)])
            steps_NT[row, start : start + length] += generator.choice([-5.0, 5.0])
    close_NT = 1000 + steps_NT.cumsum(1)
    open_NT = np.concatenate([np.full((num_windows, 1), 1000.0), close_NT[:, :-1]], axis=1)
    wick_NT2 = generator.random((num_windows, num_bars, 2))
    bars_NT4 = np.stack(
        [
            open_NT,
            np.maximum(open_NT, close_NT) + wick_NT2[..., 0],
            np.minimum(open_NT, close_NT) - wick_NT2[..., 1],
            close_NT,
        ],
        axis=2,
    )
    counts_N = [len(spans) for spans in spans_of]
    identifiers = np.array([f"w{row}" for row in range(num_windows)])
    empty = np.full(num_windows, "")
    return Windows(
        name="random",
        path="random",
        sha256="0" * 64,
        window_id_N=identifiers,
        base_window_id_N=identifiers,
        bars_NT4=bars_NT4,
        type_N=np.where(np.array(counts_N) > 0, generator.integers(0, 2, num_windows), NO_TYPE),
        span_offsets_N1=np.concatenate([[0], np.cumsum(counts_N)]),
        spans_S2=np.array([span for spans in spans_of for span in spans], dtype=np.int64).reshape(-1, 2),
        offset_N=np.zeros(num_windows, np.int64),
        overlap_fraction_N=np.ones(num_windows),
        quality_N=empty,
        source_N=empty,
        instrument_N=empty,
        start_time_N=np.full(num_windows, np.datetime64("NaT"), "datetime64[ns]"),
    )


def shortened(recipe: Recipe, *, epochs: int = 3, hidden_size: int = 8, checkpoint_every: int = 1) -> Recipe:
    """Return the recipe with a small network and few epochs."""
    return replace(
        recipe,
        model=replace(recipe.model, hidden_size=hidden_size),
        training=replace(recipe.training, epochs=epochs, batch_size=8, checkpoint_every=checkpoint_every),
    )


def rows(first: int, last: int) -> NDArray[np.intp]:
    """Return the row numbers from first up to last, excluded."""
    return np.arange(first, last, dtype=np.intp)
