"""A model as a file that runs without Jade: written, read back and asked the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from flows.cli import run
from jade_model.core.checkpoint import save_checkpoint
from jade_model.core.recipes import recipe
from jade_model.core.train import prepare, train
from jade_model.scoring.trained import open_model
from tests.helpers.training_windows import random_windows, rows, shortened

pytestmark = pytest.mark.system

LENGTH = 16  # exporters write a network out bar by bar
HUNDRED = random_windows(100, LENGTH, seed=1)


def checkpoint(folder: Path, name: str) -> Path:
    """Train for a moment; return the checkpoint."""
    windows, chosen = random_windows(20, LENGTH), shortened(recipe(name), epochs=1, hidden_size=4)
    trained = train(chosen, prepare(windows, chosen), train_rows=rows(0, 20), validation_rows=rows(0, 0), seed=0)
    save_checkpoint(trained, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize("name", ["jade_single_span", "seed_crf"])
def test_an_onnx_file_runs_without_jade_and_its_card_says_how(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(tmp_path, name)
    assert run(["export", "--model-path", str(path), "--out", str(tmp_path / "spans.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["largest_difference"] <= 1e-5
    session = onnxruntime.InferenceSession((tmp_path / "spans.onnx").read_bytes())
    (found,) = session.run(["probability"], {"bars": HUNDRED.bars_NT4})
    np.testing.assert_allclose(found, open_model(path).probabilities(HUNDRED), atol=1e-5)
    card = json.loads((tmp_path / "spans.onnx.card.json").read_text())
    assert card["input"]["shape"] == ["windows", LENGTH, 4]
    assert card["decoding"]["decoder"] == "one_span"


def test_a_torch_program_runs_without_jade(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "jade_soft_span")
    assert run(["export", "--model-path", str(path), "--format", "torch", "--out", str(tmp_path / "model.pt2")]) == 0
    program = torch.export.load(tmp_path / "model.pt2").module()
    found, _ = program(torch.from_numpy(HUNDRED.bars_NT4))
    np.testing.assert_allclose(found.numpy(), open_model(path).probabilities(HUNDRED), atol=1e-5)
