"""What probabilities, the other heads and thresholds are worth."""

from __future__ import annotations

import numpy as np

from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.findings.of_arms import POOR_ECE, marks_everything, marks_nothing
from jade_model.report.markup import Rows, plain
from jade_model.report.naming import decoder_name
from jade_model.report.numbers import ABSENT, join, number, percent, with_interval

FORGIVING = 0.02


def probability_rows(facts: Facts) -> Rows:
    """Return mean probabilities in and out of spans, and whether they come true, with their reading."""
    rows = []
    for arm in facts.arms:
        means, found = arm.arm.summary.separation, arm.calibration
        shown = [number(value) for value in (means.in_span_mean, means.out_of_span_mean, means.separation)]
        shown += [number(found.brier, 4), number(found.ece, 4), number(found.temperature, 2)]
        rows.append([arm.name, *shown, f"{_separation_reading(arm)}; {_calibration_reading(arm)}"])
    return rows


def _separation_reading(arm: ArmFacts) -> str:
    if arm.separation is None:
        return "no bar inside a span was scored"
    if arm.is_weak:
        return "✗ about 0: nothing learned" if arm.is_blind else "small"
    return "✓ clear" if arm.is_clear else "moderate"


def _calibration_reading(arm: ArmFacts) -> str:
    ece = arm.calibration.ece
    if ece > POOR_ECE:
        return "not calibrated"
    return "calibrated" if ece <= 0.02 else "roughly calibrated"


def best_of_blind(facts: Facts) -> float:
    """Return the highest F1 of any decoder of the arms that tell bars in a span from others not at all."""
    return max(decoder.f1 for arm in facts.arms if arm.is_blind for decoder in arm.arm.summary.decoders.values())


def head_rows(facts: Facts) -> Rows:
    """Return the other heads' errors, trained / read off the span posterior, and the accuracy of types."""
    rows = []
    for arm in facts.arms:
        pointers, countdown = arm.arm.summary.pointer_error_bars, arm.arm.summary.countdown_error_bars
        head, posterior, types = pointers.trained_head, pointers.posterior, arm.arm.summary.type
        rows.append(
            [
                arm.name,
                _better(head.center, posterior.center),
                _better(head.length, posterior.length),
                _better(countdown.trained_head, countdown.posterior),
                ABSENT if types is None else f"{percent(types.accuracy)} / {percent(types.majority_accuracy)}",
            ]
        )
    return rows


def _better(head: float | None, posterior: float | None) -> str:
    shown = [number(head, 1), number(posterior, 1)]
    if head is not None and posterior is not None and head != posterior:
        better = int(posterior < head)
        shown[better] = f"**{shown[better]}**"
    return " / ".join(shown)


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
                    f"{number(scores.precision)} / {number(scores.recall)}",
                    f"**{f1}**" if is_best else f1,
                    f"{number(scores.span_f1_iou50)} / {number(scores.span_f1_iou50_95)}",
                ]
            )
    return rows


def curves_of(facts: Facts) -> str:
    """Say which windows the curves are of; empty without curves."""
    curves = [curve for by_decoder in facts.report.curves.values() for curve in by_decoder.values()]
    return plain(join(sorted({curve.selected_on.removeprefix("the ") for curve in curves})))


def threshold_advice(facts: Facts) -> list[str]:
    """Say by which decoder and threshold arms are read out, and how far that may be moved."""
    told: dict[str, list[str]] = {}
    for arm in facts.arms:
        told.setdefault(_advice(facts, arm), []).append(arm.name)
    return [f"**{join(names)}**: {advice}" for advice, names in told.items()]


def _advice(facts: Facts, arm: ArmFacts) -> str:
    text = f"read out by {decoder_name(arm.best_decoder).lower()}"
    curve = facts.report.curves.get(arm.key, {}).get(arm.best_decoder)
    if arm.decoder.threshold is None and curve is None:
        return f"{text}, which needs no threshold"
    text += f" at {number(arm.decoder.threshold)}"
    if arm.best_decoder == "one_span" and arm.decoder.threshold == 0:
        return f"{text}: the span of every window is taken, as no window to choose on is without one"
    if curve is None or not np.isfinite(curve.f1).any():
        return text
    good = np.flatnonzero(curve.f1 >= np.nanmax(curve.f1) - FORGIVING)
    # Below the smallest value that occurs, everything is marked, as at that value.
    low = "all" if good[0] == 0 else f"{number(curve.threshold[good[0]], 2)}"
    span = f"{'up' if low == 'all' else f'from {low}'} to {number(curve.threshold[good[-1]], 2)}"
    return f"{text}; any threshold {span} stays within {FORGIVING} F1 of the best"


def training_gains(facts: Facts) -> list[str]:
    """Say what training brought each arm, and whether the CRF extracts spans."""
    gains = [f"{arm.name} {_gain(arm.decoder.f1, arm.arm.summary.untrained.f1)}" for arm in facts.arms]
    return [f"**F1 of the same network, untrained and trained:** {'; '.join(gains)}"] + [
        f"**Does training enable the CRF to extract spans?** {_extracts(facts, arm)}"
        for arm in facts.arms
        if arm.arm.loss == "crf"
    ]


def _gain(f1: float, before: float) -> str:
    gain = "no gain" if f1 <= before else f"{f1 / before:.1f}x" if before > 0 else "a gain"
    return f"{number(before)} → {number(f1)}, {gain}"


def _extracts(facts: Facts, arm: ArmFacts) -> str:
    if any(marks_nothing(facts, arm)):
        return "No, it marks next to nothing"
    if any(marks_everything(facts, arm)):
        return "No, it marks bars blindly"
    return "Yes" if arm.beats_all_positive else "Not shown, its interval reaches down to marking every bar"
