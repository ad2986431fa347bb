"""The linear-chain CRF as a span head: each bar is out of or in a span, and neighbours depend on each other.

Legend: B windows, T bars, 2 scores a bar: out and in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from jade_model.core.config import ModelConfig, TrainingConfig
from jade_model.core.crf import CRF
from jade_model.core.span_heads.base import SpanHead, SpanPosterior

if TYPE_CHECKING:
    from jade_model.core.losses import Labels


class ChainHead(CRF, SpanHead):
    """A CRF over the tags out (0) and in (1)."""

    scores_per_bar: ClassVar[int] = 2

    @classmethod
    def of(cls, config: ModelConfig) -> Self:  # noqa: ARG003 - it has no sizes
        """Return a CRF of two tags with pytorch-crf's initial values."""
        return cls(2, batch_first=True)

    def loss(self, scores_BTK: Tensor, labels: Labels, config: TrainingConfig) -> Tensor:  # noqa: ARG002
        """Return the negative log-likelihood of the labelled bars, nats a window, [B]."""
        return -self.forward(scores_BTK, labels.in_span_BT, reduction="none")

    def in_span(self, scores_BTK: Tensor) -> Tensor:
        """Return the marginals of the tag in, [B, T]."""
        return self.marginals(scores_BTK)[..., 1]

    def posterior(self, scores_BTK: Tensor, temperature: float = 1.0) -> SpanPosterior:
        """Return marginals and the Viterbi path, which does not depend on the temperature; its margin does."""
        probability_BT = self.marginals(scores_BTK, temperature=temperature)[..., 1]
        best = self.viterbi(scores_BTK)
        return SpanPosterior(probability_BT, best.paths_BT == 1, best.margin_B / temperature)

    def best_path(self, scores_BTK: Tensor) -> Tensor:
        """Return the Viterbi path; marginals would take most of the time."""
        return self.viterbi(scores_BTK).paths_BT == 1
