"""What a report reads of `comparison.json`, as types.

Shares are fractions of 1; an interval is [low, high] at the stated confidence; a difference is first arm minus second.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

RULE = "largest_move"

Outcome = Literal["winner", "equivalent", "undecided"]
Interval = list[float | None]


class Settings(TypedDict):
    """How the arms were compared."""

    seeds: list[int]
    num_folds: int
    split: str
    margin: float
    confidence: float
    min_span_length: int
    merge_gap: int
    checkpoint: str
    ensemble: int
    decoder: str


class DataSet(TypedDict):
    """One file of windows."""

    name: str
    path: str
    sha256: str
    num_windows: int
    num_groups: int
    num_shared_bar_joins: int
    num_train: int
    num_validation: int
    num_test: int
    window_length: int
    feature_set: str
    num_straddling_groups: int
    in_span_rate: float
    label_counts: NotRequired[dict[str, int]]


class Run(TypedDict):
    """One training."""

    dataset: str
    seed: int
    fold: int
    epochs: int
    train_loss: list[float]
    validation_loss: NotRequired[list[float | None] | None]
    best_epoch: NotRequired[int | None]
    validation_loss_reduction: NotRequired[float | None]
    validation_loss_rise_since_best: NotRequired[float | None]
    sigma: dict[str, float]
    task_weight: dict[str, float]
    seconds: dict[str, float]
    checkpoint: str | None
    run_key: NotRequired[str]
    temperature: NotRequired[float | None]


class Separation(TypedDict):
    """Mean probability of a bar inside and outside the labelled spans."""

    in_span_mean: float | None
    out_of_span_mean: float | None
    separation: float | None


class ReliabilityBin(TypedDict):
    """Bars whose probability fell between two edges."""

    lower: float
    upper: float
    mean_probability: float | None
    observed_rate: float | None
    num_bars: int


class Calibration(TypedDict):
    """Whether a probability of 0.3 means three times in ten."""

    brier: float | None
    ece: float | None
    temperature: float | None
    reliability: list[ReliabilityBin]


class Score(TypedDict):
    """Bar-level F1 and span-level F1 at IoU 0.5."""

    f1: float | None
    span_f1_iou50: float | None


class RuleScore(Score):
    """The untrained rule's score."""

    confidence_interval: NotRequired[Interval | None]
    bars: NotRequired[float | None]


class Histogram(TypedDict):
    """Counts of bars by probability."""

    edges: list[float]
    in_span: list[float]
    out_of_span: list[float]


class PointerError(TypedDict):
    """Mean absolute errors in bars."""

    center: float | None
    length: float | None


class PointerErrors(TypedDict):
    """Of the trained head, and read off the span posterior."""

    trained_head: PointerError
    posterior: PointerError


class CountdownErrors(TypedDict):
    """Mean absolute errors in bars."""

    trained_head: float | None
    posterior: float | None


class TypeScore(TypedDict):
    """Share of windows whose type was right."""

    accuracy: float | None
    majority_accuracy: float | None


class FoldScore(TypedDict):
    """One scored part."""

    dataset: str
    seed: int
    fold: int
    threshold: float | None
    f1: float | None
    span_f1_iou50: float | None


class DataSetScore(TypedDict):
    """One instrument's score."""

    f1: float | None
    confidence_interval: Interval | None
    span_f1_iou50: float | None


class Decoder(TypedDict):
    """One way of turning probabilities into spans, scored."""

    threshold: float | None
    f1: float | None
    precision: float | None
    recall: float | None
    macro_f1: NotRequired[float | None]
    span_f1_iou50: float | None
    span_f1_iou50_95: float | None
    confidence_interval: Interval | None
    span_confidence_interval: NotRequired[Interval | None]
    per_fold: list[FoldScore]
    per_dataset: dict[str, DataSetScore]


class Summary(TypedDict):
    """An arm over all its runs."""

    separation: Separation
    calibration: Calibration
    untrained: Score
    histogram: Histogram
    pointer_error_bars: PointerErrors
    countdown_error_bars: CountdownErrors
    type: TypeScore
    best_decoder: str
    decoders: dict[str, Decoder]


class Arm(TypedDict):
    """One competitor."""

    loss: str
    recipe: str
    feature_set: NotRequired[str]
    num_parameters: int
    ensemble_size: NotRequired[int]
    runs: list[Run]
    summary: Summary


class Difference(TypedDict):
    """First minus second, paired over the same windows."""

    first: str
    second: str
    metric: str
    dataset: str | None
    difference: float | None
    confidence_interval: Interval | None
    p_value: float | None
    adjusted_p_value: float | None
    outcome: Outcome
    training_share: NotRequired[float | None]


class OverDatasets(TypedDict):
    """The difference over instruments like the data sets."""

    difference: float
    confidence_interval: Interval
    num_datasets: int


class Verdict(TypedDict):
    """The answer."""

    outcome: Outcome
    winner: str | None
    metric: str
    decoder: str | None
    difference: float | None
    confidence_interval: Interval | None
    reason: str
    first: str | None
    second: str | None
    margin: float
    detectable_difference: float | None
    groups_needed: float | None
    seeds_needed: NotRequired[float | None]
    lack: NotRequired[str | None]
    what_decides: NotRequired[str]
    over_datasets: NotRequired[OverDatasets | None]
    beats_baseline: dict[str, bool]
    caveats: list[str]


class SpanScore(TypedDict):
    """The trained baseline."""

    f1: float | None
    span_f1_iou50: float | None
    confidence_interval: Interval
    num_parameters: int


class Baselines(TypedDict):
    """What costs no training."""

    all_positive: Score
    largest_move: RuleScore
    span_score: NotRequired[SpanScore]


class Comparison(TypedDict):
    """The whole of `comparison.json`, schema version 1."""

    schema_version: int
    run_id: str
    created_at: str
    settings: Settings
    data: list[DataSet]
    arms: dict[str, Arm]
    baselines: Baselines
    differences: list[Difference]
    verdict: Verdict
