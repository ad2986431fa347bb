"""The segment model (a semi-Markov model of one segment): a softmax over every span a window can hold, and none.

score(span) = the inside scores of its bars + the start score of its first + the last score of its last + a bias for
its length + if given, a score of its own (see `scorer`); score(none) = a bias + log(number of spans the window can
hold), so that the bias is the log-odds of "none" while the network knows nothing. Loss, posterior and best span are
exact: a window has only T * L outcomes.

Windows with several spans. The same scores define one more model, over all sets of disjoint spans: a set scores the
sum of its spans, plus, for every span after the first, a learned bias - log(number of spans), which gives each further
span the same odds at the start. Conditioned on at most one span it is the model above, exactly; `several` chooses
between the two, for loss and inference alike, and belongs on where the labels hold windows with several spans, only
there:

* Off (the default), such a window in training is an error, and one met in prediction yields its strongest span: the
  posterior divides the probability 1 among the candidates, so each of two equals gets 0.5.
* On, windows with 0, 1 and more spans are all trained and decoded; the cost is a loop over bars, some ten times the
  time, and a posterior less sharp where one span is the truth, for the model no longer knows that.

A labelled span longer than max_span_length has probability 0 and is refused, never clipped.

Legend: B windows, T bars, L lengths of a span (index l is length l + 1), M spans labelled a window at most, K scores
a bar.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from jade_model.core.pick import pick
from jade_model.core.segment.grid import count_spans, edge_scores, single_log_partition, single_posterior, span_grid
from jade_model.core.segment.sets import spans_of_sets, total_over_sets

# The odds of "none" before anything is learned: 1 in 20. `set_none_rate` replaces them by what the labels say.
_NONE_BIAS = -3.0


class BestOutcome(NamedTuple):
    """The most probable outcome: a set of spans if `several`, else one span or none.

    Attributes:
        path_BT: Whether the bar lies in one of its spans, bool.
        margin_B: log P(outcome) - log P(none), nats, at least 0, of the scores' dtype.
    """

    path_BT: Tensor
    margin_B: Tensor


class Potentials(NamedTuple):
    """Everything that the scores of outcomes are made of, nats, float64.

    Attributes:
        left_BT: What a span's first bar decides; see `grid.edge_scores`.
        right_BT: What a span's last bar decides.
        length_bias_L: What its length decides.
        none_B: Score of there being no span.
        own_BTL: What each span is worth as a whole, by start and length; None if nothing.
        further_B: What each span after the first adds.
    """

    left_BT: Tensor
    right_BT: Tensor
    length_bias_L: Tensor
    none_B: Tensor
    own_BTL: Tensor | None
    further_B: Tensor

    def grid_BLT(self) -> Tensor:
        """Return the score of each span by length and start."""
        return span_grid(self.left_BT, self.right_BT, self.length_bias_L, self.own_BTL)


class SegmentModel(nn.Module):
    """A semi-Markov layer with exactly one segment or none (or, if `several`, any number).

    Scores are float [B, T, 3]: inside, start and last score of each bar; or [B, T, 3 + L], where the others are those
    of the spans that start at the bar, by length. Inside, everything is float64; results have the scores' dtype.

    Args:
        max_span_length: L, bars, at least 1.
        several: Whether a window may hold more than one span.

    Raises:
        ValueError: max_span_length is below 1.
    """

    def __init__(self, max_span_length: int, *, several: bool = False) -> None:
        if max_span_length < 1:
            raise ValueError(f"max_span_length is {max_span_length}; it must be at least 1")
        super().__init__()
        self.several = several
        self.length_bias_L = nn.Parameter(torch.zeros(max_span_length))
        self.none_bias = nn.Parameter(torch.tensor(_NONE_BIAS))
        if several:
            self.further_bias = nn.Parameter(torch.tensor(0.0))

    @property
    def max_span_length(self) -> int:
        """L, bars."""
        return len(self.length_bias_L)

    def set_none_rate(self, rate: float) -> None:
        """Set none_bias from the share of windows without a span, between 0 and 1, both excluded."""
        if not 0 < rate < 1:
            raise ValueError(f"rate is {rate}; it must lie between 0 and 1, both excluded")
        with torch.no_grad():
            self.none_bias.fill_(math.log(rate / (1 - rate)))

    def log_partition(self, scores_BTK: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over all outcomes of the single model.

        Returns:
            Log partition, nats, float64 [B]; and, not differentiable, P(the bar lies in a span), [B, T].
        """
        partition_B, in_span_BT = single_log_partition(*self._potentials(scores_BTK)[:5])
        return partition_B, in_span_BT.to(scores_BTK.dtype)

    def loss_of_sets(
        self, scores_BTK: Tensor, span_BM2: Tensor, num_spans_B: Tensor, partition_B: Tensor | None = None
    ) -> Tensor:
        """Return the negative log-probability of each window's set of spans.

        Args:
            scores_BTK: As above.
            span_BM2: Start and end, half-open, ascending and disjoint, int64; past a window's number of spans any span
                that could be.
            num_spans_B: Int64; at most 1 unless `several`.
            partition_B: Of the same scores, if `log_partition` was asked before.

        Returns:
            Nats per window, [B], at least 0.

        Raises:
            ValueError: The shapes are not as described, or (found on the CPU; undefined on a GPU) a span is empty,
                leaves the window, overlaps its neighbour, or is longer than max_span_length.
        """
        if span_BM2.shape[1] > 1 and not self.several:
            raise ValueError(
                f"spans of shape {tuple(span_BM2.shape)} may be several a window: build the model with several=True"
            )
        given = self._potentials(scores_BTK)
        counts_BM = torch.arange(span_BM2.shape[1], device=span_BM2.device) < num_spans_B[:, None]
        if scores_BTK.is_cpu:
            check_spans(span_BM2, counts_BM, scores_BTK.shape[1], self.max_span_length)
        start_BM, last_BM = span_BM2[:, :, 0], span_BM2[:, :, 1] - 1
        # Spans that do not count stand anywhere: theirs are scores of some span that there is, times nothing.
        start_BM, last_BM = (place.clamp(0, scores_BTK.shape[1] - 1) for place in (start_BM, last_BM))
        length_BM = (last_BM - start_BM).clamp(0, self.max_span_length - 1)
        score_BM = pick(given.left_BT, start_BM) + pick(given.right_BT, last_BM) + given.length_bias_L[length_BM]
        if given.own_BTL is not None:
            score_BM = score_BM + pick(given.own_BTL.flatten(1), start_BM * self.max_span_length + length_BM)
        score_B = score_BM.masked_fill(~counts_BM, 0).sum(dim=1) + given.further_B * (num_spans_B - 1).clamp(min=0)
        score_B = torch.where(num_spans_B > 0, score_B, given.none_B)
        if partition_B is None and self.several:
            partition_B = total_over_sets(given.grid_BLT(), given.none_B, given.further_B, over="sum")
        elif partition_B is None:
            partition_B, _ = single_log_partition(*given[:5])
        return (partition_B - score_B).to(scores_BTK.dtype)

    @torch.no_grad()
    def marginals(self, scores_BTK: Tensor, temperature: float = 1.0) -> Tensor:
        """Compute P(the bar lies in a span), [B, T]; not differentiable.

        Args:
            scores_BTK: As above.
            temperature: What every score is divided by, > 0.

        Raises:
            ValueError: The shape is not as described, or the temperature is not positive.
        """
        given = self._potentials(scores_BTK, temperature)
        if self.several:
            _, _, span_BLT = spans_of_sets(given.grid_BLT(), given.none_B, given.further_B, over="sum")
        else:
            _, _, span_BLT = single_posterior(given.grid_BLT(), given.none_B)
        return count_spans(span_BLT).to(scores_BTK.dtype)

    @torch.no_grad()
    def best(self, scores_BTK: Tensor, temperature: float = 1.0) -> BestOutcome:
        """Find the most probable outcome: a set of spans if `several`, else a span or none.

        Arguments and errors as of marginals.
        """
        given = self._potentials(scores_BTK, temperature)
        grid_BLT = given.grid_BLT()
        if self.several:
            score_B, _, span_BLT = spans_of_sets(grid_BLT, given.none_B, given.further_B, over="best")
            return BestOutcome(count_spans(span_BLT) > 0.5, (score_B - given.none_B).to(scores_BTK.dtype))
        num_bars = scores_BTK.shape[1]
        score_B, place_B = grid_BLT.flatten(1).max(dim=1)
        margin_B = score_B - given.none_B
        start_B, last_B = place_B % num_bars, place_B % num_bars + place_B // num_bars
        bars_T = torch.arange(num_bars, device=scores_BTK.device)
        path_BT = (start_B[:, None] <= bars_T) & (bars_T <= last_B[:, None]) & (margin_B > 0)[:, None]
        return BestOutcome(path_BT, margin_B.clamp(min=0).to(scores_BTK.dtype))

    def _potentials(self, scores_BTK: Tensor, temperature: float = 1.0) -> Potentials:
        """Check and combine the network's scores and the layer's parameters."""
        batch, num_bars = scores_BTK.shape[0], scores_BTK.shape[1] if scores_BTK.dim() == 3 else 0
        widths = {3, 3 + self.max_span_length}
        if scores_BTK.dim() != 3 or scores_BTK.shape[2] not in widths or num_bars == 0:
            raise ValueError(
                f"scores must have shape [windows, bars, {' or '.join(map(str, sorted(widths)))}], "
                f"got {tuple(scores_BTK.shape)}"
            )
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        scaled_BTK = scores_BTK.double()
        if temperature != 1:
            scaled_BTK = scaled_BTK / temperature
        left_BT, right_BT = edge_scores(scaled_BTK[:, :, :3])
        longest = min(num_bars, self.max_span_length)
        log_num_spans = math.log(longest * num_bars - longest * (longest - 1) / 2)
        further = self.further_bias if self.several else torch.zeros_like(self.none_bias)
        return Potentials(
            left_BT,
            right_BT,
            self.length_bias_L.double() / temperature,
            ((self.none_bias.double() + log_num_spans) / temperature).expand(batch),
            scaled_BTK[:, :, 3:] if scores_BTK.shape[2] > 3 else None,
            ((further.double() - log_num_spans) / temperature).expand(batch),
        )


def check_spans(span_BM2: Tensor, counts_BM: Tensor, num_bars: int, max_length: int) -> None:
    """Refuse spans that the model has no outcome for.

    Args:
        span_BM2: Start and end, half-open, int64.
        counts_BM: Which of them count.
        num_bars: T.
        max_length: L, bars.

    Raises:
        ValueError: A span is empty or too long, leaves the window, or overlaps its neighbour.
    """
    start_BM, end_BM = span_BM2.unbind(2)
    before_BM = torch.cat([torch.zeros_like(end_BM[:, :1]), end_BM[:, :-1]], dim=1)
    fits_BM = (end_BM > start_BM) & (end_BM - start_BM <= max_length) & (start_BM >= before_BM) & (end_BM <= num_bars)
    bad_BM = counts_BM & ~fits_BM
    if bad_BM.any():
        row, column = (int(index) for index in bad_BM.nonzero()[0])
        raise ValueError(
            f"{int(bad_BM.sum())} spans cannot be: the first is {span_BM2[row, column].tolist()} in window {row}. "
            f"Spans must be half-open, disjoint, inside the window and 1 to {max_length} bars long. For longer "
            "ones raise max_span_length (recipe field model.max_span_length)."
        )
