"""The executive summary and the quick comparison."""

from __future__ import annotations

from collections.abc import Callable

from jade_model.report.document import Block, Callout, FigureBlock, Section, Table, Text, plain
from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.naming import (
    TASK_NAMES,
    decoder_name,
    spelled_out,
)
from jade_model.report.numbers import (
    ABSENT,
    count,
    duration,
    number,
    percent,
    with_interval,
)

Show = Callable[[ArmFacts], str]


def executive_summary(facts: Facts) -> Section:
    """Return the reason in one sentence, the quick comparison and the forest plot."""
    verdict = facts.numbers["verdict"]
    blocks: list[Block] = []
    if facts.leaks:
        blocks.append(
            Callout(
                "critical",
                "**The split leaks.**",
                f"**{facts.leak_sentence[0].upper() + facts.leak_sentence[1:]}. Every score below is too "
                "high.** Compare with `--split grouped`.",
            )
        )
    blocks += [Text(plain(spelled_out(verdict["reason"], facts.styles)))]
    quick = Section(
        "Quick Comparison",
        [
            _quick_table(facts),
            Text(
                f"{_basis(facts)}. Brackets are {percent(facts.numbers['settings']['confidence'], 0)} "
                "intervals. **Loss values and their reductions are each arm's own affair:** the losses are "
                "in different units, so neither the values nor the percentages say which arm is better. "
                "Decoded spans on the same windows do."
            ),
            FigureBlock("forest"),
        ],
    )
    return Section("Executive Summary", blocks, [quick], short="Summary")


def _basis(facts: Facts) -> str:
    if facts.leaks:
        return "**Scores are on windows whose bars the models may have seen: the split leaks**"
    if facts.numbers["settings"]["num_folds"] <= 1:
        return "Scores are on the test windows of one split, whose bars the models had not seen"
    return "Scores are out of fold: each window was scored by a model that had not seen its bars"


def _quick_table(facts: Facts) -> Table:
    several = ", all runs" if facts.num_runs > len(facts.arms) else ""
    lines: list[tuple[str, Show]] = [
        ("**F1 (bars)**", lambda a: f"**{with_interval(a.decoder['f1'], a.decoder['confidence_interval'])}**"),
        (
            "Event F1 (IoU 0.5)",
            lambda a: with_interval(a.decoder["span_f1_iou50"], a.decoder.get("span_confidence_interval")),
        ),
        ("Read out by", lambda a: decoder_name(a.best_decoder)),
        ("Precision / recall", lambda a: f"{number(a.decoder['precision'])} / {number(a.decoder['recall'])}"),
        ("Same network, untrained (F1)", lambda a: number(a.arm["summary"]["untrained"]["f1"])),
        (f"Untrained rule (F1 {number(facts.rule)})", lambda a: _beats(facts.beats_rule(a.key))),
        (f"Marking every bar (F1 {number(facts.all_positive)})", lambda a: _beats(facts.beats_all_positive(a))),
        ("Probability separation", _separation),
        ("ECE / Brier", _calibration),
        ("Validation loss reduction (own units)", _reduction),
        ("Loss range (own units)", _loss_range),
        ("Convergence", _convergence),
        ("Pointer weight", lambda a: percent(a.weights.get("pointer"))),
        ("Span weight", lambda a: percent(a.weights.get("span"))),
        ("Task balance", _balance),
        ("Parameters", lambda a: count(a.arm["num_parameters"])),
        (f"Training time{several}", lambda a: duration(a.seconds_train)),
    ]
    rows = [[label, *[show(arm) for arm in facts.arms]] for label, show in lines]
    return Table(["Metric", *[arm.name for arm in facts.arms]], rows, "lr", frozenset({0}))


def _calibration(arm: ArmFacts) -> str:
    found = arm.arm["summary"]["calibration"]
    return f"{number(found['ece'])} / {number(found['brier'])}"


def _beats(beats: bool | None) -> str:  # noqa: FBT001 - a table cell
    return ABSENT if beats is None else "beaten ✓" if beats else "not beaten ✗"


def _separation(arm: ArmFacts) -> str:
    found = arm.arm["summary"]["separation"]
    return f"{number(found['separation'])} ({number(found['in_span_mean'])} vs {number(found['out_of_span_mean'])})"


def _reduction(arm: ArmFacts) -> str:
    return percent(arm.reduction) if arm.has_validation else "no validation loss"


def _loss_range(arm: ArmFacts) -> str:
    bounds = arm.loss_range
    return ABSENT if bounds is None else f"{number(bounds[0], 2)} to {number(bounds[1], 2)}"


def _convergence(arm: ArmFacts) -> str:
    if arm.settled_epoch is None or arm.best_epoch is None:
        return ABSENT
    return f"90 % by epoch {number(arm.settled_epoch, 0)}, best {number(arm.best_epoch, 0)}"


def _balance(arm: ArmFacts) -> str:
    if not arm.weights:
        return ABSENT
    heaviest = max(arm.weights, key=lambda task: arm.weights[task])
    return f"{TASK_NAMES.get(heaviest, heaviest)}-dominant" if arm.weights[heaviest] >= 0.5 else "balanced"
