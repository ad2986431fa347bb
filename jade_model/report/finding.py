"""Something that the numbers say, and from where on a rule says it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.markup import Severity


@dataclass(frozen=True)
class Insight:
    """Something that the numbers say.

    Attributes:
        rule: Name of the rule that found it.
        severity: How much it matters.
        text: What was found, in one sentence; names the arm.
        evidence: The numbers.
        remedy: What to try; empty where there is nothing to do.
        arm: Whom it is about; None for the whole comparison.
        group: The sentence for several arms of which the same was found; empty if each is to stand alone.
    """

    rule: str
    severity: Severity
    text: str
    evidence: str
    remedy: str = ""
    arm: str | None = None
    group: str = ""


ArmRule = Callable[[Facts, ArmFacts], Insight | None]

NO_SEPARATION = 0.05
CLEAR_SEPARATION = 0.4
OVERFITTING_RISE = 0.05
STILL_FALLING = 0.01
WIDE_INTERVAL = 0.15
DECODER_GAP = 0.03
POOR_ECE = 0.05
MARKS_NOTHING_RECALL = 0.02
