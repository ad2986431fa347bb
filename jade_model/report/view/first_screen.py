"""What is looked at first: when, on what data, what moved since the last comparison, at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jade_model.report.actions import run_folder
from jade_model.report.facts import Facts
from jade_model.report.markup import code, plain
from jade_model.report.numbers import (
    count,
    join,
    moment,
    number,
    plural,
    signed,
)


def first_screen(facts: Facts) -> list[tuple[str, str]]:
    """Return label and value of what is looked at first: what, since when, on what data, at what cost, where."""
    settings, run = facts.numbers.settings, facts.report.run
    lines = [("Date", moment(facts.numbers.created_at)), ("Dataset", _data_line(facts))]
    if since := since_last(facts):
        lines.append(("Since the last comparison", since))
    if champion := _champion_line(facts):
        lines.append(("Champion", champion))
    if data := _data_alarm(facts):
        lines.append(("Data checks", data))
    parameters = join([f"{count(arm.arm.num_parameters)} ({arm.name})" for arm in facts.arms])
    lines.append(("Model", f"JadeCompact, {parameters} parameters"))
    epochs = sorted({trained.epochs for arm in facts.arms for trained in arm.arm.runs})
    recipes = join([code(name) for name in dict.fromkeys(arm.arm.recipe for arm in facts.arms)])
    repetition = f"{plural(len(settings.seeds), 'seed')} x " + (
        "a single split" if settings.num_folds <= 1 else plural(settings.num_folds, "fold")
    )
    shown = plural(epochs[0], "epoch") if len(epochs) == 1 else f"{join([str(e) for e in epochs]) or 'no'} epochs"
    split = code(settings.split)
    lines.append(("Training", f"{shown}, recipes {recipes}, {repetition}, {split} split"))
    if cost := _cost_line(run):
        lines.append(("Cost", cost))
    troubles = facts.report.troubles
    told = f"{plural(len(troubles), 'warning')}, the last: {plain(troubles[-1])}" if troubles else "none"
    lines.append(("Failures and retries", told))
    lines.append(("Run", f"{code(run_folder(facts))}; what was said is in {code('log.jsonl')}"))
    return lines


def since_last(facts: Facts) -> str:
    """Say how each arm's F1 moved since the comparison before this one; empty if there was none."""
    points = [point for point in facts.report.trend or () if point.run_id != facts.numbers.run_id]
    if not points:
        return ""
    last = points[-1].run_id
    before = {point.arm: point for point in points if point.run_id == last}
    moved = [
        f"{arm.name} {number(before[arm.key].f1)} → {number(arm.decoder.f1)} "
        f"({signed(arm.decoder.f1 - before[arm.key].f1)})"
        for arm in facts.arms
        if arm.key in before
    ]
    return f"{join(moved) or 'other arms'}, against {code(last)}"


def _champion_line(facts: Facts) -> str:
    champion = facts.report.champion
    if champion is None:
        return ""
    return f"F1 {number(champion['f1'])} on the windows that it was judged by, run {code(champion['run_id'])}"


def _data_line(facts: Facts) -> str:
    data = facts.numbers.data
    sets = [
        f"{plain(item.name)} ({count(item.num_windows)} windows in {count(item.num_groups)} "
        f"groups, {item.num_train} train / {item.num_validation} validation / {item.num_test} test)"
        for item in data[:4]
    ]
    return "; ".join([*sets, *([f"{plural(len(data) - 4, 'further data set')}"] if len(data) > 4 else [])])


def _data_alarm(facts: Facts) -> str:
    checks = [check for report in facts.report.data_checks for check in report["checks"]]
    odd = [plain(check["name"]) for check in checks if check["status"] != "passed"]
    return f"look at {join(odd)}" if odd else f"all {count(len(checks))} passed" if checks else ""


def _cost_line(run: Mapping[str, Any]) -> str:
    rental = run.get("rental")
    if not isinstance(rental, Mapping):
        return ""
    replaced = sum(1 for machine in rental["machines"] if machine["problem"])
    lost = f", {plural(replaced, 'machine')} lost or replaced" if replaced else ""
    return f"{rental['cost_usd']:.2f} USD for {plural(len(rental['machines']), 'machine')}{lost}"
