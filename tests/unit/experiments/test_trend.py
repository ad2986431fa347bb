"""A fall out of the row is called one; nights that merely differ are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jade_model.comparison.files import read_comparison, write_comparison
from jade_model.report.facts import gather
from jade_model.report.markup import to_markdown
from jade_model.report.writing import report_source
from jade_model.statistics.trend import (
    ArmState,
    Band,
    Regression,
    TrendPoint,
    follow,
    is_comparable,
    points_of,
)
from tasks.artifacts.repository import ArtifactPlace, open_place
from tasks.artifacts.transfer import publish_run
from tasks.core.errors import BadRequest
from tasks.core.layout import RunLayout
from tasks.experiments.report import collect_report
from tasks.experiments.trend import acknowledge, record_trend
from tasks.runs.past import choose_arm, read_trend

MARGIN = 0.03


def points(*scores: float, arm: str = "crf", half: float = 0.04) -> list[TrendPoint]:
    return [
        TrendPoint(f"run-{night:02}", "2026-11-24T02:00:00+00:00", arm, score, (score - half, score + half))
        for night, score in enumerate(scores)
    ]


def regressions_of(nights: list[TrendPoint], run_id: str) -> tuple[list[Band], list[Regression]]:
    state: dict[str, ArmState] = {}
    for point in nights:
        state, bands, regressions = follow(state, [point], MARGIN)
        if point.run_id == run_id:
            return bands, regressions
    raise AssertionError(run_id)


def told(nights: list[TrendPoint]) -> dict[int, Regression]:
    """Return what is told in each night, by its number."""
    found = {}
    for night, point in enumerate(nights):
        _, regressions = regressions_of(nights, point.run_id)
        if regressions:
            found[night] = regressions[0]
    return found


def test_three_nights_say_nothing() -> None:
    assert regressions_of(points(0.6, 0.6, 0.1), "run-02") == ([], [])


def test_a_fall_is_a_regression_and_is_told_in_one_sentence() -> None:
    _, (regression,) = regressions_of(points(0.6, 0.62, 0.61, 0.3), "run-03")
    assert regression.message.startswith("crf fell to an F1 of 0.300; 3 earlier comparisons make 0.610 expected")


def test_a_rise_or_a_fall_within_the_margin_is_none_even_after_equal_nights() -> None:
    for score in (0.9, 0.59, 0.571):
        assert told(points(*[0.6] * 4, score)) == {}
        assert told(points(*[0.6] * 12, *[score] * 5, half=0.0)) == {}


def test_later_comparisons_do_not_count() -> None:
    bands, _ = regressions_of(points(0.6, 0.6, 0.6, 0.6, 0.1, 0.1), "run-03")
    assert (bands[0].expected, bands[0].num_earlier) == (pytest.approx(0.6), 3)


@pytest.mark.parametrize("before", [5, 14])
def test_a_fall_that_stays_is_told_every_night_and_never_becomes_the_rule(before: int) -> None:
    rng = np.random.default_rng(0)
    nights = points(*rng.normal(0.7, 0.01, before), *rng.normal(0.55, 0.01, 40))
    found = told(nights)
    # The average takes two nights to come down.
    assert set(range(before + 2, len(nights))) <= set(found)
    last = found[len(nights) - 1]
    assert last.since in {f"run-{before + night:02}" for night in range(3)}
    assert f"It has been so since {last.since}, {last.nights} comparisons in a row." in last.message


def test_a_fall_that_is_over_is_no_longer_told() -> None:
    found = told(points(*[0.7] * 12, *[0.5] * 3, *[0.7] * 12))
    assert min(found) == 12
    assert max(found) < 20


@pytest.mark.parametrize("spread", [0.004, 0.02, 0.06])
@pytest.mark.parametrize("first", [0, 10])
def test_a_month_in_which_nothing_changes_holds_a_false_alarm_at_the_stated_rate(spread: float, first: int) -> None:
    rng = np.random.default_rng(0)
    alarms, rows = 0, 300
    for _ in range(rows):
        state: dict[str, ArmState] = {}
        alarmed = False
        for night in range(first + 30):
            # Intervals say what nights differ by; two arms share the rate.
            tonight = [
                TrendPoint(str(night), "", arm, f1, (f1 - 1.96 * spread, f1 + 1.96 * spread))
                for arm in ("crf", "soft_span")
                for f1 in [float(rng.normal(0.6, spread))]
            ]
            state, _, regressions = follow(state, tonight, margin=0.001)
            alarmed |= night >= first and bool(regressions)
        alarms += alarmed
    # 5 % of 300 is 15; 25 or more have a chance of 1 %.
    assert alarms <= 24


def test_points_are_read_off_a_comparison(small_run: RunLayout) -> None:
    comparison = read_comparison(small_run.comparison_json)
    found = points_of(comparison, cost_usd=0.4)
    assert [point.arm for point in found] == ["soft_span", "crf"]
    decoder = comparison["arms"]["crf"]["summary"]["decoders"][comparison["arms"]["crf"]["summary"]["best_decoder"]]
    assert (found[1].f1, found[1].cost_usd) == (decoder["f1"], 0.4)
    assert found[1].seconds is not None
    assert found[1].seconds > 0


def nightly(place: ArtifactPlace, small_run: RunLayout, night: int, **scores: float) -> RunLayout:
    """Publish the small run as a comparison of that night, arms scoring what is said."""
    layout = place.layout(f"202611{night:02}T020000Z-compare-0000{night:02}")
    shutil.copytree(small_run.root, layout.root)
    content = json.loads(small_run.comparison_json.read_text()) | {"run_id": layout.run_id}
    for arm, f1 in scores.items():
        summary = content["arms"][arm]["summary"]
        summary["decoders"][summary["best_decoder"]] |= {"f1": f1, "confidence_interval": [f1 - 0.02, f1 + 0.02]}
    write_comparison(layout.comparison_json, content)
    return layout


def publish(place: ArtifactPlace, layout: RunLayout) -> list[Regression]:
    regressions = record_trend(layout, place)
    publish_run(place.store, layout.root, layout.run_id)
    return regressions


def test_a_fall_is_kept_in_the_run_and_shown_in_its_report(small_run: RunLayout, tmp_path: Path) -> None:
    place = open_place(tmp_path)
    for night in range(1, 4):
        assert publish(place, nightly(place, small_run, night, crf=0.9)) == []
    layout = nightly(place, small_run, 4, crf=0.5)
    (regression,) = record_trend(layout, place)
    assert regression.arm == "crf"
    found = read_trend(layout)
    assert len({point.run_id for point in found["points"]}) == 4
    assert found["points"][-1].run_id == layout.run_id
    assert found["points"][-1].epochs == comparison_of(small_run)["arms"]["crf"]["runs"][0]["epochs"]
    text = to_markdown(report_source(gather(collect_report(layout))), {})
    assert "Regression" in text
    assert "3 earlier comparisons make 0.900 expected" in text


def test_a_fall_is_told_until_it_is_acknowledged(small_run: RunLayout, tmp_path: Path) -> None:
    place = open_place(tmp_path)
    heard = [publish(place, nightly(place, small_run, night, crf=0.9 if night < 5 else 0.5)) for night in range(1, 8)]
    assert [len(regressions) for regressions in heard] == [0, 0, 0, 0, 1, 1, 1]
    assert heard[-1][0].nights == 3
    # Also if all but the newest night were pruned since: what is expected is kept from night to night.
    acknowledge(place, "20261105")
    assert publish(place, nightly(place, small_run, 8, crf=0.5)) == []
    assert len(publish(place, nightly(place, small_run, 9, crf=0.2))) == 1


def test_what_is_expected_outlives_the_nights_that_said_so(small_run: RunLayout, tmp_path: Path) -> None:
    place = open_place(tmp_path)
    for night in range(1, 5):
        publish(place, nightly(place, small_run, night, crf=0.9))
    for layout in sorted(tmp_path.glob("*-compare-*"))[:3]:
        place.store.delete(layout.name)
        shutil.rmtree(layout, ignore_errors=True)
    assert len(publish(place, nightly(place, small_run, 5, crf=0.5))) == 1


def comparison_of(layout: RunLayout) -> Any:
    return json.loads(layout.comparison_json.read_text())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("settings", "split"), "seed"),
        (("settings", "num_folds"), 9),
        (("settings", "seeds"), [0, 1, 2, 3]),
        (("settings", "decoder"), "viterbi"),
        (("data", 0, "name"), "else"),
        (("data", 0, "num_groups"), 10_000),
        (("arms", "crf", "recipe"), "another"),
        (("arms", "crf", "runs", 0, "epochs"), 77),
        (("arms", "crf", "ensemble_size"), 3),
    ],
)
def test_other_data_or_another_way_to_score_are_another_row(
    small_run: RunLayout, path: tuple[str | int, ...], value: object
) -> None:
    comparison, other = comparison_of(small_run), comparison_of(small_run)
    assert is_comparable(comparison, other)
    place = other
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert not is_comparable(comparison, other)


def test_a_quick_try_does_not_choose_the_arm_that_is_retrained(small_run: RunLayout, tmp_path: Path) -> None:
    place = open_place(tmp_path)
    epochs = comparison_of(small_run)["arms"]["crf"]["runs"][0]["epochs"]
    publish(place, nightly(place, small_run, 1, crf=0.9, soft_span=0.1))
    quick = nightly(place, small_run, 2, crf=0.1, soft_span=0.9)
    content = comparison_of(quick)
    family = content["arms"]["crf"]["recipe"].partition("_")[0]
    for arm in content["arms"].values():
        for run in arm["runs"]:
            run["epochs"] = epochs + 1
    write_comparison(quick.comparison_json, content)
    publish(place, quick)
    assert choose_arm(place, family, epochs) == "crf"
    assert choose_arm(place, family, epochs + 1) == "soft_span"
    content["arms"]["mine"] = {**content["arms"].pop("soft_span"), "loss": "mine", "recipe": f"{family}_mine"}
    write_comparison(quick.comparison_json, content)
    with pytest.raises(BadRequest, match="prefers mine, an arm of your own: retraining trains soft_span, crf"):
        choose_arm(place, family, epochs + 1)
    with pytest.raises(BadRequest, match="2 by other recipes or epochs don't count"):
        choose_arm(place, family, epochs + 2)
