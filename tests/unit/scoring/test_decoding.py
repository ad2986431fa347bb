"""Decoders and clean-up against slow truths."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from jade_model.core.config import LOSSES, Loss
from jade_model.core.errors import CheckpointError, ConfigError
from jade_model.scoring.decoding import (
    Cleanup,
    DecoderChoice,
    DecoderName,
    best_spans,
    clean_up,
    decode,
    decoders_of,
)
from jade_model.scoring.predictions import Predictions
from jade_model.scoring.trained import Decoding, load_decoding, save_decoding

Probabilities = NDArray[np.float64]
shapes = st.tuples(st.integers(1, 4), st.integers(1, 12))
# Few distinct values: ties are the hard part.
levels = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
probabilities = shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=levels))


def predictions_of(loss: Loss, probability: Probabilities, **changes: Any) -> Predictions:
    shape = probability.shape
    made = Predictions(
        loss=loss,
        temperature=1.0,
        probability_NT=probability,
        path_NT=probability > 0.5,
        margin_N=np.zeros(shape[0]),
        type_probability_N3=np.zeros((shape[0], 3)),
        pointers_N2=np.zeros((shape[0], 2)),
        countdown_NT=np.zeros(shape),
        posterior_pointers_N2=np.zeros((shape[0], 2)),
        posterior_countdown_NT=np.zeros(shape),
    )
    return dataclasses.replace(made, **changes)


def cleaned(row: list[bool], min_span_length: int, merge_gap: int) -> list[bool]:
    """Close gaps, then drop short runs, by hand."""
    runs = [(value, len(list(group))) for value, group in itertools.groupby(row)]
    inner = range(1, len(runs) - 1)
    runs = [(value or (index in inner and length <= merge_gap), length) for index, (value, length) in enumerate(runs)]
    closed = [value for value, length in runs for _ in range(length)]
    kept = [
        (value and length >= min_span_length, length)
        for value, length in ((v, len(list(g))) for v, g in itertools.groupby(closed))
    ]
    return [value for value, length in kept for _ in range(length)]


@given(probabilities, st.integers(1, 6), st.integers(0, 20), levels)
def test_cleaning_probabilities_and_thresholding_commute(
    probability: Probabilities, min_span_length: int, merge_gap: int, cutoff: float
) -> None:
    min_span_length = min(min_span_length, probability.shape[1])
    expected = [cleaned(row, min_span_length, merge_gap) for row in (probability >= cutoff).tolist()]
    cleanup = Cleanup(min_span_length, merge_gap)
    from_mask = clean_up(probability >= cutoff, cleanup)
    np.testing.assert_array_equal(from_mask, expected)
    np.testing.assert_array_equal(clean_up(probability, cleanup) >= cutoff, expected)
    assert from_mask.dtype == np.bool_


def test_gaps_at_the_edge_stay_open_and_gaps_close_before_short_runs_go() -> None:
    row = np.array([[False, True, False, True, False, False, True, False]])
    np.testing.assert_array_equal(clean_up(row, Cleanup(3, 1)), [[False, True, True, True, False, False, False, False]])


def test_a_gap_at_the_edge_makes_no_run_longer_however_much_is_closed() -> None:
    np.testing.assert_array_equal(clean_up(np.array([[True, False]]), Cleanup(2, 7)), [[False, False]])


@pytest.mark.parametrize("merge_gap", [9, 10, 500])
def test_a_gap_closes_up_to_its_exact_length_however_long(merge_gap: int) -> None:
    row = np.array([[True] + [False] * 10 + [True, False]])
    closed = clean_up(row, Cleanup(1, merge_gap))
    assert closed[0, :12].all() == (merge_gap >= 10)
    assert not closed[0, 12]


def expected_gain(row: Probabilities, start: int, end: int) -> float:
    mass, total = float(row[start:end].sum()), float(row.sum())
    whole = end - start + total
    return 2 * mass / whole


@given(probabilities, st.integers(1, 4))
def test_one_span_is_the_best_of_all_spans(probability: Probabilities, min_span_length: int) -> None:
    num_bars = probability.shape[1]
    min_span_length = min(min_span_length, num_bars)
    spans = best_spans(probability, min_span_length)
    for index, row in enumerate(probability):
        gains = {
            (start, start + length): expected_gain(row, start, start + length)
            for length in range(min_span_length, num_bars + 1)
            for start in range(num_bars - length + 1)
        }
        best = max(gains.values())
        assert spans.gain_N[index] == pytest.approx(best, abs=1e-12)
        if best == 0:
            assert spans.start_N[index] == spans.end_N[index]
        else:
            found = (int(spans.start_N[index]), int(spans.end_N[index]))
            assert gains[found] == pytest.approx(best, abs=1e-12)


def test_of_equal_spans_the_shortest_and_then_the_earliest_is_taken() -> None:
    spans = best_spans(np.array([[0.0, 1.0, 0.0, 1.0, 0.0]]))
    # One bar: 2 / (1 + 2). All three: 4 / (3 + 2), which is more. With a longer gap, one bar ties with
    # nothing else.
    assert (spans.start_N[0], spans.end_N[0]) == (1, 4)
    spans = best_spans(np.array([[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]]))
    assert (spans.start_N[0], spans.end_N[0]) == (1, 2)


def test_one_window_decodes_alike_alone_and_among_many() -> None:
    probability = np.random.default_rng(3).random((2000, 50)) ** 6
    together = best_spans(probability)
    alone = best_spans(probability[1234:1235])
    assert (alone.start_N[0], alone.end_N[0], alone.gain_N[0]) == (
        together.start_N[1234],
        together.end_N[1234],
        together.gain_N[1234],
    )


def test_f1_of_a_sharp_posterior_is_found_exactly() -> None:
    probability = np.zeros((1, 20))
    probability[0, 5:9] = 1
    spans = best_spans(probability)
    assert (spans.start_N[0], spans.end_N[0], spans.gain_N[0]) == (5, 9, 1.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_decoder_of_a_loss_decodes(loss: Loss) -> None:
    probability = np.array([[0.1, 0.9, 0.8, 0.2], [0.1, 0.2, 0.1, 0.0]])
    predictions = predictions_of(loss, probability, margin_N=np.array([2.0, 0.0]))
    for decoder in decoders_of(loss):
        choice = DecoderChoice(decoder, None if decoder == "viterbi" else 0.5)
        np.testing.assert_array_equal(
            decode(predictions, choice), [[False, True, True, False], [False] * 4], err_msg=decoder
        )


def test_a_path_below_the_margin_is_dropped_whole() -> None:
    probability = np.array([[0.9, 0.9, 0.1], [0.1, 0.9, 0.9]])
    predictions = predictions_of("crf", probability, margin_N=np.array([1.5, 3.0]))
    marked = decode(predictions, DecoderChoice("score_margin", 2.0))
    np.testing.assert_array_equal(marked, [[False] * 3, [False, True, True]])


def test_what_stands_at_the_threshold_is_marked() -> None:
    bars = predictions_of("soft_span", np.array([[0.25, 0.5, 0.75]]))
    assert decode(bars, DecoderChoice("threshold", 0.5)).tolist() == [[False, True, True]]
    whole = predictions_of("crf", np.zeros((1, 3)), path_NT=np.array([[False, True, True]]), margin_N=np.array([2.0]))
    assert decode(whole, DecoderChoice("score_margin", 2.0)).tolist() == [[False, True, True]]


def test_one_span_respects_the_shortest_length_and_its_cutoff() -> None:
    probability = np.array([[0.0, 0.0, 1.0, 0.0, 0.0], [0.0] * 5])
    predictions = predictions_of("soft_span", probability)
    marked = decode(predictions, DecoderChoice("one_span", 0.0, min_span_length=3))
    np.testing.assert_array_equal(marked, [[True, True, True, False, False], [False] * 5])
    assert not decode(predictions, DecoderChoice("one_span", 0.6, min_span_length=3)).any()


@pytest.mark.parametrize(("loss", "decoder"), [("soft_span", "marginal"), ("crf", "threshold")])
def test_a_decoder_of_another_loss_is_refused(loss: Loss, decoder: DecoderName) -> None:
    with pytest.raises(ConfigError, match=f"a {loss} model has no decoder '{decoder}'"):
        decode(predictions_of(loss, np.zeros((1, 4))), DecoderChoice(decoder, 0.5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoder": "best", "threshold": 0.5}, "choose one of"),
        ({"decoder": "viterbi", "threshold": 0.5}, "viterbi takes none"),
        ({"decoder": "threshold", "threshold": None}, "the others need one"),
        ({"decoder": "threshold", "threshold": float("nan")}, "finite"),
        ({"decoder": "threshold", "threshold": 0.5, "min_span_length": 0}, "at least 1"),
        ({"decoder": "threshold", "threshold": 0.5, "merge_gap": -1}, "not be negative"),
    ],
)
def test_a_bad_choice_is_refused_with_its_reason(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DecoderChoice(**settings)


def test_a_shortest_length_beyond_the_window_is_refused() -> None:
    for decoder in decoders_of("soft_span"):
        choice = DecoderChoice(decoder, None if decoder == "viterbi" else 0.5, min_span_length=5)
        with pytest.raises(ConfigError, match="5 bars, the windows have 4"):
            decode(predictions_of("soft_span", np.zeros((1, 4))), choice)


def test_decoding_files_of_old_are_read_and_unknown_gains_refused(tmp_path: Path) -> None:
    old = {"decoder": "one_span", "cutoff": 0.25, "min_span_length": 2, "merge_gap": 0, "gain": "f1"}
    path = tmp_path / "decoding.json"
    path.write_text(json.dumps({**old, "temperature": 1.5, "members": ["a.pt"]}))
    found = load_decoding(tmp_path)
    assert found == Decoding(DecoderChoice("one_span", 0.25, 2), 1.5, ("a.pt",))
    save_decoding(found, tmp_path)
    assert json.loads(path.read_text())["cutoff"] == 0.25
    path.write_text(json.dumps({**old, "gain": "iou", "temperature": 1.5, "members": ["a.pt"]}))
    with pytest.raises(CheckpointError, match="gain"):
        load_decoding(tmp_path)
