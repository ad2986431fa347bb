"""One trained model on its split: temperature and thresholds from windows that it may learn from, scores on the others.

Legend: N windows, T bars, Q selection windows, M scored windows, S seeds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from jade_model.core.windows import Windows
from jade_model.data.splits import Split
from jade_model.scoring.baselines import MOVE_UNITS, MoveUnit, choose_move_length, mark_largest_move
from jade_model.scoring.calibration import fit_temperature
from jade_model.scoring.decoding import Cleanup, DecoderChoice, DecoderName, decode, decoders_of
from jade_model.scoring.metrics import Counts, ScoredRows, Truth, count, truth_of
from jade_model.scoring.predict import Predictor, posterior, run_network
from jade_model.scoring.predictions import Predictions
from jade_model.scoring.thresholds import ThresholdCurve, choose_threshold, threshold_curve


@dataclass(frozen=True, eq=False)
class FoldEvaluation:
    """One trained model (or ensemble) on the windows that its split holds out.

    Attributes:
        seed: Of the training.
        fold: 0-based.
        rows_M: Scored rows of the data set, ascending, intp.
        temperature: Fitted on the selection windows.
        choices: Decoder -> how it decodes, its threshold chosen on the selection windows.
        curves: Decoder -> bar-level scores at every threshold, on the selection windows; none for Viterbi.
        predictions: On the scored windows.
        predicted: Decoder -> marked bars, bool [M, T].
        counts: Decoder -> hits and misses of each scored window.
        untrained: Decoder -> the same for the model before its first step, its threshold chosen in the same way.
        seconds: That the evaluation took.
    """

    seed: int
    fold: int
    rows_M: NDArray[np.intp]
    temperature: float
    choices: Mapping[DecoderName, DecoderChoice]
    curves: Mapping[DecoderName, ThresholdCurve]
    predictions: Predictions
    predicted: Mapping[DecoderName, NDArray[np.bool_]]
    counts: Mapping[DecoderName, Counts]
    untrained: Mapping[DecoderName, Counts]
    seconds: float


@dataclass(frozen=True, eq=False)
class DataEvaluation:
    """All folds and seeds of one arm on one data set.

    Attributes:
        windows: The data set.
        truth: Its labels.
        folds: In the order of seeds, then folds.
    """

    windows: Windows
    truth: Truth
    folds: Sequence[FoldEvaluation] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class FoldCounts(ScoredRows):
    """What one trained model got right and wrong by one decoder, and no more.

    Attributes:
        temperature: Fitted on the selection windows.
        choice: How it decodes, its threshold chosen on the selection windows.
    """

    temperature: float
    choice: DecoderChoice


def selection_rows(split: Split) -> NDArray[np.intp]:
    """Return the rows on which temperature and thresholds are chosen: never scored ones, but in the seed's leaky split.

    A single hold-out split has enough validation windows of its own. A fold's are few: there all windows that are not
    scored serve, as the model is chosen by nothing else.
    """
    match split.kind:
        case "holdout" | "seed":
            return split.validation_rows
        case "fold":
            return np.sort(np.concatenate([split.train_rows, split.validation_rows]))
        case _:
            assert_never(split.kind)


def evaluate_fold(
    predictor: Predictor,
    untrained: Predictions,
    windows: Windows,
    split: Split,
    *,
    cleanup: Cleanup,
) -> FoldEvaluation:
    """Fit temperature and thresholds on the selection windows, and score the held-out ones.

    Args:
        predictor: The trained model or ensemble.
        untrained: What a model before its first step says of all windows: the same for every fold of a seed.
        windows: The data set.
        split: The one that the model was trained on.
        cleanup: What happens to marked bars.
    """
    started = time.monotonic()
    truth = truth_of(windows)
    chosen_on, scored = selection_rows(split), np.sort(split.test_rows)
    known, scored_truth = truth.take(chosen_on), truth.take(scored)
    temperature, on_selection, on_scored = calibrated(predictor, windows, truth, chosen_on, scored)
    curves: dict[DecoderName, ThresholdCurve] = {
        name: threshold_curve(on_selection, known, name, cleanup)
        for name in decoders_of(on_selection.loss)
        if name != "viterbi"
    }
    choices = choose_decoders(on_selection, known, cleanup, curves)
    predicted = {name: decode(on_scored, choice) for name, choice in choices.items()}
    before_choices, before = choose_decoders(untrained.take(chosen_on), known, cleanup), untrained.take(scored)
    return FoldEvaluation(
        seed=split.seed,
        fold=split.fold,
        rows_M=scored,
        temperature=temperature,
        choices=choices,
        curves=curves,
        predictions=on_scored,
        predicted=predicted,
        counts={name: count(mask_MT, scored_truth) for name, mask_MT in predicted.items()},
        untrained={name: count(decode(before, choice), scored_truth) for name, choice in before_choices.items()},
        seconds=time.monotonic() - started,
    )


def score_fold(
    predictor: Predictor, windows: Windows, truth: Truth, split: Split, decoder: DecoderName, *, cleanup: Cleanup
) -> FoldCounts:
    """Fit temperature and threshold on the selection windows, and score the held-out ones: `evaluate_fold` in short.

    Args:
        predictor: The trained model or ensemble.
        windows: The data set.
        truth: Its labels.
        split: The one that the model was trained on.
        decoder: One that the model's loss has.
        cleanup: What happens to marked bars.
    """
    chosen_on, scored = selection_rows(split), np.sort(split.test_rows)
    temperature, on_selection, on_scored = calibrated(predictor, windows, truth, chosen_on, scored)
    choice = _chosen(on_selection, truth.take(chosen_on), decoder, cleanup)
    counts = count(decode(on_scored, choice), truth.take(scored))
    return FoldCounts(split.seed, scored, counts, temperature, choice)


def choose_decoders(
    predictions: Predictions,
    truth: Truth,
    cleanup: Cleanup,
    curves: Mapping[DecoderName, ThresholdCurve] = MappingProxyType({}),
) -> dict[DecoderName, DecoderChoice]:
    """Choose the threshold of every decoder that the loss has, each by bar-level F1 on these windows.

    The threshold of one span rejects whole windows. Where no window is without a span, it could only follow how sure a
    model is of windows that it was fitted on, so every window's span is taken.
    """
    return {
        name: _chosen(predictions, truth, name, cleanup, curves.get(name)) for name in decoders_of(predictions.loss)
    }


def _chosen(
    predictions: Predictions, truth: Truth, name: DecoderName, cleanup: Cleanup, curve: ThresholdCurve | None = None
) -> DecoderChoice:
    has_empty_window = bool((np.diff(truth.span_offsets_N1) == 0).any())
    if name == "one_span" and not has_empty_window:
        return DecoderChoice(name, 0.0, cleanup.min_span_length, cleanup.merge_gap)
    return choose_threshold(predictions, truth, name, cleanup, curve=curve)


def evaluate_rule(windows: Windows, splits: Sequence[Split]) -> tuple[list[ScoredRows], float]:
    """Score the best untrained rule (mark the largest move) on the same splits.

    How many bars a move spans, and whether moves are compared in price or in units of the range before them, is chosen
    on each split's selection windows.

    Returns:
        What it got right and wrong in each split; and the mean length marked, in bars.
    """
    truth = truth_of(windows)
    scored, lengths = [], []
    for split in splits:
        length, unit = _best_rule(windows, truth, selection_rows(split))
        rows = np.sort(split.test_rows)
        marked_MT = mark_largest_move(windows.bars_NT4[rows], length, unit=unit)
        scored.append(ScoredRows(split.seed, rows, count(marked_MT, truth.take(rows))))
        lengths.append(length)
    return scored, float(np.mean(lengths))


def _best_rule(windows: Windows, truth: Truth, rows: NDArray[np.intp]) -> tuple[int, MoveUnit]:
    bars_QT4, known = windows.bars_NT4[rows], truth.take(rows)
    rules = [(choose_move_length(bars_QT4, known, unit=unit), unit) for unit in MOVE_UNITS]
    f1 = [count(mark_largest_move(bars_QT4, length, unit=unit), known).scores().f1 for length, unit in rules]
    return rules[int(np.argmax(f1))]


def calibrated(
    predictor: Predictor,
    windows: Windows,
    truth: Truth,
    chosen_on: NDArray[np.intp],
    scored: NDArray[np.intp],
) -> tuple[float, Predictions, Predictions]:
    """Fit the temperature on some windows.

    Args:
        predictor: The trained model or ensemble.
        windows: The data set.
        truth: Its labels.
        chosen_on: Rows that the temperature is fitted on.
        scored: Other rows, for predictions alone.

    Returns:
        The temperature, and the predictions at it: on the rows that it was fitted on, and on the others.
    """
    output = run_network(predictor, windows.bars_NT4[chosen_on])
    temperature = fit_temperature(
        lambda value: posterior(output, value).probability_NT, truth.mask_NT[chosen_on], tolerance=0.02
    )
    on_scored = posterior(run_network(predictor, windows.bars_NT4[scored]), temperature)
    return temperature, posterior(output, temperature), on_scored
