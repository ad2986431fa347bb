"""What probabilities, the other heads and thresholds are worth."""

from __future__ import annotations

import numpy as np

from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.finding import CLEAR_SEPARATION, NO_SEPARATION, POOR_ECE
from jade_model.report.findings_of_arms import marks_everything, marks_nothing
from jade_model.report.markup import plain
from jade_model.report.naming import (
    decoder_name,
)
from jade_model.report.numbers import (
    ABSENT,
    join,
    number,
    percent,
    with_interval,
)
from jade_model.report.view.rows import Rows

FORGIVING = 0.02


def separation_rows(facts: Facts) -> Rows:
    """Return mean probabilities in and out of spans, and what their distance means."""
    rows = []
    for arm in facts.arms:
        found = arm.arm.summary.separation
        means = [number(value) for value in (found.in_span_mean, found.out_of_span_mean, found.separation)]
        rows.append([arm.name, *means, _separation_meaning(arm)])
    return rows


def _separation_meaning(arm: ArmFacts) -> str:
    if arm.separation is None:
        return "no bar inside a span was scored"
    if arm.separation < NO_SEPARATION:
        return "✗ about 0: it has not learned to tell in-span from out-of-span"
    if arm.separation < CLEAR_SEPARATION:
        return "moderate: it ranks bars within a window more than it is sure of any"
    return "✓ clear: most of its probability is where the spans are"


def with_separation(facts: Facts, kind: str) -> list[str]:
    """Name the arms whose separation is `none` or `clear`."""
    known = [(arm.name, arm.separation) for arm in facts.arms if arm.separation is not None]
    if kind == "none":
        return [name for name, separation in known if separation < NO_SEPARATION]
    return [name for name, separation in known if separation >= CLEAR_SEPARATION]


def calibration_rows(facts: Facts) -> Rows:
    """Return Brier score, calibration error and temperature, with their reading."""
    rows = []
    for arm in facts.arms:
        found = arm.arm.summary.calibration
        shown = [number(found.brier, 4), number(found.ece, 4), number(found.temperature, 2)]
        rows.append([arm.name, *shown, _calibration_reading(arm)])
    return rows


def _calibration_reading(arm: ArmFacts) -> str:
    ece = arm.arm.summary.calibration.ece
    if ece > POOR_ECE:
        return "poor: do not use the probabilities as such"
    if arm.separation is not None and arm.separation < NO_SEPARATION:
        return "right on average, and uninformative"
    return "good" if ece <= 0.02 else "fair"


def head_rows(facts: Facts) -> Rows:
    """Return the other heads' errors, trained and read off the span posterior."""
    rows = []
    for arm in facts.arms:
        pointers, countdown = arm.arm.summary.pointer_error_bars, arm.arm.summary.countdown_error_bars
        head, posterior = pointers.trained_head, pointers.posterior
        rows += [
            [f"{arm.name}: centre", *_better(head.center, posterior.center)],
            [f"{arm.name}: length", *_better(head.length, posterior.length)],
            [f"{arm.name}: countdown", *_better(countdown.trained_head, countdown.posterior)],
        ]
    return rows


def _better(head: float | None, posterior: float | None) -> list[str]:
    if head is None or posterior is None:
        return [number(head, 1), number(posterior, 1), ABSENT]
    better = "equal" if head == posterior else "span posterior" if posterior < head else "trained head"
    return [number(head, 1), number(posterior, 1), better]


def type_rows(facts: Facts) -> Rows:
    """Return the accuracy of types beside that of always naming the commonest."""
    found = [(arm.name, arm.arm.summary.type) for arm in facts.arms]
    return [[name, percent(of.accuracy), percent(of.majority_accuracy)] for name, of in found if of is not None]


def decoder_rows(facts: Facts) -> Rows:
    """Return every decoder's threshold and scores."""
    rows: Rows = []
    for arm in facts.arms:
        for name, scores in arm.arm.summary.decoders.items():
            is_best = name == arm.best_decoder
            f1 = with_interval(scores.f1, scores.confidence_interval)
            rows.append(
                [
                    arm.name,
                    f"**{decoder_name(name)}** (used)" if is_best else decoder_name(name),
                    "none" if scores.threshold is None else number(scores.threshold),
                    number(scores.precision),
                    number(scores.recall),
                    f"**{f1}**" if is_best else f1,
                    f"{number(scores.span_f1_iou50)} / {number(scores.span_f1_iou50_95)}",
                    number(arm.arm.summary.untrained.f1),
                    number(facts.all_positive),
                ]
            )
    return rows


def curves_of(facts: Facts) -> str:
    """Say which windows the curves are of; empty without curves."""
    curves = [curve for by_decoder in facts.report.curves.values() for curve in by_decoder.values()]
    return plain(join(sorted({curve.selected_on.removeprefix("the ") for curve in curves})))


def threshold_advice(facts: Facts, arm: ArmFacts) -> str:
    """Say by which decoder and threshold an arm is read out, and how far that may be moved."""
    text = f"**{arm.name}**: read out by {decoder_name(arm.best_decoder).lower()}"
    curve = facts.report.curves.get(arm.key, {}).get(arm.best_decoder)
    if arm.decoder.threshold is None and curve is None:
        return f"{text}, which needs no threshold"
    text += f" at {number(arm.decoder.threshold)}"
    if curve is None or not np.isfinite(curve.f1).any():
        return text
    good = np.flatnonzero(curve.f1 >= np.nanmax(curve.f1) - FORGIVING)
    low, high = curve.threshold[good[0]], curve.threshold[good[-1]]
    return (
        f"{text}; on the {plain(curve.selected_on.removeprefix('the '))} thresholds from {number(low, 2)} to "
        f"{number(high, 2)} hold a place within {FORGIVING} F1 of the best"
    )


def training_gains(facts: Facts) -> list[str]:
    """Say what training brought each arm, and whether the CRF extracts spans."""
    items = []
    for arm in facts.arms:
        f1, before = arm.decoder.f1, arm.arm.summary.untrained.f1
        items.append(f"**Does training {arm.name} beat the same network untrained?** {_gain(f1, before)}")
    return items + [
        f"**Does training enable the CRF to extract spans?** {_extracts(facts, arm)}: event F1 "
        f"{number(arm.decoder.span_f1_iou50)}, recall of bars {number(arm.decoder.recall)} at precision "
        f"{number(arm.decoder.precision)}"
        for arm in facts.arms
        if arm.arm.loss == "crf"
    ]


def _gain(f1: float | None, before: float | None) -> str:
    if f1 is None or before is None:
        return "It was not measured"
    if f1 <= before:
        return f"No: {number(before)} → {number(f1)}"
    return f"Yes: {number(before)} → {number(f1)}" + (f", {f1 / before:.1f}x" if before > 0 else "")


def _extracts(facts: Facts, arm: ArmFacts) -> str:
    if marks_nothing(facts, arm) is not None:
        return "No, it marks next to nothing"
    if marks_everything(facts, arm) is not None:
        return "No, it marks bars blindly"
    return "Yes" if facts.beats_all_positive(arm) else "Not shown, its interval reaches down to marking every bar"
