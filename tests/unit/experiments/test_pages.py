"""What the UI shows of a run's page, of the trend, and of the champion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jade_model.statistics.trend import TrendPoint
from tasks.artifacts.repository import ArtifactPlace, open_place
from tasks.artifacts.transfer import publish_run
from tasks.core.layout import RunLayout
from tasks.experiments import champion_page, publish
from tasks.experiments.champion import CHALLENGER, person, promote
from tasks.experiments.champion_page import champion_markdown, show_champion
from tasks.experiments.promote import roll_back_champion
from tasks.experiments.publish import show_page, trend_table
from tasks.experiments.trend import record_trend
from tasks.runs.past import read_trend


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What would be shown as Markdown, by key."""
    found: dict[str, str] = {}
    for module in (publish, champion_page):
        monkeypatch.setattr(module, "show_markdown", lambda key, text, _: found.update({key: text}))
    return found


def page_of(folder: Path, kept: str) -> RunLayout:
    layout = RunLayout(folder / "20261124T020000Z-compare-00000a")
    layout.report.mkdir(parents=True)
    (layout.report / "index.html").write_text("<html>")
    layout.run_json.write_text(json.dumps({"artifacts": kept}))
    return layout


def test_a_page_that_nobody_serves_is_said_to_lie_on_this_host(shown: dict[str, str], tmp_path: Path) -> None:
    layout = page_of(tmp_path, str(tmp_path))
    show_page("html-report", layout, "The report")
    assert str(layout.report / "index.html") in shown["html-report"]
    assert "no report server runs" in shown["html-report"]
    assert "file://" not in shown["html-report"]


def test_a_page_in_a_bucket_is_said_how_to_be_fetched(shown: dict[str, str], tmp_path: Path) -> None:
    layout = page_of(tmp_path, "s3://runs/jade")
    show_page("html-report", layout, "The report")
    assert f"    jade report s3://runs/jade/{layout.run_id}\n" in shown["html-report"]


