"""`comparison.json`, version 1: its fields.

The JSON Schema and the tables of docs/comparison.md are made from these classes, and from those that `scoring.parts`
and `statistics.verdict` have of it (`python -m jade_model.comparison`).
Shares are fractions of 1, times seconds, lengths bars; a difference is first arm minus second.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from jade_model.core.config import DecoderName
from jade_model.scoring.parts import (
    AtLeastOne,
    Count,
    Histogram,
    Interval,
    Margin,
    NonNegative,
    Part,
    Positive,
    ReliabilityBin,
    Score,
    Scores,
    Separation,
    Share,
    Signed,
    TypeScore,
)
from jade_model.statistics.verdict import Difference, Outcome, Verdict

SCHEMA_VERSION: Literal[1] = 1

TaskName = Literal["pointer", "type", "span", "countdown"]


class Settings(Part):
    """What was asked for."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})

    seeds: list[int] = Field(min_length=1, description="seeds that every arm was trained from")
    num_folds: AtLeastOne = Field(
        description="folds of each seed's cross-validation; 1 is one train/validation/test split"
    )
    split: Literal["grouped", "seed"] = Field(
        description="grouped: no bar on two sides; seed: the original's leaking 80/20"
    )
    margin: Margin = Field(description="largest F1 difference that counts as none")
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(description="of every interval in this file")
    min_span_length: Count = Field(description="shorter spans are removed after decoding, in bars")
    merge_gap: Count = Field(description="gaps up to this many bars between spans are filled after decoding")
    checkpoint: Literal["last", "best"] = Field(description="which epoch's weights are scored")
    ensemble: AtLeastOne = Field(description="members whose marginals are averaged; 1 is none")
    decoder: str = Field(description="`auto`, or the decoder that all arms were made to use")


class DataEntry(Part):
    """One data set."""

    name: str = Field(description="short name; what runs[].dataset and differences[].dataset refer to")
    path: str = Field(description="as given")
    sha256: str = Field(
        pattern="^[0-9a-f]{64}$", description="of the file's bytes; of several files: of their digests, in order"
    )
    num_windows: AtLeastOne = Field(description="windows")
    num_groups: AtLeastOne = Field(description="groups of windows that share bars")
    num_shared_bar_joins: Count = Field(description="base windows that were joined because they share bars")
    num_train: Count = Field(
        description="windows that a training is fitted to; this and the next two: of the first seed's first fold"
    )
    num_validation: Count = Field(description="windows that are held out to watch it; 0 where folds need none")
    num_test: Count = Field(
        description="windows that it is scored on; the folds of a seed together score every window once"
    )
    window_length: AtLeastOne = Field(description="bars in a window")
    feature_set: str = Field(description="of the arms; `a, b` if they differ")
    num_straddling_groups: Count = Field(
        description="groups with windows on both sides of a split; above 0 the score is leaked"
    )
    in_span_rate: Share = Field(description="share of bars that are in a span")
    label_counts: dict[str, Count] = Field(description="label -> windows")


class Seconds(Part):
    """Wall-clock time."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": {"type": "number", "minimum": 0}})

    train: NonNegative
    evaluate: NonNegative


class Run(Part):
    """One training."""

    dataset: str = Field(description="data[].name")
    seed: int = Field(description="of the training")
    fold: Count = Field(description="0-based")
    epochs: AtLeastOne = Field(description="epochs trained")
    train_loss: list[float] = Field(
        min_length=1, description="per epoch; of this loss only: losses of different arms are not comparable"
    )
    validation_loss: list[float] = Field(
        description="likewise; empty without validation windows, and then the next three are null"
    )
    best_epoch: AtLeastOne | None = Field(description="1-based epoch of the smallest validation loss")
    validation_loss_reduction: float | None = Field(
        description="(first - last) / |first|, fraction of 1; negative if it rose"
    )
    validation_loss_rise_since_best: float | None = Field(description="(last - best) / |best|, fraction of 1")
    sigma: dict[TaskName, Positive] = Field(
        min_length=4, description="learned uncertainty of each task after the last epoch"
    )
    task_weight: dict[TaskName, Share] = Field(
        min_length=4, description="(1 / sigma^2) / sum of (1 / sigma^2); they sum to 1"
    )
    seconds: Seconds = Field(description="wall-clock time, s")
    checkpoint: str = Field(description="path relative to the run's folder")
    run_key: str = Field(
        description="what identifies this training: SHA-256 over code, data, recipe, loss, seed and fold"
    )
    temperature: Positive = Field(
        description="span scores were divided by this; fitted on windows that are not scored, within 0.05 to 20: "
        "at either end, no temperature makes the probabilities mean what they say"
    )


class Calibration(Part):
    """Do probabilities mean what they say."""

    brier: Share = Field(description="Brier score over bars")
    ece: Share = Field(description="expected calibration error over bars")
    temperature: Positive = Field(description="mean over trainings")
    reliability: list[ReliabilityBin] = Field(description="reliability diagram, ascending")


class SpanError(Part):
    """Mean absolute errors in bars."""

    center: NonNegative | None
    length: NonNegative | None


class PointerErrors(Part):
    """Of the trained head, and read off the span posterior."""

    trained_head: SpanError = Field(
        description="mean absolute error in bars, null where no window has exactly one span"
    )
    posterior: SpanError = Field(description="the same, read off the span posterior")


class CountdownErrors(Part):
    """Mean absolute errors in bars."""

    trained_head: NonNegative | None
    posterior: NonNegative | None


class FoldScore(Part):
    """One training on its own scored windows."""

    dataset: str = Field(description="data[].name")
    seed: int = Field(description="of the training")
    fold: Count = Field(description="0-based")
    threshold: float | None = Field(description="of this fold, null if the decoder has none")
    f1: Share = Field(description="bar-level, micro, on the fold's scored windows")
    span_f1_iou50: Share = Field(description="span-level at IoU 0.5")


class DataSetScore(Part):
    """An arm on one data set."""

    f1: Share = Field(description="bar-level, micro, mean over seeds")
    confidence_interval: Interval = Field(description="of f1")
    span_f1_iou50: Share = Field(description="span-level at IoU 0.5")


class Thresholded(Part):
    """What has a threshold."""

    threshold: float | None = Field(
        description="mean over trainings, each chosen on windows that are not scored; null if the decoder has none. "
        "A probability; nats for score_margin; expected gain for one_span"
    )


class Decoder(Scores, Thresholded):  # in this order the threshold comes first
    """One way from the model's output to spans."""

    confidence_interval: Interval = Field(description="of f1, for this arm and decoder alone")
    span_confidence_interval: Interval = Field(description="of span_f1_iou50")
    per_fold: list[FoldScore] = Field(description="every training on its own scored windows")
    per_dataset: dict[str, DataSetScore] = Field(description="data[].name -> the same on that data set alone")


