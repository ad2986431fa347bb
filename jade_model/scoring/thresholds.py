"""The threshold that a decoder should use: exact scores at every threshold there is.

A score changes only where the threshold passes a value that occurs, so that the distinct values are all there
is to try. Threshold c marks what is at least c.

Legend: N windows, T bars, I items with a value each (bars or windows), D distinct values, C components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import ConfigError
from jade_model.scoring.components import components
from jade_model.scoring.decoding import (
    NO_CLEANUP,
    Cleanup,
    DecoderChoice,
    DecoderName,
    clean_up,
    require_decoder,
    window_scores,
)
from jade_model.scoring.metrics import (
    Truth,
    bar_counts_N3,
    best_ious,
    f1_of,
    precision_of,
    recall_of,
    span_counts_NJ3,
)
from jade_model.scoring.parts import Metric
from jade_model.scoring.predictions import Predictions

IOU = 0.5  # when a span counts as found


@dataclass(frozen=True)
class Best:
    """The best point of a curve.

    Attributes:
        threshold: The value that attains it.
        lower: The next smaller value there is, or None where `threshold` is the smallest.
        precision: At the threshold.
        recall: At the threshold.
        f1: At the threshold.
    """

    threshold: float
    lower: float | None
    precision: float
    recall: float
    f1: float

    @property
    def chosen(self) -> float:
        """The threshold to use on other windows.

        Half-way to the next smaller value, which marks the same here and leaves room for values a little
        smaller; 0 (or the threshold, if negative) where everything is marked. Always finite: values may be
        infinite (the margin of a path whose rivals are impossible), a decoder's threshold may not.
        """
        if self.lower is None:
            return min(0.0, self.threshold)
        if np.isinf(self.threshold):
            return just_above(self.lower)
        middle = self.lower + (self.threshold - self.lower) / 2
        return middle if middle > self.lower else self.threshold


@dataclass(frozen=True, eq=False)
class ThresholdCurve:
    """Scores as a function of the threshold.

    Attributes:
        threshold_D: Descending, float64; of an exact curve, the first lies just above the largest value and
            marks nothing, the others are all the distinct values.
        precision_D: float64.
        recall_D: float64.
        f1_D: float64.
    """

    threshold_D: NDArray[np.float64]
    precision_D: NDArray[np.float64]
    recall_D: NDArray[np.float64]
    f1_D: NDArray[np.float64]

    def best(self) -> Best:
        """Return the point of greatest F1; of equals the one of the largest threshold, which marks least."""
        index = int(self.f1_D.argmax())
        is_last = index + 1 == self.threshold_D.size
        return Best(
            threshold=float(self.threshold_D[index]),
            lower=None if is_last else float(self.threshold_D[index + 1]),
            precision=float(self.precision_D[index]),
            recall=float(self.recall_D[index]),
            f1=float(self.f1_D[index]),
        )

    def at(self, thresholds: NDArray[np.float64]) -> ThresholdCurve:
        """Return an exact curve's scores at any thresholds, in the order given."""
        # A threshold marks what the smallest value not below it marks.
        index = self.threshold_D.size - np.searchsorted(self.threshold_D[::-1], thresholds, side="left") - 1
        return self._take(np.maximum(index, 0), np.asarray(thresholds, dtype=np.float64))

    def thinned(self, num_points: int) -> ThresholdCurve:
        """Return at most num_points (3 or more) evenly spread points, both ends and the best included."""
        size = self.threshold_D.size
        index = np.unique(np.linspace(0, size - 1, num_points - 1).round().astype(np.int64))
        index = np.union1d(index, [int(self.f1_D.argmax())])
        return self._take(index, self.threshold_D[index])

    def _take(self, index: NDArray[np.intp], threshold_D: NDArray[np.float64]) -> ThresholdCurve:
        return ThresholdCurve(threshold_D, self.precision_D[index], self.recall_D[index], self.f1_D[index])


