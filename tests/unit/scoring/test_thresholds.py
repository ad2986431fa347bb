"""Curves against re-evaluation at every threshold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from jade_model.core.config import Loss
from jade_model.core.errors import ConfigError
from jade_model.scoring.components import components
from jade_model.scoring.decoding import Cleanup, DecoderName, clean_up, decode, decoders_of
from jade_model.scoring.metrics import (
    Truth,
    bar_counts_N3,
    f1_of,
    precision_of,
    recall_of,
    span_counts_NJ3,
    spans_from_mask,
    truth_from_mask,
)
from jade_model.scoring.parts import Metric
from jade_model.scoring.predictions import Predictions
from jade_model.scoring.thresholds import (
    ThresholdCurve,
    bar_curve,
    choose_threshold,
    span_curve,
    threshold_curve,
    threshold_grid,
)

Probabilities = NDArray[np.float64]
levels = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Probabilities, Truth]:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 11)))
    elements = draw(st.sampled_from([levels, st.floats(0, 1), st.just(0.3)]))
    mask = draw(hnp.arrays(bool, shape, elements=draw(st.sampled_from([st.booleans(), st.just(False)]))))
    truth = truth_from_mask(mask)
    if draw(st.booleans()):
        truth = split_longest(truth)
    return draw(hnp.arrays(np.float64, shape, elements=elements)), truth


def split_longest(truth: Truth) -> Truth:
    """Part the longest span in two that touch, which a mask can't say."""
    lengths = truth.spans_S2[:, 1] - truth.spans_S2[:, 0]
    if lengths.size == 0 or lengths.max() < 2:
        return truth
    index = int(lengths.argmax())
    start, end = truth.spans_S2[index]
    parts = [[start, (start + end) // 2], [(start + end) // 2, end]]
    spans = np.concatenate([truth.spans_S2[:index], parts, truth.spans_S2[index + 1 :]]).astype(np.int64)
    offsets = truth.span_offsets_N1 + (truth.span_offsets_N1 > index)
    return Truth(truth.mask_NT, offsets, spans)


def predictions_of(loss: Loss, probability: Probabilities, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    num_windows, num_bars = probability.shape
    path = probability > 0.4
    return Predictions(
        loss=loss,
        temperature=1.0,
        probability_NT=probability,
        path_NT=path,
        margin_N=np.where(path.any(axis=1), rng.integers(0, 4, num_windows).astype(float), 0.0),
        type_probability_N3=np.zeros((num_windows, 3)),
        pointers_N2=np.zeros((num_windows, 2)),
        countdown_NT=np.zeros((num_windows, num_bars)),
        posterior_pointers_N2=np.zeros((num_windows, 2)),
        posterior_countdown_NT=np.zeros((num_windows, num_bars)),
    )


def slow_f1(marked: NDArray[np.bool_], truth: Truth, metric: Metric) -> float:
    match metric:
        case "f1":
            return float(f1_of(bar_counts_N3(marked, truth.mask_NT).sum(axis=0)))
        case "span_f1_iou50":
            counts = span_counts_NJ3(marked, truth, (0.5,))
            return float(f1_of(counts.sum(axis=(0, 1))))


def assert_is_exact(curve: ThresholdCurve, probability: Probabilities) -> None:
    """The curve holds every distinct value once, descending, below one point that marks nothing."""
    distinct = np.unique(probability)[::-1]
    np.testing.assert_array_equal(curve.threshold_D[1:], distinct)
    assert curve.threshold_D[0] == np.nextafter(distinct[0], np.inf)


@given(cases())
def test_bar_curve_equals_reevaluating_every_threshold(case: tuple[Probabilities, Truth]) -> None:
    probability, truth = case
    curve = bar_curve(probability, truth.mask_NT)
    assert_is_exact(curve, probability)
    for index, threshold in enumerate(curve.threshold_D):
        counts = bar_counts_N3(probability >= threshold, truth.mask_NT).sum(axis=0)
        assert curve.f1_D[index] == f1_of(counts)
        assert curve.precision_D[index] == precision_of(counts)
        assert curve.recall_D[index] == recall_of(counts)


@given(cases())
def test_span_curve_equals_reevaluating_every_threshold(case: tuple[Probabilities, Truth]) -> None:
    probability, truth = case
    curve = span_curve(probability, truth)
    assert_is_exact(curve, probability)
    for index, threshold in enumerate(curve.threshold_D):
        marked = probability >= threshold
        counts = span_counts_NJ3(marked, truth, (0.5,)).sum(axis=(0, 1))
        assert curve.f1_D[index] == f1_of(counts)
        assert curve.precision_D[index] == precision_of(counts)
        assert curve.recall_D[index] == recall_of(counts)


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 17)).flatmap(
        lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(0, 6))
    )
)
def test_components_are_the_runs_of_every_level_once(level: NDArray[np.int64]) -> None:
    found = components(level)
    for cutoff in range(8):
        stands = (found.death_C < cutoff) & (cutoff <= found.birth_C)
        runs = sorted(zip(found.row_C[stands], found.start_C[stands], found.end_C[stands], strict=True))
        assert runs == list(zip(*spans_from_mask(level >= cutoff), strict=True))


