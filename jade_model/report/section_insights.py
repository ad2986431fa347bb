"""What the rules found, and the four questions that the first comparison asked of its numbers."""

from __future__ import annotations

from jade_model.report.document import Block, Bullets, Callout, Section, Table, Text
from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.insight import CLEAR_SEPARATION, NO_SEPARATION, OVERFITTING_RISE
from jade_model.report.insights import find_insights, merged
from jade_model.report.naming import task_name
from jade_model.report.numbers import ABSENT, join, number, percent
from jade_model.report.section_training import mean_curve

QUICK_SHARE = 0.6

UNITS = {
    "soft_span": "mean over bars, so small numbers",
    "crf": "negative log-likelihood of a whole window's tags: grows with the window's length",
    "single_span": "negative log-probability of one start and length out of all in the window",
}


def insights_section(facts: Facts) -> Section:
    """Return what the rules found, then scale, convergence, weights and separation."""
    insights = merged(find_insights(facts), facts)
    blocks: list[Block] = [
        Text("Found by rules on the numbers, gravest first." if insights else "No rule found anything that stands out.")
    ]
    blocks += [
        Callout(found.severity, found.text, f"{_sentence(found.evidence)}{' ' + found.remedy if found.remedy else ''}")
        for found in insights
    ]
    parts = [_scales(facts), _convergence(facts), _weights(facts), _separation(facts)]
    return Section("Key Insights", blocks, parts, short="Insights")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _scales(facts: Facts) -> Section:
    rows = []
    for arm in facts.arms:
        curve_E = mean_curve(arm.validation_RE if arm.has_validation else arm.train_RE)
        moved = f"{number(curve_E[0], 2)} → {number(curve_E[-1], 2)}" if curve_E.size else ABSENT
        rows.append([arm.name, moved, UNITS.get(arm.arm["loss"], "its own")])
    length = join(sorted({str(data["window_length"]) for data in facts.numbers["data"]}))
    return Section(
        "1. Loss Scales (Not Directly Comparable)",
        [
            Table(["Arm", "Loss, first → last epoch", "Unit of its span loss"], rows, "lrl"),
            Text(
                f"Windows here have {length} bars. A loss of one kind is not larger or smaller than one of "
                "another kind, and dividing by its scale or comparing percentages of reduction does not "
                "make it so. **Implication: none for which arm is better.**"
            ),
        ],
    )


def _convergence(facts: Facts) -> Section:
    return Section("2. Convergence Patterns", [Bullets([f"**{arm.name}**: {_pattern(arm)}" for arm in facts.arms])])


def _pattern(arm: ArmFacts) -> str:
    if not arm.has_validation:
        return "cannot be told without validation losses"
    curve_E = mean_curve(arm.validation_RE)
    fall = curve_E[0] - curve_E.min()
    if not fall > 0:
        return "the validation loss never fell"
    early = max(1, curve_E.size // 10)
    share = float((curve_E[0] - curve_E[: early + 1].min()) / fall)
    shape = "aggressive at first, then a plateau" if share >= QUICK_SHARE else "gradual"
    rise = arm.rise_since_best or 0.0
    end = f"overfits at the end ({percent(rise)} above its best)" if rise > OVERFITTING_RISE else "steady to the end"
    return f"{shape} ({percent(share, 0)} of its fall in the first {early} epochs), {end}"


def _weights(facts: Facts) -> Section:
    items = []
    for arm in facts.arms:
        if not arm.weights:
            continue
        heaviest = max(arm.weights, key=lambda task: arm.weights[task])
        kind = f"{task_name(heaviest).lower()}-dominant" if arm.weights[heaviest] >= 0.5 else "balanced"
        both = arm.weights.get("pointer", 0.0) + arm.weights.get("span", 0.0)
        items.append(
            f"**{arm.name}** ({kind}): pointers and span together {percent(both)}, span alone "
            f"{percent(arm.weights.get('span'))}"
        )
    return Section("3. Task Weight Distribution", [Bullets(items or ["No task weights were recorded"])])


def _separation(facts: Facts) -> Section:
    blind = [arm for arm in facts.arms if arm.separation is not None and arm.separation < NO_SEPARATION]
    clear = [arm for arm in facts.arms if arm.separation is not None and arm.separation >= CLEAR_SEPARATION]
    measured = join([f"{arm.name} {number(arm.separation)}" for arm in facts.arms])
    items = [f"In-span minus out-of-span mean probability: {measured}"]
    if blind:
        items.append(
            "**Why this matters:** a cut-off needs bars inside spans to stand out. Without separation F1 "
            f"stays near that of marking every bar ({number(facts.all_positive)}), whatever the cut-off"
        )
        features = sorted({arm.arm.get("feature_set") or "" for arm in blind})
        if any(name.startswith("relativity-12") for name in features):
            items.append(
                "**Likely cause:** the features `relativity-12` say nothing of how far price moved over a "
                "few bars in units of volatility, which is what an expansion is"
            )
    else:
        items.append("No arm shows the problem of the first comparison (separation about 0)")
    if clear:
        items.append(f"Clear separation: {join([arm.name for arm in clear])}")
    return Section("4. Probability Separation", [Bullets(items)])