class Summary(Part):
    """All trainings of the arm together, on scored windows."""

    separation: Separation = Field(
        description="mean probability of bars in and out of labelled spans, and their difference; null where there "
        "are no such bars"
    )
    calibration: Calibration = Field(description="do probabilities mean what they say")
    histogram: Histogram = Field(description="bars by probability")
    pointer_error_bars: PointerErrors = Field(description="from the trained head, and read off the span posterior")
    countdown_error_bars: CountdownErrors = Field(description="mean absolute error in bars")
    type: TypeScore | None = Field(
        description="share of windows with the right type; what naming the commonest one gives; null where no window "
        "has a type"
    )
    untrained: Score = Field(description="the same network before training")
    best_decoder: DecoderName = Field(
        description="chosen without the scored windows; what the verdict uses unless settings.decoder names one"
    )
    decoders: dict[DecoderName, Decoder] = Field(min_length=1, description="every way of decoding this arm")

    @model_validator(mode="after")
    def _has_its_best_decoder(self) -> Self:
        if self.best_decoder not in self.decoders:
            raise ValueError(f"best_decoder is {self.best_decoder!r}, which is not among its decoders")
        return self


class Arm(Part):
    """One loss with its recipe."""

    loss: str = Field(description="which span loss: `soft_span`, `crf`, `single_span`, or one that was added")
    recipe: str = Field(description="name of the recipe")
    feature_set: str = Field(description="name of the feature set")
    num_parameters: AtLeastOne = Field(description="trained numbers of one member")
    ensemble_size: AtLeastOne = Field(description="members")
    runs: list[Run] = Field(min_length=1, description="every training")
    summary: Summary = Field(description="all trainings of the arm together, on scored windows")


class RuleScore(Score):
    """The untrained rule."""

    confidence_interval: Interval = Field(description="of f1")
    bars: Annotated[float, Field(ge=1)] = Field(
        description="length of the move, chosen on training windows; mean over folds"
    )


class AgainstSpanScore(Part):
    """An arm minus the trained baseline."""

    difference: Signed
    confidence_interval: Interval
    outcome: Outcome


class SpanScore(Score):
    """The trained baseline: whole spans alone, no network over the bars."""

    confidence_interval: Interval = Field(description="of f1")
    num_parameters: AtLeastOne = Field(description="trained numbers")
    arms: dict[str, AgainstSpanScore] = Field(description="arm -> it minus the baseline; one family, bar F1, pooled")


class Baselines(Part):
    """What needs no training, or hardly any."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})

    all_positive: Score = Field(description="every bar marked")
    largest_move: RuleScore = Field(description="no training: the largest move over so many bars is marked")
    span_score: SpanScore | None = Field(
        default=None,
        description="trained on the same splits: the score of whole spans alone, some hundred parameters. An arm that "
        "is not shown to beat it has a caveat: its network is not shown to be worth its cost",
    )


class FullVerdict(Verdict):
    """Which arm is better, if that can be said."""

    decoder: str = Field(description="name, or `soft_span: one_span, crf: marginal` if arms differ")
    beats_span_score: dict[str, bool] | None = Field(
        default=None, description="arm -> whether it beats the trained baseline that scores whole spans alone"
    )


class Comparison(Part):
    """What a comparison found.

    F1 is micro-averaged over the scored (test or out-of-fold) windows.
    """

    schema_version: Literal[1] = Field(
        description="raised when a field changes its meaning or goes; new fields do not raise it"
    )
    run_id: str = Field(min_length=1, description="name of the run's folder")
    created_at: str = Field(description="UTC, ISO 8601", json_schema_extra={"format": "date-time"})
    settings: Settings = Field(description="what was asked for")
    data: list[DataEntry] = Field(min_length=1, description="data sets, in the order given")
    arms: dict[str, Arm] = Field(min_length=1, description="name -> arm, in the order in which differences are taken")
    baselines: Baselines = Field(description="what needs no training, or hardly any")
    differences: list[Difference] = Field(
        description="every pair of arms, then every arm against the baseline; both metrics; pooled and, of several "
        "data sets, each"
    )
    verdict: FullVerdict = Field(description="which arm is better, if that can be said")
