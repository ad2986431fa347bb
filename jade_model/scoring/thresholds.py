"""The threshold that a decoder should use, and the tables that show why.

Legend: N windows, D distinct values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import ConfigError
from jade_model.scoring.curves import (
    Best,
    Objective,
    ThresholdCurve,
    sweep_bars,
    sweep_events,
    sweep_windows,
)
from jade_model.scoring.decoding import DecoderChoice, DecoderName, best_spans, clean_up, require_decoder
from jade_model.scoring.metrics import Truth
from jade_model.scoring.predictions import Predictions

__all__ = [
    "CSV_COLUMNS",
    "Best",
    "Objective",
    "ThresholdCurve",
    "choose_threshold",
    "csv_rows",
    "sweep",
    "sweep_bars",
    "sweep_events",
    "sweep_windows",
    "threshold_grid",
]

CSV_COLUMNS = ("threshold", "precision", "recall", "f1", "span_precision", "span_recall", "span_f1")


def choose_threshold(
    predictions: Predictions,
    truth: Truth,
    decoder: DecoderName,
    *,
    objective: Objective = "f1",
    min_span_length: int = 1,
    merge_gap: int = 0,
) -> DecoderChoice:
    """Choose the threshold that is best on these windows, of all there are.

    Args:
        predictions: Of N windows that are not scored later.
        truth: The same windows' labels.
        decoder: One that the model's loss has.
        objective: Which F1 over all windows: `f1` of bars, `event_f1` of spans at IoU 0.5.
        min_span_length: Shortest span kept, in bars.
        merge_gap: Longest gap closed, in bars.

    Returns:
        Ready for decode. Viterbi has no threshold.

    Raises:
        ConfigError: The loss has no such decoder, or a setting is out of range.
        ValueError: There are no windows, the shapes differ, or a probability is not a number.
    """
    require_decoder(predictions.loss, decoder)
    threshold: float | None = None
    if decoder != "viterbi":
        curve = sweep(
            predictions,
            truth,
            decoder,
            objective=objective,
            min_span_length=min_span_length,
            merge_gap=merge_gap,
        )
        threshold = curve.best().chosen
    return DecoderChoice(decoder, threshold, min_span_length, merge_gap)


def sweep(
    predictions: Predictions,
    truth: Truth,
    decoder: DecoderName,
    *,
    objective: Objective = "f1",
    min_span_length: int = 1,
    merge_gap: int = 0,
) -> ThresholdCurve:
    """Score a decoder at every threshold there is; arguments and errors as for choose_threshold."""
    require_decoder(predictions.loss, decoder)
    match decoder:
        case "threshold" | "marginal":
            smooth_NT = clean_up(predictions.probability_NT, min_span_length, merge_gap)
            match objective:
                case "f1":
                    return sweep_bars(smooth_NT, truth.mask_NT)
                case "event_f1":
                    return sweep_events(smooth_NT, truth)
                case _:
                    assert_never(objective)
        case "score_margin":
            path_NT = clean_up(predictions.path_NT, min_span_length, merge_gap)
            return sweep_windows(predictions.margin_N, path_NT, truth, objective=objective)
        case "one_span":
            spans = best_spans(predictions.probability_NT, min_span_length)
            mask_NT = spans.mask(predictions.probability_NT.shape[1])
            return sweep_windows(spans.gain_N, mask_NT, truth, objective=objective)
        case "viterbi":
            raise ConfigError("viterbi has no threshold to sweep")
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


def csv_rows(bars: ThresholdCurve, spans: ThresholdCurve) -> Iterator[tuple[float, ...]]:
    """Yield rows under CSV_COLUMNS from sweeps of the same thresholds, ascending.

    Raises:
        ValueError: The thresholds differ.
    """
    if not np.array_equal(bars.threshold_D, spans.threshold_D):
        raise ValueError("the two sweeps were made at different thresholds")
    columns = [bars.threshold_D]
    for curve in (bars, spans):
        columns += [curve.precision_D, curve.recall_D, curve.f1_D]
    ascending = np.argsort(bars.threshold_D)
    for row in np.stack(columns, axis=1)[ascending].tolist():
        yield tuple(row)
