from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.training_windows import random_windows
from hypothesis import given
from hypothesis import strategies as st

from jade_model.core.targets import IGNORED_TYPE, build_targets
from jade_model.core.windows import NO_TYPE

LENGTH = 24

rows_of_spans = st.lists(
    st.lists(st.integers(0, LENGTH), unique=True, max_size=6)
    .map(sorted)
    .map(lambda edges: list(zip(edges[::2], edges[1::2], strict=False))),
    min_size=1,
    max_size=6,
)


@given(spans=rows_of_spans)
def test_all_targets_are_those_of_the_slow_definition(spans: list[list[tuple[int, int]]]) -> None:
    windows = random_windows(len(spans), LENGTH, spans_of=spans)
    targets = build_targets(windows)
    for row, of_row in enumerate(spans):
        mask = [float(any(start <= bar < end for start, end in of_row)) for bar in range(LENGTH)]
        assert targets.in_span_NT[row].tolist() == mask
        assert targets.num_spans_N[row] == len(of_row)
        assert targets.has_span_N[row] == bool(of_row)
        if not of_row:
            assert targets.span_N2[row].tolist() == [-1, -1]
            assert targets.pointers_N2[row].tolist() == [0, 0]
            assert set(targets.countdown_NT[row]) == {20}
            continue
        start, end = max(of_row, key=lambda span: (span[1] - span[0], -span[0]))
        last = end - 1
        assert targets.span_N2[row].tolist() == [start, end]
        assert targets.pointers_N2[row] == pytest.approx([(start + last) / 2 / LENGTH, (last - start) / LENGTH])
        assert targets.countdown_NT[row].tolist() == [max(-20, min(20, start - bar)) for bar in range(LENGTH)]


def test_the_originals_formulas_hold_for_a_window_of_105_bars() -> None:
    # Bars 40 to 46, both inclusive, as the original's files have it.
    targets = build_targets(random_windows(1, 105, spans_of=[[(40, 47)]]))
    assert targets.pointers_N2[0] == pytest.approx([43 / 105, 6 / 105])
    assert targets.in_span_NT[0].sum() == 7
    assert targets.countdown_NT[0, [0, 30, 40, 104]].tolist() == [20, 10, 0, -20]


def test_labels_are_trusted_by_the_product_of_visible_share_and_quality() -> None:
    windows = random_windows(5, LENGTH, spans_of=[[(2, 6)]] * 5)
    windows = replace(
        windows,
        overlap_fraction_N=np.array([1.0, 0.5, 0.5, 1.0, 0.3]),
        quality_N=np.array(["auto", "auto", "Low ", "medium", "never heard of"]),
    )
    assert build_targets(windows).trust_N == pytest.approx([1.0, 0.5, 0.3, 0.8, 0.3])


def test_a_type_that_is_not_given_is_ignored() -> None:
    windows = replace(random_windows(3, LENGTH), type_N=np.array([2, NO_TYPE, 0]))
    assert build_targets(windows).type_N.tolist() == [2, IGNORED_TYPE, 0]


def test_targets_have_the_dtypes_that_training_takes() -> None:
    targets = build_targets(random_windows(2, LENGTH))
    for name in ("in_span_NT", "trust_N", "pointers_N2", "countdown_NT"):
        assert getattr(targets, name).dtype == np.float32
    for name in ("type_N", "span_N2", "num_spans_N"):
        assert getattr(targets, name).dtype == np.int64
    assert targets.has_span_N.dtype == np.bool_
