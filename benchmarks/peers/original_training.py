"""The original's way to train: features anew for every sample of every epoch, pytorch-crf, a DataLoader.

Rebuilt from the description of that system, to be measured against; nothing but benchmarks uses it.

Legend: N windows, B windows of a batch, T bars.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchcrf import CRF

from benchmarks.peers.original_features import original_features
from jade_model.core.targets import Targets, build_targets
from jade_model.core.windows import Windows

BATCH_SIZE = 32


class OriginalModel(nn.Module):
    """The network with torch's own dropout modules."""

    def __init__(self, *, with_crf: bool) -> None:
        super().__init__()
        self.input_dropout, self.head_dropout = nn.Dropout(0.3), nn.Dropout(0.6)
        self.lstm = nn.LSTM(12, 96, batch_first=True, bidirectional=True)
        self.shared = nn.Sequential(nn.Linear(192, 64), nn.ReLU())
        self.type_head, self.pointer_head = nn.Linear(64, 3), nn.Linear(64, 2)
        self.span_head, self.countdown_head = nn.Linear(192, 2 if with_crf else 1), nn.Linear(192, 1)
        self.log_sigma = nn.Parameter(torch.tensor([-0.3, 0.0, 0.0, 0.0]))
        self.crf = CRF(2, batch_first=True) if with_crf else None

    def losses(self, x_BTF: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the four losses and the span scores."""
        hidden_BTH, _ = self.lstm(self.input_dropout(x_BTF))
        pooled = self.shared(hidden_BTH.mean(1))
        types = self.type_head(self.head_dropout(pooled))
        pointers = torch.sigmoid(self.pointer_head(self.head_dropout(pooled)))
        scores = self.span_head(self.head_dropout(hidden_BTH))
        countdown = self.countdown_head(self.head_dropout(hidden_BTH)).squeeze(-1)
        if self.crf is not None:
            span = -self.crf(scores, batch["in_span"].long(), reduction="mean")
        else:
            span = nn.functional.binary_cross_entropy_with_logits(scores.squeeze(-1), batch["in_span"])
        losses = [
            nn.functional.huber_loss(pointers, batch["pointers"], delta=0.08),
            nn.functional.cross_entropy(types, batch["type"]),
            span,
            nn.functional.huber_loss(countdown, batch["countdown"]),
        ]
        return torch.stack(losses), scores


class OriginalDataset(Dataset[dict[str, Tensor]]):
    """Computes a window's features whenever it is asked for it."""

    def __init__(self, windows: Windows, targets: Targets, rows: NDArray[np.intp]) -> None:
        self.windows, self.targets, self.rows = windows, targets, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.rows[index]
        return {
            "features": torch.from_numpy(original_features(self.windows.bars_NT4[row])),
            "in_span": torch.tensor(self.targets.in_span_NT[row]),
            "pointers": torch.tensor(self.targets.pointers_N2[row]),
            "countdown": torch.tensor(self.targets.countdown_NT[row]),
            "type": torch.tensor(self.targets.type_N[row]),
        }


def seconds_an_epoch(
    windows: Windows, *, train_rows: NDArray[np.intp], validation_rows: NDArray[np.intp], with_crf: bool
) -> float:
    """Train for one epoch from random weights; returns its CPU time, validation included."""
    model = OriginalModel(with_crf=with_crf)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    targets = build_targets(windows)
    train_loader: Any = DataLoader(OriginalDataset(windows, targets, train_rows), BATCH_SIZE, shuffle=True)
    validation_loader: Any = DataLoader(OriginalDataset(windows, targets, validation_rows), BATCH_SIZE)
    begin = time.process_time()
    model.train()
    for batch in train_loader:
        losses, _ = model.losses(batch["features"], batch)
        total = (losses * torch.exp(-2 * model.log_sigma) / 2 + model.log_sigma).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        total.item()
    model.eval()
    with torch.no_grad():
        for batch in validation_loader:
            losses, scores = model.losses(batch["features"], batch)
            losses.sum().item()
            if model.crf is not None:
                model.crf.decode(scores)
    return time.process_time() - begin
