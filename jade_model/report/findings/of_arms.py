"""Rules on one arm: each yields what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jade_model.report.facts import ArmFacts, Facts, mean_curve
from jade_model.report.findings.of_run import Insight
from jade_model.report.naming import task_name
from jade_model.report.numbers import interval, number, percent, plural, with_interval
from jade_model.scoring.calibration import TEMPERATURE_RANGE

STILL_FALLING = 0.01
WIDE_INTERVAL = 0.15
DECODER_GAP = 0.03
POOR_ECE = 0.05
MARKS_NOTHING_RECALL = 0.02


# Of one arm's scores


def no_separation(_facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """Probabilities inside spans are not 0.05 above those outside, on average."""
    found = arm.arm.summary.separation
    if arm.arm.recipe.startswith("seed_"):
        remedy = (
            "Train with the `jade` recipe (displacement features, Dice or structured loss, mirror augmentation): the "
            "original's 12 features never say how far price has moved."
        )
    else:
        features = "" if arm.arm.feature_set.startswith("displacement") else "Try the feature set `displacement-17`. "
        remedy = (
            f"{features}Train longer than {plural(arm.epochs, 'epoch')}, or with another loss, and check that the "
            "labels fit the bars (`jade validate`)."
        )
    if arm.is_weak:
        yield Insight(
            "critical" if arm.is_blind else "warning",
            f"**{arm.name}: separation {arm.low_separation}. The model has {_learned(arm)} to tell in-span from "
            "out-of-span.**",
            f"mean probability {number(found.in_span_mean)} inside spans, "
            f"{number(found.out_of_span_mean)} outside, separation {number(found.separation)}",
            remedy,
            f"**Separation {arm.low_separation}: these models have {_learned(arm)} to tell in-span from out-of-span.**",
        )


def _learned(arm: ArmFacts) -> str:
    return "not learned" if arm.is_blind else "hardly learned"


def below_all_positive(facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """The interval of F1 reaches down to what marking every bar gives."""
    f1, floor = arm.decoder.f1, facts.all_positive
    is_close = f1 < 1.5 * floor
    if not arm.beats_all_positive:
        yield Insight(
            "critical" if is_close else "warning",
            f"**{arm.name} {'does not beat' if f1 <= floor else 'is not shown to beat'} marking every bar.**",
            f"F1 {with_interval(f1, arm.decoder.confidence_interval)}; marking everything gives "
            f"{number(floor)} (2p / (1 + p) at p = {number(facts.in_span_rate)} of bars in-span)",
            "Read nothing into its F1. The causes to look at first are separation and features."
            if is_close
            else "The interval is too wide to say: more seeds and folds first.",
        )


def below_untrained(_facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """F1 is no higher than the same network before training."""
    f1, before = arm.decoder.f1, arm.arm.summary.untrained.f1
    if f1 <= before:
        yield Insight(
            "critical",
            f"**Training brought {arm.name} nothing:** the same network before training scores no less.",
            f"F1 {number(f1)} trained, {number(before)} untrained",
        )


def marks_everything(facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """Precision is within 1.5 times the in-span rate while recall exceeds one half."""
    precision, recall = arm.decoder.precision, arm.decoder.recall
    if recall > 0.5 and precision < 1.5 * facts.in_span_rate:
        yield Insight(
            "critical",
            f"**{arm.name} marks nearly everything.**",
            f"precision {number(precision)} at {number(facts.in_span_rate)} of bars in-span, recall {number(recall)}",
            "Recall is bought by marking bars blindly here, not by finding spans.",
            "**These arms mark nearly everything.**",
        )


def marks_nothing(_facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """Recall is below 0.02."""
    if arm.decoder.recall < MARKS_NOTHING_RECALL:
        yield Insight(
            "critical",
            f"**{arm.name} finds no spans.**",
            f"recall {number(arm.decoder.recall)}",
            "Its probabilities stay below the threshold everywhere: see separation.",
        )


def beats_rule(facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """The arm beats the best untrained rule, by the verdict's own test."""
    if facts.beats_rule(arm.key):
        yield Insight(
            "good",
            f"**{arm.name} beats the untrained rule.**",
            f"F1 {number(arm.decoder.f1)} against {number(facts.rule)}",
            group="**These arms beat the untrained rule.**",
        )


