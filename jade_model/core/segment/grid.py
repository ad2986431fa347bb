"""All spans of a window as one grid: log potentials, their sum, and what that says of each bar.

Plain torch on any device, no loop over bars, float64 inside.

Legend: B windows, T bars, L lengths of a span (index l is length l + 1), 3 scores a bar (inside, start,
last).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

# Minus infinity would turn differences into NaN. In float64 this is as good: no finite score makes up for it.
IMPOSSIBLE = -1e30


def running_sum(values_BT: Tensor) -> Tensor:
    """Sum each row up to and including each bar."""
    if values_BT.is_cpu:
        return values_BT.cumsum(dim=1)
    # On a GPU, torch refuses to accumulate floats in deterministic mode.
    ones_TT = torch.ones(values_BT.shape[1], values_BT.shape[1], dtype=values_BT.dtype, device=values_BT.device)
    return values_BT @ ones_TT.triu()


def edge_scores(scores_BT3: Tensor) -> tuple[Tensor, Tensor]:
    """Split a span's score into what its first and what its last bar decide.

    Args:
        scores_BT3: Inside, start and last score of each bar, float64.

    Returns:
        left_BT and right_BT: `left[s] + right[e]` is the sum of the inside scores from s to e, both included, plus the
        start score of s plus the last score of e.
    """
    inside_BT, start_BT, last_BT = scores_BT3.unbind(dim=2)
    summed_BT = running_sum(inside_BT)
    return start_BT - (summed_BT - inside_BT), last_BT + summed_BT


def span_grid(left_BT: Tensor, right_BT: Tensor, length_bias_L: Tensor, own_BTL: Tensor | None = None) -> Tensor:
    """Return the log potential of each span by length and start, [B, L, T]; IMPOSSIBLE past the window.

    Args:
        left_BT: As edge_scores returns it.
        right_BT: As edge_scores returns it.
        length_bias_L: Log potential of each length.
        own_BTL: What each span is worth as a whole, by start and length, finite; None if nothing.
    """
    # Windows of T over the padded bars: row l shows right[s + l] at s, without a copy.
    right_BLT = pad(right_BT, (0, len(length_bias_L) - 1), value=IMPOSSIBLE).unfold(1, left_BT.shape[1], 1)
    grid_BLT = right_BLT + left_BT[:, None] + length_bias_L[:, None]
    return grid_BLT if own_BTL is None else grid_BLT + own_BTL.transpose(1, 2)


def single_posterior(grid_BLT: Tensor, none_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise over all spans, and the outcome that there is none. Overwrites the grid.

    Args:
        grid_BLT: Log potentials of the spans, float64.
        none_B: Log potential of there being no span, float64.

    Returns:
        Log partition [B], nats; P(none) [B]; P(span) [B, L, T].
    """
    largest_B = torch.maximum(grid_BLT.amax(dim=(1, 2)), none_B)
    span_BLT = grid_BLT.sub_(largest_B[:, None, None]).exp_()
    none_weight_B = (none_B - largest_B).exp()
    total_B = span_BLT.sum(dim=(1, 2)) + none_weight_B
    return total_B.log() + largest_B, none_weight_B / total_B, span_BLT.div_(total_B[:, None, None])


def count_lasts(span_BLT: Tensor) -> Tensor:
    """Sum over spans that share their last bar, [B, T]."""
    _, max_length, num_bars = span_BLT.shape
    width = num_bars + max_length
    padded_BLW = pad(span_BLT, (0, max_length)).contiguous()
    # Reading rows that are one shorter than those written shifts row l by l bars; the padding shifts in zeros.
    flat_BX = padded_BLW.flatten(1)[:, : max_length * (width - 1)]
    return flat_BX.view(-1, max_length, width - 1)[:, :, :num_bars].sum(dim=1)


def count_spans(span_BLT: Tensor) -> Tensor:
    """Sum the expected number of each span, [B, L, T], over those that hold a bar: P(bar in a span), [B, T]."""
    last_BT = count_lasts(span_BLT)
    return _count_bars(span_BLT.sum(dim=1), last_BT)


def _count_bars(start_BT: Tensor, last_BT: Tensor) -> Tensor:
    return (running_sum(start_BT - last_BT) + last_BT).clamp(min=0)


def single_log_partition(
    left_BT: Tensor, right_BT: Tensor, length_bias_L: Tensor, none_B: Tensor, own_BTL: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum over all single spans and none; differentiable once.

    Args:
        left_BT: As edge_scores returns it.
        right_BT: As edge_scores returns it.
        length_bias_L: Log potential of each length, float64.
        none_B: Log potential of there being no span, float64.
        own_BTL: As span_grid takes it.

    Returns:
        Log partition, nats, float64 [B]; and, not differentiable, P(bar in a span), [B, T].
    """
    result: tuple[Tensor, Tensor] = _SinglePartition.apply(left_BT, right_BT, length_bias_L, none_B, own_BTL)  # type: ignore[no-untyped-call]
    return result


class _SinglePartition(torch.autograd.Function):
    """By hand, because the gradient is sums of the very probabilities that the value needs."""

    @staticmethod
    def forward(
        ctx: Any,
        left_BT: Tensor,
        right_BT: Tensor,
        length_bias_L: Tensor,
        none_B: Tensor,
        own_BTL: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        grid_BLT = span_grid(left_BT, right_BT, length_bias_L, own_BTL)
        log_partition_B, no_span_B, span_BLT = single_posterior(grid_BLT, none_B)
        start_BT, last_BT = span_BLT.sum(dim=1), count_lasts(span_BLT)
        if any(ctx.needs_input_grad):
            whole_BLT = span_BLT if own_BTL is not None else None
            ctx.save_for_backward(start_BT, last_BT, span_BLT.sum(dim=2), no_span_B, whole_BLT)
        in_span_BT = _count_bars(start_BT, last_BT)
        ctx.mark_non_differentiable(in_span_BT)
        return log_partition_B, in_span_BT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        start_BT, last_BT, length_BL, no_span_B, span_BLT = ctx.saved_tensors
        weight_B1 = grad_B[:, None]
        own_BTL = None if span_BLT is None else (span_BLT * grad_B[:, None, None]).transpose(1, 2)
        return start_BT * weight_B1, last_BT * weight_B1, grad_B @ length_BL, no_span_B * grad_B, own_BTL
