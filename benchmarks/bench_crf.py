"""The CRF against pytorch-crf: likelihood with gradient, Viterbi paths, posterior marginals; two tags."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
import torchcrf
from torch import Tensor
from torch.testing import assert_close

from benchmarks.harness import Measurement, interleaved
from jade_model.core.crf import CRF

PEER = "pytorch-crf 0.7.2"
NUM_TAGS = 2

CrfT = TypeVar("CrfT", CRF, torchcrf.CRF)


def measure() -> list[Measurement]:
    """Check that both give the same on every input, then time them by turns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "where received a uint8 condition")
        return [
            likelihood(batch=32, num_bars=105, repeat=15, target_ratio=10),
            likelihood(batch=32, num_bars=1024, repeat=7, target_ratio=35),
            viterbi(batch=42, num_bars=105, repeat=15, target_ratio=15),
            viterbi(batch=4096, num_bars=105, repeat=5, target_ratio=100),
            marginals(batch=42, num_bars=105, repeat=15, target_ratio=10),
        ]


def likelihood(*, batch: int, num_bars: int, repeat: int, target_ratio: float) -> Measurement:
    """Time the log-likelihood and its gradient for emissions and parameters."""
    ours, peer, emissions_BTK = models(batch, num_bars)
    tags_BT = torch.randint(0, NUM_TAGS, (batch, num_bars))

    def step(crf: CRF | torchcrf.CRF, given_BTK: Tensor) -> list[Tensor]:
        leaf_BTK = given_BTK.clone().requires_grad_()
        value = crf(leaf_BTK, tags_BT, reduction="mean")
        return [value.detach(), *torch.autograd.grad(value, [leaf_BTK, *crf.parameters()])]

    exact_BTK = emissions_BTK.double()
    assert_close(step(double(ours), exact_BTK), step(double(peer), exact_BTK), atol=1e-10, rtol=1e-10)
    ours_s, peer_s = by_turns(lambda: step(ours, emissions_BTK), lambda: step(peer, emissions_BTK), repeat)
    name = f"CRF log-likelihood and gradient, {batch} x {num_bars}"
    return Measurement(name, ours_s, peer_s, PEER, target_ratio, "equal to 1e-10")


def viterbi(*, batch: int, num_bars: int, repeat: int, target_ratio: float) -> Measurement:
    """Time the best paths, as lists."""
    ours, peer, emissions_BTK = models(batch, num_bars)
    # In single precision the peer rounds, and may choose the second of two nearly equal paths.
    if ours.decode(emissions_BTK) != double(peer).decode(emissions_BTK.double()):
        raise AssertionError("the paths differ from pytorch-crf's: their speed means nothing")
    ours_s, peer_s = interleaved(lambda: ours.decode(emissions_BTK), lambda: peer.decode(emissions_BTK), repeat)
    return Measurement(f"CRF Viterbi, {batch} x {num_bars}", ours_s, peer_s, PEER, target_ratio, "same paths")


def marginals(*, batch: int, num_bars: int, repeat: int, target_ratio: float) -> Measurement:
    """Time the posterior of each bar's tag; the peer has none, but its log partition has a gradient."""
    ours, peer, emissions_BTK = models(batch, num_bars)
    mask_TB = torch.ones(num_bars, batch, dtype=torch.bool)

    def by_autograd(crf: torchcrf.CRF, given_BTK: Tensor) -> Tensor:
        leaf_BTK = given_BTK.clone().requires_grad_()
        log_partition_B = crf._compute_normalizer(leaf_BTK.transpose(0, 1), mask_TB)  # noqa: SLF001
        return torch.autograd.grad(log_partition_B.sum(), leaf_BTK)[0]

    exact_BTK = emissions_BTK.double()
    assert_close(double(ours).marginals(exact_BTK), by_autograd(double(peer), exact_BTK), atol=1e-10, rtol=0)
    ours_s, peer_s = by_turns(lambda: ours.marginals(emissions_BTK), lambda: by_autograd(peer, emissions_BTK), repeat)
    name, peer_name = f"CRF marginals, {batch} x {num_bars}", f"autograd through {PEER}"
    return Measurement(name, ours_s, peer_s, peer_name, target_ratio, "equal to 1e-10")


def double(crf: CrfT) -> CrfT:
    """Copy in double precision."""
    return copy.deepcopy(crf).double()


def by_turns(ours: Callable[[], object], peer: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Return seconds a call of both, ours called ten times a turn.

    Turns of like length share a busy machine's interruptions; one call of ours is over, or caught, before
    they even out.
    """

    def ten_times() -> None:
        for _ in range(10):
            ours()

    ten_s, peer_s = interleaved(ten_times, peer, repeat)
    return ten_s / 10, peer_s


def models(batch: int, num_bars: int) -> tuple[CRF, torchcrf.CRF, Tensor]:
    """Return ours and the peer with the same parameters, and emissions, float32 [B, T, K]."""
    torch.manual_seed(0)
    ours, peer = CRF(NUM_TAGS, batch_first=True), torchcrf.CRF(NUM_TAGS, batch_first=True)
    peer.load_state_dict(ours.state_dict())
    return ours, peer, torch.randn(batch, num_bars, NUM_TAGS)
