"""Thresholds: exact sweeps over every distinct probability, against evaluating thresholds one by one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from benchmarks.harness import Measurement, elapsed, interleaved
from jade_model.scoring.decoding import best_spans
from jade_model.scoring.metrics import Truth, f1_of, span_counts_NJ3, truth_from_mask
from jade_model.scoring.thresholds import bar_curve, span_curve, threshold_grid

SMALL = (42, 105)
LARGE = (95_239, 105)
ONE_SPAN = (10_000, 105)

Probabilities = NDArray[np.float64]


def measure() -> list[Measurement]:
    """Compare on the seed's 42 validation windows and on 10 million bars; check that every fast path is exact."""
    # 10 million bars are 95,000 windows: a few seconds once a model are enough.
    return [bar_f1(SMALL, repeat=20, target_ratio=10), bar_f1(LARGE, repeat=1, max_s=5), *others()]


def bar_f1(shape: tuple[int, int], *, repeat: int, **mark: float) -> Measurement:
    """The best bar-level F1 over all thresholds, against the best of the original's nine."""
    probability_NT, truth = predicted_windows(shape)
    labels_I, probability_I = truth.mask_NT.ravel(), probability_NT.ravel()

    def peer() -> float:
        return max(float(f1_score(labels_I, probability_I >= threshold)) for threshold in threshold_grid())

    exact = bar_curve(probability_NT, truth.mask_NT).best()
    scored = f1_score(labels_I, probability_I >= exact.threshold)
    if abs(scored - exact.f1) >= 1e-12:
        raise AssertionError(f"the sweep's best F1 {exact.f1} is not what scikit-learn finds there, {scored}")
    ours_s, peer_s = interleaved(lambda: bar_curve(probability_NT, truth.mask_NT).best(), peer, repeat)
    return Measurement(
        f"best bar F1 over all thresholds, {labels_I.size:,} bars",
        ours_s,
        peer_s,
        "scikit-learn f1_score at nine thresholds",
        note=f"exact best {exact.f1:.4f}",
        **mark,
    )


def others() -> list[Measurement]:
    """Curves that score every threshold on the seed's 42 windows, and one-span decoding."""
    probability_NT, truth = predicted_windows(SMALL)
    event_s, one_by_one_s = interleaved(
        lambda: span_curve(probability_NT, truth), lambda: events_one_by_one(probability_NT, truth), repeat=3
    )
    curve, slow_D = span_curve(probability_NT, truth), events_one_by_one(probability_NT, truth)
    if not np.array_equal(curve.f1_D[1:], slow_D):
        raise AssertionError("the event sweep differs from re-evaluating each threshold")
    many_NT, _ = predicted_windows(ONE_SPAN)
    one_span_s = min(elapsed(lambda: best_spans(many_NT)) for _ in range(3))
    windows = f"{SMALL[0]} x {SMALL[1]}"
    return [
        Measurement(
            f"event F1 (IoU 0.5) over all thresholds, {windows}",
            event_s,
            one_by_one_s,
            "each threshold re-evaluated (vectorised over windows)",
            note=f"equal at all {curve.threshold_D.size - 1:,} thresholds",
            max_s=0.020,
        ),
        Measurement(f"one-span decoding, {ONE_SPAN[0]:,} x {ONE_SPAN[1]}", one_span_s),
    ]


def events_one_by_one(probability_NT: Probabilities, truth: Truth) -> NDArray[np.float64]:
    """Event F1 at every distinct probability, descending, each from a mask of its own."""
    scores = []
    for threshold in np.unique(probability_NT)[::-1]:
        marked_NT = probability_NT >= threshold
        counts = span_counts_NJ3(marked_NT, truth, (0.5,))
        scores.append(f1_of(counts.sum(axis=(0, 1))))
    return np.array(scores)


def predicted_windows(shape: tuple[int, int]) -> tuple[Probabilities, Truth]:
    """Windows with a span of 4 to 8 bars each, and probabilities of a model that half knows where."""
    rng = np.random.default_rng(17)
    length_N1 = rng.integers(4, 9, (shape[0], 1))
    start_N1 = rng.integers(0, shape[1] - 8, (shape[0], 1))
    bar_1T = np.arange(shape[1])[None]
    mask_NT = (bar_1T >= start_N1) & (bar_1T < start_N1 + length_N1)
    logit_NT = rng.normal(-1.5, 1.0, shape) + 2 * mask_NT
    return 1 / (1 + np.exp(-logit_NT)), truth_from_mask(mask_NT)
