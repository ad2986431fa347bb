"""Rules on a whole comparison: each yields what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from jade_model.report.facts import Facts
from jade_model.report.markup import Severity
from jade_model.report.naming import contestant
from jade_model.report.numbers import number, percent, plural, signed
from jade_model.statistics.pool import RULE

FOLD_SPREAD = 0.2
GROUPS_AGAINST_LUCK = 100
"""From so many on, equal recipes of stable learners are told apart in 5 % of data sets: benchmarks/training_luck.py."""


@dataclass(frozen=True)
class Insight:
    """Something that the numbers say.

    Attributes:
        severity: How much it matters.
        text: What was found, in one sentence; names the arm.
        evidence: The numbers.
        remedy: What to try; empty where there is nothing to do.
        group: The sentence for several arms of which the same was found; empty if each is to stand alone.
        rule: Name of the rule that found it.
        arm: Whom it is about; None for the whole comparison.
    """

    severity: Severity
    text: str
    evidence: str
    remedy: str = ""
    group: str = ""
    rule: str = ""
    arm: str | None = None


def leak(facts: Facts) -> Iterator[Insight]:
    """Windows that share bars stand on both sides of the split."""
    if facts.leaks:
        yield Insight(
            "critical",
            f"**The split leaks: {facts.leak_sentence}. Every score here is too high.**",
            f"split `{facts.numbers.settings.split}`, {facts.num_straddling} of {facts.num_groups} groups straddle",
            "Use these numbers only beside the original's. Compare again with `--split grouped`.",
        )


def one_seed(facts: Facts) -> Iterator[Insight]:
    """All trainings share one seed."""
    settings, seen = facts.numbers.settings, facts.numbers.verdict.detectable_difference
    if len(settings.seeds) > 1:
        return
    is_single = settings.num_folds <= 1
    chance = (
        "On one 80/20 split of some 200 windows, two runs of the same recipe differ by more than 0.05 F1 "
        "in 10 to 14 % of pairs, and by more than 0.05 event F1 in 20 to 34 %."
        if is_single
        else f"Folds vary the data ({settings.num_folds} of them here), but luck in starting weights and batch "
        "order is seen once only."
    )
    if seen is not None and seen < 1:
        chance += f" Only a difference of some {number(seen)} or more would be told from luck here."
    yield Insight(
        "warning",
        "**One seed proves little.**",
        f"seed {settings.seeds[0] if settings.seeds else 'unknown'}, "
        f"{'a single split' if is_single else plural(settings.num_folds, 'fold')}",
        f"{chance} Repeat with `--seeds 3 --folds 5` before acting on a small lead.",
    )


def metrics_disagree(facts: Facts) -> Iterator[Insight]:
    """Bar F1 and event F1 name different arms, both beyond chance."""
    pooled = {
        (item.first, item.second, item.metric): item.difference
        for item in facts.numbers.differences
        if item.dataset is None and RULE not in (item.first, item.second) and item.outcome == "winner"
    }
    for (first, second, metric), bars in pooled.items():
        events = pooled.get((first, second, "span_f1_iou50"))
        if metric == "f1" and events is not None and bars * events < 0:
            yield Insight(
                "warning",
                f"**Bars and events name different winners** between {contestant(first, facts.styles)} and "
                f"{contestant(second, facts.styles)}.",
                f"difference {signed(bars)} in F1, {signed(events)} in event F1",
                "Decide by what a user of the spans needs: every bar right (F1) or every span found (event F1).",
            )
            return


def data_sets_disagree(facts: Facts) -> Iterator[Insight]:
    """A data set's own difference points against a pooled winner."""
    verdict = facts.numbers.verdict
    against = [
        item
        for item in facts.numbers.differences
        if item.dataset is not None
        and item.metric == verdict.metric
        and {item.first, item.second} == {verdict.first, verdict.second}
        and item.difference * verdict.difference * (1 if item.first == verdict.first else -1) < 0
    ]
    if verdict.outcome == "winner" and against:
        yield Insight(
            "warning",
            f"**The winner does not lead everywhere:** on {plural(len(against), 'data set')} the other arm scores "
            "higher.",
            "; ".join(f"`{item.dataset}` {signed(item.difference)}" for item in against[:5]),
            "One pooled verdict hides this; look at each instrument's own interval.",
        )


def training_noise(facts: Facts) -> Iterator[Insight]:
    """More than half of the verdict's variance comes from training, not from the choice of windows."""
    if facts.is_training_luck:
        yield Insight(
            "note",
            "**Training luck, not the choice of windows, is the larger part of the doubt.**",
            f"{percent(facts.training_share, 0)} of the variance of the difference is training noise",
            "More seeds (`--seeds`) or an ensemble (`--ensemble`) help more here than more windows.",
        )


def training_set_luck(facts: Facts) -> Iterator[Insight]:
    """A winner on fewer groups than it takes for the luck of the training set to matter little."""
    if facts.numbers.verdict.outcome == "winner" and facts.num_groups < GROUPS_AGAINST_LUCK:
        yield Insight(
            "note",
            "**The winner is better on training sets like this one; on another of the same market it need not be.**",
            f"{plural(facts.num_groups, 'group')} of windows, of which every training saw most",
            f"Folds of one data set can't show that luck: in simulations with under {GROUPS_AGAINST_LUCK} groups, 6 to "
            "12 % of equal recipes were told apart. More windows help, more seeds don't.",
        )


def fold_spread(facts: Facts) -> Iterator[Insight]:
    """The F1 of one arm's folds spans more than 0.2."""
    scores = {arm.name: [fold.f1 for fold in arm.decoder.per_fold if fold.f1 is not None] for arm in facts.arms}
    spread, name = max(((np.ptp(f1), name) for name, f1 in scores.items() if f1), default=(0.0, ""), key=lambda s: s[0])
    if spread > FOLD_SPREAD:
        yield Insight(
            "note",
            f"**Folds differ much:** any single split could have told another story (most for {name}).",
            f"F1 from {number(min(scores[name]))} to {number(max(scores[name]))} over folds, {number(spread, 2)} apart",
        )


def shared_bars(facts: Facts) -> Iterator[Insight]:
    """Base windows with different identifiers hold the same bars."""
    joins = sum(data.num_shared_bar_joins for data in facts.numbers.data)
    if joins and not facts.leaks:
        yield Insight(
            "note",
            f"**{plural(joins, 'pair')} of base windows share bars under different identifiers** and were kept "
            "on one side.",
            f"{facts.num_groups} groups from {facts.num_windows} windows",
            "Splitting by identifier alone would have leaked here.",
        )


RUN_RULES: tuple[Callable[[Facts], Iterator[Insight]], ...] = (
    leak, one_seed, metrics_disagree, data_sets_disagree, training_noise, training_set_luck, fold_spread, shared_bars,
)  # fmt: skip
