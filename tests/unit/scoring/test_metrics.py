"""Counting against slow truths, written bar by bar and pair by pair."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from jade_model.scoring.metrics import (
    IOU_50_TO_95,
    Counts,
    Truth,
    bar_counts_N3,
    count,
    f1_of,
    precision_of,
    recall_of,
    span_counts_NJ3,
    spans_from_mask,
    truth_from_mask,
)

MaskT = NDArray[np.bool_]
shapes = st.tuples(st.integers(1, 5), st.integers(1, 14))
masks = shapes.flatmap(lambda shape: hnp.arrays(bool, shape))


@st.composite
def masks_and_truths(draw: st.DrawFn) -> tuple[MaskT, Truth]:
    """Predicted bars beside labelled spans, which may touch each other."""
    shape = draw(shapes)
    predicted = draw(hnp.arrays(bool, shape))
    rows, spans = [], []
    for row in range(shape[0]):
        bounds = sorted(draw(st.sets(st.integers(0, shape[1]), max_size=8)))
        for start, end in itertools.pairwise(bounds):
            if draw(st.booleans()):
                rows.append(row)
                spans.append((start, end))
    array = np.array(spans, dtype=np.int64).reshape(-1, 2)
    offsets = np.searchsorted(rows, np.arange(shape[0] + 1)).astype(np.int64)
    mask = covered(zip(rows, spans, strict=True), shape)
    return predicted, Truth(mask, offsets, array)


def covered(spans: Iterable[tuple[int, tuple[int, int]]], shape: tuple[int, int]) -> MaskT:
    mask = np.zeros(shape, dtype=bool)
    for row, (start, end) in spans:
        mask[row, start:end] = True
    return mask


def runs_of(row: list[bool]) -> list[tuple[int, int]]:
    runs, at = [], 0
    for value, group in itertools.groupby(row):
        length = len(list(group))
        if value:
            runs.append((at, at + length))
        at += length
    return runs


def most_matches(predicted: list[tuple[int, int]], true: list[tuple[int, int]], percent: int) -> int:
    """Largest one-to-one matching, by trying everything; IoU is compared in whole numbers."""
    if not predicted:
        return 0
    first, *others = predicted
    best = most_matches(others, true, percent)
    for index, span in enumerate(true):
        shared = max(0, min(first[1], span[1]) - max(first[0], span[0]))
        union = first[1] - first[0] + span[1] - span[0] - shared
        if 100 * shared >= percent * union:
            best = max(best, 1 + most_matches(others, true[:index] + true[index + 1 :], percent))
    return best


@given(masks)
def test_spans_are_the_maximal_runs_of_each_row(mask: MaskT) -> None:
    rows, starts, ends = spans_from_mask(mask)
    expected = [(row, start, end) for row in range(len(mask)) for start, end in runs_of(mask[row].tolist())]
    assert list(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)) == expected


@given(masks)
def test_mask_to_spans_and_back_is_the_identity(mask: MaskT) -> None:
    shape = (mask.shape[0], mask.shape[1])
    rows, starts, ends = (part.tolist() for part in spans_from_mask(mask))
    np.testing.assert_array_equal(covered(zip(rows, zip(starts, ends, strict=True), strict=True), shape), mask)


@given(masks_and_truths())
def test_bars_are_counted_like_one_by_one(case: tuple[MaskT, Truth]) -> None:
    predicted, truth = case
    pairs = [list(zip(p, t, strict=True)) for p, t in zip(predicted.tolist(), truth.mask_NT.tolist(), strict=True)]
    expected = [[row.count((True, True)), row.count((True, False)), row.count((False, True))] for row in pairs]
    np.testing.assert_array_equal(bar_counts_N3(predicted, truth.mask_NT), expected)


@given(masks_and_truths())
def test_spans_are_counted_like_the_largest_one_to_one_matching(case: tuple[MaskT, Truth]) -> None:
    predicted, truth = case
    counts = span_counts_NJ3(predicted, truth, IOU_50_TO_95)
    for row in range(len(predicted)):
        marked = runs_of(predicted[row].tolist())
        own = truth.spans_S2[truth.span_offsets_N1[row] : truth.span_offsets_N1[row + 1]]
        true = [(int(start), int(end)) for start, end in own]
        for level, iou in enumerate(IOU_50_TO_95):
            hits = most_matches(marked, true, round(100 * iou))
            assert counts[row, level].tolist() == [hits, len(marked) - hits, len(true) - hits]


def test_an_iou_of_exactly_one_half_counts_as_found() -> None:
    predicted = np.array([[True, True, True, True, False]])
    truth = truth_from_mask(np.array([[False, False, True, True, False]]))
    counts = span_counts_NJ3(predicted, truth, (0.5, 0.55))
    assert counts.tolist() == [[[1, 0, 0], [0, 1, 1]]]


def test_a_run_that_fills_two_touching_spans_of_equal_length_finds_one_of_them() -> None:
    predicted = np.array([[True, True, True, True]])
    truth = Truth(predicted, np.array([0, 2]), np.array([[0, 2], [2, 4]]))
    assert span_counts_NJ3(predicted, truth, (0.5,)).tolist() == [[[1, 0, 1]]]


@pytest.mark.parametrize("ious", [(), (0.49,), (0.5, 1.01)])
def test_an_iou_below_one_half_is_refused(ious: tuple[float, ...]) -> None:
    truth = truth_from_mask(np.ones((1, 3), dtype=bool))
    with pytest.raises(ValueError, match="IoU"):
        span_counts_NJ3(truth.mask_NT, truth, ious)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        bar_counts_N3(np.ones((2, 3), dtype=bool), np.ones((3, 2), dtype=bool))
    with pytest.raises(ValueError, match="2 windows were predicted, 1 are labelled"):
        span_counts_NJ3(np.ones((2, 3), dtype=bool), truth_from_mask(np.ones((1, 3), dtype=bool)), (0.5,))


def test_scores_agree_with_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    rng = np.random.default_rng(5)
    predicted, truth = rng.random((40, 30)) < 0.3, rng.random((40, 30)) < 0.2
    precision, recall, f1, _ = precision_recall_fscore_support(truth.ravel(), predicted.ravel(), average="binary")
    scores = count(predicted, truth_from_mask(truth)).scores()
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx((precision, recall, f1), abs=1e-15)
    rows = [
        precision_recall_fscore_support(t, p, average="binary", zero_division=0)[2]
        for p, t in zip(predicted, truth, strict=True)
    ]
    assert scores.macro_f1 == pytest.approx(np.mean(rows), abs=1e-15)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 0, 0], (1, 1, 1)),
        ([0, 3, 0], (0, 0, 0)),
        ([0, 0, 2], (0, 0, 0)),
        ([2, 1, 2], (2 / 3, 1 / 2, 4 / 7)),
    ],
)
def test_ratios_without_cases_are_one_only_if_there_was_nothing_to_find(
    counts: list[int], expected: tuple[float, float, float]
) -> None:
    array = np.array(counts, dtype=np.int64)
    assert (float(precision_of(array)), float(recall_of(array)), float(f1_of(array))) == pytest.approx(expected)


def test_an_empty_window_left_unmarked_counts_one_in_the_macro_average() -> None:
    counts = Counts(np.array([[0, 0, 0], [0, 1, 0], [1, 1, 1]]), np.zeros((3, 10, 3), dtype=np.int64))
    assert counts.scores().macro_f1 == pytest.approx((1 + 0 + 0.5) / 3)


def test_span_f1_over_levels_is_the_mean_of_the_levels_f1() -> None:
    truth = truth_from_mask(np.array([[True] * 10 + [False] * 10]))
    predicted = np.array([[True] * 7 + [False] * 13])  # an IoU of 0.7: five of the ten levels
    scores = count(predicted, truth).scores()
    assert (scores.span_f1_iou50, scores.span_f1_iou50_95) == (1.0, 0.5)


@given(masks_and_truths())
def test_taking_rows_and_counting_commute(case: tuple[MaskT, Truth]) -> None:
    predicted, truth = case
    rows = np.random.default_rng(len(predicted)).integers(0, len(predicted), 7).astype(np.intp)
    direct = count(predicted, truth)
    again = count(predicted[rows], truth.take(rows))
    np.testing.assert_array_equal(direct.bars_N3[rows], again.bars_N3)
    np.testing.assert_array_equal(direct.spans_NJ3[rows], again.spans_NJ3)


def test_windows_without_any_span_are_counted() -> None:
    truth = truth_from_mask(np.zeros((3, 5), dtype=bool))
    scores = count(np.zeros((3, 5), dtype=bool), truth).scores()
    assert (scores.f1, scores.macro_f1, scores.span_f1_iou50) == (1.0, 1.0, 1.0)