def not_beating_rule(facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """The arm was tested against the best untrained rule, and does not beat it."""
    if facts.beats_rule(arm.key) is False:
        falls_short = facts.falls_short_of_rule(arm.key)
        rule = f"the untrained rule** (mark the largest {facts.rule_move})."
        yield Insight(
            "critical" if falls_short else "warning",
            f"**{arm.name} {'falls short of' if falls_short else 'is not shown to beat'} {rule}",
            f"F1 {number(arm.decoder.f1)} against {number(facts.rule)}",
            "Until one does, the rule is the better tool: it needs no training.",
            f"**These arms {'fall short of' if falls_short else 'are not shown to beat'} {rule}",
        )


def clear_separation(_facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """Probabilities inside and outside spans differ by 0.4 or more."""
    found = arm.arm.summary.separation
    if arm.is_clear:
        yield Insight(
            "good",
            f"**{arm.name} tells in-span from out-of-span clearly.**",
            f"separation {number(found.separation)}: {number(found.in_span_mean)} inside, "
            f"{number(found.out_of_span_mean)} outside",
            group="**These arms tell in-span from out-of-span clearly.**",
        )


def wide_interval(_facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """The 95 % interval of F1 is wider than 0.15."""
    low, high = arm.decoder.confidence_interval
    if high - low > WIDE_INTERVAL:
        yield Insight(
            "warning",
            f"**{arm.name}'s F1 is known only roughly.**",
            f"interval {interval((low, high))}, {number(high - low, 2)} wide",
            "More base windows narrow it with the square root of their number.",
            "**These F1s are known only roughly.**",
        )


def poor_calibration(_facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """The expected calibration error exceeds 0.05."""
    found = arm.calibration
    if found.ece > POOR_ECE:
        yield Insight(
            "warning",
            f"**{arm.name}'s probabilities cannot be taken at their word.**",
            f"expected calibration error {number(found.ece)}, Brier score {number(found.brier)}, temperature "
            f"{number(found.temperature, 2)}",
            "Use its threshold, not its probabilities, or fit the temperature on more validation windows.",
        )


def temperature_at_bound(_facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """The temperature of a training is at an end of the range that is searched."""
    lowest, highest = TEMPERATURE_RANGE
    found = [run.temperature for run in arm.arm.runs]
    ends = [value for value in found if not 1.01 * lowest < value < highest / 1.01]
    if ends:
        what = "could not be calibrated:** their temperature is at an end of what is searched."
        yield Insight(
            "warning",
            f"**{arm.name}'s probabilities {what}",
            f"{len(ends)} of {len(found)} trainings at {' and '.join(f'{end:g}' for end in sorted({*ends}))}, "
            f"searched from {lowest:g} to {highest:g}",
            "At the upper end scores say nothing, at the lower one few windows fit without a fault: "
            "read separation and event F1, not probabilities; more windows for validation help the latter.",
            f"**Probabilities {what}",
        )


def decoder_gap(_facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """Viterbi and posterior marginals differ by more than 0.03 in F1."""
    path, marginal = arm.arm.summary.decoders.get("viterbi"), arm.arm.summary.decoders.get("marginal")
    # Of two that are no better than marking every bar, neither reads anything out.
    if path and marginal and abs(path.f1 - marginal.f1) > DECODER_GAP and max(path.f1, marginal.f1) > arm.all_positive:
        is_marginal = marginal.f1 > path.f1
        better = "posterior marginals" if is_marginal else "the Viterbi path"
        yield Insight(
            "note",
            f"**{arm.name} is read out better through {better}.**",
            f"F1 {number(path.f1)} by Viterbi path, {number(marginal.f1)} by posterior marginals",
            "The single best path drops spans whose probability is spread over several positions."
            if is_marginal
            else "The marginals' threshold does not carry over from the windows it was chosen on.",
        )


def blurred_boundaries(_facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """F1 over IoU 0.5 to 0.95 is less than 0.6 of that at IoU 0.5, which is itself above 0.2."""
    found, exact = arm.decoder.span_f1_iou50, arm.decoder.span_f1_iou50_95
    if found >= 0.2 and exact < 0.6 * found:
        yield Insight(
            "note",
            f"**{arm.name} finds spans but misses their edges.**",
            f"event F1 {number(found)} at IoU 0.5, {number(exact)} over IoU 0.5 to 0.95",
            "Look at the gallery: a constant shift is a labelling convention, a scattered one is noise.",
            "**Spans are found, but their edges missed.**",
        )


# Of one arm's training


def diverged(_facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """The training loss ended above where it began."""
    if arm.diverged:
        curve_E = mean_curve(arm.train_RE)
        yield Insight(
            "critical",
            f"**{arm.name}'s training diverged.**",
            f"training loss {number(curve_E[0], 2)} after the first epoch, {number(curve_E[-1], 2)} after the last",
            "Lower the learning rate, or clip gradients harder; nothing else about it means much before.",
        )


def overfitting(facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """The validation loss rose by more than 5 % after its best epoch, while the training loss fell."""
    if arm.overfits and arm.best_epoch is not None:
        best = number(arm.best_epoch, 0)
        yield Insight(
            "warning",
            f"**{arm.name} overfits** after epoch {best}.",
            f"validation loss {percent(arm.rise_since_best)} above its best by epoch {arm.epochs}",
            f"Score the best epoch's weights (`--checkpoint best`) or stop near epoch {best}."
            + (" Which weights are scored must be fixed before the scores are seen." if len(facts.arms) > 1 else ""),
        )


def not_converged(_facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """The best epoch is the last one, and the loss still fell by more than 1 % over the last tenth."""
    if arm.best_epoch is None or arm.best_epoch < arm.epochs:
        return
    means = mean_curve(arm.validation_RE)
    tail = max(2, len(means) // 10 + 1)
    if len(means) > tail and means[-tail] > 0 and (fall := 1 - means[-1] / means[-tail]) > STILL_FALLING:
        yield Insight(
            "note",
            f"**{arm.name} was still improving** when training ended.",
            f"validation loss down {percent(fall)} over the last {plural(tail - 1, 'epoch')}; best epoch is the last, "
            f"{arm.epochs}",
            f"Train longer, for example `--epochs {2 * arm.epochs}`.",
        )


def weight_imbalance(_facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """One task takes half of the learned weight, or the span gets less than half of an equal share."""
    (heaviest, share), span = arm.heaviest, arm.weights["span"]
    if span < 0.5 / len(arm.weights) or (heaviest != "span" and share >= 0.5):
        yield Insight(
            "warning",
            f"**{arm.name}'s learned weighting works against the span.**",
            f"{task_name(heaviest)} {percent(share)}" + (f", Span {percent(span)}" if heaviest != "span" else ""),
            "Raw scales, not importance, decide these weights. Try `normalise_losses` in the recipe the other way "
            "round: what it is worth differs from loss to loss.",
        )


def type_at_majority(_facts: Facts, arm: ArmFacts) -> Iterator[Insight]:
    """Type accuracy exceeds the majority class by 0.01 at most."""
    found = arm.arm.summary.type
    if found is None or found.accuracy is None or found.majority_accuracy is None:
        return
    if found.accuracy <= found.majority_accuracy + 0.01:
        yield Insight(
            "warning",
            f"**{arm.name}'s classification is no better than always naming the commonest type.**",
            f"accuracy {number(found.accuracy)} against {number(found.majority_accuracy)}",
            "Pool over the span's posterior (`type_pooling` in the recipe); if it does already, train longer.",
            "**Classification is no better than always naming the commonest type.**",
        )


ARM_RULES: tuple[Callable[[Facts, ArmFacts], Iterator[Insight]], ...] = (
    no_separation, below_all_positive, below_untrained, marks_everything, marks_nothing, beats_rule, not_beating_rule,
    clear_separation, wide_interval, poor_calibration, temperature_at_bound, decoder_gap, blurred_boundaries,
    diverged, overfitting, not_converged, weight_imbalance, type_at_majority,
)  # fmt: skip
