"""Which approach to take: the criterion table and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jade_model.report.document import Bullets, Section, Table, Text, plain
from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.insight import NO_SEPARATION
from jade_model.report.naming import (
    BOUNDARIES,
    EXTENDING,
    INFERENCE,
    INFERENCE_RANK,
    contestant,
    spelled_out,
    task_name,
)
from jade_model.report.numbers import ABSENT, count, is_number, number, percent, signed, with_interval

Show = Callable[[ArmFacts], str]
Value = Callable[[ArmFacts], float | None]


def recommendation(facts: Facts) -> Section:
    """Return the criterion table, the verdict with its reason, and what to use for what."""
    title = "Recommendation: Which Approach?" if len(facts.arms) > 1 else "Recommendation"
    note = (
        "✓ marks the best number of a line where one stands out. **Only the F1 line has been tested "
        "against chance;** the others describe, and inference and extending are facts of the methods."
        if len(facts.arms) > 1
        else "Inference and extending are facts of the method, the rest is measured."
    )
    return Section(title, [_criteria(facts), Text(note)], [_verdict(facts)], short="Which approach")


def _criteria(facts: Facts) -> Table:
    lines: list[tuple[str, Show, Value | None, bool, float]] = [
        ("Convergence speed", _speed, lambda a: a.settled_epoch, True, 1.0),
        (
            "Loss stability",
            lambda a: ABSENT if a.wobble is None else f"± {percent(a.wobble)} an epoch",
            lambda a: a.wobble,
            True,
            0.002,
        ),
        ("Task balance", _heaviest, lambda a: max(a.weights.values(), default=None), True, 0.02),
        ("Probability separation", lambda a: number(a.separation), lambda a: a.separation, False, 0.02),
        (
            "Boundary detection (event F1, IoU 0.5:0.95)",
            _boundaries,
            lambda a: a.decoder["span_f1_iou50_95"],
            False,
            0.01,
        ),
        (
            "Calibration (ECE)",
            lambda a: number(a.arm["summary"]["calibration"]["ece"]),
            lambda a: a.arm["summary"]["calibration"]["ece"],
            True,
            0.002,
        ),
        (
            "Inference complexity",
            lambda a: INFERENCE.get(a.arm["loss"], ABSENT),
            lambda a: INFERENCE_RANK.get(a.arm["loss"]),
            True,
            0.5,
        ),
        (
            "Scalability",
            lambda a: EXTENDING.get(a.arm["loss"], ABSENT),
            lambda a: INFERENCE_RANK.get(a.arm["loss"]),
            True,
            0.5,
        ),
    ]
    winner = facts.numbers["verdict"]["winner"]
    rows = [
        [
            "**F1 on unseen windows** (tested)",
            *[
                with_interval(arm.decoder["f1"], arm.decoder["confidence_interval"])
                + (" ✓" if arm.key == winner else "")
                for arm in facts.arms
            ],
        ]
    ]
    for label, show, value, is_low_good, tolerance in lines:
        best = _stands_out([value(arm) for arm in facts.arms] if value else [], tolerance, is_low_good=is_low_good)
        rows.append([label, *[show(arm) + (" ✓" if index == best else "") for index, arm in enumerate(facts.arms)]])
    return Table(["Criterion", *[arm.name for arm in facts.arms]], rows, "l", frozenset({0}))


def _stands_out(values: Sequence[float | None], tolerance: float, *, is_low_good: bool) -> int | None:
    scored = [((-v if is_low_good else v), index) for index, v in enumerate(values) if v is not None and is_number(v)]
    if len(scored) < 2:
        return None
    scored.sort(reverse=True)
    return scored[0][1] if scored[0][0] - scored[1][0] >= tolerance else None


def _speed(arm: ArmFacts) -> str:
    return ABSENT if arm.settled_epoch is None else f"90 % done by epoch {number(arm.settled_epoch, 0)}"


def _heaviest(arm: ArmFacts) -> str:
    if not arm.weights:
        return ABSENT
    heaviest = max(arm.weights, key=lambda task: arm.weights[task])
    return f"{task_name(heaviest)} {percent(arm.weights[heaviest])}"


def _boundaries(arm: ArmFacts) -> str:
    how = BOUNDARIES.get(arm.arm["loss"])
    return number(arm.decoder["span_f1_iou50_95"]) + (f", {how}" if how else "")


def _verdict(facts: Facts) -> Section:
    verdict = facts.numbers["verdict"]
    items = [f"**For production:** {_production(facts)}", f"**For research:** {_research(facts)}"]
    return Section("Verdict", [Text(f"**{plain(spelled_out(verdict['reason'], facts.styles))}**"), Bullets(items)])


def _production(facts: Facts) -> str:
    verdict = facts.numbers["verdict"]
    leader = facts.ranking()[0]
    useful = [arm for arm in facts.ranking() if facts.beats_rule(arm.key)]
    if not useful:
        return (
            f"none of these. The untrained rule (F1 {number(facts.rule)}) is not beaten, needs "
            "no training and cannot overfit; use it until an arm passes it."
        )
    if facts.leaks:
        return "none on these numbers: the split leaks. Compare again with `--split grouped` first."
    if len(facts.arms) == 1:
        return f"{leader.name} may be used: it beats the untrained rule. Whether another loss is better was not asked."
    simplest = min(useful, key=lambda arm: INFERENCE_RANK.get(arm.arm["loss"], 9))
    match verdict["outcome"]:
        case "winner":
            winner = next(arm for arm in facts.arms if arm.key == verdict["winner"])
            return (
                f"**{winner.name}**: its lead of {number(abs(verdict['difference'] or 0.0))} is larger than "
                "luck explains"
                + (
                    " and it beats the untrained rule."
                    if facts.beats_rule(winner.key)
                    else ", though it is not shown to beat the rule."
                )
            )
        case "equivalent":
            pair = {verdict["first"], verdict["second"]}
            simple = min(
                (arm for arm in facts.arms if arm.key in pair), key=lambda arm: INFERENCE_RANK.get(arm.arm["loss"], 9)
            )
            return f"**{simple.name}**: as good as the other within the margin, and the simpler one to run."
        case _:
            more = verdict["groups_needed"]
            wait = "" if more is None else f" (about {count(more)} more base windows would decide)"
            return (
                f"the numbers do not choose{wait}. If one must be taken today, {simplest.name} is the "
                f"simplest that beats the untrained rule; {leader.name} scores highest."
            )


def _research(facts: Facts) -> str:
    blind = [arm for arm in facts.arms if arm.separation is not None and arm.separation < NO_SEPARATION]
    if len(blind) == len(facts.arms):
        return (
            "the loss is not the bottleneck: no arm has separation. Features that carry displacement and a "
            "recipe that counts rare bars come first; only then compare losses."
        )
    verdict = facts.numbers["verdict"]
    leader = facts.ranking()[0]
    if len(facts.arms) > 1 and verdict["outcome"] == "undecided":
        pair = f"{contestant(verdict['first'], facts.styles)} and {contestant(verdict['second'], facts.styles)}"
        return (
            f"the open question is {pair} ({signed(verdict['difference'])}); see the power statement for "
            f"what would settle it. {leader.name}'s most confident errors are the cheapest place to learn "
            "something."
        )
    exact, found = leader.decoder["span_f1_iou50_95"], leader.decoder["span_f1_iou50"]
    if exact is not None and found is not None and found > 0:
        return (
            f"{leader.name} has event F1 {number(found)} at IoU 0.5 and {number(exact)} over 0.5 to 0.95: "
            "what is left to gain lies "
            f"{'at the edges of spans' if exact < 0.75 * found else 'in spans that are missed or invented'}."
        )
    return f"start from {leader.name}'s most confident errors."
