"""The single-span model against enumeration of all spans and of all sets of spans.

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

from jade_model.core.segment import SingleSpan
from jade_model.core.segment.grid import count_lasts

EXACT = {"atol": 1e-10, "rtol": 1e-10}
Span = tuple[int, int]


def build(max_length: int, *, several: bool = False, seed: int = 0, scale: float = 1.0) -> SingleSpan:
    torch.manual_seed(seed)
    layer = SingleSpan(max_length, several=several).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return layer


def all_spans(num_bars: int, max_length: int) -> list[Span]:
    pairs = itertools.combinations(range(num_bars + 1), 2)
    return [(start, end) for start, end in pairs if end - start <= max_length]


def random_scores(batch: int, num_bars: int, max_length: int, *, whole: bool, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(batch, num_bars, 3 + max_length * whole, dtype=torch.float64)


def enumerate_outcomes(layer: SingleSpan, scores_TK: Tensor, *, at_most: int) -> dict[tuple[Span, ...], float]:
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


def prefix_mask(lengths: list[int], num_bars: int) -> Tensor:
    return torch.arange(num_bars) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(("num_bars", "max_length"), [(1, 1), (1, 4), (5, 1), (6, 3), (5, 9)])
def test_everything_equals_enumeration(num_bars: int, max_length: int, several: bool, whole: bool) -> None:
    layer = build(max_length, several=several)
    lengths = [num_bars, max(1, num_bars - 2), 1]
    mask_BT = prefix_mask(lengths, num_bars)
    scores_BTK = random_scores(3, num_bars, max_length, whole=whole, scale=2)
    log_partition_B = layer.log_partition(scores_BTK, mask_BT=mask_BT)
    for temperature in (1.0, 0.6):
        marginals = layer.marginals(scores_BTK, temperature, mask_BT=mask_BT)
        posterior_BTL = layer.span_posterior(scores_BTK, temperature, mask_BT=mask_BT)
        best = layer.best(scores_BTK, temperature, mask_BT=mask_BT)
        one = layer.best_span(scores_BTK, temperature, mask_BT=mask_BT)
        k_best = layer.k_best(scores_BTK, 4, temperature, mask_BT=mask_BT)
        for row, length in enumerate(lengths):
            scores_TK = scores_BTK[row, :length]
            raw = enumerate_outcomes(layer, scores_TK, at_most=length if several else 1)
            assert log_partition_B[row].item() == pytest.approx(log_sum(list(raw.values())), abs=1e-10)
            outcomes = {spans: score / temperature for spans, score in raw.items()}
            total = log_sum(list(outcomes.values()))
            probability = {spans: math.exp(score - total) for spans, score in outcomes.items()}
            for bar in range(num_bars):
                inside = sum(p for spans, p in probability.items() if in_span(spans, num_bars)[bar])
                starts = sum(p for spans, p in probability.items() if any(s == bar for s, _ in spans))
                lasts = sum(p for spans, p in probability.items() if any(e == bar + 1 for _, e in spans))
                assert marginals.in_span_BT[row, bar].item() == pytest.approx(inside, abs=1e-10)
                assert marginals.start_BT[row, bar].item() == pytest.approx(starts, abs=1e-10)
                assert marginals.last_BT[row, bar].item() == pytest.approx(lasts, abs=1e-10)
                for index in range(max_length):
                    holds = sum(p for spans, p in probability.items() if (bar, bar + index + 1) in spans)
                    assert posterior_BTL[row, bar, index].item() == pytest.approx(holds, abs=1e-10)
            assert marginals.none_B[row].item() == pytest.approx(probability[()], abs=1e-10)

            ranked = sorted(outcomes, key=lambda spans: -outcomes[spans])
            assert best.path_BT[row].tolist() == in_span(ranked[0], num_bars)
            assert best.log_probability_B[row].item() == pytest.approx(outcomes[ranked[0]] - total, abs=1e-10)
            assert best.margin_B[row].item() == pytest.approx(outcomes[ranked[0]] - outcomes[()], abs=1e-10)

            few = {spans: score for spans, score in outcomes.items() if len(spans) <= 1}
            few_total = log_sum(list(few.values()))
            ranked = sorted(few, key=lambda spans: -few[spans])
            for place, spans in enumerate(ranked[:4]):
                assert tuple(k_best.span_BN2[row, place].tolist()) == (spans[0] if spans else (-1, -1))
                got = k_best.log_probability_BN[row, place].item()
                assert got == pytest.approx(few[spans] - few_total, abs=1e-10)
            assert (k_best.log_probability_BN[row, len(ranked) :] == -torch.inf).all()
            assert (k_best.span_BN2[row, len(ranked) :] == -1).all()
            assert torch.equal(one.span_B2[row], k_best.span_BN2[row, 0])
            assert_close(one.log_probability_B[row], k_best.log_probability_BN[row, 0], **EXACT)
            strongest = max(score for spans, score in few.items() if spans)
            assert one.margin_B[row].item() == pytest.approx(strongest - few[()], abs=1e-10)


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

    single = SingleSpan(3).double()
    single.load_state_dict({name: layer.state_dict()[name] for name in single.state_dict()})
    loss_B = single.loss(scores_BT3, span_BM2[:, 0], torch.tensor([False, True, True, True]))
    for row, spans in enumerate(labelled):
        outcomes = enumerate_outcomes(single, scores_BT3[row], at_most=1)
        expected = log_sum(list(outcomes.values())) - outcomes[spans[:1]]
        assert loss_B[row].item() == pytest.approx(expected, abs=1e-10)


def test_conditioned_on_one_span_at_most_the_model_of_sets_is_the_single_one() -> None:
    layer = build(4, several=True)
    scores_BT3 = torch.randn(2, 7, 3, dtype=torch.float64)
    with torch.no_grad():
        layer.further_bias.fill_(-1000.0)
    single = SingleSpan(4).double()
    single.load_state_dict({name: layer.state_dict()[name] for name in single.state_dict()})
    assert_close(layer.log_partition(scores_BT3), single.log_partition(scores_BT3), **EXACT)
    assert_close(layer.marginals(scores_BT3).in_span_BT, single.marginals(scores_BT3).in_span_BT, **EXACT)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_smoothed_loss_is_the_cross_entropy_against_the_spread_target(several: bool, whole: bool) -> None:
    """Spans move independently, each within its half of the gaps, by a Gaussian cut to spans that exist."""
    sigma, max_length, num_bars = 0.8, 3, 7
    layer = build(max_length, several=several)
    labelled = [((0, 2), (4, 6)), ((4, 7),), ()] if several else [((0, 2),), ((4, 7),), ()]
    rooms = {0: [(0, 3), (3, 7)] if several else [(0, 7)], 1: [(0, 7)], 2: []}
    scores_BT3 = random_scores(3, num_bars, max_length, whole=whole)
    num_spans = max(map(len, labelled))
    span_BM2 = torch.full((3, num_spans, 2), -1)
    for row, spans in enumerate(labelled):
        for column, span in enumerate(spans):
            span_BM2[row, column] = torch.tensor(span)
    counts_B = torch.tensor([len(spans) for spans in labelled])
    loss_B = layer.loss_of_sets(scores_BT3, span_BM2, counts_B, boundary_smoothing_bars=sigma)
    for row, spans in enumerate(labelled):
        outcomes = enumerate_outcomes(layer, scores_BT3[row], at_most=num_bars if several else 1)
        total = log_sum(list(outcomes.values()))
        choices = []
        for (start, end), (low, high) in zip(spans, rooms[row], strict=True):
            weights = {
                (s, e): math.exp(-((s - start) ** 2 + (e - end) ** 2) / (2 * sigma**2))
                for s, e in all_spans(num_bars, max_length)
                if low <= s and e <= high and abs(s - start) <= 3 and abs(e - end) <= 3
            }
            choices.append({pair: weight / sum(weights.values()) for pair, weight in weights.items()})
        expected = sum(
            math.prod(choice[span] for choice, span in zip(choices, chosen, strict=True))
            * (total - outcomes[tuple(chosen)])
            for chosen in itertools.product(*choices)
        )
        assert loss_B[row].item() == pytest.approx(expected, abs=1e-10)


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
def test_marginals_are_the_gradient_of_the_log_partition_at_any_shape_mask_and_scale(
    num_bars: int, max_length: int, batch: int, scale: float, several: bool, whole: bool, seed: int
) -> None:
    layer = build(max_length, several=several, seed=seed)
    length_B = torch.randint(1, num_bars + 1, (batch,))
    mask_BT = torch.arange(num_bars) < length_B[:, None]
    scores_BT3 = random_scores(batch, num_bars, max_length, whole=whole, scale=scale).requires_grad_()
    (gradient_BTK,) = torch.autograd.grad(layer.log_partition(scores_BT3, mask_BT=mask_BT).sum(), scores_BT3)
    marginals = layer.marginals(scores_BT3, mask_BT=mask_BT)
    read_off = torch.stack([marginals.in_span_BT, marginals.start_BT, marginals.last_BT], dim=2)
    assert_close(read_off, gradient_BTK[:, :, :3], atol=1e-9, rtol=0)
    if whole:
        assert_close(layer.span_posterior(scores_BT3, mask_BT=mask_BT), gradient_BTK[:, :, 3:], atol=1e-9, rtol=0)
    assert read_off[~mask_BT].abs().sum() < 1e-10
    assert read_off.max() <= 1 + 1e-9
    if not several:
        assert_close(marginals.start_BT.sum(dim=1) + marginals.none_B, torch.ones(batch).double(), **EXACT)
    best = layer.best(scores_BT3, mask_BT=mask_BT)
    assert (best.margin_B >= 0).all()
    assert (best.log_probability_B <= 1e-9).all()
    assert torch.equal(best.path_BT.any(dim=1), best.margin_B > 0)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_gradients_pass_gradcheck(several: bool, smoothing: float, whole: bool) -> None:
    layer = build(3, several=several)
    scores_BT3 = random_scores(3, 5, 3, whole=whole).requires_grad_()
    span_B2 = torch.tensor([[1, 3], [0, 3], [-1, -1]])
    mask_BT = prefix_mask([5, 4, 3], 5)
    names = [name for name, _ in layer.named_parameters()]

    def loss(scores_BT3: Tensor, *values: Tensor) -> Tensor:
        options = {"mask_BT": mask_BT, "boundary_smoothing_bars": smoothing}
        named = dict(zip(names, values, strict=True))
        arguments = (scores_BT3, span_B2, torch.tensor([True, True, False]))
        return torch.func.functional_call(_Loss(layer), {f"layer.{k}": v for k, v in named.items()}, arguments, options)

    assert torch.autograd.gradcheck(loss, (scores_BT3, *layer.parameters()))


class _Loss(torch.nn.Module):
    """functional_call replaces parameters of a forward only."""

    def __init__(self, layer: SingleSpan) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *arguments: Tensor, **options: Tensor) -> Tensor:
        return self.layer.loss(*arguments, **options)  # type: ignore[arg-type]


def test_read_outs_are_expectations_given_a_span() -> None:
    layer = build(3)
    num_bars = 9
    scores_BT3 = torch.randn(1, num_bars, 3, dtype=torch.float64)
    outcomes = enumerate_outcomes(layer, scores_BT3[0], at_most=1)
    spans = [spans[0] for spans in outcomes if spans]
    weights = torch.softmax(torch.tensor([outcomes[(span,)] for span in spans], dtype=torch.float64), 0).tolist()
    marginals = layer.marginals(scores_BT3)
    pointers = marginals.expected_pointers()[0].tolist()
    centre = sum(w * (start + end - 1) / 2 for w, (start, end) in zip(weights, spans, strict=True))
    length = sum(w * (end - 1 - start) for w, (start, end) in zip(weights, spans, strict=True))
    assert pointers == pytest.approx([centre / num_bars, length / num_bars], abs=1e-10)
    countdown = marginals.expected_countdown(limit_bars=2)[0].tolist()
    for bar in range(num_bars):
        expected = sum(w * max(-2, min(2, start - bar)) for w, (start, _) in zip(weights, spans, strict=True))
        assert countdown[bar] == pytest.approx(expected, abs=1e-10)


def test_read_outs_stay_finite_where_a_span_is_impossible() -> None:
    layer = build(3)
    with torch.no_grad():
        layer.none_bias.fill_(1e6)
    marginals = layer.marginals(torch.zeros(1, 5, 3))
    assert marginals.none_B.item() == 1
    assert marginals.expected_pointers().isfinite().all()
    assert marginals.expected_countdown().isfinite().all()


def test_before_anything_is_learned_none_has_the_odds_it_was_given() -> None:
    layer = SingleSpan(4)
    for rate in (0.01, 0.3):
        layer.set_none_rate(rate)
        marginals = layer.marginals(torch.zeros(2, 10, 3), mask_BT=prefix_mask([10, 4], 10))
        assert marginals.none_B.tolist() == pytest.approx([rate, rate], abs=1e-6)
    for rate in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            layer.set_none_rate(rate)


def test_two_equal_spans_share_the_posterior_of_one_and_have_each_their_own_if_several() -> None:
    scores_BT3 = torch.full((1, 12, 3), -3.0, dtype=torch.float64)
    scores_BT3[0, 2:5, 0] = scores_BT3[0, 8:11, 0] = 30.0
    for several, expected in ((False, 0.5), (True, 1.0)):
        layer = SingleSpan(4, several=several).double()
        in_span_T = layer.marginals(scores_BT3).in_span_BT[0]
        assert in_span_T[2:5].tolist() == pytest.approx([expected] * 3, abs=1e-6)
        assert in_span_T[8:11].tolist() == pytest.approx([expected] * 3, abs=1e-6)
    assert layer.best(scores_BT3).path_BT[0].nonzero()[:, 0].tolist() == [2, 3, 4, 8, 9, 10]


@pytest.mark.parametrize("span", [[2, 6], [3, 3], [-1, 2], [4, 6], [5, 4]])
def test_spans_without_an_outcome_are_refused_and_shown(span: list[int]) -> None:
    layer = build(3)
    with pytest.raises(ValueError, match=r"the first is .* in window 1.*model.max_span_length"):
        layer.loss(torch.zeros(2, 5, 3), torch.tensor([[0, 1], span]), torch.tensor([True, True]))
    layer.loss(torch.zeros(2, 5, 3), torch.tensor([[0, 1], span]), torch.tensor([True, False]))


def test_several_spans_are_refused_by_the_single_model_and_overlaps_by_both() -> None:
    span_BM2 = torch.tensor([[[0, 2], [1, 3]]])
    with pytest.raises(ValueError, match="build the model with several=True"):
        build(3).loss_of_sets(torch.zeros(1, 5, 3), span_BM2, torch.tensor([2]))
    with pytest.raises(ValueError, match="disjoint"):
        build(3, several=True).loss_of_sets(torch.zeros(1, 5, 3), span_BM2, torch.tensor([2]))


@pytest.mark.parametrize("several", [False, True])
def test_batches_without_any_span_are_fine(several: bool) -> None:
    layer = build(3, several=several)
    scores_BT3 = torch.randn(2, 5, 3, dtype=torch.float64)
    none_B = torch.zeros(2, dtype=torch.int64)
    loss_B = layer.loss_of_sets(scores_BT3, torch.zeros(2, 0, 2, dtype=torch.int64), none_B)
    assert_close(loss_B, -layer.marginals(scores_BT3).none_B.log(), **EXACT)
    mask_BT = prefix_mask([5, 3], 5)
    masked_B = layer.loss_of_sets(scores_BT3, torch.zeros(2, 0, 2, dtype=torch.int64), none_B, mask_BT=mask_BT)
    assert_close(masked_B[0], loss_B[0], **EXACT)


def test_bad_input_is_refused() -> None:
    layer = build(3)
    scores_BT3 = torch.zeros(2, 5, 3)
    for bad_BT3 in (scores_BT3[0], scores_BT3[..., :2], scores_BT3[:, :0]):
        with pytest.raises(ValueError, match="scores must have shape"):
            layer.log_partition(bad_BT3)
    with pytest.raises(ValueError, match="mask must have shape"):
        layer.log_partition(scores_BT3, mask_BT=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask must be on at the first bar"):
        layer.log_partition(scores_BT3, mask_BT=torch.zeros(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"gaps in windows \[1\]"):
        layer.log_partition(scores_BT3, mask_BT=torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0]]).bool())
    with pytest.raises(ValueError, match="temperature is -1"):
        layer.marginals(scores_BT3, -1)
    with pytest.raises(ValueError, match="k is 0"):
        layer.k_best(scores_BT3, 0)
    with pytest.raises(ValueError, match="max_span_length is 0"):
        SingleSpan(0)


@pytest.mark.parametrize("several", [False, True])
def test_what_stands_on_masked_bars_does_not_matter(several: bool) -> None:
    layer = build(3, several=several)
    mask_BT = prefix_mask([5, 3], 5)
    scores_BT3 = torch.randn(2, 5, 3, dtype=torch.float64)
    spoilt_BT3 = scores_BT3.masked_fill(~mask_BT[:, :, None], math.nan).requires_grad_()
    assert_close(
        layer.marginals(spoilt_BT3, mask_BT=mask_BT).in_span_BT,
        layer.marginals(scores_BT3, mask_BT=mask_BT).in_span_BT,
        **EXACT,
    )
    loss = layer.loss(spoilt_BT3, torch.tensor([[1, 2], [0, 3]]), torch.ones(2).bool(), mask_BT=mask_BT).sum()
    assert torch.autograd.grad(loss, spoilt_BT3)[0].isfinite().all()


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_have_the_scores_dtype_and_are_summed_in_double(dtype: torch.dtype, several: bool) -> None:
    layer = SingleSpan(8, several=several)
    scores_BT3 = (5 * torch.randn(2, 300, 3)).to(dtype).requires_grad_()
    span_B2, has_span_B = torch.tensor([[290, 295], [3, 4]]), torch.tensor([True, True])
    loss_B = layer.loss(scores_BT3, span_B2, has_span_B)
    loss_B.sum().backward()
    exact_B = layer.loss(scores_BT3.detach().double(), span_B2, has_span_B)
    assert loss_B.dtype == dtype
    assert_close(loss_B.double(), exact_B, atol=0, rtol=1e-6 if dtype == torch.float32 else 1e-2)
    assert scores_BT3.grad is not None
    assert scores_BT3.grad.dtype == dtype
    marginals, best = layer.marginals(scores_BT3), layer.best(scores_BT3)
    results = (marginals.in_span_BT, marginals.start_BT, marginals.none_B, best.margin_B, best.log_probability_B)
    assert {result.dtype for result in results} == {dtype}


def test_not_a_number_comes_out_as_not_a_number() -> None:
    for several in (False, True):
        layer = build(3, several=several)
        scores_BT3 = torch.zeros(2, 5, 3, dtype=torch.float64)
        scores_BT3[0, 2, 0] = math.nan
        loss_B = layer.loss(scores_BT3, torch.tensor([[0, 1], [0, 1]]), torch.tensor([True, True]))
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
    span_B2, has_span_B = torch.tensor([[4, 9]] * 8), torch.tensor([True] * 7 + [False])
    expected = [layer.loss(scores_BT3, span_B2, has_span_B), layer.marginals(scores_BT3).in_span_BT]
    layer, scores_BT3 = layer.cuda(), scores_BT3.cuda().requires_grad_()
    span_B2, has_span_B = span_B2.cuda(), has_span_B.cuda()
    layer.loss(scores_BT3, span_B2, has_span_B).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_B = layer.loss(scores_BT3, span_B2, has_span_B)
        loss_B.sum().backward()
        in_span_BT = layer.marginals(scores_BT3).in_span_BT
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for got, wanted in zip([loss_B.detach(), in_span_BT], expected, strict=True):
        assert_close(got.cpu(), wanted.detach(), **EXACT)
