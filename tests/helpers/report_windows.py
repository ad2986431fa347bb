"""Made-up windows with a span each, what models might say of them, and what that scores.

Legend: N windows, T bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jade_model.report import Curve, GalleryWindow
from jade_model.report.inputs import GalleryKind

T = 105


@dataclass(frozen=True)
class Made:
    """Windows with spans and bars."""

    bars_NT4: NDArray[np.float64]
    spans: list[tuple[int, int]]
    truth_NT: NDArray[np.bool_]


def make_windows(rng: np.random.Generator, num_windows: int) -> Made:
    step_NT = rng.normal(0, 0.15, (num_windows, T))
    spans = []
    truth_NT = np.zeros((num_windows, T), dtype=bool)
    for row in range(num_windows):
        start = int(rng.integers(5, T - 16))
        end = start + int(rng.integers(4, 10))
        spans.append((start, end))
        truth_NT[row, start:end] = True
        step_NT[row, start:end] += rng.choice([-1, 1]) * rng.uniform(0.4, 0.9)
    close_NT = 100 + np.cumsum(step_NT, axis=1)
    open_NT = np.concatenate([np.full((num_windows, 1), 100.0), close_NT[:, :-1]], axis=1)
    wick_NT2 = np.abs(rng.normal(0, 0.1, (num_windows, T, 2)))
    high_NT = np.maximum(open_NT, close_NT) + wick_NT2[..., 0]
    low_NT = np.minimum(open_NT, close_NT) - wick_NT2[..., 1]
    return Made(np.stack([open_NT, high_NT, low_NT, close_NT], axis=-1), spans, truth_NT)


def make_probabilities(rng: np.random.Generator, made: Made, skill: float, sharpness: float) -> NDArray[np.float64]:
    """A hump that mostly sits on the span, and sometimes on another place."""
    num_windows = len(made.spans)
    p_NT: NDArray[np.float64] = np.full((num_windows, T), 0.02)
    t = np.arange(T)
    for row, (start, end) in enumerate(made.spans):
        is_right = rng.random() < 1 - np.exp(-skill / 2.2)
        centre = (start + end - 1) / 2 if is_right else rng.uniform(6, T - 6)
        width = (end - start) / 2 + rng.normal(0, 0.5)
        hump = 1 / (1 + np.exp((np.abs(t - centre - rng.normal(0, 0.4)) - width) * 2.2))
        p_NT[row] += sharpness * rng.uniform(0.6, 1.5) * hump
    p_NT += np.abs(rng.normal(0, 0.015, p_NT.shape))
    return np.asarray(np.clip(p_NT, 1e-4, 0.985), dtype=np.float64)


def flat_probabilities(rng: np.random.Generator, made: Made, level: float) -> NDArray[np.float64]:
    return np.clip(level + rng.normal(0, 0.006, made.truth_NT.shape), 1e-4, 1).astype(np.float64)


def bar_scores(marked: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    hits = float((marked & truth).sum())
    precision = hits / marked.sum() if marked.any() else 0.0
    recall = hits / truth.sum() if truth.any() else 0.0
    f1 = 2 * hits / max(float(marked.sum() + truth.sum()), 1.0)
    return {"f1": f1, "precision": float(precision), "recall": float(recall)}


def sweep(p_NT: NDArray[np.float64], truth_NT: NDArray[np.bool_]) -> Curve:
    cutoffs = np.linspace(0.005, 0.97, 194)
    scores = [bar_scores(p_NT >= cutoff, truth_NT) for cutoff in cutoffs]
    f1 = np.array([s["f1"] for s in scores])
    return Curve(
        threshold=cutoffs,
        precision=np.array([s["precision"] for s in scores]),
        recall=np.array([s["recall"] for s in scores]),
        f1=f1,
        chosen=float(cutoffs[int(np.argmax(f1))]),
        selected_on="validation windows",
    )


def make_gallery(arms: Sequence[str], made: Made, probabilities: dict[str, NDArray[np.float64]]) -> list[GalleryWindow]:
    windows = []
    for row in range(len(made.spans)):
        predicted, f1, confidence, probability = {}, {}, {}, {}
        for arm in arms:
            p_T = probability[arm] = probabilities[arm][row]
            marked = p_T >= 0.6 * p_T.max() if p_T.max() > 0.12 else np.zeros(T, dtype=bool)
            edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(int), [0]])))
            predicted[arm] = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
            f1[arm] = bar_scores(marked, made.truth_NT[row])["f1"]
            confidence[arm] = float(p_T.max())
        windows.append((f1, confidence, predicted, probability, row))
    leader = arms[-1]
    order = sorted(windows, key=lambda w: -w[0][leader])
    middle = len(order) // 2
    chosen: list[tuple[GalleryKind, Any]] = [("best", w) for w in order[:2]]
    chosen += [("median", w) for w in order[middle : middle + 2]]
    chosen += [("worst", w) for w in order[-2:]]
    chosen += [("error", w) for w in sorted(windows, key=lambda w: -max(w[1].values())) if min(w[0].values()) < 0.3][:6]
    if len(arms) > 1:
        gap = sorted(windows, key=lambda w: min(w[0].values()) - max(w[0].values()))
        chosen += [("disagreement", w) for w in gap[:4]]
    return [
        GalleryWindow(
            f"{row}_exp_1_offset+52",
            made.bars_NT4[row],
            [made.spans[row]],
            predicted,
            probability,
            confidence,
            f1,
            kind,
        )
        for kind, (f1, confidence, predicted, probability, row) in chosen
    ]
