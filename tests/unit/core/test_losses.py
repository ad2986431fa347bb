from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.training_windows import random_windows

from jade_model.core.checkpoint import build_model
from jade_model.core.config import LOSSES, TASKS, ModelConfig, TrainingConfig
from jade_model.core.losses import (
    sigmas,
    task_losses,
    task_weights,
    type_loss,
    uncertainty_weighted,
    weighted_huber,
)
from jade_model.core.network import JadeCompact
from jade_model.core.recipes import recipe
from jade_model.core.span_heads.bars import dice_loss, soft_span_loss
from jade_model.core.targets import fitted_recipe
from jade_model.core.training_data import prepare


def slow_cross_entropy(logits, targets, positive_weight):
    total = 0.0
    for logit, target in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= positive_weight * target * math.log(p) + (1 - target) * math.log(1 - p)
    return total / logits.numel()


@pytest.mark.parametrize("positive_weight", [1.0, 13.1])
def test_soft_span_loss_is_weighted_cross_entropy_against_soft_targets(positive_weight):
    logits = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.rand(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss = soft_span_loss(logits, targets, positive_weight=positive_weight).mean()
    assert loss.item() == pytest.approx(slow_cross_entropy(logits, targets, positive_weight), abs=1e-12)


def test_soft_span_loss_has_the_gradient_of_finite_differences():
    logits = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: soft_span_loss(x, targets, positive_weight=3.0, dice_weight=0.4), logits)


def test_dice_is_0_for_a_perfect_answer_and_for_rightly_marking_nothing():
    targets = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert dice_loss(targets, targets).tolist() == [0.0, 0.0]


def test_dice_of_disjoint_spans_is_one_less_the_smoothing():
    marked, truth = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert dice_loss(marked, truth).item() == pytest.approx(1 - 1 / 5)


def test_soft_span_loss_mixes_dice_by_its_share():
    logits, targets = torch.randn(2, 6), torch.rand(2, 6).round()
    parts = soft_span_loss(logits, targets), dice_loss(torch.sigmoid(logits), targets)
    mixed = soft_span_loss(logits, targets, dice_weight=0.25)
    torch.testing.assert_close(mixed, 0.75 * parts[0] + 0.25 * parts[1])


def test_soft_span_loss_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match="targets"):
        soft_span_loss(torch.zeros(2, 3), torch.zeros(2, 4))


def test_huber_is_quadratic_inside_delta_and_linear_outside():
    loss = weighted_huber(torch.tensor([[0.05], [1.0]]), torch.zeros(2, 1), torch.ones(2), delta=0.08)
    assert loss.item() == pytest.approx((0.05**2 / 2 + 0.08 * (1 - 0.04)) / 2)


def test_huber_leaves_out_windows_without_a_span():
    predicted = torch.tensor([[1.0, 2.0], [100.0, 100.0]], requires_grad=True)
    loss = weighted_huber(predicted, torch.zeros(2, 2), torch.tensor([0.7, 0.0]), delta=1.0)
    loss.backward()
    assert loss.item() == pytest.approx((0.5 + 1.5) / 2)
    assert predicted.grad is not None
    assert predicted.grad[1].tolist() == [0.0, 0.0]


def test_losses_without_any_label_are_0_and_give_no_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    (
        type_loss(logits, torch.tensor([-1, -1]), torch.ones(2))
        + weighted_huber(logits, torch.ones(2, 3), torch.zeros(2), delta=1)
    ).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max().item() == 0


def test_type_loss_averages_over_the_windows_that_have_a_type():
    logits = torch.randn(3, 3)
    expected = -torch.log_softmax(logits, 1)[[0, 2], [1, 0]].mean()
    assert type_loss(logits, torch.tensor([1, -1, 0]), torch.ones(3)).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("loss", LOSSES)
