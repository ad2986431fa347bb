"""The quick comparison, the verdict with its differences, and the baselines."""

from __future__ import annotations

import re

from jade_model.comparison.model import Difference
from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.markup import plain
from jade_model.report.naming import (
    DECODER_NAMES,
    contestant,
    decoder_name,
    metric_name,
)
from jade_model.report.numbers import (
    ABSENT,
    count,
    duration,
    interval,
    number,
    p_value,
    percent,
    plural,
    signed,
    with_interval,
)
from jade_model.report.view.rows import ArmCell, Rows


def quick_rows(facts: Facts) -> Rows:
    """Return the quick comparison, a line a measure."""
    several = ", all runs" if facts.num_runs > len(facts.arms) else ""
    lines: list[tuple[str, ArmCell]] = [
        ("**F1 (bars)**", lambda a: f"**{with_interval(a.decoder.f1, a.decoder.confidence_interval)}**"),
        ("Event F1 (IoU 0.5)", _event_f1),
        ("Read out by", lambda a: decoder_name(a.best_decoder)),
        ("Precision / recall", lambda a: f"{number(a.decoder.precision)} / {number(a.decoder.recall)}"),
        ("Same network, untrained (F1)", lambda a: number(a.arm.summary.untrained.f1)),
        (f"Untrained rule (F1 {number(facts.rule)})", lambda a: _beaten(facts.beats_rule(a.key))),
        (f"Marking every bar (F1 {number(facts.all_positive)})", lambda a: _beaten(facts.beats_all_positive(a))),
        ("Probability separation", lambda a: number(a.separation)),
        (
            "ECE / Brier",
            lambda a: f"{number(a.arm.summary.calibration.ece)} / {number(a.arm.summary.calibration.brier)}",
        ),
        (
            "Validation loss reduction (own units)",
            lambda a: percent(a.reduction) if a.has_validation else "no validation loss",
        ),
        ("Parameters", lambda a: count(a.arm.num_parameters)),
        (f"Training time{several}", lambda a: duration(a.seconds_train)),
    ]
    return [[label, *[cell(arm) for arm in facts.arms]] for label, cell in lines]


def _event_f1(arm: ArmFacts) -> str:
    return with_interval(arm.decoder.span_f1_iou50, arm.decoder.span_confidence_interval)


def _beaten(beats: bool | None) -> str:  # noqa: FBT001 - a table cell
    return ABSENT if beats is None else "beaten ✓" if beats else "not beaten ✗"


def verdict_line(facts: Facts) -> str:
    """Return the verdict's difference with its interval, in words."""
    verdict = facts.numbers.verdict
    first, second = contestant(verdict.first, facts.styles), contestant(verdict.second, facts.styles)
    outcome = {"winner": "One arm is better", "equivalent": "Equivalent", "undecided": "Undecided"}[verdict.outcome]
    return (
        f"**{outcome}.** {first} minus {second}: {signed(verdict.difference)} "
        f"{interval(verdict.confidence_interval, with_sign=True)} in {metric_name(verdict.metric)}, "
        f"read out by {_decoders(facts, verdict.decoder)}."
    )


def what_would_decide(facts: Facts) -> str:
    """Say what it would take to decide what is undecided, as the end of a sentence."""
    verdict = facts.numbers.verdict
    if verdict.outcome != "undecided":
        return "the question above is decided, so no more data are needed for it."
    if verdict.lack is not None:
        return "this design gives no verdict, whatever the scores: see the sentence at the top."
    more, seeds = verdict.groups_needed, verdict.seeds_needed
    ways = [
        *([] if more is None else [f"about {count(more)} more base windows with folds in proportion"]),
        *([] if seeds is None else [f"{plural(int(seeds), 'more seed')} on the same windows"]),
    ]
    if not ways:
        return "neither more base windows nor more seeds alone would decide, it takes both."
    return f"{' or '.join(ways)} would decide, if the difference stays what it is."


