"""The quick comparison, the verdict with its differences, and the baselines."""

from __future__ import annotations

from jade_model.report.facts import Facts
from jade_model.report.markup import Rows, plain
from jade_model.report.naming import METRIC_NAMES, contestant
from jade_model.report.numbers import ABSENT, number, p_value, with_interval
from jade_model.statistics.verdict import Difference


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
        rows.append([f"{contestant(arm, facts.styles)} − Whole spans alone", shown, "", outcome, "", "", ""])
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