def bar_curve(probability_NT: NDArray[np.float64], truth_NT: NDArray[np.bool_]) -> ThresholdCurve:
    """Score bars, micro-averaged, at every threshold.

    Args:
        probability_NT: Any scores, no NaN, float64.
        truth_NT: Bar in a labelled span, bool.

    Raises:
        ValueError: The shapes differ, there is no bar, or a value is NaN.
    """
    require_values(probability_NT, truth_NT)
    value_I = np.sort(probability_NT, axis=None)
    hit_I = np.sort(probability_NT[truth_NT])
    # Sorting values alone is several times quicker than sorting places: the hits' places are looked up.
    hits_at_I = np.bincount(np.searchsorted(value_I, hit_I, side="right") - 1, minlength=value_I.size)
    last_D = _last_of_equals(value_I)
    hits_up_to_D = np.cumsum(hits_at_I)[last_D]
    first_D = np.append(0, last_D[:-1] + 1)
    hit_D = hit_I.size - np.append(0, hits_up_to_D[:-1])
    return _curve_of_counts(value_I[last_D[::-1]], hit_D[::-1], value_I.size - first_D[::-1], hit_I.size)


def span_curve(probability_NT: NDArray[np.float64], truth: Truth) -> ThresholdCurve:
    """Score spans at IoU 0.5, micro-averaged, at every threshold.

    Every run of bars that some threshold makes is matched once; how many stand, and how many of those are hits,
    then follows for all thresholds from when they appear and merge.

    Args:
        probability_NT: Any scores, no NaN, float64.
        truth: The same windows' labels.

    Raises:
        ValueError: The shapes differ, there is no bar, or a value is NaN.
    """
    require_values(probability_NT, truth.mask_NT)
    value_D, level = np.unique(probability_NT, return_inverse=True)
    if np.isnan(value_D[-1]):
        raise ValueError("a probability is not a number")
    runs = components(level.reshape(probability_NT.shape).astype(np.int64, copy=False))
    iou_C = best_ious(runs.row_C, runs.start_C, runs.end_C, truth)
    is_hit_C = iou_C >= IOU
    marked_D = _standing(runs.birth_C, runs.death_C, value_D.size)
    hit_D = _standing(runs.birth_C[is_hit_C], runs.death_C[is_hit_C], value_D.size)
    return _curve_of_counts(value_D[::-1], hit_D, marked_D, truth.spans_S2.shape[0])


def window_curve(
    score_N: NDArray[np.float64],
    predicted_NT: NDArray[np.bool_],
    truth: Truth,
    *,
    metric: Metric = "f1",
) -> ThresholdCurve:
    """Score the acceptance of whole windows' predictions at every threshold on the windows' scores.

    Args:
        score_N: What is compared with the threshold, no NaN, float64.
        predicted_NT: What is marked in an accepted window; nothing is in the others, bool.
        truth: The same windows' labels.
        metric: As for choose_threshold.

    Raises:
        ValueError: The shapes differ, there are no windows, or a score is NaN.
    """
    require_values(score_N, score_N)
    order = np.argsort(-score_N)
    value_I = score_N[order]
    last_D = _last_of_equals(value_I)
    if metric == "f1":
        counts_N3 = bar_counts_N3(predicted_NT, truth.mask_NT)
    else:
        counts_N3 = span_counts_NJ3(predicted_NT, truth, (IOU,))[:, 0]
    hit_D = np.cumsum(counts_N3[order, 0])[last_D]
    marked_D = np.cumsum(counts_N3[order, 0] + counts_N3[order, 1])[last_D]
    return _curve_of_counts(value_I[last_D], hit_D, marked_D, int((counts_N3[:, 0] + counts_N3[:, 2]).sum()))


