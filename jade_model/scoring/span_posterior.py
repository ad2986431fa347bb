"""Pointers and countdown read off the span posterior.

Legend: B windows, T bars.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jade_model.core.targets import COUNTDOWN_LIMIT


def posterior_pointers(probability_BT: Tensor) -> Tensor:
    """Read the span's centre and length off its bars' probabilities.

    Args:
        probability_BT: P(bar in a span), float64.

    Returns:
        Centre: the bar at which half of the probability is reached, interpolated, which a bar far off with
            a little
        probability hardly moves. Length: last minus first bar, the expected number of bars less one. Both as
        fractions of T, as the targets are, [B, 2].
    """
    num_bars = probability_BT.shape[1]
    mass_BT = probability_BT.cumsum(1)
    total_B1 = mass_BT[:, -1:]
    half_B1 = (total_B1 / 2).contiguous()
    bar_B1 = torch.searchsorted(mass_BT, half_B1).clamp_max(num_bars - 1)
    here_B1 = probability_BT.gather(1, bar_B1)
    before_B1 = mass_BT.gather(1, bar_B1) - here_B1
    # A bar's probability is spread evenly from half a bar before its index to half a bar after it.
    share_B1 = torch.where(here_B1 > 0, (half_B1 - before_B1) / here_B1.clamp_min(1e-300), 0.5)
    centre_B1 = bar_B1 - 0.5 + share_B1
    return torch.cat([centre_B1, (total_B1 - 1).clamp_min(0)], 1) / num_bars


def posterior_countdown(pointers_B2: Tensor, num_bars: int) -> Tensor:
    """Return bars until the span starts, clipped as the targets are, [B, T], from its centre and length."""
    start_B1 = (pointers_B2[:, :1] - pointers_B2[:, 1:] / 2) * num_bars
    bars_T = torch.arange(num_bars, dtype=pointers_B2.dtype)
    return (start_B1 - bars_T).clamp(-COUNTDOWN_LIMIT, COUNTDOWN_LIMIT)
