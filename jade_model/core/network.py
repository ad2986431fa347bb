"""JadeCompact: one bidirectional LSTM, and a head for each of the four tasks.

Legend: B windows, T bars, F features, H both directions' hidden size, K span scores a bar.
"""

from __future__ import annotations

from typing import NamedTuple, assert_never, cast

import torch
from torch import Tensor, nn

from jade_model.core.config import Loss, ModelConfig, require
from jade_model.core.segment import SpanScorer
from jade_model.core.span_heads import SpanHead, head_class
from jade_model.core.windows import TYPE_NAMES

INITIAL_LOG_SIGMA = (-0.30, 0.0, 0.0, 0.0)  # in the order of config.TASKS
_RANDOM_LEVELS = 1 << 16


class JadeOutput(NamedTuple):
    """What the network says of B windows.

    Attributes:
        span_scores_BTK: What the span head reads; with span units also, by length, a score of each whole span that
            starts at the bar.
        type_logits_B3: Unnormalised scores of schema.TYPE_NAMES.
        pointers_B2: Centre and length of the span, as fractions of T, (0, 1).
        countdown_BT: Bars until the span starts; negative once it has.
        partition_B: While training, what the span head's loss need not compute again; else None.
    """

    span_scores_BTK: Tensor
    type_logits_B3: Tensor
    pointers_B2: Tensor
    countdown_BT: Tensor
    partition_B: Tensor | None = None


class JadeCompact(nn.Module):
    """Features of a window -> typed outputs.

    Holds the span head's own parameters (transitions, biases), under the name of its loss, and the tasks' uncertainties
    too. With 12
    features, 96 units and mean pooling it has the original's 97,547 parameters (soft span) and 97,748 (CRF).

    Args:
        config: Its sizes.
        loss: Which span loss it is trained with.
        num_features: F.
        num_path: How many of the first features are the path (FeatureSet.num_path), which the LSTM does not see.
    """

    def __init__(self, config: ModelConfig, *, loss: Loss, num_features: int, num_path: int = 0) -> None:
        super().__init__()
        require(
            config.span_units == 0 or num_path > 0,
            "model.span_units needs a feature set with the path, such as displacement-21",
        )
        self.config, self.loss, self.num_features, self.num_path = config, loss, num_features, num_path
        width = 2 * config.hidden_size
        self.lstm = nn.LSTM(num_features - num_path, config.hidden_size, batch_first=True, bidirectional=True)
        self.pooled = nn.Linear(width, config.pooled_size)
        self.type_head = nn.Linear(config.pooled_size, len(TYPE_NAMES))
        self.pointer_head = nn.Linear(config.pooled_size, 2)
        self.span_head = nn.Linear(width, head_class(loss).scores_per_bar)
        self.countdown_head = nn.Linear(width, 1)
        self.log_sigma = nn.Parameter(torch.tensor(INITIAL_LOG_SIGMA))
        self.add_module(loss, head_class(loss).of(config))
        self.span_scorer = SpanScorer(config.max_span_length, config.span_units) if config.span_units else None

    def forward(self, x_BTF: Tensor, generator: torch.Generator | None = None) -> JadeOutput:
        """Run the network.

        Args:
            x_BTF: Features, float32.
            generator: Source of the dropout masks while training; torch's default one if None.
        """
        rate = self.config.head_dropout
        seen_BTF = x_BTF[:, :, self.num_path :]
        hidden_BTH, _ = self.lstm(self._dropout(seen_BTF, self.config.input_dropout, generator))
        # An LSTM writes bar after bar: whoever reads what it wrote in another order has to copy it first.
        hidden_TBH = hidden_BTH.transpose(0, 1)
        span_scores_BTK = self.span_head(self._dropout(hidden_TBH, rate, generator)).transpose(0, 1)
        if self.span_scorer is not None:
            whole_BTL = self.span_scorer(x_BTF[:, :, : self.num_path])
            span_scores_BTK = torch.cat([span_scores_BTK, whole_BTL], dim=2)
        countdown_TB = self.countdown_head(self._dropout(hidden_TBH, rate, generator)).squeeze(-1)
        pooled_BP = torch.relu(self.pooled(hidden_TBH.mean(0)))
        partition_B = None
        match self.config.type_pooling:
            case "mean":
                type_input_BP = pooled_BP
            case "span":
                posterior_BT, partition_B = self.head.in_span_and_partition(span_scores_BTK)
                with torch.no_grad():
                    share_BT = posterior_BT / posterior_BT.sum(1, keepdim=True).clamp_min(1e-6)
                type_input_BP = torch.relu(self.pooled((share_BT.t()[:, :, None] * hidden_TBH).sum(0)))
            case unknown:
                assert_never(unknown)
        return JadeOutput(
            span_scores_BTK=span_scores_BTK,
            type_logits_B3=self.type_head(self._dropout(type_input_BP, rate, generator)),
            pointers_B2=torch.sigmoid(self.pointer_head(self._dropout(pooled_BP, rate, generator))),
            countdown_BT=countdown_TB.t(),
            partition_B=partition_B,
        )

    @property
    def head(self) -> SpanHead:
        """The span loss's own part."""
        return cast("SpanHead", self.get_submodule(self.loss))

    @property
    def head_parameter_names(self) -> set[str]:
        """Names of the span head's own parameters: the CRF's transitions, the segment model's biases."""
        return {f"{self.loss}.{name}" for name, _ in self.head.named_parameters()}

    def num_parameters(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _dropout(self, x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
        if not self.training or rate == 0:
            return x
        return dropout(x, rate, generator)


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Zero a share `rate` of the elements and scale the others so that the mean stays.

    One 64-bit draw serves four elements, so `rate` is exact to 2^-16: on a CPU torch's own mask spends most
    of a head's time in `bernoulli_`.
    """
    num_draws = -(-x.numel() // 4)
    draws = torch.empty(num_draws, dtype=torch.int64, device=x.device)
    draws.random_(-(2**63), None, generator=generator)
    dropped_levels = round(rate * _RANDOM_LEVELS)
    levels = draws.view(torch.int16)[: x.numel()].view(x.shape)
    # Written as the floats that it is multiplied as: to compare and then convert takes nine times as long.
    kept = torch.ge(levels, dropped_levels - _RANDOM_LEVELS // 2, out=torch.empty_like(x))
    return x * kept.mul_(_RANDOM_LEVELS / (_RANDOM_LEVELS - dropped_levels))
