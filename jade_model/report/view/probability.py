"""What probabilities, the other heads and thresholds are worth."""

from __future__ import annotations

import numpy as np

from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.findings.of_arms import POOR_ECE, marks_everything, marks_nothing
from jade_model.report.markup import plain
from jade_model.report.naming import decoder_name
from jade_model.report.numbers import join, number

FORGIVING = 0.02


def reading(_facts: Facts, arm: ArmFacts) -> str:
    """Say what an arm's probabilities are worth."""
    return f"{_separation_reading(arm)}; {_calibration_reading(arm)}"


def _separation_reading(arm: ArmFacts) -> str:
    if arm.separation is None:
        return "no bar inside a span was scored"
    if arm.is_weak:
        return f"✗ {arm.low_separation}: nothing learned" if arm.is_blind else "small"
    return "✓ clear" if arm.is_clear else "moderate"


def _calibration_reading(arm: ArmFacts) -> str:
    ece = arm.calibration.ece
    if ece > POOR_ECE:
        return "not calibrated"
    return "calibrated" if ece <= 0.02 else "roughly calibrated"


def best_of_blind(facts: Facts) -> float:
    """Return the highest F1 of any decoder of the arms that tell bars in a span from others not at all."""
    return max(decoder.f1 for arm in facts.arms if arm.is_blind for decoder in arm.arm.summary.decoders.values())


def better(_facts: Facts, head: float | None, posterior: float | None) -> str:
    """Return two errors, the smaller one bold."""
    shown = [number(head, 1), number(posterior, 1)]
    if head is not None and posterior is not None and head != posterior:
        smaller = int(posterior < head)
        shown[smaller] = f"**{shown[smaller]}**"
    return " / ".join(shown)


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
