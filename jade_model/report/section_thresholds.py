"""From probabilities to spans: every decoder, its cut-off, and what it scores beside what costs nothing."""

from __future__ import annotations

import numpy as np

from jade_model.report.document import Block, Bullets, FigureBlock, Section, Table, Text, plain
from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.insights_scores import marks_everything, marks_nothing
from jade_model.report.naming import decoder_name
from jade_model.report.numbers import ABSENT, join, number, with_interval

FORGIVING = 0.02


def threshold_section(facts: Facts) -> Section:
    """Return the decoders' table, the curves, and the questions that the first comparison left open."""
    settings = facts.numbers["settings"]
    where = (
        "**Here the cut-off was chosen on the windows that it is scored on (`--split seed`), which "
        "flatters every score.**"
        if settings["split"] == "seed"
        else "A cut-off is chosen on validation windows, never on those that are scored; the table gives its mean over "
        "folds. The best decoder, too, was chosen without them."
    )
    cleaning = []
    if settings["min_span_length"] > 1:
        cleaning.append(f"spans shorter than {settings['min_span_length']} bars are dropped")
    if settings["merge_gap"] > 0:
        cleaning.append(f"gaps of up to {settings['merge_gap']} bars are closed")
    blocks: list[Block] = [
        Text(where + (f" {join(cleaning).capitalize()}." if cleaning else "")),
        _decoder_table(facts),
    ]
    selected = {
        curve.selected_on.removeprefix("the ") for curves in facts.report.curves.values() for curve in curves.values()
    }
    if selected:
        blocks.append(
            Text(f"The curves below are those of the {plain(join(sorted(selected)))}: the cut-off is read off them.")
        )
    blocks.append(FigureBlock("thresholds"))
    questions = Section("What Training Brought", [_questions_table(facts), Bullets(_answers(facts))])
    advice = Section(
        "Recommendation for Threshold Optimization", [Bullets([_advice(facts, arm) for arm in facts.arms])]
    )
    return Section("Threshold Optimization", blocks, [questions, advice], short="Thresholds")


def _advice(facts: Facts, arm: ArmFacts) -> str:
    text = f"**{arm.name}**: read out by {decoder_name(arm.best_decoder).lower()}"
    curve = facts.report.curves.get(arm.key, {}).get(arm.best_decoder)
    if arm.decoder["threshold"] is None and curve is None:
        return f"{text}, which needs no cut-off"
    text += f" at {number(arm.decoder['threshold'])}"
    if curve is None or not np.isfinite(curve.f1).any():
        return text
    good = np.flatnonzero(curve.f1 >= np.nanmax(curve.f1) - FORGIVING)
    low, high = curve.threshold[good[0]], curve.threshold[good[-1]]
    return (
        f"{text}; on the {plain(curve.selected_on.removeprefix('the '))} cut-offs from {number(low, 2)} to "
        f"{number(high, 2)} hold a place within {FORGIVING} F1 of the best"
    )


def _decoder_table(facts: Facts) -> Table:
    header = [
        "Arm",
        "Decoder",
        "Cut-off",
        "Precision",
        "Recall",
        "F1 (bars)",
        "Event F1 (0.5 / 0.5:0.95)",
        "Untrained F1",
        "All-positive F1",
    ]
    rows: list[list[str]] = []
    emphasis: set[int] = set()
    for arm in facts.arms:
        for name, scores in arm.arm["summary"]["decoders"].items():
            is_best = name == arm.best_decoder
            if is_best:
                emphasis.add(len(rows))
            f1 = with_interval(scores["f1"], scores["confidence_interval"])
            rows.append(
                [
                    arm.name,
                    f"**{decoder_name(name)}** (used)" if is_best else decoder_name(name),
                    "none" if scores["threshold"] is None else number(scores["threshold"]),
                    number(scores["precision"]),
                    number(scores["recall"]),
                    f"**{f1}**" if is_best else f1,
                    f"{number(scores['span_f1_iou50'])} / {number(scores['span_f1_iou50_95'])}",
                    number(arm.arm["summary"]["untrained"]["f1"]),
                    number(facts.all_positive),
                ]
            )
    return Table(header, rows, "llr", frozenset(emphasis))


def _questions_table(facts: Facts) -> Table:
    rows = []
    for arm in facts.arms:
        f1, before = arm.decoder["f1"], arm.arm["summary"]["untrained"]["f1"]
        rows.append(
            [
                arm.name,
                number(facts.all_positive),
                number(before),
                number(facts.rule),
                f"**{number(f1)}**",
                _ratio(f1, before),
            ]
        )
    return Table(
        ["F1 (bars)", "All-positive", "Untrained", "Untrained rule", "Trained", "Trained over untrained"], rows, "lr"
    )


def _ratio(value: float | None, base: float | None) -> str:
    return ABSENT if value is None or base is None or base <= 0 else f"{value / base:.1f}x"


def _answers(facts: Facts) -> list[str]:
    items = []
    for arm in facts.arms:
        f1, before = arm.decoder["f1"], arm.arm["summary"]["untrained"]["f1"]
        items.append(f"**Does training {arm.name} beat the same network untrained?** {_answer(f1, before)}")
    if "crf" in {arm.arm["loss"] for arm in facts.arms}:
        crf = next(arm for arm in facts.arms if arm.arm["loss"] == "crf")
        event = number(crf.decoder["span_f1_iou50"])
        items.append(
            f"**Does training enable the CRF to extract spans?** {_extracts(facts, crf)}: event F1 {event}, "
            f"recall of bars {number(crf.decoder['recall'])} at precision {number(crf.decoder['precision'])}"
        )
    return items


def _extracts(facts: Facts, arm: ArmFacts) -> str:
    if marks_nothing(facts, arm) is not None:
        return "No, it marks next to nothing"
    if marks_everything(facts, arm) is not None:
        return "No, it marks bars blindly"
    return "Yes" if facts.beats_all_positive(arm) else "Not shown, its interval reaches down to marking every bar"


def _answer(f1: float | None, before: float | None) -> str:
    if f1 is None or before is None:
        return "It was not measured"
    if f1 <= before:
        return f"No: {number(before)} → {number(f1)}"
    scale = f1 / before if before > 0 else None
    expected = ""
    if scale is not None:
        expected = (
            " (short of the 2x to 3x that the first comparison hoped for)"
            if scale < 2
            else " (the first comparison hoped for 2x to 3x)"
        )
    return f"Yes: {number(before)} → {number(f1)}, {_ratio(f1, before)}{expected}"
