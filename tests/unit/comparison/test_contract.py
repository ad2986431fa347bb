"""comparison.json: the schema, the page that describes it, and reading and writing it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from jade_model.comparison import files
from jade_model.comparison.__main__ import schema, with_tables
from jade_model.comparison.files import parse_comparison, read_comparison, write_comparison
from jade_model.comparison.model import SCHEMA_VERSION
from jade_model.comparison.summary import ArmTraining, run_of
from jade_model.core.errors import UserError
from jade_model.statistics.compare import compare_arms
from jade_model.statistics.scored_windows import ArmCounts, ScoredWindows

SCHEMA = schema()
VALIDATOR = Draft202012Validator(SCHEMA)
PAGE = (Path(__file__).parents[3] / "docs" / "comparison.md").read_text(encoding="utf-8")


def example() -> dict[str, Any]:
    """Return a comparison of two arms that has every field."""
    return dict(json.loads(_example()))


@functools.cache
def _example() -> str:
    tasks = dict.fromkeys(("pointer", "type", "span", "countdown"), 0.25)
    decoder = {
        "threshold": 0.4,
        "f1": 0.7,
        "precision": 0.7,
        "recall": 0.7,
        "macro_f1": 0.6,
        "span_f1_iou50": 0.7,
        "span_f1_iou50_95": 0.5,
        "confidence_interval": [0.6, 0.8],
        "span_confidence_interval": [0.6, 0.8],
        "per_fold": [
            {"dataset": "x", "seed": 0, "fold": 0, "threshold": None, "f1": 0.7, "span_f1_iou50": 0.7},
        ],
        "per_dataset": {"x": {"f1": 0.7, "confidence_interval": [0.6, 0.8], "span_f1_iou50": 0.7}},
    }
    nothing = {"center": None, "length": None}
    arm = {
        "loss": "crf",
        "recipe": "jade_crf",
        "feature_set": "displacement-17",
        "num_parameters": 97_748,
        "ensemble_size": 1,
        "runs": [
            {
                "dataset": "x",
                "seed": 0,
                "fold": 0,
                "epochs": 2,
                "train_loss": [2.0, 1.0],
                "validation_loss": [2.0, 1.5],
                "best_epoch": 2,
                "validation_loss_reduction": 0.25,
                "validation_loss_rise_since_best": 0.0,
                "sigma": tasks,
                "task_weight": tasks,
                "seconds": {"train": 1.0, "evaluate": 0.1},
                "checkpoint": "crf/checkpoint_crf_2.pt",
                "run_key": "0" * 64,
                "temperature": 1.0,
            }
        ],
        "summary": {
            "separation": {"in_span_mean": 0.6, "out_of_span_mean": 0.1, "separation": 0.5},
            "calibration": {
                "brier": 0.1,
                "ece": 0.02,
                "temperature": 1.0,
                "reliability": [
                    {"lower": 0, "upper": 1, "mean_probability": None, "observed_rate": None, "num_bars": 0}
                ],
            },
            "untrained": {"f1": 0.13, "span_f1_iou50": 0.0},
            "histogram": {"edges": [0, 0.5, 1], "in_span": [1, 2], "out_of_span": [2, 1]},
            "pointer_error_bars": {"trained_head": {"center": 5.0, "length": 2.0}, "posterior": nothing},
            "countdown_error_bars": {"trained_head": 4.0, "posterior": None},
            "type": {"accuracy": 0.7, "majority_accuracy": None},
            "best_decoder": "one_span",
            "decoders": {"one_span": decoder, "threshold": decoder},
        },
    }
    compared = compare_arms(*counted())
    document = {
        "schema_version": 1,
        "run_id": "20250101T000000Z-compare-abcdef",
        "created_at": "2025-01-01T00:00:00Z",
        "settings": {
            "seeds": [0],
            "num_folds": 5,
            "split": "grouped",
            "margin": 0.03,
            "confidence": 0.95,
            "min_span_length": 1,
            "merge_gap": 0,
            "checkpoint": "last",
            "ensemble": 1,
            "decoder": "auto",
        },
        "data": [
            {
                "name": "x",
                "path": "x.parquet",
                "sha256": "0" * 64,
                "num_windows": 40,
                "num_groups": 20,
                "num_shared_bar_joins": 0,
                "num_train": 24,
                "num_validation": 8,
                "num_test": 40,
                "window_length": 105,
                "feature_set": "displacement-17",
                "num_straddling_groups": 0,
                "in_span_rate": 0.05,
                "label_counts": {"consolidation": 30, "retracement": 10},
            }
        ],
        "arms": {"soft_span": arm, "crf": arm},
        "baselines": {
            "all_positive": {"f1": 0.1, "span_f1_iou50": 0.0},
            "largest_move": {"f1": 0.6, "span_f1_iou50": 0.6, "confidence_interval": [0.5, 0.7], "bars": 5},
        },
        "differences": [item.to_json() for item in compared.differences],
        "verdict": {**compared.verdict.to_json(), "decoder": "one_span"},
    }
    return json.dumps(document)


def counted() -> tuple[list[ArmCounts], ScoredWindows]:
    bars = np.random.default_rng(0).integers(0, 9, (2, 1, 40, 3))
    arms = [ArmCounts(name, bars[row], bars[row]) for row, name in enumerate(("soft_span", "crf"))]
    return arms, ScoredWindows(np.arange(40) // 2, np.arange(40)[None] // 8)


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_a_whole_comparison_is_valid_and_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "run" / "comparison.json"
    write_comparison(path, example())
    content = read_comparison(path)
    assert content == example()
    assert [error.message for error in VALIDATOR.iter_errors(content)] == []


def test_every_required_field_is_missed_by_its_place_when_it_is_gone() -> None:
    optional = {"span_score", "seeds_needed", "lack", "beats_span_score", "what_decides", "over_datasets"}
    optional |= {"standard_error", "training_share"}

    def places(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str):
                yield *place, key
            if isinstance(item, dict | list):
                yield from places(item, (*place, key))

    known = [place for place in places(example()) if not set(place) & (optional | {"label_counts", "beats_baseline"})]
    maps = {("arms",), ("decoders",), ("per_dataset",)}
    fields = [place for place in known if place[-2:-1] not in maps and not {"sigma", "task_weight"} & set(place[:-1])]
    assert len(fields) > 150
    for *way, name in fields:
        document = target = example()
        for key in way:
            target = target[key]
        del target[name]
        if way and way[0] == "differences" and name in {"detectable_difference", "groups_needed"}:
            parse_comparison(document)  # of a verdict they are required
            continue
        with pytest.raises(UserError, match=r"is missing|lacks|no schema_version"):
            parse_comparison(document)
        assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("verdict", "winner"), "crf", "verdict: .*winner is 'crf'"),
        (("verdict", "outcome"), "tie", "verdict.outcome: .*found 'tie'"),
        (("verdict", "confidence_interval"), [0.1], r"verdict.confidence_interval\[1\] is missing"),
        (("settings", "split"), "random", "settings.split: .*found 'random'"),
        (("settings", "seeds"), ["1"], r"settings.seeds\[0\]: .*valid integer, found '1'"),
        (("arms", "crf", "summary", "decoders", "guess"), {}, "decoders.guess"),
        (("arms", "crf", "summary", "decoders", "one_span", "f1"), 1.2, "one_span.f1: .*found 1.2"),
        (("arms", "crf", "summary", "best_decoder"), "viterbi", "'viterbi', which is not among its decoders"),
        (("arms", "crf", "runs"), [], "arms.crf.runs: "),
        (("arms",), {}, "arms: "),
        (("data", 0, "sha256"), "abc", r"data\[0\].sha256: "),
    ],
)
def test_what_breaks_the_contract_is_named_by_its_place(
    tmp_path: Path, place: tuple[str | int, ...], value: object, message: str
) -> None:
    document = example()
    assert document["verdict"]["outcome"] != "winner"
    target: Any = document
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(UserError, match=message):
        parse_comparison(document)
    with pytest.raises(ValueError, match=message):
        write_comparison(tmp_path / "comparison.json", document)
    assert list(tmp_path.iterdir()) == []


def test_the_page_has_the_tables_that_the_model_makes() -> None:
    assert with_tables(PAGE) == PAGE, "run `python -m jade_model.comparison --docs docs/comparison.md`"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_know_are_refused_by_their_place(tmp_path: Path, value: float) -> None:
    document = example()
    document["arms"]["crf"]["runs"][0]["train_loss"][1] = value
    with pytest.raises(ValueError, match=re.escape("arms.crf.runs[0].train_loss[1]: ")):
        write_comparison(tmp_path / "comparison.json", document)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.float32(0.5), np.array([1.0]), {1, 2}])
def test_what_is_no_json_value_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_comparison(tmp_path / "comparison.json", {**example(), "later": value})
    assert list(tmp_path.iterdir()) == []


def test_writing_another_version_or_half_a_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"schema_version: .*found 7"):
        write_comparison(tmp_path / "comparison.json", {**example(), "schema_version": 7})
    less = {key: value for key, value in example().items() if key not in {"verdict", "data"}}
    with pytest.raises(ValueError, match="data is missing\nverdict is missing"):
        write_comparison(tmp_path / "comparison.json", less)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no schema_version"),
        ("{}", "no schema_version"),
        ('{"schema_version": true}', "no schema_version"),
        ('{"schema_version": 0}', "no schema_version"),
        (
            f'{{"schema_version": {SCHEMA_VERSION + 1}}}',
            "reads up to 1; use the Jade that wrote it, or a newer",
        ),
        ('{"schema_version": 1}', "lacks run_id, created_at"),
    ],
)
def test_what_is_no_comparison_is_refused_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_comparison(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_comparison(tmp_path / "comparison.json")


def test_fields_that_are_not_known_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps({**example(), "later": 1}), encoding="utf-8")
    assert read_comparison(path)["later"] == 1


def test_an_older_file_goes_through_every_later_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "comparison.json"
    write_comparison(path, example())
    monkeypatch.setattr(files, "SCHEMA_VERSION", 3)
    upgrades = tuple(lambda old, to=to: {**old, "schema_version": to, f"from_{to - 1}": True} for to in (2, 3))
    monkeypatch.setattr(files, "UPGRADES", upgrades)
    content = read_comparison(path)
    assert (content["schema_version"], content["from_1"], content["from_2"]) == (3, True, True)


def test_there_is_an_upgrade_from_every_older_version() -> None:
    assert len(files.UPGRADES) == SCHEMA_VERSION - 1


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([2.0, 1.0, 1.0, 1.5], (2, 0.25, 0.5)),  # of equals the first is the best
        ([1.0, 3.0], (1, -2.0, 2.0)),
        ([0.7], (1, 0.0, 0.0)),
        ([1.0, 0.0], (2, 1.0, None)),
        ([-1.0, -4.0, -3.0], (2, 2.0, 0.25)),  # a loss of one's own, such as the logarithm of a density
        ([], (None, None, None)),
    ],
)
def test_the_course_of_a_validation_loss_is_told_in_fractions_of_its_size(
    losses: list[float], expected: tuple[int | None, float | None, float | None]
) -> None:
    tasks = dict.fromkeys(("pointer", "type", "span", "countdown"), 0.25)
    common = {"train_loss": 1.0, "sigma": tasks, "task_weight": tasks, "seconds": 1.0}
    history = [{**common, "validation_loss": loss} for loss in losses] or [{**common, "validation_loss": None}]
    training = ArmTraining("x", 0, 0, SimpleNamespace(history=history, run_key="k"), "x.pt")  # type: ignore[arg-type]
    run = run_of(training, SimpleNamespace(seconds=1.0, temperature=1.0))  # type: ignore[arg-type]
    assert (run.best_epoch, run.validation_loss_reduction, run.validation_loss_rise_since_best) == expected
