"""What the numbers say of one arm, by rule. A rule that finds nothing returns None."""

from __future__ import annotations

import numpy as np

from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.finding import (
    CLEAR_SEPARATION,
    DECODER_GAP,
    MARKS_NOTHING_RECALL,
    NO_SEPARATION,
    OVERFITTING_RISE,
    POOR_ECE,
    STILL_FALLING,
    WIDE_INTERVAL,
    ArmRule,
    Insight,
)
from jade_model.report.naming import task_name
from jade_model.report.numbers import interval, is_number, number, percent, with_interval
from jade_model.scoring.calibration import TEMPERATURE_RANGE


def no_separation(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """Probabilities inside and outside spans differ by less than 0.05 on average."""
    found = arm.arm.summary.separation
    if found.separation is None or not is_number(found.separation) or found.separation >= NO_SEPARATION:
        return None
    is_seed = arm.arm.recipe.startswith("seed_")
    remedy = (
        "Train with the `jade` recipe (displacement features, Dice or structured loss, mirror "
        "augmentation): the original's 12 features never say how far price has moved."
        if is_seed
        else "Try the feature set `displacement-17`, a positive weight or more Dice in the loss, more epochs, or the "
        "single-span loss; check that the labels fit the bars (`jade validate`)."
    )
    return Insight(
        "no_separation",
        "critical",
        f"**{arm.name}: separation about 0. The model has not learned to tell in-span from out-of-span.**",
        f"mean probability {number(found.in_span_mean)} inside spans, "
        f"{number(found.out_of_span_mean)} outside, separation {number(found.separation)}",
        f"No threshold can help a model that gives every bar the same probability. {remedy}",
        arm.key,
        "**Separation about 0: these models have not learned to tell in-span from out-of-span.**",
    )


def clear_separation(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """Probabilities inside and outside spans differ by 0.4 or more."""
    found = arm.arm.summary.separation
    if found.separation is None or not found.separation >= CLEAR_SEPARATION:
        return None
    return Insight(
        "clear_separation",
        "good",
        f"**{arm.name} tells in-span from out-of-span clearly.**",
        f"separation {number(found.separation)}: {number(found.in_span_mean)} inside, "
        f"{number(found.out_of_span_mean)} outside",
        arm=arm.key,
        group="**These arms tell in-span from out-of-span clearly.**",
    )


def below_all_positive(facts: Facts, arm: ArmFacts) -> Insight | None:
    """The interval of F1 reaches down to what marking every bar gives."""
    f1, floor = arm.decoder.f1, facts.all_positive
    if f1 is None or floor is None or facts.beats_all_positive(arm):
        return None
    is_close = f1 < 1.5 * floor
    return Insight(
        "below_all_positive",
        "critical" if is_close else "warning",
        f"**{arm.name} {'does not beat' if f1 <= floor else 'is not shown to beat'} marking every bar.**",
        f"F1 {with_interval(f1, arm.decoder.confidence_interval)}; marking everything gives "
        f"{number(floor)} (2p / (1 + p) at p = {number(facts.in_span_rate)} of bars in-span)",
        "Read nothing into its F1. The causes to look at first are separation and features."
        if is_close
        else "The interval is too wide to say: more seeds and folds first.",
        arm.key,
    )


def below_untrained(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """F1 is no higher than the same network before training."""
    f1, before = arm.decoder.f1, arm.arm.summary.untrained.f1
    if f1 is None or before is None or f1 > before:
        return None
    return Insight(
        "below_untrained",
        "critical",
        f"**Training brought {arm.name} nothing:** the same network before training does as well.",
        f"F1 {number(f1)} trained, {number(before)} untrained",
        arm=arm.key,
    )


def beats_rule(facts: Facts, arm: ArmFacts) -> Insight | None:
    """Whether the arm beats the best untrained rule, by the verdict's own test."""
    beats = facts.beats_rule(arm.key)
    if beats is None:
        return None
    evidence = f"F1 {number(arm.decoder.f1)} against {number(facts.rule)}"
    if beats:
        return Insight(
            "beats_rule",
            "good",
            f"**{arm.name} beats the untrained rule.**",
            evidence,
            arm=arm.key,
            group="**These arms beat the untrained rule.**",
        )
    falls_short = facts.falls_short_of_rule(arm.key)
    return Insight(
        "not_beating_rule",
        "critical" if falls_short else "warning",
        f"**{arm.name} {'falls short of' if falls_short else 'is not shown to beat'} the untrained rule** "
        f"(mark the largest {facts.rule_move}).",
        evidence,
        "Until one does, the rule is the better tool: it needs no training.",
        arm.key,
        f"**These arms {'fall short of' if falls_short else 'are not shown to beat'} the untrained rule** "
        f"(mark the largest {facts.rule_move}).",
    )


def marks_everything(facts: Facts, arm: ArmFacts) -> Insight | None:
    """Precision is within 1.5 times the in-span rate while recall exceeds one half."""
    precision, recall = arm.decoder.precision, arm.decoder.recall
    if precision is None or recall is None or recall <= 0.5 or precision >= 1.5 * facts.in_span_rate:
        return None
    return Insight(
        "marks_everything",
        "critical",
        f"**{arm.name} marks nearly everything.**",
        f"precision {number(precision)} at {number(facts.in_span_rate)} of bars in-span, recall {number(recall)}",
        "Recall is bought by marking bars blindly here, not by finding spans.",
        arm.key,
        "**These arms mark nearly everything.**",
    )


def marks_nothing(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """Recall is below 0.02."""
    recall = arm.decoder.recall
    if recall is None or recall >= MARKS_NOTHING_RECALL:
        return None
    return Insight(
        "marks_nothing",
        "critical",
        f"**{arm.name} finds no spans.**",
        f"recall {number(recall)}",
        "Its probabilities stay below the threshold everywhere: see separation.",
        arm.key,
    )


def decoder_gap(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """Viterbi and posterior marginals differ by more than 0.03 in F1."""
    decoders = arm.arm.summary.decoders
    if not {"viterbi", "marginal"} <= set(decoders):
        return None
    path, marginal = decoders["viterbi"].f1, decoders["marginal"].f1
    if path is None or marginal is None or abs(path - marginal) <= DECODER_GAP:
        return None
    better, why = (
        ("posterior marginals", "The single best path drops spans whose probability is spread over several positions.")
        if marginal > path
        else ("the Viterbi path", "The marginals' threshold does not carry over from the windows it was chosen on.")
    )
    return Insight(
        "decoder_gap",
        "note",
        f"**{arm.name} is read out better through {better}.**",
        f"F1 {number(path)} by Viterbi path, {number(marginal)} by posterior marginals",
        why,
        arm.key,
    )


def wide_interval(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """The 95 % interval of F1 is wider than 0.15."""
    bounds = arm.decoder.confidence_interval
    if bounds is None or bounds[0] is None or bounds[1] is None or bounds[1] - bounds[0] <= WIDE_INTERVAL:
        return None
    return Insight(
        "wide_interval",
        "warning",
        f"**{arm.name}'s F1 is known only roughly.**",
        f"interval {interval(bounds)}, {number(bounds[1] - bounds[0], 2)} wide",
        "More base windows narrow it with the square root of their number.",
        arm.key,
        "**These F1s are known only roughly.**",
    )


def blurred_boundaries(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """F1 over IoU 0.5 to 0.95 is less than 0.6 of that at IoU 0.5, which is itself above 0.2."""
    found, exact = arm.decoder.span_f1_iou50, arm.decoder.span_f1_iou50_95
    if found is None or exact is None or found < 0.2 or exact >= 0.6 * found:
        return None
    return Insight(
        "blurred_boundaries",
        "note",
        f"**{arm.name} finds spans but misses their edges.**",
        f"event F1 {number(found)} at IoU 0.5, {number(exact)} over IoU 0.5 to 0.95",
        "Look at the gallery: a constant shift is a labelling convention, a scattered one is noise.",
        arm.key,
        "**Spans are found, but their edges missed.**",
    )


def poor_calibration(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """The expected calibration error exceeds 0.05."""
    calibration = arm.arm.summary.calibration
    if calibration.ece is None or not calibration.ece > POOR_ECE:
        return None
    return Insight(
        "poor_calibration",
        "warning",
        f"**{arm.name}'s probabilities cannot be taken at their word.**",
        f"expected calibration error {number(calibration.ece)}, Brier score "
        f"{number(calibration.brier)}, temperature {number(calibration.temperature, 2)}",
        "Use its threshold, not its probabilities, or fit the temperature on more validation windows.",
        arm.key,
    )


def temperature_at_bound(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """The temperature of a training is at an end of the range that is searched."""
    lowest, highest = TEMPERATURE_RANGE
    found = [run.temperature for run in arm.arm.runs]
    ends = [value for value in found if value is not None and not 1.01 * lowest < value < highest / 1.01]
    if not ends:
        return None
    return Insight(
        "temperature_at_bound",
        "warning",
        f"**{arm.name}'s probabilities could not be calibrated:** their temperature is at an end of what is searched.",
        f"{len(ends)} of {len(found)} trainings at {' and '.join(f'{end:g}' for end in sorted({*ends}))}, "
        f"searched from {lowest:g} to {highest:g}",
        "At the upper end scores say nothing, at the lower one few windows fit without a fault: "
        "read separation and event F1, not probabilities; more windows for validation help the latter.",
        arm.key,
        "**Probabilities could not be calibrated:** their temperature is at an end of what is searched.",
    )


SCORE_RULES: tuple[ArmRule, ...] = (
    no_separation,
    below_all_positive,
    below_untrained,
    marks_everything,
    marks_nothing,
    beats_rule,
    clear_separation,
    wide_interval,
    poor_calibration,
    temperature_at_bound,
    decoder_gap,
    blurred_boundaries,
)


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


def type_at_majority(_facts: Facts, arm: ArmFacts) -> Insight | None:
    """Type accuracy exceeds the majority class by 0.01 at most."""
    found = arm.arm.summary.type
    if found is None:
        return None
    accuracy, majority = found.accuracy, found.majority_accuracy
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
)
