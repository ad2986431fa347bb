"""The segment model against enumeration of all spans and of all sets of spans.

Legend: B windows, T bars, L lengths, M spans labelled a window, N spans kept, 3 scores a bar (inside, start, last),
K the same and, where whole spans have scores, L more.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from jade_model.core.segment import SegmentModel
from jade_model.core.segment.grid import count_lasts

EXACT = {"atol": 1e-10, "rtol": 1e-10}
Span = tuple[int, int]


def build(max_length: int, *, several: bool = False, seed: int = 0, scale: float = 1.0) -> SegmentModel:
    torch.manual_seed(seed)
    layer = SegmentModel(max_length, several=several).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return layer


def all_spans(num_bars: int, max_length: int) -> list[Span]:
    pairs = itertools.combinations(range(num_bars + 1), 2)
    return [(start, end) for start, end in pairs if end - start <= max_length]


def random_scores(batch: int, num_bars: int, max_length: int, *, whole: bool, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(batch, num_bars, 3 + max_length * whole, dtype=torch.float64)


def enumerate_outcomes(layer: SegmentModel, scores_TK: Tensor, *, at_most: int) -> dict[tuple[Span, ...], float]:
    """Log potential of every set of at most so many disjoint spans, the slow way."""
    num_bars = len(scores_TK)
    spans = all_spans(num_bars, layer.max_span_length)
    outcomes: dict[tuple[Span, ...], float] = {(): layer.none_bias.item() + math.log(len(spans))}
    for count in range(1, at_most + 1):
        for chosen in itertools.combinations(spans, count):
            if any(one[1] > two[0] for one, two in itertools.pairwise(chosen)):
                continue
            score = 0.0
            for start, end in chosen:
                score += scores_TK[start:end, 0].sum().item() + layer.length_bias_L[end - start - 1].item()
                score += scores_TK[start, 1].item() + scores_TK[end - 1, 2].item()
                score += scores_TK[start, 2 + end - start].item() if scores_TK.shape[1] > 3 else 0.0
            if count > 1:
                score += (count - 1) * (layer.further_bias.item() - math.log(len(spans)))
            outcomes[chosen] = score
    return outcomes


def log_sum(values: list[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).logsumexp(0).item()


def in_span(spans: tuple[Span, ...], num_bars: int) -> list[bool]:
    return [any(start <= bar < end for start, end in spans) for bar in range(num_bars)]


def nothing(batch: int) -> tuple[Tensor, Tensor]:
    """Labels without any span."""
    return torch.zeros(batch, 0, 2, dtype=torch.int64), torch.zeros(batch, dtype=torch.int64)


def one(spans: list[list[int]], has_span: list[bool]) -> tuple[Tensor, Tensor]:
    """Labels of one span a window, or none."""
    return torch.tensor(spans)[:, None], torch.tensor(has_span).long()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(("num_bars", "max_length"), [(1, 1), (1, 4), (5, 1), (6, 3), (5, 9)])
def test_everything_equals_enumeration(num_bars: int, max_length: int, several: bool, whole: bool) -> None:
    layer = build(max_length, several=several)
    scores_BTK = random_scores(2, num_bars, max_length, whole=whole, scale=2)
    loss_B = layer.loss_of_sets(scores_BTK, *nothing(2))
    for temperature in (1.0, 0.6):
        in_span_BT, best = layer.marginals(scores_BTK, temperature), layer.best(scores_BTK, temperature)
        for row in range(2):
            raw = enumerate_outcomes(layer, scores_BTK[row], at_most=num_bars if several else 1)
            assert loss_B[row].item() == pytest.approx(log_sum(list(raw.values())) - raw[()], abs=1e-10)
            outcomes = {spans: score / temperature for spans, score in raw.items()}
            total = log_sum(list(outcomes.values()))
            for bar in range(num_bars):
                inside = sum(
                    math.exp(score - total) for spans, score in outcomes.items() if in_span(spans, num_bars)[bar]
                )
                assert in_span_BT[row, bar].item() == pytest.approx(inside, abs=1e-10)
            likeliest = max(outcomes, key=lambda spans: outcomes[spans])
            assert best.path_BT[row].tolist() == in_span(likeliest, num_bars)
            assert best.margin_B[row].item() == pytest.approx(outcomes[likeliest] - outcomes[()], abs=1e-10)


@pytest.mark.parametrize("whole", [False, True])
def test_the_loss_is_minus_the_log_probability_of_what_was_labelled(whole: bool) -> None:
    layer = build(3, several=True)
    scores_BT3 = random_scores(4, 6, 3, whole=whole)
    labelled: list[tuple[Span, ...]] = [(), ((1, 3),), ((0, 2), (2, 5)), ((0, 1), (2, 3), (5, 6))]
    span_BM2 = torch.full((4, 3, 2), -1)
    for row, spans in enumerate(labelled):
        for column, span in enumerate(spans):
            span_BM2[row, column] = torch.tensor(span)
    loss_B = layer.loss_of_sets(scores_BT3, span_BM2, torch.tensor([len(spans) for spans in labelled]))
    for row, spans in enumerate(labelled):
        outcomes = enumerate_outcomes(layer, scores_BT3[row], at_most=6)
        expected = log_sum(list(outcomes.values())) - outcomes[spans]
        assert loss_B[row].item() == pytest.approx(expected, abs=1e-10)

    single = SegmentModel(3).double()
    single.load_state_dict({name: layer.state_dict()[name] for name in single.state_dict()})
    loss_B = single.loss_of_sets(scores_BT3, span_BM2[:, :1], torch.tensor([0, 1, 1, 1]))
    for row, spans in enumerate(labelled):
        outcomes = enumerate_outcomes(single, scores_BT3[row], at_most=1)
        expected = log_sum(list(outcomes.values())) - outcomes[spans[:1]]
        assert loss_B[row].item() == pytest.approx(expected, abs=1e-10)


def test_conditioned_on_one_span_at_most_the_model_of_sets_is_the_single_one() -> None:
    layer = build(4, several=True)
    scores_BT3 = torch.randn(2, 7, 3, dtype=torch.float64)
    with torch.no_grad():
        layer.further_bias.fill_(-1000.0)
    single = SegmentModel(4).double()
    single.load_state_dict({name: layer.state_dict()[name] for name in single.state_dict()})
    assert_close(layer.loss_of_sets(scores_BT3, *nothing(2)), single.loss_of_sets(scores_BT3, *nothing(2)), **EXACT)
    assert_close(layer.marginals(scores_BT3), single.marginals(scores_BT3), **EXACT)


@settings(max_examples=60)
@given(
    num_bars=st.integers(1, 40),
    max_length=st.integers(1, 45),
    batch=st.integers(1, 4),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e3]),
    several=st.booleans(),
    whole=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_marginals_are_the_gradient_of_the_log_partition_at_any_shape_and_scale(
    num_bars: int, max_length: int, batch: int, scale: float, several: bool, whole: bool, seed: int
) -> None:
    layer = build(max_length, several=several, seed=seed)
    scores_BTK = random_scores(batch, num_bars, max_length, whole=whole, scale=scale).requires_grad_()
    # The score of no span holds none of the network's scores: this loss's gradient is that of the log partition.
    (gradient_BTK,) = torch.autograd.grad(layer.loss_of_sets(scores_BTK, *nothing(batch)).sum(), scores_BTK)
    in_span_BT, best = layer.marginals(scores_BTK), layer.best(scores_BTK)
    assert_close(in_span_BT, gradient_BTK[:, :, 0], atol=1e-9, rtol=0)
    assert in_span_BT.max() <= 1 + 1e-9
    assert (best.margin_B >= 0).all()
    assert torch.equal(best.path_BT.any(dim=1), best.margin_B > 0)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_gradients_pass_gradcheck(several: bool, whole: bool) -> None:
    layer = build(3, several=several)
    scores_BT3 = random_scores(3, 5, 3, whole=whole).requires_grad_()
    labels = one([[1, 3], [0, 3], [-1, -1]], [True, True, False])
    names = [name for name, _ in layer.named_parameters()]

    def loss(scores_BT3: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(
            _Loss(layer), {f"layer.{k}": v for k, v in named.items()}, (scores_BT3, *labels)
        )

    assert torch.autograd.gradcheck(loss, (scores_BT3, *layer.parameters()))


class _Loss(torch.nn.Module):
    """functional_call replaces parameters of a forward only."""

    def __init__(self, layer: SegmentModel) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.layer.loss_of_sets(*arguments)


def test_before_anything_is_learned_none_has_the_odds_it_was_given() -> None:
    layer = SegmentModel(4)
    for rate in (0.01, 0.3):
        layer.set_none_rate(rate)
        for num_bars in (10, 4):
            loss_B = layer.loss_of_sets(torch.zeros(1, num_bars, 3), *nothing(1))
            assert loss_B.tolist() == pytest.approx([-math.log(rate)], abs=1e-5)
    for rate in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            layer.set_none_rate(rate)


def test_two_equal_spans_share_the_posterior_of_one_and_have_each_their_own_if_several() -> None:
    scores_BT3 = torch.full((1, 12, 3), -3.0, dtype=torch.float64)
    scores_BT3[0, 2:5, 0] = scores_BT3[0, 8:11, 0] = 30.0
    for several, expected in ((False, 0.5), (True, 1.0)):
        layer = SegmentModel(4, several=several).double()
        in_span_T = layer.marginals(scores_BT3)[0]
        assert in_span_T[2:5].tolist() == pytest.approx([expected] * 3, abs=1e-6)
        assert in_span_T[8:11].tolist() == pytest.approx([expected] * 3, abs=1e-6)
    assert layer.best(scores_BT3).path_BT[0].nonzero()[:, 0].tolist() == [2, 3, 4, 8, 9, 10]


@pytest.mark.parametrize("span", [[2, 6], [3, 3], [-1, 2], [4, 6], [5, 4]])
def test_spans_without_an_outcome_are_refused_and_shown(span: list[int]) -> None:
    layer = build(3)
    with pytest.raises(ValueError, match=r"the first is .* in window 1.*model.max_span_length"):
        layer.loss_of_sets(torch.zeros(2, 5, 3), *one([[0, 1], span], [True, True]))
    layer.loss_of_sets(torch.zeros(2, 5, 3), *one([[0, 1], span], [True, False]))


def test_several_spans_are_refused_by_the_single_model_and_overlaps_by_both() -> None:
    span_BM2 = torch.tensor([[[0, 2], [1, 3]]])
    with pytest.raises(ValueError, match="build the model with several=True"):
        build(3).loss_of_sets(torch.zeros(1, 5, 3), span_BM2, torch.tensor([2]))
    with pytest.raises(ValueError, match="disjoint"):
        build(3, several=True).loss_of_sets(torch.zeros(1, 5, 3), span_BM2, torch.tensor([2]))


def test_bad_input_is_refused() -> None:
    layer = build(3)
    scores_BT3 = torch.zeros(2, 5, 3)
    for bad_BT3 in (scores_BT3[0], scores_BT3[..., :2], scores_BT3[:, :0]):
        with pytest.raises(ValueError, match="scores must have shape"):
            layer.marginals(bad_BT3)
    with pytest.raises(ValueError, match="temperature is -1"):
        layer.marginals(scores_BT3, -1)
    with pytest.raises(ValueError, match="max_span_length is 0"):
        SegmentModel(0)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_have_the_scores_dtype_and_are_summed_in_double(dtype: torch.dtype, several: bool) -> None:
    layer = SegmentModel(8, several=several)
    scores_BT3 = (5 * torch.randn(2, 300, 3)).to(dtype).requires_grad_()
    labels = one([[290, 295], [3, 4]], [True, True])
    loss_B = layer.loss_of_sets(scores_BT3, *labels)
    loss_B.sum().backward()
    exact_B = layer.loss_of_sets(scores_BT3.detach().double(), *labels)
    assert loss_B.dtype == dtype
    assert_close(loss_B.double(), exact_B, atol=0, rtol=1e-6 if dtype == torch.float32 else 1e-2)
    assert scores_BT3.grad is not None
    assert scores_BT3.grad.dtype == dtype
    assert {layer.marginals(scores_BT3).dtype, layer.best(scores_BT3).margin_B.dtype} == {dtype}


def test_not_a_number_comes_out_as_not_a_number() -> None:
    for several in (False, True):
        layer = build(3, several=several)
        scores_BT3 = torch.zeros(2, 5, 3, dtype=torch.float64)
        scores_BT3[0, 2, 0] = math.nan
        loss_B = layer.loss_of_sets(scores_BT3, *one([[0, 1], [0, 1]], [True, True]))
        assert loss_B.isnan().tolist() == [True, False]


def test_sums_by_last_bar_follow_the_diagonals() -> None:
    span_BLT = torch.rand(2, 4, 6, dtype=torch.float64)
    expected_BT = torch.zeros(2, 6, dtype=torch.float64)
    for index, bar in itertools.product(range(4), range(6)):
        if bar + index < 6:
            expected_BT[:, bar + index] += span_BLT[:, index, bar]
    assert_close(count_lasts(span_BLT), expected_BT, **EXACT)


@pytest.mark.gpu
@pytest.mark.parametrize("several", [False, True])
def test_a_gpu_agrees_without_synchronising(several: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    layer = build(16, several=several)
    scores_BT3 = torch.randn(8, 105, 3, dtype=torch.float64)
    labels = one([[4, 9]] * 8, [True] * 7 + [False])
    expected = [layer.loss_of_sets(scores_BT3, *labels), layer.marginals(scores_BT3)]
    layer, scores_BT3 = layer.cuda(), scores_BT3.cuda().requires_grad_()
    labels = labels[0].cuda(), labels[1].cuda()
    layer.loss_of_sets(scores_BT3, *labels).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_B = layer.loss_of_sets(scores_BT3, *labels)
        loss_B.sum().backward()
        in_span_BT = layer.marginals(scores_BT3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for got, wanted in zip([loss_B.detach(), in_span_BT], expected, strict=True):
        assert_close(got.cpu(), wanted.detach(), **EXACT)
