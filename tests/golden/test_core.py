"""What training computes, held against figures that were written down: a move of code must not move a number.

To write them down anew after a change that is meant: `python tests/golden/test_core.py`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jade_model.core.checkpoint import model_of
from jade_model.core.features import feature_set
from jade_model.core.recipes import recipe, recipe_names
from jade_model.core.targets import fitted_recipe
from jade_model.core.train import prepare, train
from jade_model.data.sample import sample_windows
from jade_model.scoring.predict import predict, predictor_of

KEPT = Path(__file__).with_name("core.json")
FEATURE_SETS = ("relativity-12", "displacement-17", "displacement-21")


def trained(name: str) -> dict[str, Any]:
    """Return figures of a training of two epochs: of each parameter, and of what the model then says."""
    windows = sample_windows(num_bases=8)
    chosen = fitted_recipe(recipe(name), windows)
    chosen = dataclasses.replace(chosen, training=dataclasses.replace(chosen.training, epochs=2))
    rows = np.arange(windows.num_windows)
    checkpoint = train(
        chosen, prepare(windows, chosen), train_rows=rows[:-4], validation_rows=rows[-4:], seed=3, run_key="golden"
    )
    said = predict(predictor_of([model_of(checkpoint)], chosen), windows)
    return {
        "weights": {name: figures(value.double().numpy()) for name, value in checkpoint.weights.items()},
        "loss": [checkpoint.history[-1]["train_loss"], checkpoint.history[-1]["validation_loss"]],
        "probability": figures(said.probability_NT),
        "marked bars": int(said.path_NT.sum()),
        "margin": figures(said.margin_N),
        "pointers": figures(said.posterior_pointers_N2),
        "types": figures(said.type_probability_N3),
    }


def features(name: str) -> dict[str, Any]:
    """Return figures of a feature set's columns."""
    computed_NTF = feature_set(name).compute(sample_windows(num_bases=8).bars_NT4).astype(np.float64)
    return {name: figures(computed_NTF[:, :, index]) for index, name in enumerate(feature_set(name).names)}


def figures(values: Any) -> list[float]:
    """Sum, sum of magnitudes, first and last of an array: what a shift, a scale or an order would change."""
    flat = np.asarray(values, np.float64).reshape(-1)
    return [float(flat.sum()), float(np.abs(flat).sum()), float(flat[0]), float(flat[-1])]


def assert_close(found: Any, kept: Any, where: str) -> None:
    """Compare nested figures; sums of floats may differ in their last digits from processor to processor."""
    if isinstance(kept, dict):
        assert found.keys() == kept.keys(), where
        for name, value in kept.items():
            assert_close(found[name], value, f"{where}: {name}")
    else:
        np.testing.assert_allclose(found, kept, rtol=2e-4, atol=2e-5, err_msg=where)


@pytest.mark.parametrize("name", sorted(recipe_names()))
def test_two_epochs_give_the_weights_that_were_written_down(name: str) -> None:
    torch.set_num_threads(1)
    assert_close(trained(name), json.loads(KEPT.read_text())["trained"][name], name)


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_features_are_those_that_were_written_down(name: str) -> None:
    assert_close(features(name), json.loads(KEPT.read_text())["features"][name], name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    content = {
        "features": {name: features(name) for name in FEATURE_SETS},
        "trained": {name: trained(name) for name in sorted(recipe_names())},
    }
    KEPT.write_text(json.dumps(content, indent=1) + "\n")
