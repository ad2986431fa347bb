"""What the network is to say of each window: span membership, pointers, countdown, type.

Legend: N windows, T bars.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jade_model.core.config import SPAN_HEADS, Recipe
from jade_model.core.windows import Windows

COUNTDOWN_LIMIT = 20
IGNORED_TYPE = -1

# How far an annotator's own word for a label's quality is trusted; any other word, and none, counts in full.
QUALITY_WEIGHTS = {"auto": 1.0, "high": 1.0, "good": 1.0, "medium": 0.8, "fair": 0.8, "low": 0.6, "poor": 0.6}

# A batch of windows that count nothing would have no mean.
_LEAST_OVERLAP = 0.05


@dataclass(frozen=True, eq=False)
class Targets:
    """Training targets of N windows.

    Pointers, countdown and span_N2 speak of one span a window: the longest, of equally long ones the first.

    Attributes:
        in_span_NT: 1 where the bar lies in a span, else 0, float32.
        trust_N: How far a window's labels count, in (0, 1], float32: overlap fraction times quality's weight.
        pointers_N2: Span's centre and length as fractions of T, float32; 0 where there is no span.
        countdown_NT: Bars until the span starts, clipped to [-20, 20], float32; 20 where there is no span.
        type_N: Index of the type, int64; IGNORED_TYPE where none is given.
        span_N2: Start and end, half-open, int64; -1, -1 where there is no span.
        num_spans_N: Number of spans, int64.
        has_span_N: Whether there is one; pointers and countdown count only there, bool.
    """

    in_span_NT: NDArray[np.float32]
    trust_N: NDArray[np.float32]
    pointers_N2: NDArray[np.float32]
    countdown_NT: NDArray[np.float32]
    type_N: NDArray[np.int64]
    span_N2: NDArray[np.int64]
    num_spans_N: NDArray[np.int64]
    has_span_N: NDArray[np.bool_]


def build_targets(windows: Windows) -> Targets:
    """Derive all targets from the labelled spans.

    With s and e the span's first and last bar (inclusive): centre (s + e) / 2 / T, length (e - s) / T,
    countdown clip(s - t, -20, 20). A span of which the window shows only a part, or that was labelled with doubt,
    is trusted less.

    Args:
        windows: Labelled windows.

    Returns:
        Targets in the windows' order.
    """
    length = windows.window_length
    in_span_NT = windows.in_span_NT()
    span_N2 = _longest_spans(windows)
    has_span_N = windows.num_spans_N > 0
    start_N, last_N = span_N2[:, 0], span_N2[:, 1] - 1
    centre_N, extent_N = (start_N + last_N) / 2 / length, (last_N - start_N) / length
    countdown_NT = np.clip(start_N[:, None] - np.arange(length), -COUNTDOWN_LIMIT, COUNTDOWN_LIMIT)
    return Targets(
        in_span_NT=in_span_NT.astype(np.float32),
        trust_N=_trust(windows).astype(np.float32),
        pointers_N2=np.where(has_span_N[:, None], np.stack((centre_N, extent_N), axis=1), 0).astype(np.float32),
        countdown_NT=np.where(has_span_N[:, None], countdown_NT, COUNTDOWN_LIMIT).astype(np.float32),
        type_N=windows.type_N,
        span_N2=span_N2,
        num_spans_N=windows.num_spans_N,
        has_span_N=has_span_N,
    )


def _longest_spans(windows: Windows) -> NDArray[np.int64]:
    start_S, end_S = windows.spans_S2.T
    row_S = windows.span_row_S
    # Rows ascending, longest first, then earliest: the first of each row is the one.
    order_S = np.lexsort((start_S, start_S - end_S, row_S))
    rows, firsts = np.unique(row_S[order_S], return_index=True)
    span_N2 = np.full((windows.num_windows, 2), -1, dtype=np.int64)
    span_N2[rows] = windows.spans_S2[order_S[firsts]]
    return span_N2


def _trust(windows: Windows) -> NDArray[np.float64]:
    names, index_N = np.unique(windows.quality_N, return_inverse=True)
    weight = np.array([QUALITY_WEIGHTS.get(str(name).strip().lower(), 1.0) for name in names])
    trust_N: NDArray[np.float64] = np.maximum(windows.overlap_fraction_N, _LEAST_OVERLAP) * weight[index_N]
    return trust_N


def fitted_recipe(recipe: Recipe, windows: Windows) -> Recipe:
    """Return the recipe with a head that can express every label of the windows.

    A head that models spans then allows the longest labelled one and, where a window has several, more than one. The
    others take any labels, and their recipes are returned as they are.
    """
    if not SPAN_HEADS[recipe.loss].models_spans:
        return recipe
    longest = int(np.diff(windows.spans_S2, axis=1).max(initial=1))
    model = replace(
        recipe.model,
        max_span_length=max(recipe.model.max_span_length, longest),
        several_spans=bool((windows.num_spans_N > 1).any()),
    )
    return replace(recipe, model=model)
