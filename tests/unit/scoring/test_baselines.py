"""The untrained rules against slow loops, and on the reference windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jade_model.data.sample import sample_windows
from jade_model.data.schema import load_windows
from jade_model.data.splits import group_windows, grouped_folds
from jade_model.scoring.baselines import MoveUnit, all_positive_scores, choose_move_length, mark_largest_move
from jade_model.scoring.decoding import Cleanup
from jade_model.scoring.metrics import Truth, count, pooled, spans_from_mask, truth_from_mask, truth_of
from jade_model.scoring.span_score import evaluate_span_score

REFERENCE = Path(__file__).parents[3] / ".." / "shared" / "data" / "expansions_btcusd_m30.parquet"
UNITS: tuple[MoveUnit, ...] = ("price", "atr")


def random_bars(seed: int, num_windows: int = 6, num_bars: int = 30) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (num_windows, num_bars)), axis=1))
    opening = np.concatenate([np.full((num_windows, 1), 100.0), close[:, :-1]], axis=1)
    wick = rng.random((2, num_windows, num_bars)) * 0.3
    high, low = np.maximum(opening, close) + wick[0], np.minimum(opening, close) - wick[1]
    return np.stack([opening, high, low, close], axis=2)


def slow_largest_move(bars: NDArray[np.float64], num_bars: int, unit: MoveUnit) -> int:
    """Start of the largest move of one window."""
    ranges = []
    for index, (opening, high, low, _) in enumerate(bars):
        before = bars[index - 1][3] if index else opening
        ranges.append(max(high, before) - min(low, before))
    mean = sum(ranges) / len(ranges)
    moves = []
    for start in range(len(bars) - num_bars + 1):
        earlier = ranges[max(0, start - 14) : start]
        scale = sum(earlier) / len(earlier) if start >= 5 else mean
        move = abs(bars[start + num_bars - 1][3] - bars[start][0])
        moves.append(move / max(scale, 0.1 * mean) if unit == "atr" else move)
    return int(np.argmax(moves))


@given(st.integers(0, 50), st.integers(1, 30), st.sampled_from(UNITS))
def test_the_largest_move_is_the_one_a_loop_finds(seed: int, num_bars: int, unit: MoveUnit) -> None:
    bars = random_bars(seed)
    rows, starts, ends = spans_from_mask(mark_largest_move(bars, num_bars, unit=unit))
    assert rows.tolist() == list(range(len(bars)))
    assert (ends - starts).tolist() == [num_bars] * len(bars)
    assert starts.tolist() == [slow_largest_move(window, num_bars, unit) for window in bars]


@pytest.mark.parametrize("seed", range(10))
def test_after_a_quiet_stretch_moves_are_measured_against_the_floor(seed: int) -> None:
    bars = random_bars(seed)
    bars[:, :15] = 100 + (bars[:, :15] - 100) * 0.01
    _, starts, _ = spans_from_mask(mark_largest_move(bars, 4, unit="atr"))
    assert starts.tolist() == [slow_largest_move(window, 4, "atr") for window in bars]


@pytest.mark.parametrize("unit", UNITS)
def test_nothing_is_marked_where_nothing_moves_and_flat_stretches_are_no_trouble(unit: MoveUnit) -> None:
    bars = random_bars(0)
    bars[0] = 100.0
    bars[1, :20] = 100.0
    marked = mark_largest_move(bars, 4, unit=unit)
    assert not marked[0].any()
    assert marked[1:].sum(axis=1).tolist() == [4] * 5


@pytest.mark.parametrize("unit", UNITS)
def test_prices_on_another_scale_or_upside_down_move_alike(unit: MoveUnit) -> None:
    bars = random_bars(3)
    mirrored = (250 - bars)[:, :, [0, 2, 1, 3]]
    expected = mark_largest_move(bars, 5, unit=unit)
    np.testing.assert_array_equal(mark_largest_move(bars * 1024, 5, unit=unit), expected)
    np.testing.assert_array_equal(mark_largest_move(mirrored, 5, unit=unit), expected)


@given(st.integers(0, 30), st.sampled_from(UNITS))
def test_the_chosen_length_scores_best_and_is_the_shortest_of_equals(seed: int, unit: MoveUnit) -> None:
    bars = random_bars(seed)
    truth = truth_from_mask(mark_largest_move(random_bars(seed + 1), 1 + seed % 7))
    scores = [count(mark_largest_move(bars, length, unit=unit), truth).scores().f1 for length in range(1, 31)]
    assert choose_move_length(bars, truth, unit=unit) == 1 + int(np.argmax(scores))


def test_everything_marked_scores_two_p_over_one_plus_p() -> None:
    mask = np.random.default_rng(0).random((20, 50)) < 0.072
    rate = mask.mean()
    scores = all_positive_scores([truth_from_mask(mask[:5]), truth_from_mask(mask[5:])])
    assert scores.f1 == pytest.approx(2 * rate / (1 + rate))
    assert scores.span_f1_iou50 == 0


def test_everything_marked_finds_a_span_that_fills_half_its_window() -> None:
    mask = np.array([[True] * 5 + [False] * 5])
    assert all_positive_scores([truth_from_mask(mask)]).span_f1_iou50 == 1


def test_a_length_that_does_not_fit_and_other_windows_are_refused() -> None:
    bars = random_bars(0)
    for num_bars in (0, 31):
        with pytest.raises(ValueError, match="does not fit"):
            mark_largest_move(bars, num_bars)
    for truth in (
        truth_from_mask(np.zeros((2, 30), dtype=bool)),
        truth_from_mask(np.zeros((6, 9), dtype=bool)),
    ):
        with pytest.raises(ValueError, match="labels"):
            choose_move_length(bars, truth)


@pytest.fixture(scope="module")
def reference() -> tuple[NDArray[np.float64], Truth]:
    if not REFERENCE.exists():
        pytest.skip("the reference windows are not at hand (../shared/data)")
    windows = load_windows(REFERENCE)
    return windows.bars_NT4, truth_of(windows)


@pytest.mark.parametrize(("unit", "f1", "span_f1"), [("price", 0.622, 0.665), ("atr", 0.726, 0.819)])
def test_the_largest_five_bar_move_scores_as_measured(
    reference: tuple[NDArray[np.float64], Truth], unit: MoveUnit, f1: float, span_f1: float
) -> None:
    bars, truth = reference
    assert choose_move_length(bars, truth, unit=unit) == 5
    scores = count(mark_largest_move(bars, 5, unit=unit), truth).scores()
    assert (scores.f1, scores.span_f1_iou50) == pytest.approx((f1, span_f1), abs=5e-4)


def test_everything_marked_in_the_reference_scores_as_its_rate_says(
    reference: tuple[NDArray[np.float64], Truth],
) -> None:
    assert all_positive_scores([reference[1]]).f1 == pytest.approx(0.0991, abs=5e-5)


def test_the_score_of_whole_spans_learns_in_seconds_and_the_same_again() -> None:
    windows = sample_windows(num_bases=40)
    splits = grouped_folds(windows, group_windows(windows), num_folds=2, seed=0, validation_fraction=0.1)
    scored, num_parameters = evaluate_span_score(windows, splits, "one_span", cleanup=Cleanup())
    again, _ = evaluate_span_score(windows, splits[:1], "one_span", cleanup=Cleanup())
    assert np.array_equal(scored[0].counts.bars_N3, again[0].counts.bars_N3)
    assert sorted(np.concatenate([item.rows_M for item in scored]).tolist()) == list(range(windows.num_windows))
    f1 = pooled(item.counts for item in scored).scores().f1
    assert f1 > 3 * all_positive_scores([truth_of(windows)]).f1
    assert 80 < num_parameters < 150
