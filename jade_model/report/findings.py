"""What the numbers say, by rule: no sentence here is written for one run.

A rule that finds nothing returns None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from jade_model.report.facts import Facts
from jade_model.report.finding import (
    Insight,
)
from jade_model.report.findings_of_arms import SCORE_RULES, TRAINING_RULES
from jade_model.report.naming import contestant
from jade_model.report.numbers import number, percent, plural, signed
from jade_model.statistics.pool import RULE
from jade_model.statistics.verdict import Difference

RunRule = Callable[[Facts], Insight | None]

FOLD_SPREAD = 0.2
GROUPS_AGAINST_LUCK = 100
"""From so many on, equal recipes of stable learners are told apart in 5 % of data sets: benchmarks/training_luck.py."""
ORDER = {"critical": 0, "warning": 1, "note": 2, "good": 3}


def find_insights(facts: Facts) -> list[Insight]:
    """Return everything that a rule found, gravest first, otherwise in the order of the rules."""
    found = [insight for rule in RUN_RULES if (insight := rule(facts)) is not None]
    for arm_rule in (*SCORE_RULES, *TRAINING_RULES):
        found += [insight for arm in facts.arms if (insight := arm_rule(facts, arm)) is not None]
    return sorted(found, key=lambda insight: ORDER[insight.severity])


def merged(insights: list[Insight], facts: Facts) -> list[Insight]:
    """Return the insights with those that say the same of several arms made one, at the place of the first."""
    together: dict[tuple[str, str, str], list[Insight]] = {}
    for index, insight in enumerate(insights):
        together.setdefault((insight.rule, insight.group or str(index), insight.remedy), []).append(insight)
    return [
        alike[0]
        if len(alike) == 1
        else replace(
            alike[0],
            text=alike[0].group,
            evidence="; ".join(f"{contestant(insight.arm, facts.styles)}: {insight.evidence}" for insight in alike),
            arm=None,
        )
        for alike in together.values()
    ]


def leak(facts: Facts) -> Insight | None:
    """Windows that share bars stand on both sides of the split."""
    if not facts.leaks:
        return None
    return Insight(
        "leak",
        "critical",
        f"**The split leaks: {facts.leak_sentence}. Every score here is too high.**",
        f"split `{facts.numbers.settings.split}`, {facts.num_straddling} of {facts.num_groups} groups straddle",
        "Use these numbers only beside the original's. Compare again with `--split grouped`.",
    )


def one_seed(facts: Facts) -> Insight | None:
    """All trainings share one seed."""
    settings = facts.numbers.settings
    if len(settings.seeds) > 1:
        return None
    is_single = settings.num_folds <= 1
    chance = (
        "On one 80/20 split of some 200 windows, two runs of the same recipe differ by more than 0.05 F1 "
        "in 10 to 14 % of pairs, and by more than 0.05 event F1 in 20 to 34 %."
        if is_single
        else f"Folds vary the data ({settings.num_folds} of them here), but luck in starting weights and batch "
        "order is seen once only."
    )
    seen = facts.numbers.verdict.detectable_difference
    if seen is not None:
        chance += f" Only a difference of some {number(seen)} or more would be told from luck here."
    return Insight(
        "one_seed",
        "warning",
        "**One seed proves little.**",
        f"seed {settings.seeds[0] if settings.seeds else 'unknown'}, "
        f"{'a single split' if is_single else plural(settings.num_folds, 'fold')}",
        f"{chance} Repeat with `--seeds 3 --folds 5` before acting on a small lead.",
    )


def shared_bars(facts: Facts) -> Insight | None:
    """Base windows with different identifiers hold the same bars."""
    joins = sum(data.num_shared_bar_joins for data in facts.numbers.data)
    if joins == 0 or facts.leaks:
        return None
    return Insight(
        "shared_bars",
        "note",
        f"**{plural(joins, 'pair')} of base windows share bars under different identifiers** and were kept "
        "on one side.",
        f"{joins} joins, {facts.num_groups} groups from {facts.num_windows} windows",
        "Splitting by identifier alone would have leaked here.",
    )


def metrics_disagree(facts: Facts) -> Insight | None:
    """Bar F1 and event F1 name different arms, both beyond chance."""
    pooled = {
        (item.first, item.second, item.metric): item
        for item in facts.numbers.differences
        if item.dataset is None and RULE not in (item.first, item.second) and item.outcome == "winner"
    }
    for (first, second, metric), bars in pooled.items():
        events = pooled.get((first, second, "span_f1_iou50"))
        if metric == "f1" and events is not None and _product(bars, events) < 0:
            return Insight(
                "metrics_disagree",
                "warning",
                f"**Bars and events name different winners** between {contestant(first, facts.styles)} and "
                f"{contestant(second, facts.styles)}.",
                f"difference {signed(bars.difference)} in F1, {signed(events.difference)} in event F1",
                "Decide by what a user of the spans needs: every bar right (F1) or every span found (event F1).",
            )
    return None


def data_sets_disagree(facts: Facts) -> Insight | None:
    """A data set's own difference points against a pooled winner."""
    verdict = facts.numbers.verdict
    if verdict.outcome != "winner" or verdict.difference is None:
        return None
    against = [
        item
        for item in facts.numbers.differences
        if item.dataset is not None
        and item.metric == verdict.metric
        and {item.first, item.second} == {verdict.first, verdict.second}
        and item.difference * verdict.difference * (1 if item.first == verdict.first else -1) < 0
    ]
    if not against:
        return None
    return Insight(
        "data_sets_disagree",
        "warning",
        f"**The winner does not lead everywhere:** on {plural(len(against), 'data set')} the other arm scores higher.",
        "; ".join(f"`{item.dataset}` {signed(item.difference)}" for item in against[:5]),
        "One pooled verdict hides this; look at each instrument's own interval.",
    )


