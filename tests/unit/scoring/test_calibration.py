"""Calibration on data whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.special import expit

from jade_model.scoring.calibration import (
    brier,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)

shapes = st.tuples(st.integers(1, 4), st.integers(1, 30))


def labelled_logits(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Logits that are right at temperature 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2, 2, (200, 100))
    return logits, rng.random(logits.shape) < expit(logits)


def test_brier_and_likelihood_agree_with_scikit_learn() -> None:
    from sklearn.metrics import brier_score_loss, log_loss

    logits, truth = labelled_logits()
    probability = expit(logits)
    assert brier(probability, truth) == pytest.approx(brier_score_loss(truth.ravel(), probability.ravel()))
    assert negative_log_likelihood(probability, truth) == pytest.approx(log_loss(truth.ravel(), probability.ravel()))


@given(shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=st.floats(0, 1))), st.integers(1, 20))
def test_equal_width_bins_are_those_of_a_loop_over_bars(probability: NDArray[np.float64], num_bins: int) -> None:
    truth = np.random.default_rng(probability.size).random(probability.shape) < probability
    edges = np.linspace(0, 1, num_bins + 1)
    members: dict[int, list[tuple[float, bool]]] = {}
    for value, label in zip(probability.ravel().tolist(), truth.ravel().tolist(), strict=True):
        index = next(k for k in range(num_bins) if value < edges[k + 1] or k == num_bins - 1)
        members.setdefault(index, []).append((value, label))
    bins = reliability(probability, truth, num_bins=num_bins)
    assert [item.num_bars for item in bins] == [len(members[k]) for k in sorted(members)]
    distance = 0.0
    for item, index in zip(bins, sorted(members), strict=True):
        mean, rate = np.mean(members[index], axis=0)
        assert (item.mean_probability, item.observed_rate) == pytest.approx((mean, rate))
        assert (item.lower, item.upper) == (edges[index], edges[index + 1])
        distance += item.num_bars / probability.size * abs(mean - rate)
    assert expected_calibration_error(probability, truth, num_bins=num_bins) == pytest.approx(distance)


def test_honest_probabilities_have_a_small_error_and_inflated_ones_a_large() -> None:
    logits, truth = labelled_logits()
    assert expected_calibration_error(expit(logits), truth) < 0.01
    assert expected_calibration_error(expit(logits + 2), truth) > 0.15


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_the_temperature_that_made_the_logits_too_sharp_is_found(temperature: float) -> None:
    logits, truth = labelled_logits()
    sharp = logits / temperature
    best = min(
        np.exp(np.linspace(-3, 3, 1501)),
        key=lambda value: negative_log_likelihood(expit(sharp[:20] / value), truth[:20]),
    )
    found = fit_temperature(lambda value: expit(sharp[:20] / value), truth[:20])
    assert found == pytest.approx(best, rel=4e-3)
    assert fit_temperature(lambda value: expit(sharp / value), truth) == pytest.approx(1 / temperature, rel=0.05)


def test_temperature_survives_saturated_and_wrong_probabilities() -> None:
    truth = np.array([[True, False, True, False]])

    def probability_at(temperature: float) -> NDArray[np.float64]:
        return np.asarray(expit(np.array([[4000.0, -4000.0, -3000.0, -4000.0]]) / temperature))

    found = fit_temperature(probability_at, truth)
    assert math.isfinite(found)
    assert 0.05 <= found <= 20.001
    assert math.isfinite(negative_log_likelihood(probability_at(found), truth))


def test_where_temperature_changes_nothing_it_stays_one() -> None:
    assert fit_temperature(lambda _: np.full((2, 3), 0.5), np.eye(2, 3, dtype=bool)) == 1.0


def test_the_lower_of_two_valleys_is_found() -> None:
    truth = np.ones((1, 1), dtype=bool)

    def probability_at(temperature: float) -> NDArray[np.float64]:
        log_temperature = math.log(temperature)
        valley = 0.6 * math.exp(-((log_temperature + 2) ** 2)) + 0.9 * math.exp(-((log_temperature - 2) ** 2))
        return np.array([[valley]])

    assert math.log(fit_temperature(probability_at, truth)) == pytest.approx(2, abs=0.01)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        brier(np.zeros((1, 2)), np.zeros((2, 1), dtype=bool))
    with pytest.raises(ValueError, match="no bar"):
        negative_log_likelihood(np.zeros((0, 2)), np.zeros((0, 2), dtype=bool))
    with pytest.raises(ValueError, match="not in 0 to 1"):
        reliability(np.array([[1.5]]), np.array([[True]]))
    with pytest.raises(ValueError, match="num_bins"):
        reliability(np.array([[0.5]]), np.array([[True]]), num_bins=0)
    with pytest.raises(ValueError, match="not a number"):
        fit_temperature(lambda _: np.array([[np.nan]]), np.array([[True]]))


@pytest.mark.parametrize("score", [brier, negative_log_likelihood])
def test_a_probability_that_is_not_a_number_has_no_score(score: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match="not a number"):
        score(np.array([[0.2, np.nan]]), np.array([[True, False]]))
