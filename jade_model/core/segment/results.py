"""What the single-span model says of windows.

Legend: B windows, T bars, N spans kept a window. Spans are half-open; all tensors but spans have the scores'
dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SpanMarginals:
    """What the model believes of each bar; probabilities, of the scores' dtype.

    Attributes:
        in_span_BT: P(the bar lies in a span).
        start_BT: P(a span starts at the bar).
        last_BT: P(a span's last bar is the bar).
        none_B: P(no span).
    """

    in_span_BT: Tensor
    start_BT: Tensor
    last_BT: Tensor
    none_B: Tensor

    def expected_pointers(self, length_B: Tensor | None = None) -> Tensor:
        """Return the expected centre and length given a span, [B, 2], as fractions of the window.

        Centre is the mean of first and last bar, length their difference, as in the pointer targets. Several
        spans are averaged.
        """
        num_bars = self.start_BT.shape[1]
        start_B, last_B = _mean_bar(self.start_BT), _mean_bar(self.last_BT)
        pointers_B2 = torch.stack([(start_B + last_B) / 2, last_B - start_B], dim=1)
        return pointers_B2 / (num_bars if length_B is None else length_B[:, None])

    def expected_countdown(self, limit_bars: int = 20) -> Tensor:
        """Return the expected clip(start - bar, -limit, limit) of each bar given a span, [B, T]."""
        bars_T = torch.arange(self.start_BT.shape[1], device=self.start_BT.device)
        ahead_TT = (bars_T[:, None] - bars_T).clamp(-limit_bars, limit_bars).to(self.start_BT.dtype)
        return self.start_BT @ ahead_TT / _not_zero(self.start_BT.sum(dim=1, keepdim=True))


def _mean_bar(probability_BT: Tensor) -> Tensor:
    bars_T = torch.arange(probability_BT.shape[1], device=probability_BT.device, dtype=probability_BT.dtype)
    return probability_BT @ bars_T / _not_zero(probability_BT.sum(dim=1))


def _not_zero(total: Tensor) -> Tensor:
    """Where a span is impossible, expectations given one come out as 0, not as NaN."""
    return total.clamp(min=torch.finfo(total.dtype).tiny)


@dataclass(frozen=True, eq=False)
class BestSpan:
    """The most probable outcome with one span or none.

    Attributes:
        span_B2: Start and end, half-open, int64; -1, -1 where "none" is more probable than any span.
        log_probability_B: Of that outcome, nats.
        margin_B: log P(best span) - log P(none), nats; not positive where the outcome is "none".
    """

    span_B2: Tensor
    log_probability_B: Tensor
    margin_B: Tensor


@dataclass(frozen=True, eq=False)
class BestOutcome:
    """The most probable outcome: a set of spans if `several`, else one span or none.

    Attributes:
        path_BT: Whether the bar lies in one of its spans, bool.
        log_probability_B: Of the outcome, nats.
        margin_B: How much more probable than "none", nats, at least 0.
    """

    path_BT: Tensor
    log_probability_B: Tensor
    margin_B: Tensor


@dataclass(frozen=True, eq=False)
class KBestSpans:
    """The k most probable outcomes with one span or none, best first.

    Attributes:
        span_BN2: Start and end, half-open, int64; -1, -1 for "none".
        log_probability_BN: Nats; minus infinity where a window has fewer outcomes.
    """

    span_BN2: Tensor
    log_probability_BN: Tensor
