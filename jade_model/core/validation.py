"""Losses without dropout, of windows that may be more than a step takes.

Legend: N windows, T bars, F features. A vector of four is in the order of config.TASKS.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jade_model.core.config import TASKS, TrainingConfig
from jade_model.core.losses import Labels, task_losses
from jade_model.core.network import JadeCompact
from jade_model.core.training_data import take_labels

EVALUATION_BATCH = 256


@torch.no_grad()
def evaluate(model: JadeCompact, x_NTF: Tensor, labels: Labels, rows: Tensor, config: TrainingConfig) -> Tensor:
    """Return the four losses of some windows without dropout, averaged over batches by size, float32 [4]."""
    was_training = model.training
    model.eval()
    sums_4 = torch.zeros(len(TASKS), device=x_NTF.device)
    for batch in torch.split(rows, EVALUATION_BATCH):
        sums_4 += task_losses(model, model(x_NTF[batch]), take_labels(labels, batch), config) * len(batch)
    model.train(was_training)
    return sums_4 / len(rows)
