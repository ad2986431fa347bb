"""What a comparison and its report say, held against what was written down.

The models' words are made up, so that no processor's rounding moves a threshold. To write both files down anew after a
change that is meant: `python tests/golden/test_said.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jade_model.comparison.document import EvaluatedArm, compose_comparison
from jade_model.comparison.summary import ArmTraining
from jade_model.core.checkpoint import Checkpoint
from jade_model.core.recipes import recipe
from jade_model.core.windows import Windows
from jade_model.data.sample import sample_windows
from jade_model.data.splits import Split, group_windows, grouped_folds
from jade_model.report import markdown_for_artifact
from jade_model.scoring.decoding import Cleanup, decode
from jade_model.scoring.evaluate import (
    DataEvaluation,
    FoldEvaluation,
    choose_decoders,
    evaluate_rule,
    selection_rows,
)
from jade_model.scoring.metrics import count, truth_of
from jade_model.scoring.predictions import Predictions
from jade_model.statistics.pool import DataSet
from tasks.core.layout import RunLayout
from tasks.experiments.report import collect_report

KEPT = Path(__file__).with_name("comparison.json")
REPORT = Path(__file__).with_name("report.md")
FROZEN_RUN = Path(__file__).parents[1] / "data" / "runs" / "20261124T081500Z-compare-cd12f7"
SKILL = {"jade_soft_span": 0.3, "jade_crf": 0.55}
TASKS = ("pointer", "type", "span", "countdown")
SETTINGS = {
    "seeds": [0, 1],
    "num_folds": 3,
    "split": "grouped",
    "margin": 0.03,
    "confidence": 0.95,
    "min_span_length": 1,
    "merge_gap": 0,
    "checkpoint": "last",
    "ensemble": 1,
    "decoder": "auto",
}


def composed() -> dict[str, Any]:
    """Compose the comparison of two made-up arms on the sample."""
    windows = sample_windows(num_bases=30)
    grouping = group_windows(windows)
    splits = [
        split
        for seed in SETTINGS["seeds"]  # type: ignore[attr-defined]
        for split in grouped_folds(windows, grouping, num_folds=3, seed=seed, validation_fraction=0.1)
    ]
    rule, rule_bars = evaluate_rule(windows, splits)
    arms = []
    for number, (name, skill) in enumerate(SKILL.items()):
        folds = [
            scored(name, windows, split, skill, np.random.default_rng((number, index)))
            for index, split in enumerate(splits)
        ]
        trainings = [
            ArmTraining(windows.name, split.seed, split.fold, checkpoint(name, split, index), f"{name}/{index}.pt")
            for index, split in enumerate(splits)
        ]
        arm = name.removeprefix("jade_")
        arms.append(EvaluatedArm(arm, trainings, [DataEvaluation(windows, truth_of(windows), folds)], 1, 97_547))
    return compose_comparison(
        {"run_id": "20250101T000000Z-compare-abcdef", "created_at": "2025-01-01T00:00:00Z"},
        SETTINGS,
        [DataSet(windows, grouping, splits, rule, rule_bars)],
        arms,
    ).to_json()


def scored(name: str, windows: Windows, split: Split, skill: float, rng: np.random.Generator) -> FoldEvaluation:
    truth, cleanup = truth_of(windows), Cleanup()
    said, before = (made_up(name, windows, level, rng) for level in (skill, 0.0))
    chosen_on, rows_M = selection_rows(split), np.sort(split.test_rows)
    choices = choose_decoders(said.take(chosen_on), truth.take(chosen_on), cleanup)
    untrained = choose_decoders(before.take(chosen_on), truth.take(chosen_on), cleanup)
    predicted = {decoder: decode(said.take(rows_M), choice) for decoder, choice in choices.items()}
    return FoldEvaluation(
        seed=split.seed,
        fold=split.fold,
        rows_M=rows_M,
        temperature=1.25,
        choices=choices,
        curves={},
        predictions=said.take(rows_M),
        predicted=predicted,
        counts={decoder: count(mask_MT, truth.take(rows_M)) for decoder, mask_MT in predicted.items()},
        untrained={
            decoder: count(decode(before.take(rows_M), choice), truth.take(rows_M))
            for decoder, choice in untrained.items()
        },
        seconds=0.5,
    )


def made_up(name: str, windows: Windows, skill: float, rng: np.random.Generator) -> Predictions:
    """Say of every bar what its label suggests, and noise."""
    inside_NT = windows.in_span_NT()

    def some(*shape: int) -> NDArray[np.float64]:
        return np.round(rng.random(shape), 6)

    N, T = inside_NT.shape
    probability_NT = np.round(0.4 * some(N, T) ** 6 + skill * inside_NT * some(N, 1), 6)
    types_N3 = some(N, 3) + 0.1
    return Predictions(
        loss=recipe(name).loss,
        temperature=1.25,
        probability_NT=probability_NT,
        path_NT=probability_NT > 0.5,
        margin_N=10 * some(N),
        type_probability_N3=types_N3 / types_N3.sum(axis=1, keepdims=True),
        pointers_N2=some(N, 2),
        countdown_NT=40 * some(N, T) - 20,
        posterior_pointers_N2=some(N, 2),
        posterior_countdown_NT=40 * some(N, T) - 20,
    )


def checkpoint(name: str, split: Split, index: int) -> Checkpoint:
    sigma = {task: 1.0 - 0.1 * number for number, task in enumerate(TASKS)}
    total = sum(value**-2 for value in sigma.values())
    history = [
        {
            "train_loss": 4.0 - epoch,
            "validation_loss": 5.0 - epoch + 0.25 * index * (epoch == 2),
            "sigma": sigma,
            "task_weight": {task: value**-2 / total for task, value in sigma.items()},
            "seconds": 1.5,
        }
        for epoch in range(3)
    ]
    return Checkpoint(
        recipe=recipe(name),
        feature_names=(),
        window_length=105,
        dataset="sample",
        data_sha256="0" * 64,
        train_rows=torch.tensor([]),
        validation_rows=torch.tensor([]),
        seed=split.seed,
        fold=split.fold,
        epoch=3,
        history=history,
        run_key="0" * 64,
        versions={},
        weights={},
        training_state=None,
    )


def assert_close(found: Any, kept: Any, where: str = "$") -> None:
    """Compare JSON values; sums of floats may differ in their last digits from processor to processor."""
    if isinstance(kept, dict):
        assert list(found) == list(kept), where
        for name, value in kept.items():
            assert_close(found[name], value, f"{where}.{name}")
    elif isinstance(kept, list):
        assert len(found) == len(kept), where
        for index, value in enumerate(kept):
            assert_close(found[index], value, f"{where}[{index}]")
    elif isinstance(kept, float):
        np.testing.assert_allclose(found, kept, rtol=1e-6, atol=1e-9, err_msg=where)
    else:
        assert found == kept, where


def test_a_comparison_says_what_was_written_down() -> None:
    assert_close(json.loads(json.dumps(composed())), json.loads(KEPT.read_text()))


def test_a_report_says_what_was_written_down() -> None:
    assert markdown_for_artifact(collect_report(RunLayout(FROZEN_RUN))) == REPORT.read_text()


if __name__ == "__main__":
    KEPT.write_text(json.dumps(composed(), indent=1) + "\n")
    REPORT.write_text(markdown_for_artifact(collect_report(RunLayout(FROZEN_RUN))))
