"""Which approach to take: the criterion table and who stands where."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.markup import Rows
from jade_model.report.naming import BOUNDARIES, INFERENCE, INFERENCE_RANK
from jade_model.report.numbers import ABSENT, is_number, number, percent, with_interval
from jade_model.report.view.training import heaviest


def criteria_rows(facts: Facts) -> Rows:
    """Return the criterion table, with a mark at the best of a line where one stands out."""
    lines: list[tuple[str, Callable[[ArmFacts], str], Callable[[ArmFacts], float | None], bool, float]] = [
        ("Convergence speed", _speed, lambda a: a.settled_epoch, True, 1.0),
        ("Loss stability", _stability, lambda a: a.wobble, True, 0.002),
        (
            "Task balance",
            lambda a: heaviest(facts, a),
            lambda a: a.heaviest[1],
            True,
            0.02,
        ),
        ("Probability separation", lambda a: number(a.separation), lambda a: a.separation, False, 0.02),
        (
            "Boundary detection (event F1, IoU 0.5:0.95)",
            _boundaries,
            lambda a: a.decoder.span_f1_iou50_95,
            False,
            0.01,
        ),
        ("Inference complexity", lambda a: INFERENCE.get(a.arm.loss, ABSENT), _rank, True, 0.5),
    ]
    winner = facts.numbers.verdict.winner
    tested = [
        with_interval(a.decoder.f1, a.decoder.confidence_interval) + (" ✓" if a.key == winner else "")
        for a in facts.arms
    ]
    rows = [["**F1 on unseen windows** (tested)", *tested]]
    for label, cell, value, is_low_good, tolerance in lines:
        best = _stands_out([value(arm) for arm in facts.arms], tolerance, is_low_good=is_low_good)
        rows.append([label, *[cell(arm) + (" ✓" if index == best else "") for index, arm in enumerate(facts.arms)]])
    return rows


def _speed(arm: ArmFacts) -> str:
    return ABSENT if arm.settled_epoch is None else f"90 % done by epoch {number(arm.settled_epoch, 0)}"


def _stability(arm: ArmFacts) -> str:
    return ABSENT if arm.wobble is None else f"± {percent(arm.wobble)} an epoch"


def _boundaries(arm: ArmFacts) -> str:
    how = BOUNDARIES.get(arm.arm.loss)
    return number(arm.decoder.span_f1_iou50_95) + (f", {how}" if how else "")


def _rank(arm: ArmFacts) -> float | None:
    return INFERENCE_RANK.get(arm.arm.loss)


def _stands_out(values: Sequence[float | None], tolerance: float, *, is_low_good: bool) -> int | None:
    scored = [((-v if is_low_good else v), index) for index, v in enumerate(values) if is_number(v)]
    if len(scored) < 2:
        return None
    scored.sort(reverse=True)
    return scored[0][1] if scored[0][0] - scored[1][0] >= tolerance else None


def useful(facts: Facts) -> list[ArmFacts]:
    """Return the arms that are shown to beat the untrained rule, highest F1 first."""
    return [arm for arm in facts.ranking() if facts.beats_rule(arm.key)]


def simplest(_facts: Facts, arms: Sequence[ArmFacts]) -> ArmFacts:
    """Return the arm that is cheapest to run."""
    return min(arms, key=lambda arm: INFERENCE_RANK.get(arm.arm.loss, 9))


def arm_of(facts: Facts, key: str) -> ArmFacts:
    """Return an arm by its name in the comparison."""
    return next(arm for arm in facts.arms if arm.key == key)
