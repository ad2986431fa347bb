"""The soft span loss: bars are independent, each in a span with a probability of its own.

Legend: B windows, T bars, 1 score a bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from jade_model.core.config import ModelConfig, TrainingConfig
from jade_model.core.span_heads.base import SpanHead, SpanPosterior

if TYPE_CHECKING:
    from jade_model.core.losses import Labels


class SoftSpanHead(SpanHead):
    """One logit a bar; it has no parameters."""

    scores_per_bar: ClassVar[int] = 1

    @classmethod
    def of(cls, config: ModelConfig) -> Self:  # noqa: ARG003 - it has no sizes
        """Return the head."""
        return cls()

    def loss(self, scores_BTK: Tensor, labels: Labels, config: TrainingConfig) -> Tensor:
        """Return the soft span loss against the labelled bars, [B]."""
        return soft_span_loss(
            scores_BTK.squeeze(-1),
            labels.in_span_BT.to(scores_BTK.dtype),
            positive_weight=config.positive_weight,
            dice_weight=config.dice_weight,
        )

    def in_span(self, scores_BTK: Tensor) -> Tensor:
        """Return the sigmoid of each bar's logit, [B, T]."""
        return torch.sigmoid(scores_BTK.squeeze(-1))

    def posterior(self, scores_BTK: Tensor, temperature: float = 1.0) -> SpanPosterior:
        """Return each bar's probability; the best labelling has those above one half."""
        return _independent(scores_BTK.squeeze(-1) / temperature)

    @classmethod
    @torch.no_grad()
    def posterior_of_ensemble(
        cls, heads: Sequence[SpanHead], scores: Sequence[Tensor], temperature: float
    ) -> SpanPosterior:
        """Return what several heads believe: of independent bars, the average has a best labelling of its own."""
        parts = [head.posterior(scores_BTK, temperature) for head, scores_BTK in zip(heads, scores, strict=True)]
        probability_BT = torch.stack([part.probability_BT for part in parts]).mean(0)
        return _independent(torch.logit(probability_BT))._replace(probability_BT=probability_BT)


def _independent(logits_BT: Tensor) -> SpanPosterior:
    return SpanPosterior(torch.sigmoid(logits_BT), logits_BT > 0, logits_BT.clamp_min(0).sum(1))


def soft_span_loss(
    logits_BT: Tensor, targets_BT: Tensor, *, positive_weight: float = 1.0, dice_weight: float = 0.0
) -> Tensor:
    """Weighted cross-entropy against soft span membership, mixed with a Dice term, one value a window.

    Args:
        logits_BT: Unnormalised scores, float.
        targets_BT: Membership in [0, 1].
        positive_weight: Factor on the in-span term, > 0.
        dice_weight: Share of the Dice term in the sum, [0, 1].

    Returns:
        (1 - dice_weight) * nats per bar, averaged over the window's bars, + dice_weight * (1 - Dice), [B].

    Raises:
        ValueError: The shapes differ.
    """
    if logits_BT.shape != targets_BT.shape:
        raise ValueError(f"logits are {tuple(logits_BT.shape)}, targets {tuple(targets_BT.shape)}")
    weight = None if positive_weight == 1.0 else logits_BT.new_full((), positive_weight)
    cross_entropy_B = functional.binary_cross_entropy_with_logits(
        logits_BT, targets_BT, pos_weight=weight, reduction="none"
    ).mean(1)
    if dice_weight == 0:
        return cross_entropy_B
    return (1 - dice_weight) * cross_entropy_B + dice_weight * dice_loss(torch.sigmoid(logits_BT), targets_BT)


def dice_loss(probability_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """1 - soft Dice overlap, one value a window, [B] in [0, 1] (Milletari et al. 2016, without squares).

    One bar is added to both halves, so that a window without a span gives a gradient towards marking nothing.
    """
    shared_B = (probability_BT * targets_BT).sum(1)
    total_B = probability_BT.sum(1) + targets_BT.sum(1)
    return 1 - (2 * shared_B + 1) / (total_B + 1)
