"""Trained models -> what they say of windows, as plain arrays.

Legend: N windows, T bars, B windows of one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jade_model.core.checkpoint import build_model, load_checkpoint, model_of
from jade_model.core.config import Recipe
from jade_model.core.errors import CheckpointError, ConfigError
from jade_model.core.features import FeatureSet, feature_set, mirror_bars
from jade_model.core.network import JadeCompact, JadeOutput
from jade_model.core.targets import COUNTDOWN_LIMIT
from jade_model.core.windows import Windows
from jade_model.scoring.predictions import Predictions, concatenated

BATCH_SIZE = 256


@dataclass(frozen=True, eq=False)
class Predictor:
    """One model, or several of one loss and feature set whose probabilities are averaged.

    Attributes:
        models: At least one, in evaluation mode, on one device.
        features: What they read.
        mirrored: Whether each window is also read upside down and the outputs averaged, which belongs to models that
            were trained on both views.
    """

    models: tuple[JadeCompact, ...]
    features: FeatureSet
    mirrored: bool = False

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("an ensemble needs at least one model")
        losses = sorted({model.loss for model in self.models})
        if len(losses) > 1:
            raise ConfigError(f"an ensemble's models share one loss; these were trained with {', '.join(losses)}")


def load_predictor(paths: Path | Sequence[Path], *, device: str = "cpu") -> Predictor:
    """Read one checkpoint, or the members of an ensemble.

    Raises:
        CheckpointError: A file is not a checkpoint, or the members differ in loss or features.
    """
    listed = [paths] if isinstance(paths, Path) else list(paths)
    checkpoints = [load_checkpoint(path) for path in listed]
    kinds = {(item.recipe.loss, item.recipe.feature_set) for item in checkpoints}
    if len(kinds) != 1:
        raise CheckpointError(f"the members of an ensemble share loss and feature set; found {sorted(kinds)}")
    models = tuple(model_of(item).to(device) for item in checkpoints)
    return predictor_of(models, checkpoints[0].recipe)


def predictor_of(models: Sequence[JadeCompact], recipe: Recipe) -> Predictor:
    """Return the predictor of models that were trained by a recipe."""
    return Predictor(tuple(models), feature_set(recipe.feature_set), mirrored=recipe.training.mirror)


def untrained_predictor(recipe: Recipe, *, seed: int) -> Predictor:
    """Return the model before its first step: the baseline that every trained one has to beat."""
    return predictor_of([build_model(recipe, seed=seed).eval()], recipe)


def predict(
    predictor: Predictor,
    windows: Windows | NDArray[np.float64],
    *,
    temperature: float = 1.0,
    batch_size: int = BATCH_SIZE,
) -> Predictions:
    """Run the model on windows, a batch at a time.

    Args:
        predictor: From load_predictor, untrained_predictor, or made of models at hand.
        windows: Windows, or their bars [N, T, 4] float64.
        temperature: What span scores are divided by before they become probabilities, > 0.
        batch_size: Windows at once; decides the peak memory beside the result.

    Raises:
        ConfigError: The temperature or the batch size is not positive.
    """
    return posterior(run_network(predictor, windows, batch_size=batch_size), temperature)


@dataclass(frozen=True, eq=False)
class NetworkOutput:
    """What the network alone said of N windows: temperature comes after it, so that one run serves many.

    Attributes:
        predictor: That was run.
        batches: Its outputs, in the order of the windows.
    """

    predictor: Predictor
    batches: tuple[_Outputs, ...]


def run_network(
    predictor: Predictor, windows: Windows | NDArray[np.float64], *, batch_size: int = BATCH_SIZE
) -> NetworkOutput:
    """Run the network on windows, or their bars [N, T, 4], a batch at a time.

    Raises:
        ConfigError: The batch size is not positive.
    """
    if batch_size < 1:
        raise ConfigError(f"batch size is {batch_size}; it must be at least 1")
    bars_NT4 = windows.bars_NT4 if isinstance(windows, Windows) else windows
    return NetworkOutput(predictor, tuple(_batches(predictor, bars_NT4, batch_size)))


def posterior(output: NetworkOutput, temperature: float) -> Predictions:
    """Turn span scores, divided by the temperature, into probabilities and best paths.

    Raises:
        ConfigError: The temperature is not positive.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature is {temperature}; it must be positive")
    return concatenated([_predictions(output.predictor, outputs, temperature) for outputs in output.batches])


