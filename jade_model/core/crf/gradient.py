"""The scan as a differentiable operation: its gradient is given counts minus expected ones.

Legend: B windows, T bars, K tags.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from jade_model.core.crf.scan import Array, ChainScores, Ints, scan


def scan_log_likelihood(
    emissions_BTK: Tensor,
    parameters: tuple[Tensor, Tensor, Tensor],
    chain: ChainScores,
    tags_BT: Tensor | None,
    length_B: Ints | None,
) -> Tensor:
    """Compute log-likelihoods of given paths on the CPU; differentiable once.

    Args:
        emissions_BTK: Log potentials of each bar's tags, float.
        parameters: Log potentials between tags, which receive the gradient: start [K], transitions [K, K],
            end [K].
        chain: The same in numpy; `fits` holds for it.
        tags_BT: Int64 in [0, K), also on masked bars; None leaves minus the log partition.
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
        tags_BT: Tensor | None,
        length_B: Ints | None,
    ) -> Tensor:
        emissions_TKB = emissions_to_numpy(emissions_BTK, length_B)
        log_partition_B, posterior = scan(emissions_TKB, chain, length_B)
        counts_TKB = np.negative(posterior.marginals_TKB, out=posterior.marginals_TKB)
        value_B, pair_TB, num_bars = -log_partition_B, None, len(emissions_TKB)
        if tags_BT is not None:
            _, num_tags, batch = emissions_TKB.shape
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
            value_B += emitted_TB.sum(axis=0) + moved_TB.sum(axis=0)
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
    if ctx.pair_TB is None:
        return np.zeros_like(transitions_KK)
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
