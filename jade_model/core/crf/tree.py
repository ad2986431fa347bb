"""The linear chain in torch: a balanced tree of products in log space, on any device, never synchronising.

log2(T) levels of batched operations in place of T steps. It differentiates by autograd, and holds for any
scores: the CPU's scan (`crf_scan`) falls back to it, and a GPU runs nothing else.

Legend: B windows, T bars, K tags.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from jade_model.core.pick import pick

# Minus infinity would turn differences into NaN. In float64 this is as good as never: nothing finite makes up
# for it.
NEVER = -1e30


class ChainTensors(NamedTuple):
    """Log potentials between tags, float64; NEVER where forbidden.

    Attributes:
        start_K: Of the first bar's tag.
        transitions_KK: From row to column.
        end_K: Of the last bar's tag.
    """

    start_K: Tensor
    transitions_KK: Tensor
    end_K: Tensor


def tree_log_partition(emissions_BTK: Tensor, chain: ChainTensors, length_B: Tensor | None) -> Tensor:
    """Sum over all paths.

    Args:
        emissions_BTK: Log potentials of each bar's tags, float64; anything finite on masked bars.
        chain: Log potentials between tags.
        length_B: Bars that count in each window, from the first, at least 1; None if all do.

    Returns:
        Log partition, nats, float64 [B]. Memory grows as B * T * K**3.

    Source: Särkkä, García-Fernández (2021), Temporal parallelization of Bayesian smoothers: the associative
    product.
    """
    num_bars, num_tags = emissions_BTK.shape[1:]
    emissions_KTB = emissions_BTK.permute(2, 1, 0).clamp(min=NEVER)
    product_KKTB = chain.transitions_KK[:, :, None, None] + emissions_KTB[None, :, 1:]
    if length_B is not None:
        identity_KK = torch.full_like(chain.transitions_KK, NEVER).fill_diagonal_(0)
        counts_TB = torch.arange(1, num_bars, device=emissions_BTK.device)[:, None] < length_B
        product_KKTB = torch.where(counts_TB, product_KKTB, identity_KK[:, :, None, None])
    while (width := product_KKTB.shape[2]) > 1:
        even = width - width % 2
        left_KKTB, right_KKTB = product_KKTB[:, :, 0:even:2], product_KKTB[:, :, 1:even:2]
        joined_KKTB = left_KKTB[:, 0, None] + right_KKTB[None, 0]
        for middle in range(1, num_tags):
            joined_KKTB = torch.logaddexp(joined_KKTB, left_KKTB[:, middle, None] + right_KKTB[None, middle])
        odd_KKTB = product_KKTB[:, :, even:]
        product_KKTB = joined_KKTB if even == width else torch.cat([joined_KKTB, odd_KKTB], dim=2)
    first_KB = chain.start_K[:, None] + emissions_KTB[:, 0]
    if num_bars == 1:
        return torch.logsumexp(first_KB + chain.end_K[:, None], dim=0)
    return torch.logsumexp(first_KB[:, None] + product_KKTB[:, :, 0] + chain.end_K[:, None], dim=(0, 1))


def path_score(emissions_BTK: Tensor, tags_BT: Tensor, chain: ChainTensors, length_B: Tensor | None) -> Tensor:
    """Sum the log potentials along given paths.

    Args:
        emissions_BTK: Log potentials of each bar's tags, float; anything on masked bars.
        tags_BT: Int64 in [0, K), also on masked bars.
        chain: Log potentials between tags.
        length_B: Bars that count in each window, from the first, at least 1; None if all do.

    Returns:
        Unnormalised log score, nats, float64 [B].
    """
    emitted_BT = pick(emissions_BTK, tags_BT[:, :, None])[:, :, 0].double()
    moved_BT = chain.transitions_KK[tags_BT[:, :-1], tags_BT[:, 1:]]
    last_B1 = tags_BT[:, -1:]
    if length_B is not None:
        last_B1 = tags_BT.gather(1, length_B[:, None] - 1)
        masked_BT = torch.arange(tags_BT.shape[1], device=tags_BT.device) >= length_B[:, None]
        emitted_BT = emitted_BT.masked_fill(masked_BT, 0)
        moved_BT = moved_BT.masked_fill(masked_BT[:, 1:], 0)
    edges_B = chain.start_K[tags_BT[:, 0]] + chain.end_K[last_B1[:, 0]]
    return emitted_BT.sum(dim=1) + moved_BT.sum(dim=1) + edges_B
