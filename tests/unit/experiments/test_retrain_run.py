"""A retraining on real data and models: judged beside the champion, carded, traceable."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.retrainings import retrained

from flows.cli import run
from jade_model.core.errors import CheckpointError
from jade_model.core.windows import Windows
from jade_model.data.checks import DataRefused
from jade_model.data.sample import sample_windows
from jade_model.report.model_card import write_card
from jade_model.scoring.trained import open_model
from tasks.core.errors import RunNotFound
from tasks.core.layout import RunLayout
from tasks.experiments.model_card import read_card, verify_card
from tasks.experiments.retrain import load_roles

Retrained = tuple[RunLayout, dict[str, Any]]


@pytest.fixture(scope="module")
def windows() -> Windows:
    return sample_windows(num_bases=40)


@pytest.fixture(scope="module")
def first(windows: Windows, tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    bases = list(dict.fromkeys(windows.base_window_id_N.tolist()))[:30]
    early = windows.take(np.flatnonzero(np.isin(windows.base_window_id_N, bases)))
    return retrained(tmp_path_factory.mktemp("artifacts"), early, None)


@pytest.fixture(scope="module")
def second(windows: Windows, first: Retrained, tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    return retrained(tmp_path_factory.mktemp("artifacts"), windows, first[0])


def test_the_card_names_everything_that_leads_back_to_data_and_code(first: Retrained) -> None:
    layout, card = first
    assert read_card(layout) == json.loads(layout.card_json.read_text())
    assert card["champion"] is None
    assert card["data"][0]["num_holdout"] == int((load_roles(layout)[1].role_N == -1).sum())
    assert all(agrees for _, agrees in verify_card(layout))
    assert card["chain"]["code"]["digest"]


def test_the_card_is_written_again_from_the_runs_files(
    first: Retrained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = RunLayout(tmp_path / first[0].run_id)
    shutil.copytree(first[0].root, copy.root)
    assert run(["report", copy.run_id, "--artifacts", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert Path(told["markdown"]) == copy.report / "MODEL_CARD.md"
    for written in told["markdown"], told["html"]:
        assert first[1]["decision"]["reason"] in Path(written).read_text()


def test_a_swapped_checkpoint_is_found(first: Retrained, tmp_path: Path) -> None:
    copy = RunLayout(tmp_path / first[0].run_id)
    shutil.copytree(first[0].root, copy.root)
    (path,) = first[1]["chain"]["checkpoints"]
    (copy.root / path).write_bytes(b"something else")
    assert [what for what, agrees in verify_card(copy) if not agrees] == [path]


def test_the_named_folder_holds_a_model_that_predicts(first: Retrained) -> None:
    layout, card = first
    model = open_model(layout.root / card["model"]["folder"])
    assert model.was_evaluated
    assert model.choice.decoder == card["model"]["decoder"]
    with pytest.raises(CheckpointError, match=f"no model of its own.*: .*{layout.run_id}/{card['model']['folder']}"):
        open_model(layout.root)


def test_the_challenger_is_judged_beside_the_champion_in_both_parts(second: Retrained, first: Retrained) -> None:
    _, card = second
    assert card["champion"] == first[0].run_id
    pairs = {(item["first"], item["second"], item["dataset"]) for item in card["judgement"]["differences"]}
    assert {("challenger", "champion", part) for part in (None, "out of fold", "hold-out")} <= pairs
    assert card["data_checks"]["reference"] == first[0].run_id
    assert len(card["data_checks"]["drift"]) == 12
    assert card["decision"]["reason"]
    assert card["held_against"] == first[0].run_id
    assert card["anchor"] == (second[0].run_id if card["decision"]["is_best"] else first[0].run_id)


def test_the_card_is_readable(second: Retrained, tmp_path: Path) -> None:
    files = write_card(second[1], tmp_path)
    text, page = files.markdown.read_text(), files.html.read_text()
    for words in ("Gates", "the champion", "Digests", "jade predict --model-path"):
        assert words in text
        assert words in page
    assert (tmp_path / "drift.png").is_file()


def test_bad_data_are_refused_before_a_job_is_written(windows: Windows, first: Retrained, tmp_path: Path) -> None:
    whole = np.tile([0, windows.window_length], (len(windows.spans_S2), 1))
    with pytest.raises(DataRefused, match="in-span rate"):
        retrained(tmp_path, replace(windows, spans_S2=whole), first[0])
    (folder,) = tmp_path.glob("*-retrain-*")
    assert not (folder / "job.json").exists()
    assert json.loads((folder / "data_checks.json").read_text())[0]["passed"] is False


def test_a_run_without_a_card_is_said_to_be_no_retraining(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="only runs of `retrain`"):
        read_card(RunLayout(tmp_path))
