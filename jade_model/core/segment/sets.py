"""Any number of disjoint spans: a semi-Markov chain, before the first span, in one, or after one.

Plain torch on any device, a loop over bars, float64. The expected (or, for the best set, the actual) number
of each span is the gradient of the recursion's end value with respect to the grid.

Legend: B windows, T bars, L lengths of a span (index l is length l + 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, assert_never

import torch
from torch import Tensor

from jade_model.core.pick import pick
from jade_model.core.segment.grid import IMPOSSIBLE

Over = Literal["sum", "best"]


def total_over_sets(grid_BLT: Tensor, none_B: Tensor, further_B: Tensor, *, over: Over) -> Tensor:
    """Sum over all sets of disjoint spans, or find the best one's score; differentiable.

    Spans may touch. A set's log potential is the sum of its spans' plus further_B for every span but the
    first; that of the empty set is none_B.

    Args:
        grid_BLT: Log potentials of the spans by length and start, float64.
        none_B: Log potential of the empty set, float64.
        further_B: Log potential of every span after the first, float64.
        over: "sum" for the log partition, "best" for the largest log potential.

    Returns:
        Nats, float64 [B]. The gradient with respect to the grid is the expected number of each span; with
        "best", 1 for the spans of one best set and 0 for others.

    Source: Sarawagi, Cohen (2004), Semi-Markov conditional random fields.
    """
    either, total = _semiring(over)
    _, max_length, num_bars = grid_BLT.shape
    lengths_L1 = torch.arange(max_length, device=grid_BLT.device)[:, None]
    start_LT = torch.arange(num_bars, device=grid_BLT.device) - lengths_L1
    by_last_BLT = pick(grid_BLT, start_LT.clamp(min=0).expand_as(grid_BLT))
    after_B = torch.full_like(none_B, IMPOSSIBLE)
    nothing_B = torch.zeros_like(none_B)
    # By length of a span that ends at the bar: what may precede it, no span yet, or some, all ended before it starts.
    preceding_BL = torch.full_like(grid_BLT[:, :, 0], IMPOSSIBLE)
    preceding_B = nothing_B
    for ending_BL in by_last_BLT.unbind(dim=2):  # slices would write a gradient of the grid's size each
        preceding_BL = torch.cat([preceding_B[:, None], preceding_BL[:, :-1]], dim=1)
        after_B = either(after_B, total(ending_BL + preceding_BL))
        preceding_B = either(nothing_B, further_B + after_B)
    return either(none_B, after_B)


def _semiring(over: Over) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return how two alternatives, and how alternatives along the second dimension, combine."""
    match over:
        case "sum":
            return torch.logaddexp, lambda values_BL: torch.logsumexp(values_BL, dim=1)
        case "best":  # one winner gets the whole gradient: torch.maximum and amax would split it where two tie
            return (
                lambda one_B, other_B: torch.where(other_B > one_B, other_B, one_B),
                lambda values_BL: values_BL.max(dim=1).values,
            )
        case _:
            assert_never(over)


def spans_of_sets(grid_BLT: Tensor, none_B: Tensor, further_B: Tensor, *, over: Over) -> tuple[Tensor, Tensor, Tensor]:
    """Return total_over_sets [B], its gradient for none_B [B], and the number of each span [B, L, T]."""
    with torch.enable_grad():
        grid_BLT, none_B = grid_BLT.detach().requires_grad_(), none_B.detach().requires_grad_()
        total_B = total_over_sets(grid_BLT, none_B, further_B.detach(), over=over)
        span_BLT, no_span_B = torch.autograd.grad(total_B.sum(), (grid_BLT, none_B))
    return total_B.detach(), no_span_B, span_BLT
