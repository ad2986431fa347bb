from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.training_windows import random_windows

from jade_model.core.checkpoint import build_model
from jade_model.core.config import LOSSES, ModelConfig, Recipe
from jade_model.core.errors import ConfigError
from jade_model.core.features import feature_set, mirror_bars
from jade_model.core.network import JadeCompact, dropout
from jade_model.core.recipes import recipe
from jade_model.core.span_heads import head_class


def model_of(loss, **changes):
    torch.manual_seed(0)
    return JadeCompact(ModelConfig(**changes), loss=loss, num_features=12)


@pytest.mark.parametrize(("loss", "expected"), [("soft_span", 97_547), ("crf", 97_748)])
def test_the_seeds_network_has_exactly_the_originals_number_of_parameters(loss, expected):
    assert model_of(loss).num_parameters() == expected


@pytest.mark.parametrize("loss", LOSSES)
def test_the_best_known_networks_stay_under_110_thousand_parameters(loss):
    assert build_model(recipe(f"jade_{loss}"), seed=0).num_parameters() <= 110_000


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("type_pooling", ["mean", "span"])
@pytest.mark.parametrize("num_bars", [16, 40])
def test_outputs_have_their_shapes_for_any_window_length(loss, type_pooling, num_bars):
    model = model_of(loss, hidden_size=4, type_pooling=type_pooling)
    output = model(torch.randn(3, num_bars, 12))
    assert output.span_scores_BTK.shape == (3, num_bars, head_class(loss).scores_per_bar)
    assert output.type_logits_B3.shape == (3, 3)
    assert output.pointers_B2.shape == (3, 2)
    assert output.countdown_BT.shape == (3, num_bars)
    assert ((output.pointers_B2 > 0) & (output.pointers_B2 < 1)).all()
    posterior_BT = model.head.in_span(output.span_scores_BTK)
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


def with_span_units(num_bars=40, **changes):
    features = feature_set("displacement-21")
    torch.manual_seed(0)
    config = ModelConfig(hidden_size=4, span_units=8, max_span_length=6, **changes)
    model = JadeCompact(config, loss="single_span", num_features=21, num_path=features.num_path).eval()
    torch.nn.init.normal_(model.span_scorer.out.weight)
    bars_NT4 = random_windows(3, num_bars=num_bars).bars_NT4
    return model, bars_NT4, lambda bars: torch.from_numpy(features.compute(bars))


@pytest.mark.parametrize("num_bars", [16, 40])
@pytest.mark.parametrize("several_spans", [False, True])
def test_span_units_score_every_start_and_length_at_any_window_length(num_bars, several_spans):
    model, bars_NT4, compute = with_span_units(num_bars, several_spans=several_spans)
    output = model(compute(bars_NT4))
    assert output.span_scores_BTK.shape == (3, num_bars, 3 + 6)
    assert model.head.in_span(output.span_scores_BTK).isfinite().all()


def test_the_lstm_does_not_see_the_path():
    model, bars_NT4, compute = with_span_units()
    x_BTF = compute(bars_NT4)
    changed_BTF = x_BTF.clone()
    changed_BTF[:, :, :4] += 1
    before, after = model(x_BTF), model(changed_BTF)
    assert torch.equal(before.span_scores_BTK[..., :3], after.span_scores_BTK[..., :3])
    assert torch.equal(before.countdown_BT, after.countdown_BT)


def test_whole_spans_score_alike_upside_down():
    model, bars_NT4, compute = with_span_units()
    upright, mirrored = (model(compute(bars)).span_scores_BTK[..., 3:] for bars in (bars_NT4, mirror_bars(bars_NT4)))
    assert torch.equal(upright, mirrored)


def test_span_units_without_a_path_or_a_span_loss_are_refused():
    with pytest.raises(ConfigError, match="displacement-21"):
        JadeCompact(ModelConfig(span_units=8), loss="single_span", num_features=17)
    with pytest.raises(ConfigError, match="a crf model scores bars, not spans"):
        Recipe("mine", "crf", "displacement-21", model=ModelConfig(span_units=8))
