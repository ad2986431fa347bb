"""What the numbers say, by rule: no sentence here is written for one run."""

from __future__ import annotations

from dataclasses import replace

from jade_model.report.facts import Facts
from jade_model.report.findings.of_arms import ARM_RULES
from jade_model.report.findings.of_run import RUN_RULES, Insight
from jade_model.report.markup import MARKS
from jade_model.report.naming import contestant


def find_insights(facts: Facts) -> list[Insight]:
    """Return everything that a rule found, gravest first, otherwise in the order of the rules."""
    found = [replace(insight, rule=rule.__name__) for rule in RUN_RULES for insight in rule(facts)]
    for of_arm in ARM_RULES:
        for arm in facts.arms:
            found += [replace(insight, rule=of_arm.__name__, arm=arm.key) for insight in of_arm(facts, arm)]
    return sorted(found, key=lambda insight: list(MARKS).index(insight.severity))


def merged(insights: list[Insight], facts: Facts) -> list[Insight]:
    """Return the insights with those that say the same of several arms made one, at the place of the first."""
    together: dict[tuple[str, str, str], list[Insight]] = {}
    for index, insight in enumerate(insights):
        together.setdefault((insight.rule, insight.group or str(index), insight.remedy), []).append(insight)
    return [
        alike[0]
        if len(alike) == 1
        else replace(
            alike[0],
            text=alike[0].group,
            evidence="; ".join(f"{contestant(insight.arm, facts.styles)}: {insight.evidence}" for insight in alike),
            arm=None,
        )
        for alike in together.values()
    ]
