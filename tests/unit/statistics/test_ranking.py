"""Ranking and what settings are worth, on counts that were drawn."""

from __future__ import annotations

import numpy as np
import pytest

from jade_model.data.sample import sample_windows
from jade_model.data.splits import Split, group_windows, grouped_folds
from jade_model.report.sweep import SweepReport, sweep_markdown, write_sweep
from jade_model.scoring.metrics import Counts, ScoredRows
from jade_model.statistics.elimination import Elimination
from jade_model.statistics.pool import DataSet
from jade_model.statistics.ranking import RaceArm, rank
from jade_model.statistics.verdict import NOT_BEATEN, Question

SETTINGS = [{"recipe": recipe, "rate": rate} for recipe in ("x", "y") for rate in (1, 2)]
SKILLS = (0.0, 0.1, 2.0, 2.1)


@pytest.fixture(scope="module")
def data() -> DataSet:
    windows = sample_windows(num_bases=40)
    grouping = group_windows(windows)
    splits: list[Split] = []
    for seed in range(2):
        splits += grouped_folds(windows, grouping, num_folds=2, seed=seed, validation_fraction=0.1)
    rule = [
        ScoredRows(split.seed, np.sort(split.test_rows), _counts(np.tile([0, 3, 5], (len(split.test_rows), 1))))
        for split in splits
    ]
    return DataSet(windows, grouping, splits, rule, 5.0)


def _counts(bars_N3: np.ndarray) -> Counts:
    return Counts(bars_N3.astype(np.int64), np.repeat(bars_N3.astype(np.int64)[:, None], 10, axis=1))


def race(data: DataSet, *, stopped: dict[str, Elimination] | None = None) -> list[RaceArm]:
    """Four arms: recipe y is much better than x, the rate hardly matters."""
    rng = np.random.default_rng(3)
    found = []
    for settings, skill in zip(SETTINGS, SKILLS, strict=True):
        name = f"{settings['recipe']}{settings['rate']}"
        gone = (stopped or {}).get(name)
        seeds = [0] if gone else [0, 1]
        parts = []
        for split in data.splits:
            if split.seed in seeds:
                rows = np.sort(split.test_rows)
                hit_N = rng.random(len(rows)) < 1 / (1 + np.exp(-skill))
                bars_N3 = np.where(hit_N[:, None], [5, 1, 0], [0, 4, 5])
                parts.append(ScoredRows(split.seed, rows, _counts(bars_N3)))
        found.append(RaceArm(name, settings, [parts], seeds, gone))
    return found


def test_the_best_leads_and_the_setting_that_matters_is_found(data: DataSet) -> None:
    result = rank(race(data), [data], Question())
    assert [entry["settings"]["recipe"] for entry in result["ranking"]] == ["y", "y", "x", "x"]
    assert result["verdict"]["best"] in {"y1", "y2"}
    worth = {(item["key"], item["value"]): item for item in result["ingredients"]}
    assert worth["recipe", "y"]["outcome"] == "winner"
    assert worth["recipe", "y"]["pairs"] == 2
    low, high = worth["rate", 2]["confidence_interval"]
    assert low < 0 < high
    assert result["seeds_of_ingredients"] == [0, 1]


def test_stopped_arms_come_after_finished_ones_and_failed_ones_last(data: DataSet) -> None:
    gone = {"x1": Elimination("x1", "y2", 0.4, (0.2, 0.6), 1)}
    arms = race(data, stopped=gone)
    arms.append(RaceArm("z1", {"recipe": "z", "rate": 1}, [], [], None, ("Training diverged",)))
    result = rank(arms, [data], Question())
    assert [entry["state"] for entry in result["ranking"]] == ["finished"] * 3 + ["stopped", "failed"]
    # Who survives depends on the scores: settings are judged where all arms were trained.
    assert result["seeds_of_ingredients"] == [0]
    assert all(item["value"] != "z" for item in result["ingredients"])


@pytest.mark.parametrize(("left", "outcome"), [(["y2"], "undecided"), (["y1", "y2"], "undecided")])
def test_arms_that_failed_were_not_beaten(data: DataSet, left: list[str], outcome: str) -> None:
    arms = [
        arm if arm.name in left else RaceArm(arm.name, arm.settings, [], [], None, ("out of memory",))
        for arm in race(data)
    ]
    verdict = rank(arms, [data], Question())["verdict"]
    assert (verdict["outcome"], verdict["best"] in left) == (outcome, True)
    assert verdict["caveats"][0].startswith("Failed, so that nothing is known of them: x1, x2")


def test_an_arm_that_is_left_because_each_other_was_beaten_has_won(data: DataSet) -> None:
    gone = {name: Elimination(name, "y2", 0.4, (0.2, 0.6), 1) for name in ("x1", "x2", "y1")}
    verdict = rank(race(data, stopped=gone), [data], Question())["verdict"]
    assert (verdict["outcome"], verdict["best"]) == ("winner", "y2")


def test_nothing_to_rank_is_said(data: DataSet) -> None:
    arms = [RaceArm(name, {"recipe": name}, [], [], None, ("no",)) for name in "ab"]
    result = rank(arms, [data], Question())
    assert result["verdict"]["best"] is None
    assert "nothing to rank" in result["verdict"]["reason"]


def test_the_report_says_the_same_in_markdown_and_on_a_page_with_its_figures(data: DataSet, tmp_path) -> None:
    gone = {"x1": Elimination("x1", "y2", 0.4, (0.2, 0.6), 1)}
    arms = race(data, stopped=gone)
    content = {
        "run_id": "r",
        "created_at": "2026-01-01T00:00:00+00:00",
        "settings": {"metric": "f1", "margin": 0.03, "confidence": 0.95, "error_rate": 0.05, "seeds": 2, "folds": 2},
        "varied": {"recipe": ["x", "y"], "rate": [1, 2]},
        "data": [{"name": "sample|<b>", "num_windows": 80, "num_groups": 40}],
        "trainings": {"planned": 16, "done": 14, "failed": 0, "spared": 2},
        **rank(arms, [data], Question()),
    }
    report = SweepReport(content, {"parameters": {"engine": "dask"}, "seconds": {"train": 3.0}})
    write_sweep(report, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert {path.name for path in tmp_path.glob("*.png")} == {"ranking.png", "worth.png", "coordinates.png"}
    assert page.count("<svg") == 3
    assert "<b>" not in page.replace("<p><b>", "").replace("<b>Trainings", "").replace("<b>Table", "")
    markdown = sweep_markdown(report)
    assert "stopped after round 1" in markdown
    assert "2 spared by stopping early" in markdown
    content["verdict"]["caveats"] = [
        "Only 8 base windows were scored: take the intervals as rough.",
        *[f"{name} {NOT_BEATEN} largest_move: the difference is -0.1 (95 % interval -1 to +1)." for name in "vwxyz"],
    ]
    caveats = [line for line in sweep_markdown(report).splitlines() if line.startswith("> ") and "⚠️" not in line]
    assert caveats == [
        "> Only 8 base windows were scored: take the intervals as rough.",
        "> Not shown to beat the untrained rule, 5 of 4 arms: `v`, `w`, `x` and `y` and 1 more.",
    ]
