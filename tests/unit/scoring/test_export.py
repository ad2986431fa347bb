"""A model as one file without Jade: the same probabilities, and refusals that say why."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training_windows import random_windows, shortened

from flows.cli import run
from jade_model.core.errors import ConfigError
from jade_model.core.features import FEATURE_SET_NAMES, feature_set, mirror_bars
from jade_model.core.recipes import recipe
from jade_model.core.windows import Windows
from jade_model.scoring.export import ExportedModel, export_model
from jade_model.scoring.predict import predict, untrained_predictor
from jade_model.scoring.torch_features import torch_features
from jade_model.scoring.trained import TrainedModel

LENGTH = 16  # exporters write a network out bar by bar
HUNDRED = random_windows(100, LENGTH, seed=1)


@pytest.mark.timeout(600)
def test_features_in_torch_are_those_that_the_network_was_trained_on(small_windows: Windows) -> None:
    bars_NT4 = small_windows.bars_NT4[:8].copy()
    bars_NT4[0, 20:60] = bars_NT4[0, 20, 3]  # flat: no volatility
    for name in FEATURE_SET_NAMES:
        for view_NT4 in (bars_NT4, mirror_bars(bars_NT4)):
            found = torch_features(name, torch.from_numpy(view_NT4)).numpy()
            np.testing.assert_allclose(found, feature_set(name).compute(view_NT4), rtol=1e-6, atol=1e-6)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["jade_soft_span", "jade_crf", "jade_single_span", "seed_crf"])
def test_the_exported_module_says_what_the_ensemble_says(name: str) -> None:
    first, second = (untrained_predictor(shortened(recipe(name)), seed=seed) for seed in (0, 1))
    both = replace(first, models=first.models + second.models)
    expected = predict(both, HUNDRED, temperature=0.5)
    with torch.no_grad():
        found, types = ExportedModel(TrainedModel(Path(), both, (), temperature=0.5))(
            torch.from_numpy(HUNDRED.bars_NT4)
        )
    np.testing.assert_allclose(found.numpy(), expected.probability_NT, atol=1e-5)
    np.testing.assert_allclose(types.numpy(), expected.type_probability_N3, atol=1e-5)


def test_what_cannot_be_exported_is_refused_with_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = shortened(recipe("jade_single_span"))
    several = replace(chosen, model=replace(chosen.model, several_spans=True))
    model = TrainedModel(Path(), untrained_predictor(several, seed=0), ())
    with pytest.raises(ConfigError, match="gradient of a sum over all sets of spans"):
        ExportedModel(model)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"onnxscript is missing.*pip install 'jade-expansions\[export\]'"):
        export_model(model, tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())
    assert run(["export", "--model-path", "x", "--format", "torch", "--out", str(tmp_path / "model.onnx")]) == 2
