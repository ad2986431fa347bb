"""The seam between the network and a span loss.

Legend: B windows, T bars, K span scores a bar.
"""

from __future__ import annotations

import copy
import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from jade_model.core.config import SPAN_HEADS, Loss, ModelConfig, TrainingConfig, require

if TYPE_CHECKING:
    from jade_model.core.losses import Labels


class SpanPosterior(NamedTuple):
    """What a model, or an ensemble, believes about the spans of B windows.

    Attributes:
        probability_BT: P(bar in a span), of the scores' dtype.
        path_BT: The most probable joint labelling, bool.
        margin_B: log P(path_BT) - log P(no span), nats; 0 where the path is empty.
    """

    probability_BT: Tensor
    path_BT: Tensor
    margin_B: Tensor


class SpanHead(nn.Module, ABC):
    """A distribution over the labellings of a window, given the network's scores; its parameters are its own.

    The network holds it under the name of the loss, so that its parameters appear in state dicts as `crf.transitions`.
    Every method takes scores [B, T, K] on any device, and on a GPU nothing in `loss` and `in_span` may wait for it.

    Attributes:
        scores_per_bar: K; heads that score whole spans get, if the recipe asks for it, one more for each length.
    """

    scores_per_bar: ClassVar[int]

    @classmethod
    @abstractmethod
    def of(cls, config: ModelConfig) -> Self:
        """Return a fresh head for a network of that configuration."""

    def start_from(self, num_spans_B: Tensor) -> None:
        """Set parameters from the training windows' numbers of spans before the first step; nothing by default."""

    @abstractmethod
    def loss(self, scores_BTK: Tensor, labels: Labels, config: TrainingConfig) -> Tensor:
        """Return each window's loss, [B]: nats a window, or a bar where bars are independent."""

    @abstractmethod
    def in_span(self, scores_BTK: Tensor) -> Tensor:
        """Return P(bar in a span), [B, T]; not differentiable unless bars are independent."""

    def in_span_and_partition(self, scores_BTK: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return in_span without a gradient; and what the same work gives that `loss` takes as partition_B, or None."""
        with torch.no_grad():
            return self.in_span(scores_BTK), None

    @abstractmethod
    def posterior(self, scores_BTK: Tensor, temperature: float = 1.0) -> SpanPosterior:
        """Return probabilities and the best labelling, all scores and parameters divided by the temperature, > 0."""

    def best_path(self, scores_BTK: Tensor) -> Tensor:
        """Return the most probable labelling alone, bool [B, T]."""
        return self.posterior(scores_BTK).path_BT

    @classmethod
    @torch.no_grad()
    def posterior_of_ensemble(
        cls, heads: Sequence[SpanHead], scores: Sequence[Tensor], temperature: float
    ) -> SpanPosterior:
        """Return what several heads believe together.

        Probabilities are averaged. The labelling is that of the geometric mean, the head of averaged parameters on
        averaged scores: an average of distributions over labellings has no best one that could be found in linear time.
        """
        parts = [head.posterior(scores_BTK, temperature) for head, scores_BTK in zip(heads, scores, strict=True)]
        mean = copy.deepcopy(heads[0]).cpu()
        states = [head.state_dict() for head in heads]
        mean.load_state_dict({name: torch.stack([state[name].cpu() for state in states]).mean(0) for name in states[0]})
        merged = mean.posterior(torch.stack(list(scores)).mean(0), temperature)
        return merged._replace(probability_BT=torch.stack([part.probability_BT for part in parts]).mean(0))


def head_class(loss: Loss) -> type[SpanHead]:
    """Return the head of a span loss, by its entry in `config.SPAN_HEADS`.

    Raises:
        TypeError: What the entry names is no `SpanHead`.
        ConfigError: It is an arm of one's own whose module was not given.
    """
    require(
        SPAN_HEADS[loss].implementation != "",
        f"{loss} is an arm of somebody's own; give its module with --arm-module (the run that trained it keeps a copy, "
        "arm_module.py)",
    )
    module, _, name = SPAN_HEADS[loss].implementation.partition(":")
    found = getattr(importlib.import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, SpanHead)):
        raise TypeError(f"{SPAN_HEADS[loss].implementation} is not a subclass of SpanHead")
    return found
