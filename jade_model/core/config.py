"""What a training is made of: frozen, validated, and turned to and from JSON without loss."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from jade_model.core.errors import ConfigError

DecoderName = Literal["threshold", "viterbi", "marginal", "score_margin", "one_span"]


@dataclass(frozen=True)
class SpanHeadEntry:
    """What is known of a span head without importing it, for it brings torch.

    Attributes:
        implementation: `module:Class` of a `span_heads.SpanHead`; empty where an arm of somebody's own is known by name
            alone, and its module has not been run here.
        decoders: That make sense of its posterior.
        models_spans: Whether it scores spans, so that length and number of the labelled ones bound what it can express.
        sha256: Digest of the module of an arm of one's own (span_heads.own); empty for Jade's.
    """

    implementation: str
    decoders: tuple[DecoderName, ...] = ("viterbi", "marginal", "score_margin", "one_span")
    models_spans: bool = False
    sha256: str = ""


SPAN_HEADS: dict[str, SpanHeadEntry] = {
    "soft_span": SpanHeadEntry(
        "jade_model.core.span_heads.bars:SoftSpanHead", decoders=("threshold", "viterbi", "one_span")
    ),
    "crf": SpanHeadEntry("jade_model.core.span_heads.chain:ChainHead"),
    "single_span": SpanHeadEntry("jade_model.core.span_heads.segment:SegmentHead", models_spans=True),
}
"""The span losses by name: what recipes, forms and reports call them, and the arms of a comparison."""

LOSSES: tuple[str, ...] = tuple(SPAN_HEADS)

if TYPE_CHECKING:
    Loss = str
else:
    Loss = Literal[LOSSES]  # so that forms offer the names, and refuse others

TASKS: tuple[str, ...] = ("pointer", "type", "span", "countdown")
Schedule = Literal["constant", "one_cycle"]
TypePooling = Literal["mean", "span"]


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raise ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        hidden_size: LSTM units per direction.
        input_dropout: Dropout on the features, [0, 1).
        head_dropout: Dropout before each head, [0, 1).
        pooled_size: Width of the layer behind the pooled LSTM output.
        type_pooling: Over what the type head pools: all bars, or the span's posterior.
        max_span_length: Longest span of the single-span head, in bars.
        several_spans: Whether the single-span head lets a window hold more than one span.
        span_units: Hidden units of what scores each whole span by how far and how straight price went over it
            (segment.SpanScorer); 0 leaves it out. Needs a feature set with the path.
    """

    hidden_size: int = 96
    input_dropout: float = 0.3
    head_dropout: float = 0.6
    pooled_size: int = 64
    type_pooling: TypePooling = "mean"
    max_span_length: int = 32
    several_spans: bool = False
    span_units: int = 0

    def __post_init__(self) -> None:
        require(self.span_units >= 0, f"model.span_units is {self.span_units}; it must not be negative")
        for name in ("hidden_size", "pooled_size"):
            value = getattr(self, name)
            require(value >= 1, f"model.{name} is {value}; it must be at least 1")
        for name in ("input_dropout", "head_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"model.{name} is {value}; it must lie in [0, 1)")
        require(
            self.max_span_length >= 1,
            f"model.max_span_length is {self.max_span_length}; it must be at least 1",
        )
        require(
            self.type_pooling in get_args(TypePooling),
            f"model.type_pooling is {self.type_pooling!r}; choose one of {get_args(TypePooling)}",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation.

    Attributes:
        epochs: Passes over the training windows.
        batch_size: Windows a step.
        learning_rate: AdamW's, or the peak of the one-cycle schedule.
        weight_decay: AdamW's decoupled decay.
        schedule: Learning rate over steps.
        span_layer_rate: What the learning rate is multiplied by for the span loss's own parameters (the CRF's
            transitions; the single span's biases of length, none and further spans). Adam moves any weight by about
            the learning rate a step, and these few have to come to lie nats apart. No effect on the soft span loss.
        gradient_clip: Largest gradient norm, or None.
        positive_weight: Factor on the in-span term of the soft span loss.
        dice_weight: Weight of the Dice term beside the soft span loss's cross-entropy, [0, 1].
        mirror: Whether each window is shown upside down half of the time.
        normalise_losses: Whether each task's loss is divided by its value before training.
        trust_weights: Whether a window's losses count by how far its labels are trusted (targets.Targets.trust_N):
            overlap fraction and annotation quality, where the file has them.
        checkpoint_every: Epochs between checkpoints on disk.
    """

    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    schedule: Schedule = "constant"
    span_layer_rate: float = 1.0
    gradient_clip: float | None = None
    positive_weight: float = 1.0
    dice_weight: float = 0.0
    mirror: bool = False
    normalise_losses: bool = False
    trust_weights: bool = False
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "checkpoint_every"):
            value = getattr(self, name)
            require(value >= 1, f"training.{name} is {value}; it must be at least 1")
        for name in ("learning_rate", "span_layer_rate", "positive_weight"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, f"training.{name} is {value}; it must be positive")
        require(0 <= self.dice_weight <= 1, f"training.dice_weight is {self.dice_weight}; it must lie in [0, 1]")
        require(self.weight_decay >= 0, f"training.weight_decay is {self.weight_decay}; it must not be negative")
        require(
            self.schedule in get_args(Schedule),
            f"training.schedule is {self.schedule!r}; choose one of {get_args(Schedule)}",
        )
        if self.gradient_clip is not None:
            require(self.gradient_clip > 0, f"training.gradient_clip is {self.gradient_clip}; it must be positive")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training but its data, seed and fold.

    Attributes:
        name: As users write it: `seed_crf`, `jade_single_span`.
        loss: Which span loss is trained.
        feature_set: A name that `jade_model.core.features.feature_set` knows.
        model: The network.
        training: The optimisation.
    """

    name: str
    loss: Loss
    feature_set: str
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        require(
            self.loss in SPAN_HEADS,
            f"loss is {self.loss!r}; choose one of {tuple(SPAN_HEADS)}, or give the module of an arm of your own with "
            "--arm-module",
        )
        require(
            self.model.span_units == 0 or SPAN_HEADS[self.loss].models_spans,
            f"model.span_units is {self.model.span_units}; a {self.loss} model scores bars, not spans: it must be 0",
        )


_RETIRED = {"softened_targets": False, "ema_decay": None, "boundary_smoothing": 0.0, "mixed_precision": False}
"""Fields of older recipes that were measured to be of no use, and what they were where nobody had set them."""

ConfigT = TypeVar("ConfigT", ModelConfig, TrainingConfig, Recipe)


def to_json(config: ModelConfig | TrainingConfig | Recipe) -> dict[str, Any]:
    """Return the configuration as plain JSON values, every field named."""
    return dataclasses.asdict(config)


def recipe_from_json(data: dict[str, Any]) -> Recipe:
    """Rebuild a recipe; an unknown or missing field is an error that names it.

    Raises:
        ConfigError: A field is unknown, missing or out of range.
    """
    fields = dict(data)
    model = _strict(ModelConfig, fields.pop("model", {}), "model.")
    of_training = dict(fields.pop("training", {}))
    for name, default in _RETIRED.items():
        value = of_training.pop(name, default)
        require(
            value == default, f"recipe field training.{name} is {value}; it was retired, and only {default} is read"
        )
    training = _strict(TrainingConfig, of_training, "training.")
    return _strict(Recipe, {**fields, "model": model, "training": training}, "")


def _strict(kind: type[ConfigT], fields: dict[str, Any], prefix: str) -> ConfigT:
    known = {item.name for item in dataclasses.fields(kind)}
    unknown = sorted(set(fields) - known)
    require(
        not unknown,
        f"unknown recipe field {', '.join(prefix + name for name in unknown)}; known: {sorted(known)}",
    )
    try:
        return kind(**fields)
    except TypeError as error:
        raise ConfigError(f"recipe: {error}") from error
