"""A fall out of the row is called one; nights that merely differ are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jade_model.comparison.contract import read_comparison, write_comparison
from jade_model.report import TrendPoint
from jade_model.report.facts import gather
from jade_model.report.markup import to_markdown
from jade_model.report.writing import report_source
from jade_model.statistics.trend import expected_band, find_regressions, is_comparable, points_of
from tasks.artifacts.repository import open_place
from tasks.artifacts.transfer import publish_run
from tasks.core.layout import RunLayout
from tasks.experiments.report import collect_report
from tasks.experiments.trend import record_trend
from tasks.runs.past import read_trend

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


def test_a_fall_is_kept_in_the_run_and_shown_in_its_report(small_run: RunLayout, tmp_path: Path) -> None:
    place = open_place(tmp_path)
    comparison = read_comparison(small_run.comparison_json)
    for night in range(1, 5):
        layout = place.layout(f"2026112{night}T020000Z-compare-00000{night}")
        shutil.copytree(small_run.root, layout.root)
        told = json.loads(json.dumps(comparison)) | {"run_id": layout.run_id}
        if night < 4:
            decoder = told["arms"]["crf"]["summary"]["best_decoder"]
            told["arms"]["crf"]["summary"]["decoders"][decoder]["f1"] = 0.9
        write_comparison(layout.comparison_json, told)
        publish_run(place.store, layout.root, layout.run_id)
    layout = place.layout("20261124T020000Z-compare-000004")
    (regression,) = record_trend(layout, place)
    assert regression.arm == "crf"
    found = read_trend(layout)
    assert len({point.run_id for point in found["points"]}) == 4
    assert found["points"][-1].run_id == layout.run_id
    text = to_markdown(report_source(gather(collect_report(layout))), {})
    assert "Regression" in text
    assert "3 earlier comparisons make 0.900 expected" in text


def test_other_data_or_another_split_are_another_row(small_run: RunLayout) -> None:
    comparison = read_comparison(small_run.comparison_json)
    other = json.loads(json.dumps(comparison))
    assert is_comparable(comparison, other)
    other["settings"]["split"] = "seed"
    assert not is_comparable(comparison, other)
    other = json.loads(json.dumps(comparison))
    other["data"][0]["name"] = "else"
    assert not is_comparable(comparison, other)
