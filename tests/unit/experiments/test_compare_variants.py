"""Comparisons off the common path: a leaking split, ensembles, several files, windows with no span or several."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.report_reading import rendered
from helpers.runs import finished_run

from flows.cli import run
from jade_model.comparison.files import parse_comparison, read_comparison
from jade_model.core.windows import Windows
from jade_model.data.sample import sample_windows
from jade_model.data.schema import write_windows
from jade_model.report.writing import HTML_NAME, MARKDOWN_NAME
from tasks.core.layout import RunLayout
from tasks.experiments.plan import Plan
from tasks.experiments.report import collect_report

ALL = {"soft_span": "jade_soft_span", "crf": "jade_crf", "single_span": "jade_single_span"}
PLAN = Plan(ALL, 1, seeds=1, folds=2, split="grouped", ensemble=1)  # type: ignore[arg-type]


def compared(tmp_path: Path, data: list[Windows], plan: Plan, *, figures: bool = False) -> tuple[RunLayout, dict]:
    """Train, evaluate and report: the report's text always, its figures where a variant changes what they draw."""
    files = []
    for windows in data:
        files.append(str(tmp_path / f"{windows.name}.parquet"))
        write_windows(windows, Path(files[-1]))
    layout = finished_run(tmp_path / "artifacts", files, plan, here=True, report=figures)
    comparison = read_comparison(layout.comparison_json)
    assert json.loads(parse_comparison(comparison).model_dump_json(exclude_unset=True)) == comparison
    if not figures:
        layout.report.mkdir()
        for name, text in zip((MARKDOWN_NAME, HTML_NAME), rendered(collect_report(layout)), strict=True):
            (layout.report / name).write_text(text)
    return layout, comparison


def test_the_seeds_split_is_named_a_leak_in_bold(small_windows: Windows, tmp_path: Path) -> None:
    layout, comparison = compared(tmp_path, [small_windows], replace(PLAN, split="seed", folds=1))
    data = comparison["data"][0]
    assert data["num_validation"] == data["num_test"]
    assert data["num_straddling_groups"] > 0
    span_score = comparison["baselines"]["span_score"]
    assert set(span_score["arms"]) == set(comparison["verdict"]["beats_span_score"]) == set(comparison["arms"])
    for arm, beats in comparison["verdict"]["beats_span_score"].items():
        told = any(
            caveat.startswith(f"{arm} is not shown to beat the score of") for caveat in comparison["verdict"]["caveats"]
        )
        assert told != beats
    assert "The split leaks" in comparison["verdict"]["caveats"][0]
    # Marking every bar stands beside the arms: it is scored on their windows, not on all.
    with np.load(layout.root / "predictions" / "crf.npz") as scored:
        rows = np.flatnonzero(np.isin(small_windows.window_id_N, scored["window_id"]))
    rate = small_windows.in_span_NT()[rows].mean()
    assert len(rows) == data["num_test"] < data["num_windows"]
    assert comparison["baselines"]["all_positive"]["f1"] == pytest.approx(2 * rate / (1 + rate))
    report = (layout.report / MARKDOWN_NAME).read_text()
    bold = [part for index, part in enumerate(report.split("**")) if index % 2]
    assert any("leak" in part and str(data["num_straddling_groups"]) in part for part in bold)


def test_an_ensemble_is_scored_as_one_and_predicted_with(
    small_windows: Windows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout, comparison = compared(tmp_path, [small_windows], replace(PLAN, ensemble=2))
    assert {arm["ensemble_size"] for arm in comparison["arms"].values()} == {2}
    assert all(len(arm["runs"]) == 2 for arm in comparison["arms"].values())
    out = tmp_path / "out.csv"
    data = str(tmp_path / "sample.parquet")
    capsys.readouterr()
    assert (
        run(["predict", "--model-path", str(layout.root / "crf"), "--data-path", data, "--out", str(out), "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["num_windows"] == small_windows.num_windows
    assert len(json.loads((layout.root / "crf" / "decoding.json").read_text())["members"]) == 2


def test_several_files_get_an_interval_each_and_windows_may_have_any_number_of_spans(
    small_windows: Windows, tmp_path: Path
) -> None:
    spans: list[list[list[int]]] = [small_windows.spans_of(row).tolist() for row in range(small_windows.num_windows)]
    for row in range(0, len(spans), 4):
        spans[row] = []
    for row in range(1, len(spans), 4):
        spans[row] = [[5, 10], [40, 52], [90, 95]]
    counts = [len(item) for item in spans]
    mixed = replace(
        small_windows,
        name="mixed",
        span_offsets_N1=np.concatenate([[0], np.cumsum(counts)]),
        spans_S2=np.array([span for item in spans for span in item]),
        type_N=np.where(np.array(counts) == 0, -1, small_windows.type_N),
    )
    other = replace(sample_windows(num_bases=20, seed=1), name="other")
    _, comparison = compared(tmp_path, [mixed, other], PLAN, figures=True)
    assert [item["name"] for item in comparison["data"]] == ["mixed", "other"]
    for arm in comparison["arms"].values():
        per_dataset = arm["summary"]["decoders"][arm["summary"]["best_decoder"]]["per_dataset"]
        assert set(per_dataset) == {"mixed", "other"}
        assert {item["dataset"] for item in arm["runs"]} == {"mixed", "other"}
    assert {item["dataset"] for item in comparison["differences"]} == {None, "mixed", "other"}
    judged = {name: arm["summary"]["best_decoder"] for name, arm in comparison["arms"].items()}
    assert judged == {"soft_span": "threshold", "crf": "marginal", "single_span": "marginal"}


def test_another_window_length_works(tmp_path: Path) -> None:
    length, whole = 16, sample_windows(num_bases=40)
    middle = whole.spans_S2.mean(axis=1).astype(int)
    first = np.clip(middle - length // 2, 0, 105 - length)
    cut = replace(
        whole,
        name=f"bars{length}",
        bars_NT4=np.stack([bars[start : start + length] for bars, start in zip(whole.bars_NT4, first, strict=True)]),
        spans_S2=np.clip(whole.spans_S2 - first[:, None], 0, length),
    )
    _, comparison = compared(tmp_path, [cut], replace(PLAN, folds=1), figures=True)
    assert comparison["data"][0]["window_length"] == length
