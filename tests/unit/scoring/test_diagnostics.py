"""Diagnostics on cases small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from jade_model.core.targets import Targets
from jade_model.scoring.diagnostics import head_errors, histogram, separation, type_scores
from jade_model.scoring.parts import Separation
from jade_model.scoring.predictions import Predictions

NUM_BARS = 40


def targets_of(spans: list[tuple[int, int] | None], types: list[int]) -> Targets:
    span_N2 = np.array([span or (-1, -1) for span in spans], dtype=np.int64)
    has_span_N = span_N2[:, 0] >= 0
    start_N, last_N = span_N2[:, 0], span_N2[:, 1] - 1
    bar_T = np.arange(NUM_BARS)
    mask_NT = (bar_T >= span_N2[:, :1]) & (bar_T < span_N2[:, 1:])
    pointers_N2 = np.stack([(start_N + last_N) / 2, last_N - start_N], axis=1) / NUM_BARS
    return Targets(
        in_span_NT=mask_NT.astype(np.float32),
        trust_N=np.ones(len(mask_NT), np.float32),
        pointers_N2=np.where(has_span_N[:, None], pointers_N2, 0).astype(np.float32),
        countdown_NT=np.clip(start_N[:, None] - bar_T, -20, 20).astype(np.float32),
        type_N=np.array(types, dtype=np.int64),
        span_N2=span_N2,
        num_spans_N=has_span_N.astype(np.int64),
        has_span_N=has_span_N,
    )


def predictions_of(targets: Targets, *, bars_off: float, type_probability: NDArray[np.float64]) -> Predictions:
    """Posterior readings are right, trained heads are off by some bars."""
    shape = targets.in_span_NT.shape
    return Predictions(
        loss="crf",
        temperature=1.0,
        probability_NT=np.zeros(shape),
        path_NT=np.zeros(shape, dtype=bool),
        margin_N=np.zeros(shape[0]),
        type_probability_N3=type_probability,
        pointers_N2=targets.pointers_N2 + np.array([bars_off, -2 * bars_off]) / NUM_BARS,
        countdown_NT=targets.countdown_NT.astype(np.float64) + bars_off / 2,
        posterior_pointers_N2=targets.pointers_N2.astype(np.float64),
        posterior_countdown_NT=targets.countdown_NT.astype(np.float64),
    )


def test_separation_is_the_difference_of_the_two_means() -> None:
    probability = np.array([[0.8, 0.6, 0.1], [0.2, 0.3, 0.1]])
    truth = np.array([[True, True, False], [False, False, True]])
    found = separation(probability, truth)
    assert (found.in_span_mean, found.out_of_span_mean) == pytest.approx((0.5, 0.2))
    assert found.separation == pytest.approx(0.3)


def test_separation_is_zero_for_a_model_that_says_the_same_of_every_bar() -> None:
    truth = np.eye(4, dtype=bool)
    assert separation(np.full((4, 4), 0.25), truth) == Separation(
        in_span_mean=0.25, out_of_span_mean=0.25, separation=0.0
    )


def test_without_bars_of_a_kind_there_is_no_separation() -> None:
    outside, inside = (separation(np.full((2, 3), 0.5), np.full((2, 3), value)) for value in (False, True))
    assert (outside.in_span_mean, outside.out_of_span_mean, outside.separation) == (None, 0.5, None)
    assert (inside.in_span_mean, inside.out_of_span_mean, inside.separation) == (0.5, None, None)


def test_histogram_counts_every_bar_once_edges_included() -> None:
    probability = np.array([[0.0, 0.05, 0.1, 0.999, 1.0, 1.0 + 1e-16, -1e-17]])
    truth = np.array([[False, False, True, True, True, False, False]])
    found = histogram(probability, truth, num_bins=10)
    assert found.in_span == [0, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found.out_of_span == [3, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    np.testing.assert_allclose(found.edges, np.linspace(0, 1, 11))


def test_head_errors_are_in_bars_and_only_over_windows_with_a_span() -> None:
    targets = targets_of([(10, 16), None, (30, 33)], [0, 1, -1])
    predictions = predictions_of(targets, bars_off=3.0, type_probability=np.eye(3))
    predictions.pointers_N2[1] += 7
    predictions.countdown_NT[1] += 7
    trained = head_errors(predictions.pointers_N2, predictions.countdown_NT, targets)
    assert trained.tolist() == pytest.approx((3, 6, 1.5), rel=1e-5)
    posterior = head_errors(predictions.posterior_pointers_N2, predictions.posterior_countdown_NT, targets)
    assert posterior.tolist() == [0, 0, 0]


def test_head_errors_refuse_other_windows() -> None:
    others = targets_of([(1, 2), (3, 5)], [0, 0])
    with pytest.raises(ValueError, match="countdowns have shape"):
        head_errors(np.zeros((1, 2)), np.zeros((1, NUM_BARS)), others)


def test_type_accuracy_ignores_windows_without_a_type() -> None:
    targets = targets_of([(1, 3)] * 5, [0, 0, 0, 1, -1])
    said = np.eye(3)[[0, 1, 0, 1, 2]]
    found = type_scores(predictions_of(targets, bars_off=0, type_probability=said), targets)
    assert found is not None
    assert (found.accuracy, found.majority_accuracy) == (0.75, 0.75)


def test_without_any_type_there_is_no_accuracy() -> None:
    targets = targets_of([(1, 3)], [-1])
    assert type_scores(predictions_of(targets, bars_off=0, type_probability=np.zeros((1, 3))), targets) is None