def choose_threshold(
    predictions: Predictions,
    truth: Truth,
    decoder: DecoderName,
    cleanup: Cleanup = NO_CLEANUP,
    *,
    metric: Metric = "f1",
    curve: ThresholdCurve | None = None,
) -> DecoderChoice:
    """Choose the threshold that is best on these windows, of all there are.

    Args:
        predictions: Of N windows that are not scored later.
        truth: The same windows' labels.
        decoder: One that the model's loss has.
        cleanup: What happens to marked bars.
        metric: Which F1 over all windows: of bars, or of spans at IoU 0.5.
        curve: What `threshold_curve` returns for the same, where it is there already.

    Returns:
        Ready for decode. Viterbi has no threshold.

    Raises:
        ConfigError: The loss has no such decoder, or a setting is out of range.
        ValueError: There are no windows, the shapes differ, or a probability is not a number.
    """
    require_decoder(predictions.loss, decoder)
    threshold: float | None = None
    if decoder != "viterbi":
        curve = curve or threshold_curve(predictions, truth, decoder, cleanup, metric=metric)
        threshold = curve.best().chosen
    return DecoderChoice(decoder, threshold, cleanup.min_span_length, cleanup.merge_gap)


def threshold_curve(
    predictions: Predictions,
    truth: Truth,
    decoder: DecoderName,
    cleanup: Cleanup = NO_CLEANUP,
    *,
    metric: Metric = "f1",
) -> ThresholdCurve:
    """Score a decoder at every threshold there is; arguments and errors as for choose_threshold."""
    require_decoder(predictions.loss, decoder)
    match decoder:
        case "threshold" | "marginal":
            smooth_NT = clean_up(predictions.probability_NT, cleanup)
            return bar_curve(smooth_NT, truth.mask_NT) if metric == "f1" else span_curve(smooth_NT, truth)
        case "score_margin" | "one_span":
            return window_curve(*window_scores(predictions, decoder, cleanup), truth, metric=metric)
        case "viterbi":
            raise ConfigError("viterbi has no threshold to choose")
        case _:
            assert_never(decoder)


def threshold_grid(minimum: float = 0.3, maximum: float = 0.7, step: float = 0.05) -> NDArray[np.float64]:
    """Return minimum, minimum + step, ... up to maximum; the default is the original's grid.

    Raises:
        ConfigError: The grid is empty or endless.
    """
    if not (np.isfinite([minimum, maximum, step]).all() and step > 0 and minimum <= maximum):
        raise ConfigError(f"threshold grid from {minimum} to {maximum} by {step}: need minimum <= maximum, step > 0")
    # A last step that rounding puts a hair above the maximum still counts.
    num_steps = int(np.floor((maximum - minimum) / step + 1e-9))
    return np.round(minimum + step * np.arange(num_steps + 1), 12)


def _curve_of_counts(
    threshold_D: NDArray[np.float64], hit_D: NDArray[np.int64], marked_D: NDArray[np.int64], num_true: int
) -> ThresholdCurve:
    hit_D, marked_D = np.append(0, hit_D), np.append(0, marked_D)
    counts_D3 = np.stack([hit_D, marked_D - hit_D, num_true - hit_D], axis=1)
    threshold_D = np.append(just_above(threshold_D[0]), threshold_D)
    return ThresholdCurve(threshold_D, precision_of(counts_D3), recall_of(counts_D3), f1_of(counts_D3))


def _standing(birth_C: NDArray[np.int64], death_C: NDArray[np.int64], num_levels: int) -> NDArray[np.int64]:
    """Return how many of the runs stand at each level, from the highest level down."""
    appeared = np.bincount(birth_C, minlength=num_levels)
    merged = np.bincount(death_C[death_C >= 0], minlength=num_levels)
    return np.asarray(np.cumsum((appeared - merged)[::-1]), dtype=np.int64)


def _last_of_equals(value_I: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return where runs of equal values end in a sorted array; NaN, which sorts last, is refused."""
    if np.isnan(value_I[-1]):
        raise ValueError("a value to be thresholded is not a number")
    return np.append(np.flatnonzero(value_I[1:] != value_I[:-1]), value_I.size - 1)


def just_above(value: float) -> float:
    """Return the smallest float that is greater, or infinity for infinity."""
    return math.nextafter(value, math.inf)


def require_values(value: NDArray[np.float64], truth: NDArray[np.generic]) -> None:
    """Raise ValueError unless there are values, and as many labels."""
    if value.shape != truth.shape:
        raise ValueError(f"probabilities have shape {value.shape}, labels {truth.shape}")
    if value.size == 0:
        raise ValueError("there is nothing to choose a threshold on")
