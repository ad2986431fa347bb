"""The single-span model: a softmax over every span a window can hold, and the outcome that it holds none.

score(span) = the inside scores of its bars + the start score of its first + the last score of its last + a
bias for its length + if given, a score of its own (see `scorer`); score(none) = a bias + log(number of spans
the window can hold), so that the bias is the log-odds of "none" while the network knows nothing. Loss,
posteriors, best and k best spans are exact: a window has only T * L outcomes.

Windows with several spans. The same scores define one more model, over all sets of disjoint spans: a set
scores the sum of its spans, plus, for every span after the first, a learned bias - log(number of spans),
which gives each further span the same odds at the start. Conditioned on at most one span it is the model
above, exactly; `several` chooses between the two, for loss and inference alike, and belongs on where the
labels hold windows with several spans, only there:

* Off (the default), such a window in training is an error, and one met in prediction yields its strongest
  span: the posterior divides the probability 1 among the candidates, so each of two equals gets 0.5.
* On, windows with 0, 1 and more spans are all trained and decoded; the cost is a loop over bars, some ten
  times the time, and a posterior less sharp where one span is the truth, for the model no longer knows that.

A labelled span longer than max_span_length has probability 0 and is refused, never clipped.

Legend: B windows, T bars, L lengths of a span (index l is length l + 1), M spans labelled a window at most, N
spans kept a window, X outcomes, K scores a bar.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from jade_model.core.segment.grid import IMPOSSIBLE, count_spans, single_log_partition, single_posterior
from jade_model.core.segment.potentials import Biases, Potentials, check_spans, potentials
from jade_model.core.segment.results import BestOutcome, BestSpan, KBestSpans, SpanMarginals
from jade_model.core.segment.sets import spans_of_sets, total_over_sets
from jade_model.core.segment.targets import expected_span_score, territories

# The odds of "none" before anything is learned: 1 in 20. `set_none_rate` replaces them by what the labels
# say.
_NONE_BIAS = -3.0


class SingleSpan(nn.Module):
    """A semi-Markov layer with exactly one segment or none (or, if `several`, any number).

    Scores are float [B, T, 3]: inside, start and last score of each bar; or [B, T, 3 + L], where the others are
    those of the spans that start at the bar, by length. Masks are bool [B, T], True on the
    bars that count, which must be a prefix of each window. Inside, everything is float64; results have the
    scores' dtype.

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

    def log_partition(self, scores_BTK: Tensor, *, mask_BT: Tensor | None = None) -> Tensor:
        """Sum over all outcomes: one span or none, or all sets of spans if `several`.

        Returns:
            Log of the sum of exp(score), nats, [B].

        Raises:
            ValueError: The shapes are not as described above, or the mask has a gap or lacks a first bar.
        """
        return self._log_partition(self._potentials(scores_BTK, mask_BT)).to(scores_BTK.dtype)

    def loss(
        self,
        scores_BTK: Tensor,
        span_B2: Tensor,
        has_span_B: Tensor,
        *,
        mask_BT: Tensor | None = None,
        boundary_smoothing_bars: float = 0.0,
    ) -> Tensor:
        """Return the negative log-probability of each window's only span, or of none.

        Args:
            scores_BTK: As above.
            span_B2: Start and end, half-open, int64; anything where there is none.
            has_span_B: Bool.
            mask_BT: As above.
            boundary_smoothing_bars: Standard deviation of the Gaussian that spreads the target over
                neighbouring starts and, independently, ends, as far as the spans exist; 0 means none. What is
                returned then is the cross-entropy, which includes the target's own entropy.

        Returns:
            Nats per window, [B], at least 0.

        Raises:
            ValueError: The shapes are not as described, the mask has a gap, or (found on the CPU; NaN on a
                GPU) a span is empty, leaves the window, or is longer than max_span_length.
        """
        return self.loss_of_sets(
            scores_BTK,
            span_B2[:, None],
            has_span_B.long(),
            mask_BT=mask_BT,
            boundary_smoothing_bars=boundary_smoothing_bars,
        )

    def loss_of_sets(
        self,
        scores_BTK: Tensor,
        span_BM2: Tensor,
        num_spans_B: Tensor,
        *,
        mask_BT: Tensor | None = None,
        boundary_smoothing_bars: float = 0.0,
    ) -> Tensor:
        """Return the negative log-probability of each window's set of spans; otherwise as loss.

        Args:
            scores_BTK: As above.
            span_BM2: Start and end, half-open, ascending and disjoint, int64; anything past a window's number
                of spans.
            num_spans_B: Int64; at most 1 unless `several`.
            mask_BT: As above.
            boundary_smoothing_bars: As in loss; boundaries stay on their side of the middle of the gap to the
                next span.
        """
        if span_BM2.shape[1] > 1 and not self.several:
            raise ValueError(
                f"spans of shape {tuple(span_BM2.shape)} may be several a window: build the model with several=True"
            )
        given = self._potentials(scores_BTK, mask_BT)
        counts_BM = torch.arange(span_BM2.shape[1], device=span_BM2.device) < num_spans_B[:, None]
        room_BM2 = territories(span_BM2, counts_BM, given.length_B, scores_BTK.shape[1])
        if scores_BTK.is_cpu:
            check_spans(span_BM2, counts_BM, room_BM2, self.max_span_length)
        score_BM = expected_span_score(
            given.left_BT,
            given.right_BT,
            given.length_bias_L,
            given.own_BTL,
            span_BM2,
            counts_BM,
            room_BM2,
            smoothing_bars=boundary_smoothing_bars,
        )
        score_B = score_BM.sum(dim=1) + given.further_B * (num_spans_B - 1).clamp(min=0)
        score_B = torch.where(num_spans_B > 0, score_B, given.none_B)
        return (self._log_partition(given) - score_B).to(scores_BTK.dtype)

    @torch.no_grad()
    def marginals(
        self, scores_BTK: Tensor, temperature: float = 1.0, *, mask_BT: Tensor | None = None
    ) -> SpanMarginals:
        """Compute what the posterior says of each bar; not differentiable.

        Args:
            scores_BTK: As above.
            temperature: What every score is divided by, > 0.
            mask_BT: As above.
        """
        span_BLT, none_B = self._posterior(self._potentials(scores_BTK, mask_BT, temperature))
        counts = count_spans(span_BLT)
        dtype = scores_BTK.dtype
        return SpanMarginals(
            counts.in_span_BT.to(dtype), counts.start_BT.to(dtype), counts.last_BT.to(dtype), none_B.to(dtype)
        )

    @torch.no_grad()
    def span_posterior(self, scores_BTK: Tensor, temperature: float = 1.0, *, mask_BT: Tensor | None = None) -> Tensor:
        """Compute P(a span starts at bar t and has length l + 1), [B, T, L]; arguments as of marginals."""
        span_BLT, _ = self._posterior(self._potentials(scores_BTK, mask_BT, temperature))
        return span_BLT.transpose(1, 2).to(scores_BTK.dtype)

    @torch.no_grad()
    def best_span(self, scores_BTK: Tensor, temperature: float = 1.0, *, mask_BT: Tensor | None = None) -> BestSpan:
        """Find the most probable outcome with at most one span, and its probability among those.

        Arguments as of marginals.
        """
        given = self._potentials(scores_BTK, mask_BT, temperature)
        score_B, place_B = given.grid_BLT().flatten(1).max(dim=1)
        is_span_B = score_B > given.none_B
        span_B2 = torch.where(is_span_B[:, None], _span_at(place_B, scores_BTK.shape[1]), -1)
        log_probability_B = torch.maximum(score_B, given.none_B) - single_log_partition(*given[:5])
        dtype = scores_BTK.dtype
        return BestSpan(span_B2, log_probability_B.to(dtype), (score_B - given.none_B).to(dtype))

    @torch.no_grad()
    def best(self, scores_BTK: Tensor, temperature: float = 1.0, *, mask_BT: Tensor | None = None) -> BestOutcome:
        """Find the most probable outcome of all: a set of spans if `several`, else a span or none.

        Arguments as of marginals.
        """
        if not self.several:
            best = self.best_span(scores_BTK, temperature, mask_BT=mask_BT)
            bars_T = torch.arange(scores_BTK.shape[1], device=scores_BTK.device)
            path_BT = (best.span_B2[:, :1] <= bars_T) & (bars_T < best.span_B2[:, 1:])
            return BestOutcome(path_BT, best.log_probability_B, best.margin_B.clamp(min=0))
        given = self._potentials(scores_BTK, mask_BT, temperature)
        score_B, _, span_BLT = spans_of_sets(given.grid_BLT(), given.none_B, given.further_B, over="best")
        dtype = scores_BTK.dtype
        log_probability_B, margin_B = score_B - self._log_partition(given), score_B - given.none_B
        return BestOutcome(count_spans(span_BLT).in_span_BT > 0.5, log_probability_B.to(dtype), margin_B.to(dtype))

    @torch.no_grad()
    def k_best(
        self, scores_BTK: Tensor, k: int, temperature: float = 1.0, *, mask_BT: Tensor | None = None
    ) -> KBestSpans:
        """Find the k most probable outcomes with at most one span, k at least 1; otherwise as best_span."""
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1")
        given = self._potentials(scores_BTK, mask_BT, temperature)
        outcome_BX = torch.cat([given.grid_BLT().flatten(1), given.none_B[:, None]], dim=1)
        none, missing = outcome_BX.shape[1] - 1, max(0, k - outcome_BX.shape[1])
        log_probability_BX = outcome_BX - torch.logsumexp(outcome_BX, dim=1, keepdim=True)
        log_probability_BN, place_BN = pad(log_probability_BX, (0, missing), value=IMPOSSIBLE).topk(k, dim=1)
        exists_BN = log_probability_BN > IMPOSSIBLE / 2
        is_span_BN = exists_BN & (place_BN < none)
        span_BN2 = torch.where(is_span_BN[:, :, None], _span_at(place_BN, scores_BTK.shape[1]), -1)
        return KBestSpans(span_BN2, log_probability_BN.masked_fill(~exists_BN, -torch.inf).to(scores_BTK.dtype))

    def _potentials(self, scores_BTK: Tensor, mask_BT: Tensor | None, temperature: float = 1.0) -> Potentials:
        biases = Biases(self.length_bias_L, self.none_bias, self.further_bias if self.several else 0.0)
        return potentials(scores_BTK, biases, mask_BT, temperature=temperature)

    def _posterior(self, given: Potentials) -> tuple[Tensor, Tensor]:
        """Return the expected number of each span [B, L, T], and P(none) [B]."""
        if self.several:
            _, none_B, span_BLT = spans_of_sets(given.grid_BLT(), given.none_B, given.further_B, over="sum")
        else:
            _, none_B, span_BLT = single_posterior(given.grid_BLT(), given.none_B)
        return span_BLT, none_B

    def _log_partition(self, given: Potentials) -> Tensor:
        if self.several:
            return total_over_sets(given.grid_BLT(), given.none_B, given.further_B, over="sum")
        return single_log_partition(*given[:5])


def _span_at(place: Tensor, num_bars: int) -> Tensor:
    """Turn indices into a flattened [L, T] grid into half-open spans, along a new last dimension."""
    start = place % num_bars
    return torch.stack([start, start + place // num_bars + 1], dim=-1)
