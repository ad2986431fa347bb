"""The named ways to train: `seed_*` is the original, faithfully; `jade_*` is the best we know.

What each ingredient of `jade_*` is worth, and what was tried and left out, stands in `benchmarks/ablations.md`.
"""

from __future__ import annotations

import difflib
from typing import Any

from jade_model.core.config import SPAN_HEADS, Loss, ModelConfig, Recipe, TrainingConfig
from jade_model.core.errors import ConfigError

_BEST: dict[str, dict[str, Any]] = {
    "soft_span": {"dice_weight": 0.5},
    "crf": {"normalise_losses": False},
    "single_span": {"feature_set": "displacement-21", "span_units": 16, "normalise_losses": False},
}
"""What the best recipe known for a loss has of its own; a loss that is not named gets what they have in common."""


def recipe_names() -> list[str]:
    """Return the names of all recipes, the original's first."""
    return [f"{family}_{loss}" for family in ("seed", "jade") for loss in SPAN_HEADS if SPAN_HEADS[loss].implementation]


def recipe(name: str) -> Recipe:
    """Look a recipe up by its name.

    Raises:
        ConfigError: There is none of that name; the message lists them.
    """
    if name not in recipe_names():
        closest = difflib.get_close_matches(name, recipe_names(), n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown recipe {name!r}; did you mean {closest!r}? Choices: {', '.join(recipe_names())}")
    family, _, loss = name.partition("_")
    return _seed(loss) if family == "seed" else _jade(loss, **_BEST.get(loss, {}))


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
