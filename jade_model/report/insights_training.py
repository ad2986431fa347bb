"""Rules on how one arm was trained, and on what its other heads are worth.

A rule that finds nothing returns None.
"""

from __future__ import annotations

import numpy as np

from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.insight import HEAD_RATIO, OVERFITTING_RISE, STILL_FALLING, ArmRule, Insight
from jade_model.report.naming import task_name
from jade_model.report.numbers import number, percent


def overfitting(facts: Facts, arm: ArmFacts) -> Insight | None:
    """The validation loss rose by more than 5 % after its best epoch."""
    rise, best = arm.rise_since_best, arm.best_epoch
    if rise is None or best is None or rise <= OVERFITTING_RISE:
        return None
    return Insight(
        "overfitting",
        "warning",
        f"**{arm.name} overfits** after epoch {number(best, 0)}.",
        f"validation loss {percent(rise)} above its best by epoch {arm.epochs}",
        f"Score the best epoch's weights (`--checkpoint best`) or stop near epoch {number(best, 0)}."
        + (" Which weights are scored must be fixed before the scores are seen." if len(facts.arms) > 1 else ""),
        arm.key,
    )


def not_converged(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """The best epoch is the last one, and the loss still fell by more than 1 % over the last tenth."""
    means = [float(column[np.isfinite(column)].mean()) for column in arm.validation_RE.T if np.isfinite(column).any()]
    tail = max(2, len(means) // 10 + 1)
    if len(means) <= tail or arm.best_epoch is None or arm.best_epoch < arm.epochs or means[-tail] <= 0:
        return None
    fall = 1 - means[-1] / means[-tail]
    if fall <= STILL_FALLING:
        return None
    return Insight(
        "not_converged",
        "note",
        f"**{arm.name} was still improving** when training ended.",
        f"validation loss down {percent(fall)} over the last {tail - 1} epochs; best epoch is the last, {arm.epochs}",
        f"Train longer, for example `--epochs {2 * arm.epochs}`.",
        arm.key,
    )


def pointer_source(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """The trained pointer head and the span posterior differ by a factor of 1.2 in centre error."""
    errors = arm.arm["summary"]["pointer_error_bars"]
    return _source(arm, "pointer_source", "pointers", errors["trained_head"]["center"], errors["posterior"]["center"])


def countdown_source(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """The trained countdown head and the span posterior differ by a factor of 1.2."""
    errors = arm.arm["summary"]["countdown_error_bars"]
    return _source(arm, "countdown_source", "countdown", errors["trained_head"], errors["posterior"])


def _source(arm: ArmFacts, rule: str, what: str, head: float | None, posterior: float | None) -> Insight | None:
    if head is None or posterior is None or max(head, posterior) < HEAD_RATIO * min(head, posterior):
        return None
    better = "the span posterior" if posterior < head else "the trained head"
    return Insight(
        rule,
        "note",
        f"**Read {arm.name}'s {what} off {better}.**",
        f"mean error {number(head, 1)} bars by the trained head, {number(posterior, 1)} by the posterior",
        arm=arm.key,
        group=f"**Read the {what} off {better}.**",
    )


def type_at_majority(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """Type accuracy exceeds the majority class by 0.01 at most."""
    found = arm.arm["summary"]["type"]
    accuracy, majority = found["accuracy"], found["majority_accuracy"]
    if accuracy is None or majority is None or accuracy > majority + 0.01:
        return None
    return Insight(
        "type_at_majority",
        "warning",
        f"**{arm.name}'s classification is no better than always naming the commonest type.**",
        f"accuracy {number(accuracy)}, majority class {number(majority)}",
        "A type head that pools over all bars never gets further: pool over the span's posterior "
        "(`type_pooling` in the recipe); if it does already, train longer.",
        arm.key,
        "**Classification is no better than always naming the commonest type.**",
    )


def weight_imbalance(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """One task takes half of the learned weight, or the span gets less than half of an equal share."""
    if not arm.weights:
        return None
    heaviest = max(arm.weights, key=lambda task: arm.weights[task])
    span = arm.weights.get("span")
    is_dominated = heaviest != "span" and arm.weights[heaviest] >= 0.5
    is_neglected = span is not None and span < 0.5 / len(arm.weights)
    if not is_dominated and not is_neglected:
        return None
    return Insight(
        "weight_imbalance",
        "warning",
        f"**{arm.name}'s learned weighting works against the span.**",
        f"{task_name(heaviest)} {percent(arm.weights[heaviest])}"
        + (f", Span {percent(span)}" if heaviest != "span" else ""),
        "Raw scales, not importance, decide these weights. Try `normalise_losses` in the recipe the other way round: "
        "what it is worth differs from loss to loss.",
        arm.key,
    )


TRAINING_RULES: tuple[ArmRule, ...] = (
    overfitting,
    not_converged,
    weight_imbalance,
    type_at_majority,
    pointer_source,
    countdown_source,
)