def _decoders(facts: Facts, text: str | None) -> str:
    if text is None:
        return "each arm's best decoder"
    names = {
        **{key: style.name for key, style in facts.styles.items()},
        **{key: name.lower() for key, name in DECODER_NAMES.items()},
    }
    keys = sorted(names, key=len, reverse=True)
    return plain(re.sub(rf"\b(?:{'|'.join(map(re.escape, keys))})\b", lambda found: names[found.group()], text))


def difference_rows(facts: Facts, is_pooled: bool) -> Rows:  # noqa: FBT001 - from a template
    """Return differences with intervals and p-values: pooled, or by data set."""
    return [
        [
            _pair(facts, item) + ("" if is_pooled else f" ({plain(item.dataset)})"),
            metric_name(item.metric),
            signed(item.difference),
            interval(item.confidence_interval, with_sign=True),
            p_value(item.adjusted_p_value),
            _outcome(facts, item),
        ]
        for item in facts.numbers.differences
        if (item.dataset is None) == is_pooled
    ]


def _pair(facts: Facts, item: Difference) -> str:
    return f"{contestant(item.first, facts.styles)} − {contestant(item.second, facts.styles)}"


def _outcome(facts: Facts, item: Difference) -> str:
    if item.outcome != "winner":
        return item.outcome
    better = item.first if item.difference > 0 else item.second
    return f"**{contestant(better, facts.styles)}** better"


def baseline_rows(facts: Facts) -> Rows:
    """Return the arms beside what costs no training."""
    baselines = facts.numbers.baselines
    rule, every = baselines.largest_move, baselines.all_positive
    untrained = [(arm.name, arm.arm.summary.untrained) for arm in facts.arms]
    return [
        ["Marking every bar", number(every.f1), number(every.span_f1_iou50)],
        *[[f"{name}, untrained", number(of.f1), number(of.span_f1_iou50)] for name, of in untrained],
        [
            f"Untrained rule: largest {facts.rule_move}",
            with_interval(rule.f1, rule.confidence_interval),
            number(rule.span_f1_iou50),
        ],
        *_span_score_rows(facts),
        *[
            [
                f"**{arm.name}**",
                f"**{with_interval(arm.decoder.f1, arm.decoder.confidence_interval)}**",
                f"**{_event_f1(arm)}**",
            ]
            for arm in facts.arms
        ],
    ]


def _span_score_rows(facts: Facts) -> Rows:
    """Return the trained baseline, where the comparison has it."""
    found = facts.numbers.baselines.span_score
    if found is None:
        return []
    name = f"Score of whole spans alone, trained ({count(found.num_parameters)} parameters)"
    return [[name, with_interval(found.f1, found.confidence_interval), number(found.span_f1_iou50)]]


def fold_rows(facts: Facts) -> Rows:
    """Return F1 and event F1 of every scored part."""
    by_arm = [{(item.dataset, item.seed, item.fold): item for item in arm.decoder.per_fold} for arm in facts.arms]
    keys = sorted({key for scores in by_arm for key in scores})
    return [
        [plain(key[0]), str(key[1]), str(key[2])]
        + [number(scores[key].f1) if key in scores else ABSENT for scores in by_arm]
        + [number(scores[key].span_f1_iou50) if key in scores else ABSENT for scores in by_arm]
        for key in keys
    ]


def data_set_rows(facts: Facts) -> Rows:
    """Return each arm's F1 by data set, then pooled."""
    rows = []
    for data in facts.numbers.data:
        cells = [arm.decoder.per_dataset.get(data.name) for arm in facts.arms]
        shown = [ABSENT if cell is None else with_interval(cell.f1, cell.confidence_interval) for cell in cells]
        rows.append([plain(data.name), *shown])
    pooled = [f"**{with_interval(a.decoder.f1, a.decoder.confidence_interval)}**" for a in facts.arms]
    return [*rows, ["**All, pooled**", *pooled]]