def test_a_page_that_is_served_is_a_link(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JADE_REPORTS_URL", "http://127.0.0.1:4201")
    monkeypatch.setenv("JADE_REPORTS_FOLDER", str(tmp_path))
    links: list[str] = []
    monkeypatch.setattr(publish, "show_link", lambda _, address, *__: links.append(address))
    layout = page_of(tmp_path, str(tmp_path))
    show_page("html-report", layout, "The report")
    assert links == [f"http://127.0.0.1:4201/{layout.run_id}/report/index.html"]


def test_the_trend_shows_scores_expectations_times_and_costs_night_by_night() -> None:
    def point(night: int, arm: str, f1: float) -> TrendPoint:
        created = f"2026-11-2{night}T02:00:00+00:00"
        return TrendPoint(f"night-{night}", created, arm, f1, (f1 - 0.02, f1 + 0.02), seconds=90.0, cost_usd=0.4)

    trend = {
        "points": [point(night, arm, 0.6) for night in (3, 4) for arm in ("crf", "soft_span")],
        "nights": {"night-4": {"flow_run_id": "f4", "seconds": 300, "expected": {"crf": [0.7, 0.65]}, "fell": ["crf"]}},
    }
    newest, earlier = trend_table(trend)
    assert newest == {
        "began (UTC)": "2026-11-24 02:00",
        "comparison": "[night-4](/runs/flow-run/f4)",
        "F1 of crf": "0.600 [0.580, 0.620] fell",
        "F1 of soft_span": "0.600 [0.580, 0.620]",
        "took": "5 min 0 s",
        "training, all together": "3 min 0 s",
        "cost, USD": "0.40",
        "expected of crf": "0.700, at least 0.650",
        "expected of soft_span": "–",
    }
    shown_without_being_scrolled = ["comparison", "took", "cost, USD", "F1 of crf", "F1 of soft_span"]
    assert list(newest)[:5] == shown_without_being_scrolled
    assert (earlier["comparison"], earlier["took"], earlier["expected of crf"]) == ("night-3", "–", "–")


def test_a_trend_keeps_what_each_night_was_to_score_and_how_long_it_took(small_run: RunLayout, tmp_path: Path) -> None:
    place = open_place(tmp_path)
    for night in range(1, 6):
        layout = place.layout(f"202611{night:02}T020000Z-compare-00000{night}")
        shutil.copytree(small_run.root, layout.root)
        for path, more in (("run.json", {"flow_run_id": f"f{night}"}), ("comparison.json", {"run_id": layout.run_id})):
            file = layout.root / path
            file.write_text(json.dumps(json.loads(file.read_text()) | more))
        record_trend(layout, place)
        publish_run(place.store, layout.root, layout.run_id)
    rows = trend_table(read_trend(layout))
    assert [row["comparison"][-3:-1] for row in rows] == ["f5", "f4", "f3", "f2", "f1"]
    assert [row["expected of crf"] == "–" for row in rows] == [False, False, True, True, True]
    assert all(row["took"] != "–" for row in rows)


def retrained(place: ArtifactPlace, name: str, reason: str, card: dict[str, Any] | None = None) -> None:
    """Publish a retraining, as far as the page looks at it."""
    layout = place.layout(name)
    layout.root.mkdir()
    layout.run_json.write_text(json.dumps({"flow_run_id": f"flow-{name[-1]}"}))
    score = {"arm": "challenger", "metric": "f1", "dataset": None, "value": 0.71, "confidence_interval": [0.68, 0.74]}
    whole = {
        "model": {"arm": "crf", "recipe": "jade_crf"},
        "judgement": {"scores": [score]},
        "data": [{"name": "btc|usd", "num_windows": 40}],
        "decision": {"reason": reason},
    }
    layout.card_json.write_text(json.dumps(whole if card is None else card))
    publish_run(place.store, layout.root, name)


def test_the_champions_page_tells_who_why_since_when_and_links_the_runs(tmp_path: Path) -> None:
    place = open_place(tmp_path)
    assert "Nothing was promoted yet" in champion_markdown(place)
    first, second, third = (f"2026112{day}T050000Z-retrain-00000{day}" for day in (1, 2, 3))
    retrained(place, first, "there is no champion yet", card={"schema_version": 9})
    retrained(place, second, "it fails the gate: calibration")
    retrained(place, third, "it is worse")
    promote(place.store, first, instead_of=None)
    promote(place.store, second, instead_of=first, forced=True, by="ann-at-desk")
    place.store.point(CHALLENGER, third)
    text = champion_markdown(place)
    now, challenger, history = text.split("## ")
    assert f"[{second}](/runs/flow-run/flow-2)" in now
    for words in (
        "by force** by ann-at-desk",
        "0.710 [0.680, 0.740]",
        "btc\\|usd, 40 windows",
        "fails the gate: calibration",
    ):
        assert words in now
    assert f"[{third}](/runs/flow-run/flow-3)" in challenger
    assert "it is worse" in challenger
    rows, said = history.strip().split("\n\n")[1:]
    newest, oldest = rows.splitlines()[2:]
    assert newest.startswith("| 2 | ")
    assert f"| [{second}](/runs/flow-run/flow-2) | promoted **by force** by ann-at-desk | crf | 0.710 [" in newest
    assert oldest.startswith("| 1 | ")
    assert f"| [{first}](/runs/flow-run/flow-1) | promoted | – | – |" in oldest
    assert "fails the gate" not in rows, "a table's cells are as wide as what is in them"
    assert said.splitlines() == [
        "* 2: it fails the gate: calibration (jade_crf, trained on btc\\|usd, 40 windows)",
        "* 1: –",
    ]
    roll_back_champion(place)
    assert f"| rolled back to by {person()} | " in champion_markdown(place)


def test_a_champions_page_that_fails_is_logged_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, shown: dict[str, str]
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    place = open_place(tmp_path)
    show_champion(place)
    assert shown == {}, "nobody could see it"
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        show_champion(place)
        assert "Nothing was promoted yet" in shown.pop("champion")
        monkeypatch.setattr(place.store.__class__, "pointers", lambda _: {}["no answer"])
        show_champion(place)
    assert shown == {}
    assert "the page of the champion is not shown" in caplog.text
