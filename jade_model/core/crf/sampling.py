"""Paths drawn from a linear chain's posterior: filter forwards, sample backwards; plain torch, any device.

Legend: B windows, T bars, K tags, N paths a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jade_model.core.crf.tree import ChainTensors


def sample_paths(
    emissions_BTK: Tensor,
    chain: ChainTensors,
    length_B: Tensor | None,
    *,
    num_paths: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Draw independent paths, each with the probability that the chain gives it.

    Args:
        emissions_BTK: Log potentials of each bar's tags, float64; anything finite on masked bars.
        chain: Log potentials between tags.
        length_B: Bars that count in each window, from the first, at least 1; None if all do.
        num_paths: N, at least 1.
        generator: Of the emissions' device; None is torch's global one.

    Returns:
        Tags, int64 [B, N, T]; 0 on masked bars.

    Source: Scott (2002), Bayesian methods for hidden Markov models, section 2.1.
    """
    batch, num_bars, num_tags = emissions_BTK.shape
    device = emissions_BTK.device
    filtered = [chain.start_K + emissions_BTK[:, 0]]
    for bar in range(1, num_bars):
        arriving_BKK = filtered[-1][:, :, None] + chain.transitions_KK
        filtered.append(torch.logsumexp(arriving_BKK, dim=1) + emissions_BTK[:, bar])

    # The largest of scores plus Gumbel noise is a draw from their softmax.
    shape = (num_bars, batch, num_paths, num_tags)
    uniform_TBNK = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
    gumbel_TBNK = -torch.log(-torch.log(uniform_TBNK.clamp(min=torch.finfo(torch.float64).tiny)))
    path_TBN = torch.zeros((num_bars, batch, num_paths), dtype=torch.int64, device=device)
    if length_B is None:
        length_B = torch.full((batch,), num_bars, device=device)
    for bar in range(num_bars - 1, -1, -1):
        score_BNK = filtered[bar][:, None] + chain.end_K
        if bar + 1 < num_bars:
            onward_BNK = filtered[bar][:, None] + chain.transitions_KK.t()[path_TBN[bar + 1]]
            score_BNK = torch.where((bar + 1 < length_B)[:, None, None], onward_BNK, score_BNK)
        tag_BN = (score_BNK + gumbel_TBNK[bar]).argmax(dim=2)
        path_TBN[bar] = torch.where((bar < length_B)[:, None], tag_BN, 0)
    return path_TBN.permute(1, 2, 0).contiguous()
