"""Losses and F1 without dropout, of windows that may be more than a step takes.

Legend: N windows, T bars, F features. A vector of four is in the order of config.TASKS.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from jade_model.core.config import TASKS, TrainingConfig
from jade_model.core.losses import Labels, task_losses
from jade_model.core.network import JadeCompact

EVALUATION_BATCH = 256


class Evaluation(NamedTuple):
    """What a model says of N windows without dropout.

    Attributes:
        losses_4: Averaged over batches by size, float32.
        span_scores_NTK: What the span head reads.
    """

    losses_4: Tensor
    span_scores_NTK: Tensor


@torch.no_grad()
def evaluate(model: JadeCompact, x_NTF: Tensor, labels: Labels, rows: Tensor, config: TrainingConfig) -> Evaluation:
    """Return the losses and scores of some windows; on a GPU nothing waits for them."""
    was_training = model.training
    model.eval()
    sums_4, scores = torch.zeros(len(TASKS), device=x_NTF.device), []
    for batch in torch.split(rows, EVALUATION_BATCH):
        output = model(x_NTF[batch])
        sums_4 += task_losses(model, output, labels.take(batch), config) * len(batch)
        scores.append(output.span_scores_BTK)
    model.train(was_training)
    return Evaluation(sums_4 / len(rows), torch.cat(scores))


@torch.no_grad()
def bar_f1(model: JadeCompact, span_scores_NTK: Tensor, labels: Labels, rows: Tensor) -> float | None:
    """Return the F1 of the bars in the most probable labelling of some windows; no threshold or temperature is chosen.

    Args:
        model: Whose span head made the scores.
        span_scores_NTK: From `evaluate`.
        labels: Of all windows.
        rows: Which of them the scores are of.

    Returns:
        [0, 1], windows counted by weight; None where no bar is labelled, and none found.
    """
    of_rows = labels.take(rows)
    labelled_NT, found_NT = of_rows.in_span_BT > 0, model.head.best_path(span_scores_NTK)
    hits = (of_rows.weight_B * (labelled_NT & found_NT).sum(1)).sum()
    total = (of_rows.weight_B * (labelled_NT.sum(1) + found_NT.sum(1))).sum()
    return float(2 * hits / total) if total > 0 else None
