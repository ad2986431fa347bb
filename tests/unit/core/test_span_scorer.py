"""What is measured of every candidate span, against a slow loop, and on the bars that real files hold."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.slow_features import slow_displacement_and_path
from numpy.typing import NDArray
from test_features import flat_bars, random_bars
from torch import Tensor

from jade_model.core.features import feature_set
from jade_model.core.segment import SpanScorer
from jade_model.core.segment.scorer import span_quantities


def measured(bars_NT4: NDArray[np.float64], max_length: int) -> Tensor:
    features_NTF = feature_set("displacement-21").compute(bars_NT4)
    return span_quantities(torch.from_numpy(features_NTF[:, :, :4]), max_length)


@pytest.mark.parametrize("num_bars", [1, 2, 16, 40])
def test_the_quantities_equal_the_slow_loop(num_bars: int) -> None:
    max_length = 20
    bars_NT4 = random_bars(3, num_windows=2, num_bars=num_bars)
    found = measured(bars_NT4, max_length)
    assert found.shape == (4, 2, num_bars, max_length)
    for row, bars in enumerate(bars_NT4.tolist()):
        path = [bars[0][0], *(bar[3] for bar in bars)]
        atr = [values[3] * abs(path[0]) for values in slow_displacement_and_path(bars)]
        for start in range(num_bars):
            for length in range(1, min(max_length, num_bars - start) + 1):
                last = start + length - 1
                way_points = [bars[start][0], *path[start + 1 : last + 2]]
                net = abs(way_points[-1] - way_points[0])
                way = sum(abs(after - before) for before, after in pairwise(way_points))
                strength = min(net / (atr[max(start - 1, min(last, 13))] * math.sqrt(length)), 20)
                straight = net / way if way > 0 else 0.0
                expected = [strength, straight, strength * straight, math.log(length)]
                # The path is a difference of float32 values near 1: a millionth of the price.
                assert found[:, row, start, length - 1].tolist() == pytest.approx(expected, rel=1e-3, abs=2e-3)


def test_a_later_bar_changes_no_span_that_ends_before_it() -> None:
    bars_NT4 = random_bars(5, num_bars=40)
    changed_NT4 = bars_NT4.copy()
    changed_NT4[:, 25:] = random_bars(6, num_bars=40, price=50.0)[:, 25:]
    before, after = measured(bars_NT4, 8), measured(changed_NT4, 8)
    for start in range(25):
        ends_before = max(0, min(8, 25 - start))
        assert torch.equal(before[:, :, start, :ends_before], after[:, :, start, :ends_before])


@pytest.mark.parametrize("num_bars", [16, 105, 1024])
def test_flat_and_wild_bars_give_finite_scores(num_bars: int) -> None:
    scorer = SpanScorer(32, 16)
    torch.nn.init.normal_(scorer.out.weight)
    gapped_NT4 = flat_bars(2, num_bars)
    gapped_NT4[:, num_bars // 2 :] *= 1000
    for bars_NT4 in (flat_bars(2, num_bars), gapped_NT4, random_bars(1, num_bars=num_bars, move=0.3)):
        quantities = measured(bars_NT4, 32)
        assert quantities.isfinite().all()
        assert quantities[0].max() <= 20
        assert quantities[1].max() <= 1
        features_NTF = feature_set("displacement-21").compute(bars_NT4)
        assert scorer(torch.from_numpy(features_NTF[:, :, :4])).isfinite().all()


def test_many_windows_score_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = SpanScorer(8, 16)
    torch.nn.init.normal_(scorer.out.weight)
    path_BT4 = torch.from_numpy(feature_set("displacement-21").compute(random_bars(2, num_windows=5))[:, :, :4])
    together_BTL = scorer(path_BT4)
    monkeypatch.setattr("jade_model.core.segment.scorer.VALUES_AT_ONCE", 2 * 105 * 8 * 16)
    torch.testing.assert_close(scorer(path_BT4), together_BTL)
    assert scorer(path_BT4[:0]).shape == (0, 105, 8)


def test_scores_and_gradients_are_those_of_the_two_layers_in_plain_torch() -> None:
    torch.manual_seed(0)
    scorer = SpanScorer(8, 16).double()
    torch.nn.init.normal_(scorer.out.weight)
    features_NTF = feature_set("displacement-21").compute(random_bars(2, num_windows=3, num_bars=20))
    path_BT4 = torch.from_numpy(features_NTF[:, :, :4]).double()
    quantities_BTLQ = span_quantities(path_BT4, 8).permute(1, 2, 3, 0)
    plain_BTL = 8 * scorer.out(torch.relu(scorer.hidden(quantities_BTLQ))).squeeze(-1)
    torch.testing.assert_close(scorer(path_BT4), plain_BTL)
    weight_BTL, parameters = torch.randn_like(plain_BTL), list(scorer.parameters())
    torch.testing.assert_close(
        torch.autograd.grad((weight_BTL * scorer(path_BT4)).sum(), parameters),
        torch.autograd.grad((weight_BTL * plain_BTL).sum(), parameters),
    )


def test_gradients_pass_gradcheck() -> None:
    torch.manual_seed(1)
    scorer = SpanScorer(3, 5).double()
    path_BT4 = torch.rand(2, 6, 4, dtype=torch.float64) + 0.5
    names = [name for name, _ in scorer.named_parameters()]

    def score(*values: Tensor) -> Tensor:
        return torch.func.functional_call(scorer, dict(zip(names, values, strict=True)), (path_BT4,))

    values = [torch.randn_like(value).requires_grad_() for value in scorer.parameters()]
    assert torch.autograd.gradcheck(score, values)