@dataclass(frozen=True, eq=False)
class _Outputs:
    """Each model's span scores of a batch and, averaged over the models, the trained heads; on the CPU."""

    span_scores: list[Tensor]
    type_probability_B3: Tensor
    pointers_B2: Tensor
    countdown_BT: Tensor


@torch.no_grad()
def _batches(predictor: Predictor, bars_NT4: NDArray[np.float64], batch_size: int) -> Iterator[_Outputs]:
    # No windows at all still give one, empty, batch: the arrays then have their shapes.
    for first in range(0, max(len(bars_NT4), 1), batch_size):
        bars_BT4 = bars_NT4[first : first + batch_size]
        views = [bars_BT4, mirror_bars(bars_BT4)] if predictor.mirrored else [bars_BT4]
        views_BTF = [torch.from_numpy(predictor.features.compute(view_BT4)) for view_BT4 in views]
        outputs = [_mean_output(model, views_BTF) for model in predictor.models]
        yield _Outputs(
            span_scores=[output.span_scores_BTK.cpu().double() for output in outputs],
            type_probability_B3=_mean([torch.softmax(output.type_logits_B3, 1) for output in outputs]),
            pointers_B2=_mean([output.pointers_B2 for output in outputs]),
            countdown_BT=_mean([output.countdown_BT for output in outputs]),
        )


def _mean_output(model: JadeCompact, views_BTF: Sequence[Tensor]) -> JadeOutput:
    """Return what a model says of a batch, averaged over its views before anything becomes a probability."""
    outputs = [model(x_BTF.to(model.log_sigma.device)) for x_BTF in views_BTF]
    return JadeOutput(*(torch.stack(values).mean(0) for values in zip(*(each[:4] for each in outputs), strict=True)))


def _predictions(predictor: Predictor, outputs: _Outputs, temperature: float) -> Predictions:
    heads = [model.head for model in predictor.models]
    if len(heads) == 1:
        spans = heads[0].posterior(outputs.span_scores[0], temperature)
    else:
        spans = heads[0].posterior_of_ensemble(heads, outputs.span_scores, temperature)
    pointers_B2 = posterior_pointers(spans.probability_BT)
    return Predictions(
        loss=predictor.models[0].loss,
        temperature=temperature,
        probability_NT=spans.probability_BT.numpy(),
        path_NT=spans.path_BT.numpy(),
        margin_N=spans.margin_B.numpy(),
        type_probability_N3=outputs.type_probability_B3.numpy(),
        pointers_N2=outputs.pointers_B2.numpy(),
        countdown_NT=outputs.countdown_BT.numpy(),
        posterior_pointers_N2=pointers_B2.numpy(),
        posterior_countdown_NT=posterior_countdown(pointers_B2, spans.probability_BT.shape[1]).numpy(),
    )


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack([value.cpu().double() for value in values]).mean(0)


def posterior_pointers(probability_BT: Tensor) -> Tensor:
    """Read the span's centre and length off its bars' probabilities.

    Args:
        probability_BT: P(bar in a span), float64.

    Returns:
        Centre: the bar at which half of the probability is reached, interpolated, which a bar far off with a
        little probability hardly moves. Length: last minus first bar, the expected number of bars less one. Both as
        fractions of T, as the targets are, [B, 2].
    """
    num_bars = probability_BT.shape[1]
    mass_BT = probability_BT.cumsum(1)
    total_B1 = mass_BT[:, -1:]
    half_B1 = (total_B1 / 2).contiguous()
    bar_B1 = torch.searchsorted(mass_BT, half_B1).clamp_max(num_bars - 1)
    here_B1 = probability_BT.gather(1, bar_B1)
    before_B1 = mass_BT.gather(1, bar_B1) - here_B1
    # A bar's probability is spread evenly from half a bar before its index to half a bar after it.
    share_B1 = torch.where(here_B1 > 0, (half_B1 - before_B1) / here_B1.clamp_min(1e-300), 0.5)
    centre_B1 = bar_B1 - 0.5 + share_B1
    return torch.cat([centre_B1, (total_B1 - 1).clamp_min(0)], 1) / num_bars


def posterior_countdown(pointers_B2: Tensor, num_bars: int) -> Tensor:
    """Return bars until the span starts, clipped as the targets are, [B, T], from its centre and length."""
    start_B1 = (pointers_B2[:, :1] - pointers_B2[:, 1:] / 2) * num_bars
    bars_T = torch.arange(num_bars, dtype=pointers_B2.dtype)
    return (start_B1 - bars_T).clamp(-COUNTDOWN_LIMIT, COUNTDOWN_LIMIT)
