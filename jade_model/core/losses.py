"""The four tasks' losses, and how learned uncertainties weigh them.

Legend: B windows, T bars, M spans a window at most, K span scores a bar. A vector of four is in the order
    of config.TASKS.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from jade_model.core.config import TASKS, TrainingConfig
from jade_model.core.network import JadeCompact, JadeOutput
from jade_model.core.windows import NO_TYPE

POINTER_DELTA = 0.08
COUNTDOWN_DELTA = 1.0


class Labels(NamedTuple):
    """What B windows should give; see targets.Targets.

    Attributes:
        weight_B: How much each window counts, positive, float32.
        in_span_BT: Whether the bar lies in a span, 0 or 1, int64.
        pointers_B2: Centre and length of the span, as fractions of T; anything where there is no span.
        countdown_BT: Bars until the span starts, clipped; anything where there is no span.
        type_B: Class, or schema.NO_TYPE, int64.
        span_BM2: Start and end of each span, half-open, ascending, int64; anything past a window's number
            of them.
        num_spans_B: Spans of the window, int64.
    """

    weight_B: Tensor
    in_span_BT: Tensor
    pointers_B2: Tensor
    countdown_BT: Tensor
    type_B: Tensor
    span_BM2: Tensor
    num_spans_B: Tensor

    def take(self, rows: Tensor) -> Labels:
        """Return those of some windows, on the labels' device."""
        return Labels(*(values[rows] for values in self))

    def to(self, device: torch.device) -> Labels:
        """Return them on a device."""
        return Labels(*(values.to(device) for values in self))


def task_losses(model: JadeCompact, output: JadeOutput, labels: Labels, config: TrainingConfig) -> Tensor:
    """Return the tasks' losses, each a weighted mean over the windows that are labelled, as one vector of four."""
    counts_B = labels.weight_B * (labels.num_spans_B > 0)
    known = {} if output.partition_B is None else {"partition_B": output.partition_B}
    return torch.stack(
        [
            weighted_huber(output.pointers_B2, labels.pointers_B2, counts_B, delta=POINTER_DELTA),
            type_loss(output.type_logits_B3, labels.type_B, labels.weight_B),
            weighted_mean(model.head.loss(output.span_scores_BTK, labels, config, **known), labels.weight_B),
            weighted_huber(output.countdown_BT, labels.countdown_BT, counts_B, delta=COUNTDOWN_DELTA),
        ]
    )


def weighted_mean(values_B: Tensor, weight_B: Tensor) -> Tensor:
    """Mean of values by weights that are not negative; 0 where all weights are."""
    return (values_B * weight_B).sum() / weight_B.sum().clamp_min(torch.finfo(weight_B.dtype).tiny)


def weighted_huber(predicted: Tensor, target: Tensor, weight_B: Tensor, *, delta: float) -> Tensor:
    """Mean Huber loss over windows by weight; 0 where all weights are.

    Args:
        predicted: [B, ...].
        target: [B, ...], same shape.
        weight_B: At least 0; 0 for windows that do not count.
        delta: Where the square turns into a line, in the values' unit.
    """
    loss_B = functional.huber_loss(predicted, target, reduction="none", delta=delta).flatten(1).mean(1)
    return weighted_mean(torch.where(weight_B > 0, loss_B, 0.0), weight_B)


def type_loss(logits_B3: Tensor, type_B: Tensor, weight_B: Tensor) -> Tensor:
    """Mean cross-entropy by weight over the windows with a type, nats; 0 where none has one."""
    loss_B = functional.cross_entropy(logits_B3, type_B, ignore_index=NO_TYPE, reduction="none")
    return weighted_mean(loss_B, weight_B * (type_B != NO_TYPE))


def uncertainty_weighted(losses_4: Tensor, log_sigma_4: Tensor) -> Tensor:
    """Sum over tasks of L / (2 sigma^2) + log sigma (Kendall, Gal and Cipolla 2018)."""
    return (losses_4 * torch.exp(-2 * log_sigma_4) / 2 + log_sigma_4).sum()


def sigmas(model: JadeCompact) -> dict[str, float]:
    """Return each task's learned sigma."""
    return dict(zip(TASKS, model.log_sigma.detach().exp().tolist(), strict=True))


def task_weights(model: JadeCompact) -> dict[str, float]:
    """Return each task's share of the weights, (1 / sigma^2) / sum of (1 / sigma^2); they add up to 1."""
    return dict(zip(TASKS, torch.softmax(-2 * model.log_sigma.detach().double(), 0).tolist(), strict=True))
