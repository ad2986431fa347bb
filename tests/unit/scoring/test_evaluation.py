"""What is chosen is never chosen on what is scored, and `comparison.json` keeps its contract."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jade_model.comparison.document import verdict_decoder
from jade_model.comparison.files import parse_comparison, read_comparison
from jade_model.core.recipes import recipe
from jade_model.core.windows import Windows
from jade_model.data.splits import Split, group_windows, grouped_folds, holdout_split, seed_split
from jade_model.scoring.decoding import Cleanup
from jade_model.scoring.evaluate import evaluate_fold, selection_rows
from jade_model.scoring.predict import predict, untrained_predictor
from tasks.core.layout import RunLayout

FOLD = {"num_folds": 3, "seed": 0, "validation_fraction": 0.1}


def splits_of(windows: Windows) -> list[Split]:
    grouping = group_windows(windows)
    return [holdout_split(windows, grouping, seed=0), *grouped_folds(windows, grouping, **FOLD)]


def test_only_the_seeds_split_chooses_on_what_it_scores(small_windows: Windows) -> None:
    for split in splits_of(small_windows):
        assert not set(selection_rows(split)) & set(split.test_rows)
    leaking = seed_split(small_windows.num_windows)
    assert set(selection_rows(leaking)) == set(leaking.test_rows)


@pytest.mark.parametrize("name", ["seed_soft_span", "seed_crf", "jade_single_span"])
def test_labels_of_scored_windows_change_no_choice(small_windows: Windows, name: str) -> None:
    split = splits_of(small_windows)[1]
    other = np.array(small_windows.spans_S2)
    for row in split.test_rows:
        first, last = small_windows.span_offsets_N1[row : row + 2]
        other[first:last] = [[0, 1]]
    relabelled = replace(small_windows, spans_S2=other)
    trained = untrained_predictor(recipe(name), seed=1)
    untrained = predict(untrained_predictor(recipe(name), seed=2), small_windows)
    one = evaluate_fold(trained, untrained, small_windows, split, cleanup=Cleanup())
    two = evaluate_fold(trained, untrained, relabelled, split, cleanup=Cleanup())
    assert one.choices == two.choices
    assert one.temperature == two.temperature
    for decoder, mask_MT in one.predicted.items():
        np.testing.assert_array_equal(mask_MT, two.predicted[decoder])
    assert any(one.counts[d].scores() != two.counts[d].scores() for d in one.counts)


def test_the_decoder_of_the_verdict_follows_from_the_labels_shape(small_windows: Windows) -> None:
    class Data:
        windows = small_windows

    assert verdict_decoder(["threshold", "viterbi", "one_span"], [Data()]) == "one_span"  # type: ignore[list-item]
    several = replace(
        small_windows,
        span_offsets_N1=np.arange(small_windows.num_windows + 1) * 2,
        spans_S2=np.tile([[1, 3], [5, 9]], (small_windows.num_windows, 1)),
    )
    Data.windows = several
    assert verdict_decoder(["threshold", "viterbi", "one_span"], [Data()]) == "threshold"  # type: ignore[list-item]
    assert verdict_decoder(["viterbi", "marginal", "one_span"], [Data()]) == "marginal"  # type: ignore[list-item]


def test_the_comparison_keeps_its_contract(small_run: RunLayout) -> None:
    comparison = read_comparison(small_run.comparison_json)
    assert json.loads(parse_comparison(comparison).model_dump_json(exclude_unset=True)) == comparison
    assert comparison["run_id"] == small_run.run_id
    assert list(comparison["arms"]) == ["soft_span", "crf"]
    data = comparison["data"][0]
    assert data["num_train"] + data["num_validation"] + data["num_test"] == data["num_windows"]
    for arm in comparison["arms"].values():
        assert len(arm["runs"]) == 2
        for run in arm["runs"]:
            assert len(run["train_loss"]) == len(run["validation_loss"]) == run["epochs"] == 2
            assert (small_run.root / run["checkpoint"]).is_file()
            assert sum(run["task_weight"].values()) == pytest.approx(1)


def test_f1_is_the_scored_windows_own(small_run: RunLayout, small_windows: Windows) -> None:
    comparison = read_comparison(small_run.comparison_json)
    for name, arm in comparison["arms"].items():
        with np.load(small_run.predictions(name)) as saved:
            row_of = {window: row for row, window in enumerate(small_windows.window_id_N.tolist())}
            truth = small_windows.in_span_NT()[[row_of[window] for window in saved["window_id"].tolist()]]
            predicted, decoder = saved["predicted"], str(saved["decoder"])
            probability = saved["probability"]
        assert len(predicted) == small_windows.num_windows
        f1 = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
        assert arm["summary"]["decoders"][decoder]["f1"] == pytest.approx(f1)
        assert arm["summary"]["separation"]["in_span_mean"] == pytest.approx(probability[truth].mean(), rel=1e-5)


def test_a_difference_is_first_arm_minus_second(small_run: RunLayout) -> None:
    comparison = read_comparison(small_run.comparison_json)
    summaries = {name: arm["summary"] for name, arm in comparison["arms"].items()}
    f1 = {name: summary["decoders"][summary["best_decoder"]]["f1"] for name, summary in summaries.items()}
    (difference,) = [
        item
        for item in comparison["differences"]
        if (item["first"], item["second"], item["metric"]) == ("soft_span", "crf", "f1")
    ]
    assert difference["difference"] == pytest.approx(f1["soft_span"] - f1["crf"])


def test_every_run_leaves_the_files_that_are_promised(small_run: RunLayout) -> None:
    promised = [
        "run.json",
        "job.json",
        "comparison.json",
        "report/SOFT_SPAN_VS_CRF_COMPARISON.md",
        "report/index.html",
    ]
    for loss in ("soft_span", "crf"):
        promised += [
            f"{loss}/checkpoint_{loss}_2.pt",
            f"{loss}/training_{loss}_2.log",
            f"{loss}/history.jsonl",
            f"thresholds/{loss}.csv",
        ]
    missing = [name for name in promised if not (small_run.root / name).is_file()]
    assert missing == []
    assert list(small_run.report.glob("*.png"))
    log = (small_run.root / "crf" / "training_crf_2.log").read_text().splitlines()
    assert log[0].startswith("Epoch 1: train_loss=")
    assert ", val_loss=" in log[0]


def test_no_path_of_this_machine_stands_in_the_job(small_run: RunLayout) -> None:
    assert str(Path.home()) not in small_run.job_json.read_text()
    assert str(small_run.root) not in small_run.job_json.read_text()
