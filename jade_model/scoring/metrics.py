"""How well marked bars and spans agree with the labelled ones, counted window by window.

Counts come first and scores are made of counts, so that windows can be resampled, pooled or paired without
looking at a bar twice.

Legend: N windows, T bars, S spans of all windows together (half-open), J levels of IoU, 3 the counts
(true positives, false positives, false negatives).

Conventions: F1 = 2 tp / (2 tp + fp + fn). A precision, recall or F1 without any case is 1 where nothing was
there and nothing was marked, else 0. *Micro* scores sum the counts first; *macro* scores average the windows'
scores.

Matching: predicted spans are maximal runs of marked bars, true spans are disjoint. From an IoU of 0.5 on, no
assignment has to be searched: a partner shares at least half of either span, so that there is at most one
(above 0.5), or (at exactly 0.5) a predicted run that two touching true spans of equal length fill completely;
such a run finds one of the two and misses the other. Two runs can't claim one true span, since runs never
touch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jade_model.core.windows import Windows
from jade_model.scoring.parts import Scores

IOU_50_TO_95: tuple[float, ...] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True, eq=False)
class Truth:
    """The labels of N windows as arrays.

    Attributes:
        mask_NT: Bar in a labelled span, bool.
        span_offsets_N1: Row n's spans are spans_S2[span_offsets_N1[n]:span_offsets_N1[n + 1]], int64 [N + 1].
        spans_S2: Start and end, half-open, ascending and disjoint within a row, int64.
    """

    mask_NT: NDArray[np.bool_]
    span_offsets_N1: NDArray[np.int64]
    spans_S2: NDArray[np.int64]

    def take(self, rows: NDArray[np.intp]) -> Truth:
        """Return the labels of some windows, in the order given, repetitions included."""
        rows = np.asarray(rows, dtype=np.intp)
        counts = np.diff(self.span_offsets_N1)[rows]
        offsets = _offsets(counts)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        picked = np.repeat(self.span_offsets_N1[:-1][rows], counts) + within
        return Truth(self.mask_NT[rows], offsets, self.spans_S2[picked])


@dataclass(frozen=True, eq=False)
class Counts:
    """What was hit, marked in vain, and missed, for every window.

    Attributes:
        bars_N3: int64.
        spans_NJ3: At the levels IOU_50_TO_95, int64.
    """

    bars_N3: NDArray[np.int64]
    spans_NJ3: NDArray[np.int64]

    def scores(self) -> Scores:
        """Sum over the windows and turn into scores."""
        bars_3 = self.bars_N3.sum(axis=0)
        spans_J = f1_of(self.spans_NJ3.sum(axis=0))
        return Scores(
            f1=float(f1_of(bars_3)),
            precision=float(precision_of(bars_3)),
            recall=float(recall_of(bars_3)),
            macro_f1=float(f1_of(self.bars_N3).mean()),
            span_f1_iou50=float(spans_J[0]),
            span_f1_iou50_95=float(spans_J.mean()),
        )


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """What a model or a rule got right and wrong in the windows that a split holds out.

    Attributes:
        seed: Of the split.
        rows_M: Rows of the data set, ascending, intp.
        counts: Of each of them.
    """

    seed: int
    rows_M: NDArray[np.intp]
    counts: Counts


def pooled(parts: Iterable[Counts]) -> Counts:
    """Return the counts of all parts' windows in one row."""
    listed = list(parts)
    return Counts(
        np.concatenate([item.bars_N3 for item in listed]), np.concatenate([item.spans_NJ3 for item in listed])
    )


def truth_of(windows: Windows) -> Truth:
    """Return the windows' labels as arrays."""
    return Truth(windows.in_span_NT(), windows.span_offsets_N1, windows.spans_S2)


def truth_from_mask(mask_NT: NDArray[np.bool_]) -> Truth:
    """Return labels whose spans are the mask's maximal runs."""
    rows_S, starts_S, ends_S = spans_from_mask(mask_NT)
    offsets = _offsets(np.bincount(rows_S, minlength=mask_NT.shape[0]))
    return Truth(np.asarray(mask_NT, dtype=bool), offsets, np.stack([starts_S, ends_S], axis=1))


def count(predicted_NT: NDArray[np.bool_], truth: Truth) -> Counts:
    """Count bars, and spans at IoU 0.5 to 0.95, for every window.

    Args:
        predicted_NT: Marked bars, bool.
        truth: The same windows' labels.

    Raises:
        ValueError: The shapes differ.
    """
    return Counts(
        bar_counts_N3(predicted_NT, truth.mask_NT),
        span_counts_NJ3(predicted_NT, truth, IOU_50_TO_95),
    )