def fold_spread(facts: Facts) -> Insight | None:
    """The F1 of one arm's folds spans more than 0.2."""
    spreads = {}
    for arm in facts.arms:
        scores = [fold.f1 for fold in arm.decoder.per_fold if fold.f1 is not None]
        if len(scores) > 1:
            spreads[arm.name] = (float(np.ptp(scores)), min(scores), max(scores))
    wide = {name: spread for name, spread in spreads.items() if spread[0] > FOLD_SPREAD}
    if not wide:
        return None
    name, (spread, low, high) = max(wide.items(), key=lambda item: item[1][0])
    return Insight(
        "fold_spread",
        "note",
        f"**Folds differ much:** any single split could have told another story (most for {name}).",
        f"F1 from {number(low)} to {number(high)} over folds, {number(spread, 2)} apart",
    )


def training_noise(facts: Facts) -> Insight | None:
    """More than half of the verdict's variance comes from training, not from the choice of windows."""
    share = facts.training_share
    if share is None or share <= 0.5:
        return None
    return Insight(
        "training_noise",
        "note",
        "**Training luck, not the choice of windows, is the larger part of the doubt.**",
        f"{percent(share, 0)} of the variance of the difference is training noise",
        "More seeds (`--seeds`) or an ensemble (`--ensemble`) help more here than more windows.",
    )


def training_set_luck(facts: Facts) -> Insight | None:
    """A winner on fewer groups than it takes for the luck of the training set to matter little."""
    verdict = facts.numbers.verdict
    if verdict.outcome != "winner" or facts.num_groups >= GROUPS_AGAINST_LUCK:
        return None
    return Insight(
        "training_set_luck",
        "note",
        "**The winner is better on training sets like this one; on another of the same market it need not be.**",
        f"{plural(facts.num_groups, 'group')} of windows, of which every training saw most",
        f"Folds of one data set can't show that luck. Of equal recipes, 6 to 12 % were told apart with under "
        f"{GROUPS_AGAINST_LUCK} groups in simulations of unstable learners, 5 % from there on for stable ones. More "
        "windows help, more seeds don't.",
    )


def _product(one: Difference, other: Difference) -> float:
    return one.difference * other.difference


RUN_RULES: tuple[RunRule, ...] = (
    leak,
    one_seed,
    metrics_disagree,
    data_sets_disagree,
    training_noise,
    training_set_luck,
    fold_spread,
    shared_bars,
)
