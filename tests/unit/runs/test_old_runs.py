"""Runs of older versions stay readable: tests/data/runs holds what the first version of Jade (commit c274bc8) wrote.

Of that run there is what the report reads, byte for byte but for the folder that its data lay in.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jade_model.comparison.files import parse_comparison, read_comparison, write_comparison
from jade_model.comparison.model import SCHEMA_VERSION
from jade_model.report.facts import gather
from jade_model.report.markup import to_markdown
from jade_model.report.writing import report_source
from jade_model.statistics.trend import points_of
from tasks.artifacts.repository import open_place
from tasks.artifacts.transfer import publish_run
from tasks.core.layout import RunLayout
from tasks.experiments.report import collect_report
from tasks.experiments.trend import record_trend
from tasks.runs.past import read_trend

FIRST = RunLayout(Path(__file__).parents[2] / "data" / "runs" / "20261124T081500Z-compare-cd12f7")


def test_the_first_versions_comparison_is_brought_up_to_this_schema() -> None:
    assert json.loads(FIRST.comparison_json.read_text())["schema_version"] == 1
    comparison = read_comparison(FIRST.comparison_json)
    assert comparison["schema_version"] == SCHEMA_VERSION
    assert json.loads(parse_comparison(comparison).model_dump_json(exclude_unset=True)) == comparison


def test_the_first_versions_run_is_reported() -> None:
    text = to_markdown(report_source(gather(collect_report(FIRST))), {})
    assert "## Verdict" in text
    for point in points_of(read_comparison(FIRST.comparison_json)):
        assert f"{point.f1:.3f}" in text


def test_the_first_versions_run_stands_in_the_trend_of_todays(tmp_path: Path) -> None:
    place = open_place(tmp_path)
    shutil.copytree(FIRST.root, place.layout(FIRST.run_id).root)
    publish_run(place.store, place.layout(FIRST.run_id).root, FIRST.run_id)
    today = place.layout("20991231T020000Z-compare-000001")
    today.root.mkdir()
    shutil.copyfile(FIRST.run_json, today.run_json)
    write_comparison(today.comparison_json, {**read_comparison(FIRST.comparison_json), "run_id": today.run_id})
    record_trend(today, place)
    first, *_ = points = read_trend(today)["points"]
    assert {point.run_id for point in points} == {FIRST.run_id, today.run_id}
    assert (first.arm, first.f1) == ("soft_span", pytest.approx(0.0789, abs=1e-4))


def test_a_report_tells_of_the_champion_and_of_the_warnings_in_the_log(tmp_path: Path) -> None:
    place = open_place(tmp_path)
    layout = place.layout(FIRST.run_id)
    shutil.copytree(FIRST.root, layout.root)
    publish_run(place.store, layout.root, FIRST.run_id)
    champion = place.layout("20261101T000000Z-retrain-aaaaaa")
    champion.root.mkdir()
    scores = [
        {"arm": arm, "metric": "f1", "dataset": None, "value": f1}
        for arm, f1 in (("champion", 0.5), ("challenger", 0.61))
    ]
    champion.card_json.write_text(json.dumps({"judgement": {"scores": scores}}))
    publish_run(place.store, champion.root, champion.run_id)
    place.store.point("champion", champion.run_id)
    record_trend(layout, place)
    said = [("info", "begins"), ("warning", "gpu1 is away: tried again"), ("error", "disk full")]
    lines = [json.dumps({"level": level, "message": message}) for level, message in said]
    (layout.root / "log.jsonl").write_text("\n".join([*lines, '{"level": "warn']))
    report = collect_report(layout)
    assert report.champion == {"run_id": champion.run_id, "f1": 0.61}
    assert report.troubles == ["gpu1 is away: tried again", "disk full"]
