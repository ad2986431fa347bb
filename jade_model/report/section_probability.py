"""What the probabilities are worth: separation, calibration, and what the other heads make of them."""

from __future__ import annotations

from jade_model.report.document import Bullets, Code, Details, FigureBlock, Section, Table, Text
from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.insight import CLEAR_SEPARATION, NO_SEPARATION
from jade_model.report.naming import decoder_name
from jade_model.report.numbers import ABSENT, count, number, percent


def distribution_section(facts: Facts) -> Section:
    """Return in-span and out-of-span means, their separation, and what it means."""
    intro = (
        "Probability that a bar is in a span: of the sigmoid for the soft span loss, the posterior marginal "
        "(forward-backward) for the CRF and the single-span model, never a softmax of raw emissions."
    )
    return Section(
        "Probability Distribution Analysis",
        [Text(intro), FigureBlock("probabilities")],
        [_arm_distribution(arm) for arm in facts.arms],
        short="Probabilities",
    )


def _arm_distribution(arm: ArmFacts) -> Section:
    found = arm.arm["summary"]["separation"]
    block = "\n".join(
        [
            "Diagnostics:",
            f"  In-span mean:     {number(found['in_span_mean'])}",
            f"  Out-of-span mean: {number(found['out_of_span_mean'])}",
            f"  Separation:       {number(found['separation'])} {_mark(found['separation'])}",
        ]
    )
    return Section(arm.name, [Code(block), Bullets(_meaning(arm))])


def _mark(separation: float | None) -> str:
    if separation is None:
        return "(no in-span bars were scored)"
    if separation < NO_SEPARATION:
        return "✗ (about 0)"
    return "✓ (clear)" if separation >= CLEAR_SEPARATION else "(moderate)"


def _meaning(arm: ArmFacts) -> list[str]:
    separation = arm.separation
    f1 = arm.decoder["f1"]
    if separation is None:
        return ["No bar inside a span was scored, so nothing can be said"]
    if separation < NO_SEPARATION:
        return [
            (
                "**Separation about 0: the model has not learned to tell in-span from out-of-span.** It "
                "gives bars inside and outside spans practically the same probability, so no cut-off can "
                "pick the right ones"
            ),
            (
                "**What to try:** features that carry displacement (`displacement-17`, which the `jade` "
                "recipe uses), Dice or a positive weight so that rare in-span bars count, a structured "
                "loss (`single_span`), mirror augmentation, lighter dropout. More epochs of the same "
                "rarely help"
            ),
        ]
    if separation < CLEAR_SEPARATION:
        return [
            (
                f"The model tells spans from the rest, but softly: F1 {number(f1)} comes from ranking bars "
                f"within a window ({decoder_name(arm.best_decoder).lower()}) more than from high "
                "probabilities"
            )
        ]
    return [
        (
            f"The model puts most of its probability where the spans are; F1 {number(f1)} by "
            f"{decoder_name(arm.best_decoder).lower()}"
        )
    ]


def calibration_section(facts: Facts) -> Section:
    """Return reliability, Brier score, expected calibration error and temperature."""
    base_rate = facts.in_span_rate
    rows = []
    for arm in facts.arms:
        found = arm.arm["summary"]["calibration"]
        rows.append(
            [
                arm.name,
                number(found["brier"], 4),
                number(found["ece"], 4),
                number(found["temperature"], 2),
                _verdict(arm),
            ]
        )
    table = Table(["Arm", "Brier score", "Expected calibration error", "Temperature", "Reading"], rows, "lrrrl")
    bins = [
        [
            arm.name,
            f"{number(item['lower'], 2)} to {number(item['upper'], 2)}",
            number(item["mean_probability"]),
            number(item["observed_rate"]),
            count(item["num_bars"]),
        ]
        for arm in facts.arms
        for item in arm.arm["summary"]["calibration"]["reliability"]
    ]
    return Section(
        "Calibration",
        [
            Text(
                "Whether a probability of 0.3 comes true three times in ten. Always answering the in-span "
                f"rate ({percent(base_rate)}) would score a Brier of "
                f"{number(base_rate * (1 - base_rate), 4)} and a perfect calibration error of 0, so "
                "calibration is worth something only together with separation. The temperature was fitted "
                "on validation windows and is already applied: above 1, the raw model was too sure of "
                "itself."
            ),
            table,
            FigureBlock("reliability"),
            Details("Reliability in numbers", [Table(["Arm", "Probability", "Mean", "Came true", "Bars"], bins, "lr")]),
        ],
    )


def _verdict(arm: ArmFacts) -> str:
    ece = arm.arm["summary"]["calibration"]["ece"]
    separation = arm.separation
    if ece is None:
        return ABSENT
    if ece > 0.05:
        return "poor: do not use the probabilities as such"
    if separation is not None and separation < NO_SEPARATION:
        return "right on average, and uninformative"
    return "good" if ece <= 0.02 else "fair"


def heads_section(facts: Facts) -> Section:
    """Return pointer, countdown and type errors, trained head beside span posterior."""
    rows = []
    for arm in facts.arms:
        summary = arm.arm["summary"]
        pointers, countdown = summary["pointer_error_bars"], summary["countdown_error_bars"]
        head, posterior = pointers["trained_head"], pointers["posterior"]
        rows += [
            [f"{arm.name}: centre", *_pair(head["center"], posterior["center"])],
            [f"{arm.name}: length", *_pair(head["length"], posterior["length"])],
            [f"{arm.name}: countdown", *_pair(countdown["trained_head"], countdown["posterior"])],
        ]
    types = [
        [
            arm.name,
            percent(arm.arm["summary"]["type"]["accuracy"]),
            percent(arm.arm["summary"]["type"]["majority_accuracy"]),
        ]
        for arm in facts.arms
    ]
    return Section(
        "Pointers, Countdown and Type",
        [
            Text(
                "Mean absolute error in bars, by the head that was trained for it and read off the span "
                "posterior. **Use the better one.**"
            ),
            Table(["Error in bars", "Trained head", "Span posterior", "Better"], rows, "lrrl"),
            Table(["Type", "Accuracy", "Always the commonest type"], types, "lr"),
        ],
        short="Other heads",
    )


def _pair(head: float | None, posterior: float | None) -> list[str]:
    if head is None or posterior is None:
        return [number(head, 1), number(posterior, 1), ABSENT]
    better = "equal" if head == posterior else "span posterior" if posterior < head else "trained head"
    return [number(head, 1), number(posterior, 1), better]