def bar_counts_N3(predicted_NT: NDArray[np.bool_], truth_NT: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count bars for every window.

    Args:
        predicted_NT: Marked bars, bool.
        truth_NT: Labelled bars, bool.

    Returns:
        (true positives, false positives, false negatives), int64 [N, 3].

    Raises:
        ValueError: The shapes differ.
    """
    predicted_NT, truth_NT = np.asarray(predicted_NT, dtype=bool), np.asarray(truth_NT, dtype=bool)
    if predicted_NT.shape != truth_NT.shape:
        raise ValueError(f"predicted bars have shape {predicted_NT.shape}, labelled bars {truth_NT.shape}")
    hit_N = np.count_nonzero(predicted_NT & truth_NT, axis=1)
    marked_N = np.count_nonzero(predicted_NT, axis=1)
    true_N = np.count_nonzero(truth_NT, axis=1)
    return np.stack([hit_N, marked_N - hit_N, true_N - hit_N], axis=1).astype(np.int64)


def span_counts_NJ3(predicted_NT: NDArray[np.bool_], truth: Truth, ious_J: tuple[float, ...]) -> NDArray[np.int64]:
    """Count spans for every window and level of IoU; a predicted span is a maximal run of marked bars.

    Args:
        predicted_NT: Marked bars, bool.
        truth: The same windows' labels.
        ious_J: Smallest intersection over union that counts as found, each in [0.5, 1], where matching is unambiguous.

    Returns:
        (true positives, false positives, false negatives), int64 [N, J, 3].

    Raises:
        ValueError: An IoU is out of range, or the windows' numbers differ.
    """
    num_windows, true_N = predicted_NT.shape[0], np.diff(truth.span_offsets_N1)
    if len(true_N) != num_windows:
        raise ValueError(f"{num_windows} windows were predicted, {len(true_N)} are labelled")
    if not ious_J or not all(0.5 <= iou <= 1 for iou in ious_J):
        raise ValueError(f"IoU levels are {ious_J}; each must lie in [0.5, 1], and there must be one")
    rows_P, starts_P, ends_P = spans_from_mask(predicted_NT)
    iou_P = best_ious(rows_P, starts_P, ends_P, truth)
    marked_N = np.bincount(rows_P, minlength=num_windows)
    counts_NJ3 = np.empty((num_windows, len(ious_J), 3), dtype=np.int64)
    for level, iou in enumerate(ious_J):
        # A ratio of whole numbers and the decimal of the same value round to the same float.
        hit_N = np.bincount(rows_P[iou_P >= iou], minlength=num_windows)
        counts_NJ3[:, level, 0] = hit_N
        counts_NJ3[:, level, 1] = marked_N - hit_N
        counts_NJ3[:, level, 2] = true_N - hit_N
    return counts_NJ3


def best_ious(
    rows_P: NDArray[np.int64],
    starts_P: NDArray[np.int64],
    ends_P: NDArray[np.int64],
    truth: Truth,
) -> NDArray[np.float64]:
    """Return each span's IoU with the labelled span that covers its middle.

    Whatever reaches an IoU of 0.5 covers at least half of the span in one piece, hence one of its two middle
    bars (which coincide if its length is odd): looking there finds every partner that counts. Below 0.5 the
    value may be smaller than the best there is.

    Args:
        rows_P: Window of each span, int64.
        starts_P: First bar, int64.
        ends_P: Bar after the last one, greater than the start, int64.
        truth: The windows' labels.

    Returns:
        Intersection over union, float64 [P].
    """
    best_P, spans_S2 = np.zeros(rows_P.shape[0]), truth.spans_S2
    if spans_S2.shape[0] == 0 or rows_P.shape[0] == 0:
        return best_P
    # One axis for all windows, with room between them, on which labelled spans ascend.
    width = int(max(spans_S2.max(), ends_P.max())) + 1
    spans_N = np.diff(truth.span_offsets_N1)
    shifts_S = np.repeat(np.arange(len(spans_N)), spans_N) * width
    true_starts_S, true_ends_S = spans_S2[:, 0] + shifts_S, spans_S2[:, 1] + shifts_S
    starts_P, ends_P = starts_P + rows_P * width, ends_P + rows_P * width
    for middle_P in ((starts_P + ends_P - 1) // 2, (starts_P + ends_P) // 2):
        # The last one that starts no later, if any: it shares nothing unless it reaches the bar or beyond.
        owner_P = np.maximum(np.searchsorted(true_starts_S, middle_P, side="right") - 1, 0)
        start_P, end_P = true_starts_S[owner_P], true_ends_S[owner_P]
        shared_P = np.maximum(np.minimum(ends_P, end_P) - np.maximum(starts_P, start_P), 0)
        union_P = (ends_P - starts_P) + (end_P - start_P) - shared_P
        np.maximum(best_P, shared_P / union_P, out=best_P)
    return best_P


def spans_from_mask(
    mask_NT: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the maximal runs of marked bars, row by row and left to right.

    Args:
        mask_NT: Marked bars, bool.

    Returns:
        Row, start and end (half-open) of each run, int64 [S] each.
    """
    num_windows, num_bars = mask_NT.shape
    padded = np.zeros((num_windows, num_bars + 2), dtype=bool)
    padded[:, 1:-1] = mask_NT
    edges = np.flatnonzero(padded[:, 1:] != padded[:, :-1])
    rows_E, bars_E = np.divmod(edges.astype(np.int64), num_bars + 1)
    return rows_E[0::2], bars_E[0::2], bars_E[1::2]


def f1_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return F1 of counts [..., 3], shape [...]."""
    hit, vain, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    return _ratio(2 * hit, 2 * hit + vain + missed, hit + vain + missed == 0)


def precision_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of what was marked that is true, of counts [..., 3], shape [...]."""
    hit, vain, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    return _ratio(hit, hit + vain, hit + vain + missed == 0)


def recall_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of what is true that was marked, of counts [..., 3], shape [...]."""
    hit, vain, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    return _ratio(hit, hit + missed, hit + vain + missed == 0)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64], nothing: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(nothing, 1.0, part / np.maximum(whole, 1))


def _offsets(counts_N: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int64)
