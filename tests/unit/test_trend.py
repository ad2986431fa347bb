"""A fall out of the row is called one; nights that merely differ are not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jade_model.contract import read_comparison
from jade_model.report import TrendPoint
from jade_model.trend import expected_band, find_regressions, is_comparable, points_of
from tasks.layout import RunLayout

MARGIN = 0.03


def points(*scores: float) -> list[TrendPoint]:
    return [TrendPoint(f"run-{night}", "2026-11-24T02:00:00+00:00", "crf", score) for night, score in enumerate(scores)]


def test_two_nights_say_nothing() -> None:
    assert expected_band("crf", [0.6, 0.6], MARGIN) is None
    assert find_regressions(points(0.6, 0.6, 0.1), "run-2", MARGIN) == ([], [])


def test_a_fall_is_a_regression_and_is_told_in_one_sentence() -> None:
    _, (regression,) = find_regressions(points(0.6, 0.62, 0.61, 0.3), "run-3", MARGIN)
    assert regression.message.startswith("crf fell to an F1 of 0.300; 3 earlier comparisons make 0.610 expected")


def test_a_rise_or_a_fall_within_the_margin_is_none_even_after_equal_nights() -> None:
    for score in (0.9, 0.59, 0.571):
        assert find_regressions(points(0.6, 0.6, 0.6, 0.6, score), "run-4", MARGIN)[1] == []


def test_later_comparisons_do_not_count() -> None:
    bands, _ = find_regressions(points(0.6, 0.6, 0.6, 0.6, 0.1, 0.1), "run-3", MARGIN)
    assert (bands[0].expected, bands[0].num_earlier) == (pytest.approx(0.6), 3)


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.03])
def test_nights_that_only_differ_raise_a_false_alarm_about_once_in_a_hundred(spread: float) -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(1000):
        *earlier, tonight = rng.normal(0.6, spread, 8).tolist()
        band = expected_band("crf", earlier, MARGIN)
        assert band is not None
        alarms += tonight < band.low
    assert alarms <= 15


def test_points_are_read_off_a_comparison(small_run: RunLayout) -> None:
    comparison = read_comparison(small_run.comparison_json)
    found = points_of(comparison, cost_usd=0.4)
    assert [point.arm for point in found] == ["soft_span", "crf"]
    decoder = comparison["arms"]["crf"]["summary"]["decoders"][comparison["arms"]["crf"]["summary"]["best_decoder"]]
    assert (found[1].f1, found[1].cost_usd) == (decoder["f1"], 0.4)
    assert found[1].seconds is not None
    assert found[1].seconds > 0


def test_other_data_or_another_split_are_another_row(small_run: RunLayout) -> None:
    comparison = read_comparison(small_run.comparison_json)
    other = json.loads(json.dumps(comparison))
    assert is_comparable(comparison, other)
    other["settings"]["split"] = "seed"
    assert not is_comparable(comparison, other)
    other = json.loads(json.dumps(comparison))
    other["data"][0]["name"] = "else"
    assert not is_comparable(comparison, other)
