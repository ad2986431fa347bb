"""Trend, data checks, rented machines, and what it takes to get the same again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jade_model.report.facts import Facts
from jade_model.report.markup import Rows, code, plain
from jade_model.report.numbers import ABSENT, duration, is_number, join, moment, number

TREND_LENGTH = 5


def trend_rows(facts: Facts) -> Rows:
    """Return the last comparisons, one a line."""
    points = list(facts.report.trend or ())
    rows = []
    for run in list(dict.fromkeys(point.run_id for point in points))[-TREND_LENGTH:]:
        by_arm = {point.arm: point for point in points if point.run_id == run}
        one = next(iter(by_arm.values()))
        seconds = [point.seconds for point in by_arm.values() if point.seconds is not None]
        rows.append(
            [
                code(run),
                moment(one.created_at),
                *[number(by_arm[arm.key].f1) if arm.key in by_arm else ABSENT for arm in facts.arms],
                duration(sum(seconds)) if seconds else ABSENT,
                ABSENT if one.cost_usd is None else f"${one.cost_usd:.2f}",
            ]
        )
    return rows


def num_trend(facts: Facts) -> int:
    """Count the comparisons that the trend shows."""
    return min(TREND_LENGTH, len({point.run_id for point in facts.report.trend or ()}))


def fallen(facts: Facts) -> list[str]:
    """Say which arms fell out of the row of comparisons before."""
    names = {arm.key: arm.name for arm in facts.arms}
    scores = {arm.key: arm.decoder.f1 for arm in facts.arms}
    told = []
    for band in facts.report.bands:
        f1 = scores[band["arm"]]
        scored = band.get("scored", f1)
        if scored is None or scored >= band["low"]:
            continue
        average = "" if scored == f1 else f", {number(scored)} in the weighted average of the last comparisons"
        told.append(
            f"{names[band['arm']]} scores {number(f1)}{average}; {band['num_earlier']} earlier comparisons make "
            f"{number(band['expected'])} expected, and nothing under {number(band['low'])}."
        )
    return told


def passed_checks(reports: Sequence[Mapping[str, Any]]) -> str:
    """Name the checks that every data set passed."""
    names = dict.fromkeys(check["name"] for report in reports for check in report["checks"])
    odd = {check["name"] for report in reports for check in report["checks"] if check["status"] != "passed"}
    return join([plain(name) for name in names if name not in odd])


def drift_figure(dataset: str, *, several: bool) -> str:
    """Return the name of a data set's drift figure."""
    return f"drift-{''.join(char if char.isalnum() else '-' for char in dataset)}" if several else "drift"


def key_values(value: Mapping[str, Any] | str) -> str:
    """Return `key value, key value`, of nested ones too; a text as it is."""
    if not isinstance(value, Mapping):
        return code(value)
    there = {name: item for name, item in value.items() if item is not None}
    return ", ".join(
        key_values(item) if isinstance(item, Mapping) else f"{plain(name)} {code(item)}" for name, item in there.items()
    )


def times(facts: Facts) -> str:
    """Say where the run's time went; empty if that is not known."""
    run = facts.report.run
    overhead = run.get("overhead") or {}
    if not isinstance(overhead, Mapping):
        overhead = {"all that is not training": overhead}
    parts = [*(run.get("seconds") or {}).items(), *overhead.items()]
    told = [f"{plain(str(name).replace('_', ' '))} {duration(spent)}" for name, spent in parts if is_number(spent)]
    return join(told)


PARTS = {
    "key_values": key_values,
    "passed_checks": passed_checks,
    "drift_figure": drift_figure,
}
"""What `parts.md.j2` names."""