def test_every_task_counts_windows_by_their_weight(loss):
    """Twice the weight is the window twice."""
    chosen = replace(recipe(f"jade_{loss}"), model=ModelConfig(hidden_size=4))
    chosen = fitted_recipe(replace(chosen, feature_set="relativity-12"), random_windows(3))
    data = prepare(random_windows(3), chosen)
    model = build_model(chosen, seed=0).eval()
    weighted = data.labels._replace(weight_B=torch.tensor([1.0, 2.0, 0.5]))
    repeated = torch.tensor([0, 0, 1, 1, 1, 1, 2])
    losses_4 = task_losses(model, model(data.x_VNTF[0]), weighted, chosen.training)
    expected_4 = task_losses(model, model(data.x_VNTF[0, repeated]), data.labels.take(repeated), chosen.training)
    torch.testing.assert_close(losses_4, expected_4, rtol=1e-4, atol=1e-5)


def test_overlap_and_quality_weigh_the_windows_of_jade_recipes_and_not_of_the_seeds():
    windows = replace(
        random_windows(3), overlap_fraction_N=np.array([1.0, 0.5, 1.0]), quality_N=np.array(["auto", "auto", "low"])
    )
    for loss in LOSSES:
        assert prepare(windows, recipe(f"jade_{loss}")).labels.weight_B.tolist() == pytest.approx([1.0, 0.5, 0.6])
        assert prepare(windows, recipe(f"seed_{loss}")).labels.weight_B.tolist() == [1.0, 1.0, 1.0]


def test_uncertainty_weighting_is_the_sum_over_tasks_of_half_the_precision_times_loss_plus_log_sigma():
    losses, sigma = [0.3, 1.1, 0.7, 4.0], [0.55, 0.85, 0.75, 1.26]
    expected = sum(loss / (2 * s**2) + math.log(s) for loss, s in zip(losses, sigma, strict=True))
    total = uncertainty_weighted(torch.tensor(losses), torch.tensor(sigma).log())
    assert total.item() == pytest.approx(expected, rel=1e-6)


def test_uncertainty_settles_where_sigma_squared_is_the_loss():
    losses = torch.tensor([0.3, 1.1, 0.7, 4.0])
    log_sigma = (losses.log() / 2).requires_grad_()
    uncertainty_weighted(losses, log_sigma).backward()
    assert log_sigma.grad is not None
    assert log_sigma.grad.abs().max().item() < 1e-6


def test_the_seeds_sigmas_give_the_seeds_task_weights():
    model = JadeCompact(ModelConfig(), loss="soft_span", num_features=12)
    seed_sigma = {"pointer": 0.5492, "type": 0.8474, "span": 0.7536, "countdown": 1.2642}
    with torch.no_grad():
        model.log_sigma.copy_(torch.tensor([seed_sigma[task] for task in TASKS]).log())
    assert sigmas(model) == pytest.approx(seed_sigma)
    weights = task_weights(model)
    assert {task: round(100 * weight, 1) for task, weight in weights.items()} == {
        "pointer": 46.7, "type": 19.6, "span": 24.8, "countdown": 8.8,
    }  # fmt: skip
    assert sum(weights.values()) == pytest.approx(1)


def test_a_recipe_can_soften_nothing_by_default():
    assert TrainingConfig().positive_weight == 1
    assert TrainingConfig().dice_weight == 0


def test_what_pooling_has_summed_the_loss_need_not_sum_again():
    windows = random_windows(12, num_bars=40)
    chosen = fitted_recipe(recipe("jade_single_span"), windows)
    chosen = replace(chosen, model=replace(chosen.model, several_spans=False, input_dropout=0.0, head_dropout=0.0))
    data = prepare(windows, chosen)
    model = build_model(chosen, seed=0).train()
    torch.nn.init.normal_(model.span_scorer.out.weight, std=0.1)
    labels = data.labels.take(torch.arange(12))
    found, parameters = {}, list(model.parameters())
    for name in ("shared", "anew"):
        output = model(data.x_VNTF[0])
        assert output.partition_B is not None
        if name == "anew":
            output = output._replace(partition_B=None)
        losses_4 = task_losses(model, output, labels, chosen.training)
        found[name] = (
            losses_4.detach(),
            torch.autograd.grad(losses_4.sum(), parameters, materialize_grads=True),
        )
    torch.testing.assert_close(found["shared"], found["anew"], rtol=1e-5, atol=1e-6)
    assert model.eval()(data.x_VNTF[0]).partition_B is None
