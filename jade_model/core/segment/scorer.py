"""What a whole span is worth: a small network over how far, and how straight, price went from its start to its end.

Scores of single bars add up along a span, so that they cannot say that a move is large for its length, or less
straight than another. This score can: it reads a candidate's net move in units of the volatility before it and of
the square root of its length, as a random walk's grows, and the share that the net move is of the way travelled.
The sign of the move does not enter.

Legend: B windows, T bars, L lengths of a span (index l is length l + 1), Q quantities of a span.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
        quantities_BTLQ = span_quantities(path_BT4, self.max_span_length)
        scores_BTL: Tensor = self.out(torch.relu(self.hidden(quantities_BTLQ))).squeeze(-1)
        return SCALE * scores_BTL


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
        [B, T, L, 4], by start and length; past the window, of the span that ends with it.
    """
    opening_BT, closing_BT, travelled_BT, volatility_BT = path_BT4.unbind(2)
    num_bars, device = closing_BT.shape[1], closing_BT.device
    start_T1 = torch.arange(num_bars, device=device)[:, None]
    length_L = torch.arange(1, max_span_length + 1, device=device)
    last_TL = (start_T1 + length_L - 1).clamp_max(num_bars - 1)
    known_TL = torch.maximum(start_T1 - 1, last_TL.clamp_max(ATR_BARS - 1))
    net_BTL = (closing_BT[:, last_TL] - opening_BT[:, :, None]).abs()
    first_step_BT = (closing_BT - opening_BT).abs()
    way_BTL = travelled_BT[:, last_TL] + (first_step_BT - travelled_BT)[:, :, None]
    root_L = length_L.to(closing_BT.dtype).sqrt()
    strength_BTL = (net_BTL / (volatility_BT[:, known_TL] * root_L)).clamp_max(LIMIT)
    straight_BTL = torch.where(way_BTL > 0, net_BTL / way_BTL, 0).clamp_max(1)
    log_length_BTL = root_L.log().mul(2).expand_as(net_BTL)
    return torch.stack([strength_BTL, straight_BTL, strength_BTL * straight_BTL, log_length_BTL], dim=3)
