"""The CRF against enumeration of all paths (small) and pytorch-crf (large).

Legend: B windows, T bars, K tags, P paths enumerated.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torchcrf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from jade_model.core.crf import CRF
from jade_model.core.crf.scan import ChainScores
from jade_model.core.crf.tree import ChainTensors, path_score, tree_log_partition

EXACT = {"atol": 1e-10, "rtol": 1e-10}


@pytest.fixture(autouse=True)
def _quiet_peer() -> Iterator[None]:
    """pytorch-crf selects with a uint8 mask, of which torch warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "where received a uint8 condition")
        yield


def build(num_tags: int, *, scale: float = 1.0, seed: int = 0) -> CRF:
    torch.manual_seed(seed)
    crf = CRF(num_tags, batch_first=True).double()
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return crf


def peer_of(crf: CRF, *, batch_first: bool = True) -> torchcrf.CRF:
    peer = torchcrf.CRF(crf.num_tags, batch_first=batch_first).to(crf.transitions.dtype)
    peer.load_state_dict(crf.state_dict())
    return peer


def prefix_mask(lengths: list[int] | Tensor, num_bars: int) -> Tensor:
    return torch.arange(num_bars) < torch.as_tensor(lengths)[:, None]


def enumerate_paths(crf: CRF, emissions_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Every path [P, T] and its score [P], the slow way."""
    paths, scores = [], []
    for path in itertools.product(range(crf.num_tags), repeat=len(emissions_TK)):
        moves = list(itertools.pairwise(path))
        score = crf.start_transitions[path[0]] + crf.end_transitions[path[-1]]
        score = score + sum(emissions_TK[bar, tag] for bar, tag in enumerate(path))
        score = score + sum((crf.transitions[move] for move in moves), torch.zeros(()))
        paths.append(path)
        scores.append(score)
    return torch.tensor(paths), torch.stack(scores).detach()


def forbid(crf: CRF) -> CRF:
    """Make some starts, transitions and ends impossible."""
    with torch.no_grad():
        crf.transitions[0, 1] = crf.transitions[2, 2] = crf.start_transitions[1] = crf.end_transitions[0] = -torch.inf
    return crf


@pytest.mark.parametrize(
    ("num_tags", "num_bars", "forbidden"),
    [(1, 3, False), (2, 1, False), (2, 7, False), (3, 5, False), (4, 4, False), (3, 5, True), (4, 4, True)],
)
def test_everything_equals_enumeration(num_tags: int, num_bars: int, forbidden: bool) -> None:
    crf = forbid(build(num_tags)) if forbidden else build(num_tags)
    lengths = [num_bars, num_bars - 1, 2] if forbidden else [num_bars, max(1, num_bars - 2), 1]
    emissions_BTK = 2 * torch.randn(3, num_bars, num_tags, dtype=torch.float64)
    mask_BT = prefix_mask(lengths, num_bars)
    best = crf.viterbi(emissions_BTK, mask_BT)
    value_B = crf(emissions_BTK, best.paths_BT, mask_BT, "none")
    marginals_BTK = crf.marginals(emissions_BTK, mask_BT)
    cold_BTK = crf.marginals(emissions_BTK, mask_BT, temperature=0.7)
    for row, length in enumerate(lengths):
        path_PT, score_P = enumerate_paths(crf, emissions_BTK[row, :length])
        one_hot_PTK = torch.nn.functional.one_hot(path_PT, num_tags).double()
        for got_TK, temperature in ((marginals_BTK[row], 1.0), (cold_BTK[row], 0.7)):
            probability_P = torch.softmax(score_P / temperature, 0)
            assert_close(got_TK[:length], torch.einsum("p,ptk->tk", probability_P, one_hot_PTK), **EXACT)
            assert not got_TK[length:].any()
        best_score = score_P.max()
        assert torch.equal(best.paths_BT[row, :length], path_PT[score_P.argmax()])
        assert not best.paths_BT[row, length:].any()
        assert_close(value_B[row], best_score - torch.logsumexp(score_P, 0), **EXACT)
        assert_close(best.margin_B[row], best_score - score_P[(path_PT == 0).all(dim=1)][0], **EXACT)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("num_tags", "num_bars", "batch"), [(2, 105, 32), (5, 40, 7), (3, 1, 4)])
def test_value_gradient_and_path_equal_pytorch_crf(
    num_tags: int, num_bars: int, batch: int, masked: bool, batch_first: bool
) -> None:
    ours = build(num_tags)
    ours.batch_first = batch_first
    peer = peer_of(ours, batch_first=batch_first)
    shape = (batch, num_bars) if batch_first else (num_bars, batch)
    emissions = 3 * torch.randn(*shape, num_tags, dtype=torch.float64)
    tags = torch.randint(0, num_tags, shape)
    mask = None
    if masked:
        mask = prefix_mask(torch.randint(1, num_bars + 1, (batch,)), num_bars)
        mask = mask if batch_first else mask.T
    weight_B = torch.randn(batch, dtype=torch.float64)
    results = []
    for crf in (ours, peer):
        leaf = emissions.clone().requires_grad_()
        crf.zero_grad()
        value_B = crf(leaf, tags, mask, "none")
        (value_B * weight_B).sum().backward()
        gradients = [torch.zeros(1) if p.grad is None else p.grad for p in crf.parameters()]
        results.append([value_B.detach(), leaf.grad, *gradients[: None if num_bars > 1 else 2]])
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected, **EXACT)
    for reduction in ("sum", "mean", "token_mean"):
        got, expected = (crf(emissions, tags, mask, reduction) for crf in (ours, peer))
        assert_close(got, expected, atol=1e-10, rtol=1e-7 if reduction == "token_mean" else 1e-10)
    assert ours.decode(emissions, mask) == peer.decode(emissions, mask)


def test_long_windows_equal_pytorch_crf() -> None:
    ours = build(2, scale=3)
    peer = peer_of(ours)
    emissions_BTK = 5 * torch.randn(3, 1024, 2, dtype=torch.float64)
    tags_BT = torch.randint(0, 2, (3, 1024))
    gradients = []
    for crf in (ours, peer):
        leaf_BTK = emissions_BTK.clone().requires_grad_()
        gradients.append(torch.autograd.grad(crf(leaf_BTK, tags_BT), [leaf_BTK, *crf.parameters()]))
    assert_close(ours(emissions_BTK, tags_BT), peer(emissions_BTK, tags_BT), **EXACT)
    for got, expected in zip(*gradients, strict=True):
        assert_close(got, expected, atol=1e-9, rtol=1e-9)  # pytorch-crf adds 1,024 rounded logs
    assert ours.decode(emissions_BTK) == peer.decode(emissions_BTK)


@settings(max_examples=60)
@given(
    num_tags=st.integers(1, 5),
    num_bars=st.integers(1, 30),
    batch=st.integers(1, 5),
    emission_scale=st.sampled_from([1e-3, 1.0, 30.0, 1e3, 1e5]),
    transition_scale=st.sampled_from([0.0, 1.0, 15.0, 100.0, 1e3]),
    seed=st.integers(0, 10**6),
)
def test_scan_tree_and_pytorch_crf_agree_at_any_shape_mask_and_scale(
    num_tags: int, num_bars: int, batch: int, emission_scale: float, transition_scale: float, seed: int
) -> None:
    ours = build(num_tags, scale=transition_scale, seed=seed)
    emissions_BTK = emission_scale * torch.randn(batch, num_bars, num_tags, dtype=torch.float64)
    length_B = torch.randint(1, num_bars + 1, (batch,))
    mask_BT = prefix_mask(length_B, num_bars)
    tags_BT = torch.randint(0, num_tags, (batch, num_bars))
    size = (emission_scale + transition_scale) * num_bars
    tolerance = {"atol": max(1e-10, 1e-14 * size), "rtol": 1e-10}
    peer = peer_of(ours)
    gradients = []
    for crf in (ours, peer):
        leaf_BTK = emissions_BTK.clone().requires_grad_()
        (gradient_BTK,) = torch.autograd.grad(crf(leaf_BTK, tags_BT, mask_BT), leaf_BTK)
        gradients.append(gradient_BTK)
    assert_close(gradients[0], gradients[1], atol=max(1e-10, 1e-13 * size), rtol=0)
    value_B = ours(emissions_BTK, tags_BT, mask_BT, "none")
    assert_close(value_B, peer(emissions_BTK, tags_BT, mask_BT, "none"), **tolerance)
    chain = ChainTensors(ours.start_transitions, ours.transitions, ours.end_transitions)
    kept_BT = tags_BT * mask_BT
    tree_B = path_score(emissions_BTK, kept_BT, chain, length_B) - tree_log_partition(emissions_BTK, chain, length_B)
    assert_close(value_B, tree_B, **tolerance)
    assert ours.decode(emissions_BTK, mask_BT) == peer.decode(emissions_BTK, mask_BT)


@pytest.mark.parametrize("transitions", [[[0, 0], [0, 0]], [[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, 2], [1, 1]]])
def test_of_equally_good_paths_the_one_of_pytorch_crf_is_chosen(transitions: list[list[float]]) -> None:
    ours = build(2, scale=0)
    with torch.no_grad():
        ours.transitions.copy_(torch.tensor(transitions))
    emissions_BTK = torch.randint(0, 2, (200, 9, 2)).double()
    mask_BT = prefix_mask(torch.randint(1, 10, (200,)), 9)
    assert ours.decode(emissions_BTK, mask_BT) == peer_of(ours).decode(emissions_BTK, mask_BT)


def test_gradients_pass_gradcheck_on_every_path() -> None:
    mask_BT = prefix_mask([4, 2], 4)
    tags_BT = torch.tensor([[2, 0, 1, 1], [0, 2, 0, 0]])
    for scale in (1.0, 100.0):  # the scan, and the tree
        crf = build(3, scale=scale, seed=1)
        leaf_BTK = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
        names = [name for name, _ in crf.named_parameters()]

        def likelihood(emissions_BTK: Tensor, *values: Tensor, crf: CRF = crf, names=names) -> Tensor:  # type: ignore[no-untyped-def]
            named = dict(zip(names, values, strict=True))
            return torch.func.functional_call(crf, named, (emissions_BTK, tags_BT, mask_BT, "none"))

        assert torch.autograd.gradcheck(likelihood, (leaf_BTK, *crf.parameters()))


@pytest.mark.parametrize("span", [99.0, 400.0, 5000.0])
def test_scores_far_apart_lose_nothing(span: float) -> None:
    """A state that is hopeless bar by bar, but that the transitions then make the only way on."""
    crf = build(2)
    with torch.no_grad():
        crf.transitions.copy_(torch.tensor([[0.0, -span], [-span, 0.0]]))
    emissions_BTK = torch.zeros(1, 8, 2, dtype=torch.float64)
    emissions_BTK[0, :4, 1] = -1000.0
    emissions_BTK[0, 4:, 0] = -1000.0
    _, score_P = enumerate_paths(crf, emissions_BTK[0])
    value = crf(emissions_BTK, torch.ones(1, 8, dtype=torch.int64))
    assert_close(value, score_P[-1] - torch.logsumexp(score_P, 0), **EXACT)


def test_the_scan_knows_its_limit() -> None:
    near = ChainScores(np.zeros(2), np.array([[0.0, -99.0], [0.0, 0.0]]), np.zeros(2))
    far = ChainScores(np.zeros(2), np.array([[0.0, -101.0], [0.0, 0.0]]), np.zeros(2))
    unknown = ChainScores(np.zeros(2), np.full((2, 2), math.nan), np.zeros(2))
    assert near.fits()
    assert not far.fits()
    assert not unknown.fits()


def test_what_is_impossible_has_no_probability_and_no_gradient() -> None:
    ours = forbid(build(3))
    peer = peer_of(ours)
    emissions_BTK = torch.randn(2, 4, 3, dtype=torch.float64)
    tags_BT = torch.tensor([[0, 2, 1, 1], [2, 0, 0, 2]])
    gradients = []
    for crf in (ours, peer):
        leaf_BTK = emissions_BTK.clone().requires_grad_()
        crf(leaf_BTK, tags_BT).backward()
        gradients.append([leaf_BTK.grad, *(parameter.grad for parameter in crf.parameters())])
    assert_close(ours(emissions_BTK, tags_BT), peer(emissions_BTK, tags_BT), **EXACT)
    for got, expected in zip(*gradients, strict=True):
        assert got.isfinite().all()
        assert_close(got, expected, **EXACT)
    assert ours(emissions_BTK, torch.tensor([[0, 1, 1, 1]] * 2), None, "none").tolist() == [-math.inf] * 2
    assert ours.decode(emissions_BTK) == peer.decode(emissions_BTK)
    with torch.no_grad():
        ours.start_transitions.fill_(-torch.inf)
    assert ours.marginals(emissions_BTK).isnan().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_tags_of_any_integer_type_give_the_same(dtype: torch.dtype) -> None:
    crf = build(100)
    emissions_BTK, tags_BT = torch.randn(3, 9, 100, dtype=torch.float64), torch.randint(0, 100, (3, 9))
    assert_close(crf(emissions_BTK, tags_BT.to(dtype)), crf(emissions_BTK, tags_BT), **EXACT)


@pytest.mark.soak  # loading the compiler takes longer than all the rest here
def test_it_can_be_compiled_with_a_mask() -> None:
    crf = build(2)
    emissions_BTK, tags_BT = torch.randn(3, 9, 2, dtype=torch.float64), torch.randint(0, 2, (3, 9))
    mask_BT = prefix_mask([9, 4, 1], 9)
    compiled = torch.compile(crf, backend="aot_eager")
    value = compiled(emissions_BTK, tags_BT, mask_BT)
    assert_close(value, crf(emissions_BTK, tags_BT, mask_BT), **EXACT)
    got = torch.autograd.grad(value, list(crf.parameters()))
    for gradient, wanted in zip(
        got, torch.autograd.grad(crf(emissions_BTK, tags_BT, mask_BT), list(crf.parameters())), strict=True
    ):
        assert_close(gradient, wanted, **EXACT)


def test_gaps_in_a_mask_are_refused_and_named() -> None:
    crf = build(2)
    emissions_BTK = torch.randn(3, 4, 2, dtype=torch.float64)
    mask_BT = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    for function in (crf.marginals, crf.decode, crf.viterbi):
        with pytest.raises(ValueError, match=r"gaps in windows \[1\]"):
            function(emissions_BTK, mask_BT)


def refusal(crf: torch.nn.Module, *arguments: object) -> str:
    with pytest.raises(ValueError) as caught:
        crf(*arguments)
    return str(caught.value)


def test_bad_input_is_refused_in_the_words_of_pytorch_crf() -> None:
    ours, peer = build(2), torchcrf.CRF(2, batch_first=True).double()
    emissions, tags = torch.zeros(3, 4, 2, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.int64)
    late = torch.tensor([[0, 1, 1, 1]] * 3, dtype=torch.bool)
    for arguments in (
        (emissions[0], tags),
        (emissions[..., :1], tags),
        (emissions, tags[:2]),
        (emissions, tags, late[:2]),
        (emissions, tags, late),
        (emissions, tags, None, "median"),
    ):
        assert refusal(ours, *arguments) == refusal(peer, *arguments)
    with pytest.raises(ValueError, match="invalid number of tags: 0"):
        CRF(0)
    assert repr(ours) == repr(peer)


def test_what_pytorch_crf_lets_pass_is_refused() -> None:
    crf = build(2)
    emissions = torch.zeros(3, 4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="tags must lie in 0 to 1 on bars that count, got -1 to 2"):
        crf(emissions, torch.tensor([[-1, 2, 0, 0]] * 3))
    with pytest.raises(ValueError, match="at least one bar"):
        crf.decode(emissions[:, :0])
    with pytest.raises(ValueError, match="temperature is 0"):
        crf.marginals(emissions, temperature=0)


def test_what_stands_on_masked_bars_does_not_matter() -> None:
    crf = build(2)
    emissions_BTK = torch.randn(2, 6, 2, dtype=torch.float64)
    tags_BT = torch.randint(0, 2, (2, 6))
    mask_BT = prefix_mask([6, 3], 6)
    spoilt_BTK, spoilt_BT = emissions_BTK.clone(), tags_BT.clone()
    spoilt_BTK[1, 3:], spoilt_BT[1, 3:] = math.nan, -100
    gradients = []
    for given_BTK, given_BT in ((emissions_BTK, tags_BT), (spoilt_BTK, spoilt_BT)):
        leaf_BTK = given_BTK.clone().requires_grad_()
        gradients.append(torch.autograd.grad(crf(leaf_BTK, given_BT, mask_BT), leaf_BTK)[0])
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(crf.marginals(spoilt_BTK, mask_BT), crf.marginals(emissions_BTK, mask_BT))
    assert crf.decode(spoilt_BTK, mask_BT) == crf.decode(emissions_BTK, mask_BT)


def test_state_dicts_interchange_and_initial_values_are_pytorch_crfs() -> None:
    torch.manual_seed(5)
    ours = CRF(4)
    torch.manual_seed(5)
    peer = torchcrf.CRF(4)
    for name, value in peer.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    other = CRF(4, batch_first=True)
    other.load_state_dict(peer.state_dict())
    peer.load_state_dict(other.state_dict())
    assert torch.equal(other.transitions, ours.transitions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_results_have_the_emissions_dtype(dtype: torch.dtype) -> None:
    crf = CRF(2, batch_first=True)
    emissions_BTK = torch.randn(2, 5, 2).to(dtype).requires_grad_()
    tags_BT = torch.zeros(2, 5, dtype=torch.int64)
    value = crf(emissions_BTK, tags_BT)
    value.backward()
    assert value.dtype == dtype
    assert emissions_BTK.grad is not None
    assert emissions_BTK.grad.dtype == dtype
    assert crf.transitions.grad is not None
    assert crf.transitions.grad.dtype == torch.float32
    assert {crf.marginals(emissions_BTK).dtype, crf.viterbi(emissions_BTK).margin_B.dtype} == {dtype}


def test_single_precision_emissions_are_summed_in_double() -> None:
    crf = CRF(2, batch_first=True)
    emissions_BTK = 10 * torch.randn(4, 1024, 2)
    tags_BT = torch.randint(0, 2, (4, 1024))
    exact_B = crf.double()(emissions_BTK.double(), tags_BT, None, "none")
    assert_close(crf.float()(emissions_BTK, tags_BT, None, "none").double(), exact_B, atol=0, rtol=1e-6)


def test_not_a_number_comes_out_as_not_a_number() -> None:
    crf = build(2)
    emissions_BTK = torch.zeros(2, 5, 2, dtype=torch.float64)
    for bad in (math.nan, math.inf):
        emissions_BTK[0, 2, 1] = bad
        value_B = crf(emissions_BTK, torch.zeros(2, 5, dtype=torch.int64), None, "none")
        assert value_B.isfinite().tolist() == [False, True]
        value_B.sum().backward()
        assert crf.transitions.grad is not None
        assert crf.transitions.grad.isnan().any()
    with torch.no_grad():
        crf.transitions[0, 0] = math.nan
    assert crf(emissions_BTK, torch.zeros(2, 5, dtype=torch.int64)).isnan()


def test_one_backward_pass_can_follow_another() -> None:
    crf, emissions_BTK = build(2), torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True)
    value = crf(emissions_BTK, torch.ones(2, 5, dtype=torch.int64))
    (first,) = torch.autograd.grad(value, emissions_BTK, retain_graph=True)
    (second,) = torch.autograd.grad(value, emissions_BTK)
    assert torch.equal(first, second)


def test_empty_batches_are_fine() -> None:
    crf = build(2)
    emissions_BTK = torch.zeros(0, 5, 2, dtype=torch.float64)
    assert crf(emissions_BTK, torch.zeros(0, 5, dtype=torch.int64)).item() == 0
    assert crf.decode(emissions_BTK) == []
    assert crf.marginals(emissions_BTK).shape == (0, 5, 2)


@pytest.mark.gpu
def test_a_gpu_agrees_without_synchronising() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    crf = build(2)
    emissions_BTK = torch.randn(8, 105, 2, dtype=torch.float64)
    tags_BT = torch.randint(0, 2, (8, 105))
    expected = [crf(emissions_BTK, tags_BT), crf.marginals(emissions_BTK), crf.viterbi(emissions_BTK).paths_BT]
    crf, emissions_BTK, tags_BT = crf.cuda(), emissions_BTK.cuda().requires_grad_(), tags_BT.cuda()
    crf(emissions_BTK, tags_BT).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        value = crf(emissions_BTK, tags_BT)
        value.backward()
        marginals_BTK = crf.marginals(emissions_BTK)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    results = [value.detach(), marginals_BTK, crf.viterbi(emissions_BTK.detach()).paths_BT]
    for got, wanted in zip(results, expected, strict=True):
        assert_close(got.cpu(), wanted.detach(), **EXACT)
