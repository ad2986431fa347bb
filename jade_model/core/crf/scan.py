"""The linear chain on one CPU thread: a scaled forward-backward scan in numpy, and its gradient.

Forward and backward messages advance in one loop, stacked and batched, in the linear domain of float64. Each
bar's potentials are divided by their largest, so a message only shrinks by what the transitions span, and is
rescaled after as many bars as that span allows. What underflows is a tag that another one beats by more than
any two transitions can give back, so the sum misses nothing: `fits` says when that holds. Elsewhere
`tree` is exact.

Legend: B windows, T bars, K tags, D directions (forward, backward), S rescalings.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

# exp(-708) is the smallest normal float64. A message shrinks by at most exp(200) between rescalings, and the
# two transitions around a bar give back at most exp(2 * 100): what was lost stays below exp(-308) of the sum.
_LARGEST_RANGE = 100.0
_LARGEST_SHRINKAGE = 200.0


@dataclass(frozen=True, eq=False)
class ChainScores:
    """Log potentials between tags, float64.

    Attributes:
        start_K: Of the first bar's tag.
        transitions_KK: From row to column.
        end_K: Of the last bar's tag.
    """

    start_K: Array
    transitions_KK: Array
    end_K: Array

    def fits(self) -> bool:
        """Whether the scan is exact for these scores, whatever the emissions: none is far below another."""
        spans = (float(np.ptp(scores)) for scores in (self.start_K, self.transitions_KK, self.end_K))
        return all(span < _LARGEST_RANGE for span in spans)  # false for NaN


@dataclass(frozen=True, eq=False)
class Posterior:
    """What both directions of the scan say together, float64.

    Attributes:
        marginals_TKB: P(tag at bar); 0 on masked bars.
        forward_TKB: Forward messages over the bar's normaliser, so that `forward[t - 1] x exp(transitions -
            their largest) x backward[t]` is P(pair of tags); 0 where bar t is masked.
        backward_TKB: Backward messages, each bar's own potential included.
    """

    marginals_TKB: Array
    forward_TKB: Array
    backward_TKB: Array


def scan(emissions_TKB: Array, chain: ChainScores, length_B: Ints | None) -> tuple[Array, Posterior]:
    """Sum over all paths, from both ends.

    Args:
        emissions_TKB: Log potentials of each bar's tags; anything finite on masked bars.
        chain: Log potentials between tags, for which `fits` holds.
        length_B: Bars that count in each window, from the first, at least 1; None if all do.

    Returns:
        Log partition, nats, float64 [B], and the posterior. NaN in windows where an emission is NaN or
        infinite.

    Source: Rabiner (1989), A tutorial on hidden Markov models, section V.A (scaling).
    """
    num_bars, num_tags, batch = emissions_TKB.shape
    bars_T1 = np.arange(num_bars)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN in, NaN out: training looks for it
        largest_TB = functools.reduce(np.maximum, emissions_TKB.swapaxes(0, 1))
        message_TDKB = np.empty((num_bars, 2, num_tags, batch))
        forward_TKB = message_TDKB[:, 0]
        np.subtract(emissions_TKB, largest_TB[:, None], out=forward_TKB)
        np.exp(forward_TKB, out=forward_TKB)
        message_TDKB[:, 1] = _reversed(forward_TKB, length_B)
        transition_KK = np.exp(chain.transitions_KK - chain.transitions_KK.max())
        end_K = np.exp(chain.end_K - chain.end_K.max())
        log_scale_SB, block = _advance(message_TDKB, transition_KK, chain)
        if length_B is None:
            final_KB = forward_TKB[-1]
            log_scale_B = log_scale_SB.sum(axis=0) + largest_TB.sum(axis=0)
        else:
            final_KB = forward_TKB[length_B - 1, :, np.arange(batch)].T
            rescaled_S1 = np.arange(1, len(log_scale_SB) + 1)[:, None] * block
            log_scale_B = np.where(rescaled_S1 < length_B, log_scale_SB, 0).sum(axis=0)
            log_scale_B += np.where(bars_T1 < length_B, largest_TB, 0).sum(axis=0)
        moves_B = (num_bars if length_B is None else length_B) - 1
        largest_B = chain.start_K.max() + moves_B * chain.transitions_KK.max() + chain.end_K.max()
        log_partition_B = np.log(end_K @ final_KB) + log_scale_B + largest_B

        # What may still come after each bar, without the bar itself, is one move back from the next bar's message.
        backward_TKB = _reversed(message_TDKB[:, 1], length_B)
        marginals_TKB = np.empty_like(emissions_TKB)
        marginals_TKB[-1] = end_K[:, None]
        np.matmul(transition_KK, backward_TKB[1:], out=marginals_TKB[:-1])
        if length_B is not None:
            marginals_TKB[length_B - 1, :, np.arange(batch)] = end_K
        marginals_TKB *= forward_TKB
        inverse_TB = np.reciprocal(functools.reduce(np.add, marginals_TKB.swapaxes(0, 1)))
        if length_B is not None:
            inverse_TB *= bars_T1 < length_B
        marginals_TKB *= inverse_TB[:, None]
        if length_B is not None:  # a pair counts if its second bar does
            inverse_TB[:-1] *= bars_T1[1:] < length_B
        forward_TKB *= inverse_TB[:, None]
        return log_partition_B, Posterior(marginals_TKB, forward_TKB, backward_TKB)


def _advance(message_TDKB: Array, transition_KK: Array, chain: ChainScores) -> tuple[Array, int]:
    """Run the recursion in both directions, in place: potentials become messages.

    Returns:
        The logs of the forward messages' scales [S, B], and the number of bars between rescalings.
    """
    num_tags, batch = message_TDKB.shape[2:]
    into_DKK = np.stack([transition_KK.T, transition_KK])
    shrinkage = max(float(np.ptp(chain.transitions_KK)), math.log(num_tags), 1e-3)
    block = max(1, int(_LARGEST_SHRINKAGE / shrinkage))
    edges_DK = np.stack([chain.start_K - chain.start_K.max(), chain.end_K - chain.end_K.max()])
    message_TDKB[0] *= np.exp(edges_DK)[:, :, None]
    arriving_DKB = np.empty_like(message_TDKB[0])
    scales = []
    matmul, multiply = np.matmul, np.multiply
    for bar in range(1, len(message_TDKB)):
        message_DKB = message_TDKB[bar]
        matmul(into_DKK, message_TDKB[bar - 1], out=arriving_DKB)
        multiply(arriving_DKB, message_DKB, out=message_DKB)
        if bar % block == 0:
            scale_D1B = message_DKB.sum(axis=1, keepdims=True)
            message_DKB /= scale_D1B
            scales.append(scale_D1B[0, 0])
    return np.log(np.array(scales).reshape(len(scales), batch)), block


def _reversed(values_TKB: Array, length_B: Ints | None) -> Array:
    """Turn each window around about its own last bar; masked bars get some other bar's values."""
    if length_B is None:
        return values_TKB[::-1]
    source_TB = np.maximum(length_B - 1 - np.arange(len(values_TKB))[:, None], 0)
    return np.take_along_axis(values_TKB, source_TB[:, None], axis=0)


def scan_log_likelihood(
    emissions_BTK: Tensor,
    parameters: tuple[Tensor, Tensor, Tensor],
    chain: ChainScores,
    tags_BT: Tensor,
    length_B: Ints | None,
) -> Tensor:
    """Compute log-likelihoods of given paths on the CPU; differentiable once.

    Args:
        emissions_BTK: Log potentials of each bar's tags, float.
        parameters: Log potentials between tags, which receive the gradient: start [K], transitions [K, K],
            end [K].
        chain: The same in numpy; `fits` holds for it.
        tags_BT: Int64 in [0, K), also on masked bars.
        length_B: Bars that count in each window, from the first, at least 1; None if all do.

    Returns:
        Nats, [B], of the emissions' dtype.
    """
    result: Tensor = _ScanLogLikelihood.apply(emissions_BTK, *parameters, chain, tags_BT, length_B)  # type: ignore[no-untyped-call]
    return result


def emissions_to_numpy(emissions_BTK: Tensor, length_B: Ints | None) -> Array:
    """Copy to float64 [T, K, B], the layout of the numpy routines, with 0 on masked bars."""
    source_BTK = emissions_BTK.detach().cpu()
    if source_BTK.dtype is torch.bfloat16:  # which numpy does not have
        source_BTK = source_BTK.float()
    emissions_TKB: Array = source_BTK.numpy().transpose(1, 2, 0).astype(np.float64, order="C")
    if length_B is not None:
        masked_TB = np.arange(len(emissions_TKB))[:, None] >= length_B
        np.copyto(emissions_TKB, 0, where=masked_TB[:, None])
    return emissions_TKB


def from_numpy(values: NDArray[np.float64], dtype: torch.dtype) -> Tensor:
    """Return a contiguous tensor of the given dtype."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(dtype)


class _ScanLogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        emissions_BTK: Tensor,
        start_K: Tensor,
        _transitions_KK: Tensor,
        _end_K: Tensor,
        chain: ChainScores,
        tags_BT: Tensor,
        length_B: Ints | None,
    ) -> Tensor:
        emissions_TKB = emissions_to_numpy(emissions_BTK, length_B)
        log_partition_B, posterior = scan(emissions_TKB, chain, length_B)
        counts_TKB = np.negative(posterior.marginals_TKB, out=posterior.marginals_TKB)
        num_bars, num_tags, batch = emissions_TKB.shape
        tags_TB = tags_BT.numpy().T
        place_TB = (np.arange(num_bars)[:, None] * num_tags + tags_TB) * batch + np.arange(batch)
        pair_TB = tags_TB[:-1] * num_tags + tags_TB[1:]
        emitted_TB, moved_TB = emissions_TKB.reshape(-1)[place_TB], chain.transitions_KK.reshape(-1)[pair_TB]
        last_B = tags_TB[-1]
        if length_B is None:
            counts_TKB.reshape(-1)[place_TB] += 1
        else:
            inside_TB = np.arange(num_bars)[:, None] < length_B
            counts_TKB.reshape(-1)[place_TB] += inside_TB
            moved_TB *= inside_TB[1:]  # emissions are 0 where masked
            last_B = tags_TB[length_B - 1, np.arange(batch)]
        value_B = emitted_TB.sum(axis=0) + moved_TB.sum(axis=0) - log_partition_B
        value_B += chain.start_K[tags_TB[0]] + chain.end_K[last_B]
        ctx.chain, ctx.length_B = chain, length_B
        ctx.posterior, ctx.counts_TKB, ctx.pair_TB = posterior, counts_TKB, pair_TB
        ctx.dtypes = (emissions_BTK.dtype, start_K.dtype)
        return from_numpy(value_B, emissions_BTK.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor | None, ...]:
        weight_B = grad_B.double().numpy()
        weighted_TKB = ctx.counts_TKB * weight_B
        last_KB = weighted_TKB[-1]
        if ctx.length_B is not None:
            last_KB = weighted_TKB[ctx.length_B - 1, :, np.arange(len(weight_B))].T
        emissions_dtype, parameter_dtype = ctx.dtypes
        return (
            from_numpy(weighted_TKB.transpose(2, 0, 1), emissions_dtype),
            from_numpy(weighted_TKB[0].sum(axis=1), parameter_dtype),
            from_numpy(_given_pairs(ctx, weight_B) - _expected_pairs(ctx, weight_B), parameter_dtype),
            from_numpy(last_KB.sum(axis=1), parameter_dtype),
            None,
            None,
            None,
        )


def _given_pairs(ctx: Any, weight_B: Array) -> Array:
    """Count pairs of tags in the given paths, weighted over windows."""
    transitions_KK = ctx.chain.transitions_KK
    weight_TB = np.broadcast_to(weight_B, ctx.pair_TB.shape)
    if ctx.length_B is not None:
        weight_TB = weight_TB * (np.arange(1, len(weight_TB) + 1)[:, None] < ctx.length_B)
    counts = np.bincount(ctx.pair_TB.reshape(-1), weight_TB.reshape(-1), minlength=transitions_KK.size)
    return counts.reshape(transitions_KK.shape)


def _expected_pairs(ctx: Any, weight_B: Array) -> Array:
    """Sum P(pair of tags) over bars and, weighted, over windows."""
    left_TKB, right_TKB = ctx.posterior.forward_TKB[:-1] * weight_B, ctx.posterior.backward_TKB[1:]
    transitions_KK = ctx.chain.transitions_KK
    sums_KK = np.matmul(left_TKB, right_TKB.swapaxes(1, 2)).sum(axis=0)
    pairs_KK: Array = np.exp(transitions_KK - transitions_KK.max()) * sums_KK
    return pairs_KK
