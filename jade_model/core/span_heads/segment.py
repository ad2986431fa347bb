"""The segment model as a span head: a window holds one span or none, or any number where the labels do.

Legend: B windows, T bars, K scores a bar: inside, start, last, and where spans have scores as wholes one a length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from jade_model.core.config import ModelConfig, TrainingConfig
from jade_model.core.segment import SegmentModel
from jade_model.core.span_heads.base import SpanHead, SpanPosterior

if TYPE_CHECKING:
    from jade_model.core.losses import Labels


class SegmentHead(SegmentModel, SpanHead):
    """The semi-Markov model of single spans."""

    scores_per_bar: ClassVar[int] = 3

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """Return a head that knows spans up to the configuration's length."""
        return cls(config.max_span_length, several=config.several_spans)

    def start_from(self, num_spans_B: Tensor) -> None:
        """Give "none" the odds that it has in the training windows."""
        self.set_none_rate((int((num_spans_B == 0).sum()) + 0.5) / (len(num_spans_B) + 1))

    def loss(
        self,
        scores_BTK: Tensor,
        labels: Labels,
        config: TrainingConfig,  # noqa: ARG002
        partition_B: Tensor | None = None,
    ) -> Tensor:
        """Return the negative log-probability of the labelled spans, nats a window, [B]."""
        return self.loss_of_sets(scores_BTK, labels.span_BM2, labels.num_spans_B, partition_B)

    def in_span_and_partition(self, scores_BTK: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return P(bar in a span), and while training the log partition: both come of one sum over all spans."""
        if self.several or not self.training:
            return super().in_span_and_partition(scores_BTK)
        partition_B, in_span_BT = self.log_partition(scores_BTK)
        return in_span_BT, partition_B

    def in_span(self, scores_BTK: Tensor) -> Tensor:
        """Return P(bar in a span), [B, T]."""
        return self.marginals(scores_BTK)

    def posterior(self, scores_BTK: Tensor, temperature: float = 1.0) -> SpanPosterior:
        """Return marginals and the most probable outcome."""
        best = self.best(scores_BTK, temperature)
        return SpanPosterior(self.marginals(scores_BTK, temperature), best.path_BT, best.margin_B)

    def best_path(self, scores_BTK: Tensor) -> Tensor:
        """Return the most probable outcome; marginals would take most of the time."""
        return self.best(scores_BTK).path_BT