def test_components_are_found_in_pieces_like_in_one() -> None:
    level = np.random.default_rng(0).integers(0, 50, (3000, 100))
    found = components(level)
    stands = (found.death_C < 25) & (found.birth_C >= 25)
    assert int(stands.sum()) == spans_from_mask(level >= 25)[0].size
    assert found.row_C.max() == 2999


@pytest.mark.parametrize("nan", [np.nan, -np.nan])
def test_nan_of_either_sign_is_refused(nan: float) -> None:
    probability = np.linspace(0, 1, 5)[None]
    probability[0, 1] = nan
    truth = probability > 0.5
    with pytest.raises(ValueError, match="not a number"):
        bar_curve(probability, truth)
    with pytest.raises(ValueError, match="not a number"):
        span_curve(probability, truth_from_mask(truth))


def test_the_curve_of_bars_agrees_with_scikit_learns_curve() -> None:
    from sklearn.metrics import precision_recall_curve

    rng = np.random.default_rng(11)
    truth = rng.random((60, 40)) < 0.1
    probability = np.asarray(np.round(rng.random((60, 40)) * 0.7 + 0.3 * truth, 3), dtype=np.float64)
    precision, recall, thresholds = precision_recall_curve(truth.ravel(), probability.ravel())
    curve = bar_curve(probability, truth)
    # scikit-learn ascends and ends with a point that marks nothing, of precision 1.
    np.testing.assert_array_equal(curve.threshold_D[1:], thresholds[::-1])
    np.testing.assert_allclose(curve.precision_D[1:], precision[-2::-1], rtol=1e-15)
    np.testing.assert_allclose(curve.recall_D[1:], recall[-2::-1], rtol=1e-15)
    f1 = 2 * precision * recall / (precision + recall)
    assert curve.best().f1 == pytest.approx(f1[:-1].max(), rel=1e-14)
    assert curve.best().threshold == thresholds[f1[:-1].argmax()]


@given(
    cases(),
    st.sampled_from(["soft_span", "crf"]),
    st.sampled_from(["f1", "span_f1_iou50"]),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_the_chosen_threshold_is_as_good_as_any(
    case: tuple[Probabilities, Truth], loss: Loss, metric: Metric, min_span_length: int, merge_gap: int
) -> None:
    probability, truth = case
    min_span_length = min(min_span_length, probability.shape[1])
    predictions = predictions_of(loss, probability)
    for decoder in decoders_of(loss):
        if decoder == "viterbi":
            continue
        settings = {"metric": metric, "cleanup": Cleanup(min_span_length, merge_gap)}
        choice = choose_threshold(predictions, truth, decoder, **settings)  # type: ignore[arg-type]
        curve = threshold_curve(predictions, truth, decoder, **settings)  # type: ignore[arg-type]
        reached = slow_f1(decode(predictions, choice), truth, metric)
        assert reached == pytest.approx(curve.f1_D.max(), abs=2e-12)
        for threshold, f1 in zip(curve.threshold_D, curve.f1_D, strict=True):
            tried = type(choice)(decoder, float(threshold), min_span_length, merge_gap)
            assert slow_f1(decode(predictions, tried), truth, metric) == pytest.approx(f1, abs=2e-12)


def test_a_threshold_lies_half_way_to_the_next_smaller_value() -> None:
    probability = np.array([[0.1, 0.8, 0.6, 0.2]])
    truth = truth_from_mask(np.array([[False, True, True, False]]))
    choice = choose_threshold(predictions_of("soft_span", probability), truth, "threshold")
    assert choice.threshold == pytest.approx(0.4)


def test_where_marking_everything_is_best_the_threshold_is_zero() -> None:
    probability = np.array([[0.5, 0.8, 0.6]])
    truth = truth_from_mask(np.ones((1, 3), dtype=bool))
    assert choose_threshold(predictions_of("crf", probability), truth, "marginal").threshold == 0
    assert choose_threshold(predictions_of("crf", probability), truth, "one_span").threshold == 0


def test_neighbouring_floats_still_part() -> None:
    low = 0.5
    high = np.nextafter(low, 1)
    truth = truth_from_mask(np.array([[True, False]]))
    predictions = predictions_of("soft_span", np.array([[high, low]]))
    choice = choose_threshold(predictions, truth, "threshold")
    np.testing.assert_array_equal(decode(predictions, choice), truth.mask_NT)


def test_an_infinite_margin_gets_a_finite_threshold() -> None:
    truth = truth_from_mask(np.array([[True, True], [False, True], [False, False]]))
    margin = np.array([np.inf, 2.0, 1.0])
    for labels in (truth, truth.take(np.array([0, 2, 2]))):
        path = np.ones((3, 2), dtype=bool)
        predictions = dataclasses.replace(predictions_of("crf", path * 0.9), path_NT=path, margin_N=margin)
        choice = choose_threshold(predictions, labels, "score_margin", metric="span_f1_iou50")
        expected = threshold_curve(predictions, labels, "score_margin", metric="span_f1_iou50").f1_D.max()
        assert slow_f1(decode(predictions, choice), labels, "span_f1_iou50") == expected


def test_where_nothing_is_labelled_nothing_is_marked() -> None:
    probability = np.random.default_rng(0).random((3, 8))
    truth = truth_from_mask(np.zeros((3, 8), dtype=bool))
    for metric in ("f1", "span_f1_iou50"):
        predictions = predictions_of("soft_span", probability)
        for decoder in ("threshold", "one_span"):
            choice = choose_threshold(predictions, truth, decoder, metric=metric)
            assert not decode(predictions, choice).any()


def test_of_equally_good_thresholds_the_largest_is_best() -> None:
    curve = ThresholdCurve(*np.array([[0.9, 0.7, 0.5], [0, 1, 1], [0, 1, 1], [0.2, 0.6, 0.6]]))
    assert curve.best().threshold == 0.7


def test_viterbi_has_no_threshold() -> None:
    predictions = predictions_of("crf", np.full((2, 5), 0.7))
    truth = truth_from_mask(np.ones((2, 5), dtype=bool))
    assert choose_threshold(predictions, truth, "viterbi", Cleanup(2)).threshold is None
    with pytest.raises(ConfigError, match="no threshold"):
        threshold_curve(predictions, truth, "viterbi")


@given(cases(), st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=6))
def test_a_curve_knows_every_threshold_between_its_points(
    case: tuple[Probabilities, Truth], thresholds: list[float]
) -> None:
    probability, truth = case
    at = bar_curve(probability, truth.mask_NT).at(np.array(thresholds))
    np.testing.assert_array_equal(at.threshold_D, thresholds)
    for threshold, f1 in zip(thresholds, at.f1_D, strict=True):
        assert f1 == slow_f1(probability >= threshold, truth, "f1")


