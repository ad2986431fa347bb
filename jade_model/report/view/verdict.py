"""The quick comparison, the verdict with its differences, and the baselines."""

from __future__ import annotations

from collections.abc import Callable

from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.markup import Rows, plain
from jade_model.report.naming import METRIC_NAMES, contestant, decoder_name
from jade_model.report.numbers import ABSENT, duration, number, p_value, percent, with_interval
from jade_model.statistics.verdict import Difference


def quick_rows(facts: Facts) -> Rows:
    """Return the quick comparison, a line a measure."""
    several = ", all runs" if facts.num_runs > len(facts.arms) else ""
    lines: list[tuple[str, Callable[[ArmFacts], str]]] = [
        ("**F1 (bars)**", lambda a: f"**{with_interval(a.decoder.f1, a.decoder.confidence_interval)}**"),
        ("Event F1 (IoU 0.5)", _event_f1),
        ("Read out by", lambda a: decoder_name(a.best_decoder)),
        ("Same network, untrained (F1)", lambda a: number(a.arm.summary.untrained.f1)),
        (f"Untrained rule (F1 {number(facts.rule)})", lambda a: _beaten(facts.beats_rule(a.key))),
        (f"Marking every bar (F1 {number(facts.all_positive)})", lambda a: _beaten(a.beats_all_positive)),
        ("Probability separation", lambda a: number(a.separation)),
        (
            "Validation loss reduction (own units)",
            lambda a: percent(a.reduction) if a.has_validation else "no validation loss",
        ),
        (f"Training time{several}", lambda a: duration(a.seconds_train)),
    ]
    if (spans := facts.numbers.baselines.span_score) is not None:
        beats = facts.numbers.verdict.beats_span_score or {}
        lines.insert(5, (f"Score of whole spans alone (F1 {number(spans.f1)})", lambda a: _beaten(beats.get(a.key))))
    return [[label, *[cell(arm) for arm in facts.arms]] for label, cell in lines]


def _event_f1(arm: ArmFacts) -> str:
    return with_interval(arm.decoder.span_f1_iou50, arm.decoder.span_confidence_interval)


def _beaten(beats: bool | None) -> str:  # noqa: FBT001 - a table cell
    return ABSENT if beats is None else "beaten ✓" if beats else "not beaten ✗"


def difference_rows(facts: Facts, is_pooled: bool) -> Rows:  # noqa: FBT001 - from a template
    """Return differences, a pair a line, with adjusted p-values and outcomes by both F1s: pooled, or by data set."""
    pairs: dict[tuple[str, str, str | None], dict[str, Difference]] = {}
    for item in facts.numbers.differences:
        if (item.dataset is None) == is_pooled:
            pairs.setdefault((item.first, item.second, item.dataset), {})[item.metric] = item
    return [
        [
            f"{contestant(first, facts.styles)} − {contestant(second, facts.styles)}"
            + ("" if dataset is None else f" ({plain(dataset)})"),
            *(cell for metric in METRIC_NAMES for cell in _difference(facts, by_metric.get(metric))),
        ]
        for (first, second, dataset), by_metric in pairs.items()
    ] + (_against_span_score(facts) if is_pooled else [])


def _against_span_score(facts: Facts) -> Rows:
    """Return each arm minus the trained baseline, which is asked of bars alone."""
    found = facts.numbers.baselines.span_score
    rows = []
    for arm, item in ({} if found is None else found.arms).items():
        shown = with_interval(item.difference, item.confidence_interval, with_sign=True)
        better = contestant(arm, facts.styles) if item.difference > 0 else "Whole spans alone"
        outcome = f"**{better}**" if item.outcome == "winner" else item.outcome
        rows.append([f"{contestant(arm, facts.styles)} − Whole spans alone", shown, ABSENT, outcome, *[ABSENT] * 3])
    return rows


def _difference(facts: Facts, item: Difference | None) -> list[str]:
    if item is None:
        return [ABSENT] * 3
    shown = with_interval(item.difference, item.confidence_interval, with_sign=True)
    return [shown, p_value(item.adjusted_p_value), _outcome(facts, item)]


def _outcome(facts: Facts, item: Difference) -> str:
    if item.outcome != "winner":
        return item.outcome
    better = item.first if item.difference > 0 else item.second
    return f"**{contestant(better, facts.styles)}**"


def fold_rows(facts: Facts) -> Rows:
    """Return the F1 of every scored part."""
    by_arm = [{(item.dataset, item.seed, item.fold): item for item in arm.decoder.per_fold} for arm in facts.arms]
    keys = sorted({key for scores in by_arm for key in scores})
    return [
        [plain(key[0]), str(key[1]), str(key[2])]
        + [number(scores[key].f1) if key in scores else ABSENT for scores in by_arm]
        for key in keys
    ]
