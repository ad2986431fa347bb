from __future__ import annotations

import numpy as np
import pytest
import torch
from training_windows import random_windows

from jade_model.config import LOSSES, ModelConfig
from jade_model.features import feature_set
from jade_model.model import JadeCompact, dropout, span_scores_per_bar


def model_of(loss, **changes):
    torch.manual_seed(0)
    return JadeCompact(ModelConfig(**changes), loss=loss, num_features=12)


@pytest.mark.parametrize(("loss", "expected"), [("soft_span", 97_547), ("crf", 97_748)])
def test_the_seeds_network_has_exactly_the_originals_number_of_parameters(loss, expected):
    assert model_of(loss).num_parameters() == expected


@pytest.mark.parametrize("loss", LOSSES)
def test_the_best_known_networks_stay_under_110_thousand_parameters(loss):
    width = len(feature_set("displacement-17").names)
    assert JadeCompact(ModelConfig(type_pooling="span"), loss=loss, num_features=width).num_parameters() <= 110_000


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("type_pooling", ["mean", "span"])
@pytest.mark.parametrize("num_bars", [16, 40])
def test_outputs_have_their_shapes_for_any_window_length(loss, type_pooling, num_bars):
    model = model_of(loss, hidden_size=4, type_pooling=type_pooling)
    output = model(torch.randn(3, num_bars, 12))
    assert output.span_scores_BTK.shape == (3, num_bars, span_scores_per_bar(loss))
    assert output.type_logits_B3.shape == (3, 3)
    assert output.pointers_B2.shape == (3, 2)
    assert output.countdown_BT.shape == (3, num_bars)
    assert ((output.pointers_B2 > 0) & (output.pointers_B2 < 1)).all()
    posterior_BT = model.span_posterior(output.span_scores_BTK)
    assert posterior_BT.shape == (3, num_bars)
    assert ((posterior_BT >= 0) & (posterior_BT <= 1)).all()


def test_sigmas_start_as_the_originals():
    assert model_of("crf").log_sigma.tolist() == pytest.approx([-0.30, 0, 0, 0])


def test_the_crf_has_pytorch_crfs_parameters():
    names = {name for name in model_of("crf").state_dict() if name.startswith("crf.")}
    assert names == {"crf.start_transitions", "crf.end_transitions", "crf.transitions"}


def test_span_pooling_reads_the_type_off_the_bars_that_the_posterior_marks():
    model = model_of("soft_span", hidden_size=4, type_pooling="span").eval()
    x_BTF = torch.randn(1, 20, 12)
    hidden_BTH = model.lstm(x_BTF)[0]
    posterior_BT = torch.sigmoid(model.span_head(hidden_BTH)[..., 0])
    mean_BH = (posterior_BT[..., None] * hidden_BTH).sum(1) / posterior_BT.sum()
    expected = model.type_head(torch.relu(model.pooled(mean_BH)))
    torch.testing.assert_close(model(x_BTF).type_logits_B3, expected)


def test_span_pooling_does_not_let_the_type_pull_at_the_span_scores():
    model = model_of("soft_span", hidden_size=4, type_pooling="span")
    model(torch.randn(2, 20, 12)).type_logits_B3.sum().backward()
    assert model.span_head.weight.grad is None


def test_dropout_drops_its_share_and_keeps_the_mean():
    x = torch.ones(400_000)
    dropped = dropout(x, 0.6, torch.Generator().manual_seed(0))
    assert (dropped == 0).double().mean().item() == pytest.approx(0.6, abs=0.004)
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    assert np.unique(dropped.numpy()) == pytest.approx([0, 2.5], abs=1e-3)


def test_dropout_of_neighbouring_elements_is_independent():
    kept = dropout(torch.ones(200_000), 0.5, torch.Generator().manual_seed(0)) > 0
    for lag in (1, 2, 3, 4, 8):
        both = (kept[lag:] & kept[:-lag]).double().mean().item()
        assert both == pytest.approx(0.25, abs=0.006)


def test_dropout_repeats_with_its_generator_and_not_without():
    x = torch.ones(1001)
    first = dropout(x, 0.3, torch.Generator().manual_seed(7))
    assert torch.equal(first, dropout(x, 0.3, torch.Generator().manual_seed(7)))
    assert not torch.equal(first, dropout(x, 0.3, torch.Generator().manual_seed(8)))


def test_dropout_is_off_in_evaluation():
    model = model_of("soft_span", hidden_size=4).eval()
    x_BTF = torch.from_numpy(feature_set("relativity-12").compute(random_windows(2).bars_NT4))
    assert torch.equal(model(x_BTF).span_scores_BTK, model(x_BTF).span_scores_BTK)
