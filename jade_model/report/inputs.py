"""What a report is made of: numbers that somebody else computed, read from nowhere here.

Legend: T bars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jade_model.comparison.files import parse_comparison
from jade_model.comparison.model import Comparison
from jade_model.statistics.trend import TrendPoint

GalleryKind = Literal["best", "median", "worst", "disagreement", "error"]
Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Curve:
    """How the scores move with the threshold, on the windows that the threshold was chosen on or swept over.

    Attributes:
        threshold: Thresholds, ascending: a probability, or nats for the score margin.
        precision: Bar-level, one a threshold.
        recall: Likewise.
        f1: Likewise.
        chosen: The threshold in use (the mean over folds), or None where the decoder has none.
        selected_on: Which windows the curve and the choice come from: "validation windows".
    """

    threshold: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    chosen: float | None
    selected_on: str


@dataclass(frozen=True, eq=False)
class GalleryWindow:
    """One scored window with what was labelled and what each arm found.

    Attributes:
        window_id: As in the data file; any text.
        bars_T4: Open, high, low, close.
        true_spans: Half-open.
        predicted: Arm -> half-open spans.
        probability: Arm -> P(bar in a span), shape [T].
        confidence: Arm -> how sure the arm is of what it marked, [0, 1].
        f1: Arm -> bar-level F1 of this window.
        kind: Why it is shown.
    """

    window_id: str
    bars_T4: NDArray[np.float64]
    true_spans: Spans
    predicted: Mapping[str, Spans]
    probability: Mapping[str, NDArray[np.float64]]
    confidence: Mapping[str, float]
    f1: Mapping[str, float]
    kind: GalleryKind


@dataclass(frozen=True, eq=False)
class ReportInput:
    """Everything a report shows.

    Attributes:
        comparison: `comparison.json`.
        run: `run.json`: run_id, started_at, finished_at, parameters, code (or code_version), versions, host, seconds
            by phase, overhead (seconds beside training; a number, or numbers by what took them).
        curves: Arm -> decoder -> its threshold curve; may be empty.
        gallery: Windows to draw; may be empty.
        files: Path relative to the run folder, bytes, what it is.
        trend: The last comparisons, this one included, oldest first.
        bands: What was expected of this comparison's arms, as `trend.Band` has it.
        data_checks: What was asked of the data, as `DataReport.to_json` has it.
        champion: The model in use when this was compared: `run_id`, and `f1` when it was judged.
        troubles: Warnings and errors of the run's log, in order: trainings that were tried again, hosts that were lost.

    Raises:
        UserError: (on `numbers`) the comparison lacks fields; all are named.
    """

    comparison: Mapping[str, Any]
    run: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    gallery: Sequence[GalleryWindow] = ()
    files: Sequence[tuple[str, int, str]] = ()
    trend: Sequence[TrendPoint] | None = None
    bands: Sequence[Mapping[str, Any]] = ()
    data_checks: Sequence[Mapping[str, Any]] = ()
    champion: Mapping[str, Any] | None = None
    troubles: Sequence[str] = ()

    @cached_property
    def numbers(self) -> Comparison:
        """The comparison, checked against its contract."""
        return parse_comparison(self.comparison)
