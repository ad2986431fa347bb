"""What a whole span is worth: a small network over how far, and how straight, price went from its start to its end.

Scores of single bars add up along a span, so that they cannot say that a move is large for its length, or less
straight than another. This score can: it reads a candidate's net move in units of the volatility before it and of
the square root of its length, as a random walk's grows, and the share that the net move is of the way travelled.
The sign of the move does not enter.

Legend: B windows, T bars, L lengths of a span (index l is length l + 1), N spans, Q quantities of a span,
U hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from jade_model.core.features.displacement import ATR_BARS, LIMIT

NUM_QUANTITIES = 4
SCALE = 8.0
# Windows are scored in parts of so many hidden values: long windows with long spans would fill the memory.
VALUES_AT_ONCE = 2**24


class SpanScorer(nn.Module):
    """Scores of all candidate spans, by start and length.

    Adam moves a weight by about the learning rate a step, whatever it is for, and these few have to tell apart
    spans by tens of nats: hence the factor on the result, which is 0 before training.

    Args:
        max_span_length: L, bars.
        num_units: Hidden units.
    """

    def __init__(self, max_span_length: int, num_units: int) -> None:
        super().__init__()
        self.max_span_length = max_span_length
        self.hidden = nn.Linear(NUM_QUANTITIES, num_units)
        self.out = nn.Linear(num_units, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, path_BT4: Tensor) -> Tensor:
        """Score every span; those past the window get some finite score.

        Args:
            path_BT4: Features of displacement.PATH_NAMES, float32.

        Returns:
            Nats, [B, T, L].
        """
        if torch.compiler.is_compiling():
            return self._score(path_BT4)  # an exported graph has no number of windows to make parts by
        values_a_window = path_BT4.shape[1] * self.max_span_length * self.hidden.out_features
        parts = torch.split(path_BT4, max(1, VALUES_AT_ONCE // values_a_window))
        return torch.cat([self._score(part_BT4) for part_BT4 in parts])

    def _score(self, path_BT4: Tensor) -> Tensor:
        quantities_QBTL = span_quantities(path_BT4, self.max_span_length)
        quantities_QN = quantities_QBTL.flatten(1)
        weight_UQ, bias_U, out_U = self.hidden.weight, self.hidden.bias, SCALE * self.out.weight[0]
        if torch.compiler.is_compiling():
            score_N = out_U @ torch.relu(weight_UQ @ quantities_QN + bias_U[:, None])
        else:
            score_N = _UnitScores.apply(quantities_QN, weight_UQ, bias_U, out_U)  # type: ignore[no-untyped-call]
        return score_N.view(quantities_QBTL.shape[1:])


class _UnitScores(torch.autograd.Function):
    """A hidden layer and what it says of each span; by hand, because of its many values only which are 0 is needed.

    Units stand first, spans last: a matrix of 4 columns is multiplied many times quicker that way round.
    """

    @staticmethod
    def forward(ctx: Any, quantities_QN: Tensor, weight_UQ: Tensor, bias_U: Tensor, out_U: Tensor) -> Tensor:
        hidden_UN = torch.addmm(bias_U[:, None], weight_UQ, quantities_QN).relu_()
        score_N = out_U @ hidden_UN
        if any(ctx.needs_input_grad):
            active_UN = torch.gt(hidden_UN, 0, out=hidden_UN)
            ctx.save_for_backward(quantities_QN, active_UN, weight_UQ, bias_U, out_U)
        return score_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        quantities_QN, active_UN, weight_UQ, bias_U, out_U = ctx.saved_tensors
        sum_UQ, sum_U = active_UN @ (quantities_QN * grad_N).t(), active_UN @ grad_N
        return None, out_U[:, None] * sum_UQ, out_U * sum_U, (weight_UQ * sum_UQ).sum(1) + bias_U * sum_U


@torch.no_grad()
def span_quantities(path_BT4: Tensor, max_span_length: int) -> Tensor:
    """Measure every span of up to so many bars.

    With n bars from s to e, both included: d = |close[e] - open[s]|, so that a gap before s is no part of the move;
    w the way travelled from open[s] by every close to close[e]; v the volatility at s - 1 (near the window's
    start, where there are not 14 bars before s, that of the first 14, or up to e).

    Args:
        path_BT4: Features of displacement.PATH_NAMES.
        max_span_length: L, bars.

    Returns:
        d / (v sqrt(n)), at most LIMIT; d / w in [0, 1], 0 where nothing moved; their product; log n.
        [4, B, T, L], by start and length; past the window, of the span that ends with it.
    """
    opening_BT, closing_BT, travelled_BT, volatility_BT = path_BT4.unbind(2)
    length_L = torch.arange(1, max_span_length + 1, device=path_BT4.device)

    def at_end(values_BT: Tensor) -> Tensor:
        after_BL = values_BT[:, -1:].expand(-1, max_span_length - 1)
        return torch.cat([values_BT, after_BL], dim=1).unfold(1, max_span_length, 1)

    # A span that starts later knows 14 bars before it.
    early_BT = volatility_BT[:, :ATR_BARS]
    early_T1 = torch.arange(early_BT.shape[1], device=path_BT4.device)[:, None]
    known_TL = torch.maximum(early_T1 - 1, (early_T1 + length_L - 1).clamp_max(early_BT.shape[1] - 1))
    later_BTL = volatility_BT[:, ATR_BARS - 1 : -1, None].expand(-1, -1, max_span_length)
    known_BTL = torch.cat([early_BT[:, known_TL], later_BTL], dim=1)

    root_L = length_L.to(path_BT4.dtype).sqrt()
    net_BTL = (at_end(closing_BT) - opening_BT[:, :, None]).abs()
    first_step_BT = (closing_BT - opening_BT).abs()
    way_BTL = at_end(travelled_BT) + (first_step_BT - travelled_BT)[:, :, None]
    strength_BTL = (net_BTL / (known_BTL * root_L)).clamp_max(LIMIT)
    straight_BTL = torch.where(way_BTL > 0, net_BTL / way_BTL, 0).clamp_max(1)
    log_length_BTL = root_L.log().mul(2).expand_as(net_BTL)
    return torch.stack([strength_BTL, straight_BTL, strength_BTL * straight_BTL, log_length_BTL])
