"""The named ways to train: `seed_*` is the original, faithfully; `jade_*` is the best we know.

What each ingredient of `jade_*` is worth, and what was tried and left out, stands in `benchmarks/ablations.md`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from jade_model.core.config import Loss, ModelConfig, Recipe, TrainingConfig
from jade_model.core.errors import ConfigError


def seed_soft_span() -> Recipe:
    """Return the original's soft span training."""
    return _seed("soft_span")


def seed_crf() -> Recipe:
    """Return the original's CRF training."""
    return _seed("crf")


def seed_single_span() -> Recipe:
    """Return the original's settings under the single-span loss, which the original never had."""
    return _seed("single_span")


def jade_soft_span() -> Recipe:
    """Return the best soft span training we know."""
    return _jade("soft_span", dice_weight=0.5)


def jade_crf() -> Recipe:
    """Return the best CRF training we know."""
    return _jade("crf", normalise_losses=False)


def jade_single_span() -> Recipe:
    """Return the best single-span training we know."""
    return _jade("single_span", feature_set="displacement-21", span_units=16, normalise_losses=False)


RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__: function
    for function in (seed_soft_span, seed_crf, seed_single_span, jade_soft_span, jade_crf, jade_single_span)
}


def recipe(name: str) -> Recipe:
    """Look a recipe up by its name.

    Raises:
        ConfigError: There is none of that name; the message lists them.
    """
    if name not in RECIPES:
        closest = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown recipe {name!r}; did you mean {closest!r}? Choices: {', '.join(RECIPES)}")
    return RECIPES[name]()


def _seed(loss: Loss) -> Recipe:
    return Recipe(name=f"seed_{loss}", loss=loss, feature_set="relativity-12")


def _jade(
    loss: Loss,
    *,
    feature_set: str = "displacement-17",
    span_units: int = 0,
    dice_weight: float = 0.0,
    normalise_losses: bool = True,
) -> Recipe:
    return Recipe(
        name=f"jade_{loss}",
        loss=loss,
        feature_set=feature_set,
        model=ModelConfig(input_dropout=0.05, head_dropout=0.15, type_pooling="span", span_units=span_units),
        training=TrainingConfig(
            learning_rate=4e-3,
            schedule="one_cycle",
            span_layer_rate=8.0,
            gradient_clip=1.0,
            mirror=True,
            trust_weights=True,
            normalise_losses=normalise_losses,
            dice_weight=dice_weight,
        ),
    )