def test_the_default_grid_is_the_originals() -> None:
    assert threshold_grid().tolist() == [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7]
    assert threshold_grid(0.2, 0.5, 0.2).tolist() == [0.2, 0.4]
    assert threshold_grid(0.4, 0.4).tolist() == [0.4]


@pytest.mark.parametrize("grid", [(0.7, 0.3, 0.05), (0.3, 0.7, 0.0), (0.3, float("inf"), 0.1)])
def test_an_empty_or_endless_grid_is_refused(grid: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="threshold grid"):
        threshold_grid(*grid)


def test_a_thinned_curve_keeps_its_ends_and_its_best() -> None:
    rng = np.random.default_rng(2)
    curve = bar_curve(rng.random((20, 50)), rng.random((20, 50)) < 0.1)
    thin = curve.thinned(50)
    assert thin.threshold_D.size <= 50
    assert thin.best().f1 == curve.best().f1
    assert thin.threshold_D[[0, -1]].tolist() == curve.threshold_D[[0, -1]].tolist()


@pytest.mark.parametrize("decoder", ["threshold", "one_span"])
def test_no_windows_other_shapes_and_nan_are_refused(decoder: DecoderName) -> None:
    truth = truth_from_mask(np.zeros((1, 4), dtype=bool))
    none = truth.take(np.array([], dtype=np.intp))
    with pytest.raises(ValueError, match="nothing to choose"):
        choose_threshold(predictions_of("soft_span", np.zeros((0, 4))), none, decoder)
    with pytest.raises(ValueError, match="shape"):
        choose_threshold(predictions_of("soft_span", np.zeros((2, 4))), truth, decoder)
    wrong = predictions_of("soft_span", np.array([[0.1, np.nan, 0.2, 0.3]]))
    for metric in ("f1", "span_f1_iou50"):
        with pytest.raises(ValueError, match="not a number"):
            choose_threshold(wrong, truth, decoder, metric=metric)


def test_curves_of_cleaned_probabilities_equal_cleaning_every_mask() -> None:
    rng = np.random.default_rng(8)
    probability, truth = rng.random((10, 40)), truth_from_mask(rng.random((10, 40)) < 0.2)
    curve = threshold_curve(predictions_of("soft_span", probability), truth, "threshold", Cleanup(3, 2))
    for threshold in np.unique(probability)[::17]:
        marked = clean_up(probability >= threshold, Cleanup(3, 2))
        assert curve.at(np.array([threshold])).f1_D[0] == slow_f1(marked, truth, "f1")


def test_a_threshold_is_finite_whatever_the_scores() -> None:
    truth = np.array([[True, True, False]])
    for scores in ([np.inf, np.inf, -np.inf], [1.0, 1.0, -np.inf], [-np.inf, -np.inf, -np.inf], [np.inf, 2.0, 1.0]):
        probability = np.array([scores])
        best = bar_curve(probability, truth).best()
        assert np.isfinite(best.chosen) or best.threshold == -np.inf
        marked = probability >= best.chosen
        assert marked.tolist() == (probability >= best.threshold).tolist()
