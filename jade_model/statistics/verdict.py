"""The rules by which scores and differences become one verdict, and the sentences that say so."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, assert_never, get_args

import numpy as np
from scipy import special

from jade_model.statistics.intervals import Lack

Metric = Literal["f1", "span_f1_iou50"]
METRICS: tuple[Metric, ...] = get_args(Metric)
Outcome = Literal["winner", "equivalent", "undecided"]
Interval = tuple[float, float]

FEWEST_DATASETS = 6
"""From so many on, something can be said of instruments that are not among them."""

NOT_BEATEN = "does not beat the untrained rule"

_METRIC_WORDS: dict[Metric, str] = {"f1": "bar F1", "span_f1_iou50": "span F1 (IoU 0.5)"}


@dataclass(frozen=True)
class Difference:
    """First minus second.

    Attributes:
        first: Arm.
        second: Arm, or the baseline.
        metric: Which F1.
        dataset: Name, or None for all pooled.
        difference: Of the F1s.
        confidence_interval: Simultaneous over the family (all pairs of arms, or all arms against the
            baseline).
        p_value: Two-sided, as if this were the only test.
        adjusted_p_value: Two-sided, for the family; at most 1 - confidence exactly where the interval
            leaves 0 out.
        outcome: winner: the interval leaves 0 out; equivalent: it lies within the margin; undecided: neither.
        standard_error: Groups and training noise together.
        training_share: Share of the variance that is training noise, [0, 1].
        detectable_difference: Smallest true difference that would be seen with 80 % chance.
        groups_needed: How many more groups would decide; None if decided, or if no number of them alone would.
        seeds_needed: Likewise of seeds, on the same groups.
        lack: What there is too little of for any outcome but undecided, or None.
    """

    first: str
    second: str
    metric: Metric
    dataset: str | None
    difference: float
    confidence_interval: Interval
    p_value: float
    adjusted_p_value: float
    outcome: Outcome
    standard_error: float
    training_share: float
    detectable_difference: float
    groups_needed: int | None
    seeds_needed: int | None = None
    lack: Lack | None = None

    @property
    def better(self) -> str | None:
        """The one that the interval shows to be better, or None."""
        if self.outcome != "winner":
            return None
        return self.first if self.difference > 0 else self.second

    def to_json(self) -> dict[str, Any]:
        """Return an entry of `differences` of comparison.json."""
        fields = dataclasses.asdict(self)
        return {**fields, "confidence_interval": list(self.confidence_interval)}


@dataclass(frozen=True)
class OverDatasets:
    """The mean of the data sets' differences, each counting alike, for instruments that are not among them.

    Attributes:
        difference: First minus second.
        confidence_interval: Student's t over the data sets.
        num_datasets: How many.
    """

    difference: float
    confidence_interval: Interval
    num_datasets: int

    def to_json(self) -> dict[str, Any]:
        """Return `over_datasets` of comparison.json."""
        return {**dataclasses.asdict(self), "confidence_interval": list(self.confidence_interval)}


def over_datasets(verdict: Verdict, each: Sequence[Difference], confidence: float) -> Verdict:
    """Add to a verdict what its data sets say alone: an interval over instruments, and which disagree.

    Args:
        verdict: Pooled.
        each: The difference of the verdict's two arms in every data set.
        confidence: Of the interval.
    """
    if len(each) < 2:
        return verdict
    names = ", ".join(str(item.dataset) for item in each)
    caveats = [f"It holds for these {len(each)} data sets ({names}); another instrument may differ."]
    found = None
    if len(each) >= FEWEST_DATASETS:
        values = np.array([item.difference for item in each])
        error = float(values.std(ddof=1)) / math.sqrt(len(values))
        half = float(special.stdtrit(len(values) - 1, 0.5 + confidence / 2)) * error
        mean = float(values.mean())
        found = OverDatasets(mean, (max(-1.0, mean - half), min(1.0, mean + half)), len(values))
        low, high = found.confidence_interval
        caveats.append(
            f"Over instruments like these, {verdict.first} minus {verdict.second} lies between {low:+.3f} and "
            f"{high:+.3f} ({100 * confidence:g} % interval; each data set counts alike)."
        )
    against = [item for item in each if item.difference * verdict.difference < 0]
    if against:
        told = ", ".join(
            f"{item.dataset} ({item.difference:+.3f}{', shown' if item.outcome == 'winner' else ''})"
            for item in against
        )
        caveats.append(f"The sign is the other way in {told}; pooled it is {verdict.difference:+.3f}.")
    return dataclasses.replace(verdict, over_datasets=found, caveats=(*caveats, *verdict.caveats))


@dataclass(frozen=True)
class Verdict:
    """Which arm is better, if that can be said.

    Attributes:
        outcome: winner: the best arm beats every other; equivalent: it beats some and differs from the rest
            by less than the margin; undecided: it cannot be told from one of the others.
        winner: Arm, None unless outcome is winner.
        first: Of the best arm and the one that the outcome hangs on, that which the caller named first. It
            hangs on the next best arm, unless that one is settled and another is not.
        second: The other one.
        metric: Which F1.
        difference: First minus second.
        confidence_interval: Simultaneous over all pairs of arms.
        reason: One sentence for a reader who never heard of a bootstrap.
        margin: Largest difference that counts as none.
        detectable_difference: Smallest true difference of the two that would be seen with 80 % chance.
        groups_needed: How many more groups would decide; None if decided, or if no number of them alone would.
        seeds_needed: Likewise of seeds, on the same groups.
        lack: What there is too little of for any outcome but undecided, or None.
        beats_baseline: Arm -> whether it beats the untrained rule; empty without one.
        what_decides: What makes the doubt, and which data set or training moves the difference most; a sentence or two.
        over_datasets: The difference over instruments like the data sets, where there are enough of them.
        caveats: What a reader should know before acting on it, one plain sentence each.
    """

    outcome: Outcome
    winner: str | None
    first: str
    second: str
    metric: Metric
    difference: float
    confidence_interval: Interval
    reason: str
    margin: float
    detectable_difference: float
    groups_needed: int | None
    seeds_needed: int | None
    lack: Lack | None
    beats_baseline: dict[str, bool]
    caveats: tuple[str, ...]
    what_decides: str = ""
    over_datasets: OverDatasets | None = None

    def to_json(self) -> dict[str, Any]:
        """Return `verdict` of comparison.json, less `decoder`."""
        fields = dataclasses.asdict(self)
        return {
            **fields,
            "confidence_interval": list(self.confidence_interval),
            "caveats": list(self.caveats),
            "over_datasets": None if self.over_datasets is None else self.over_datasets.to_json(),
        }


def outcome_of(interval: Interval, margin: float) -> Outcome:
    """Say what an interval of a difference shows.

    A difference that is there is called so even where it is sure to be smaller than the margin: that it can
    be seen and that it matters are two statements, and the verdict's caveats make the second.

    Args:
        interval: Low and high.
        margin: Largest difference that counts as none.

    Returns:
        winner if 0 lies outside, else equivalent if the interval lies within the margin, else undecided.
    """
    low, high = interval
    if low > 0 or high < 0:
        return "winner"
    return "equivalent" if -margin <= low and high <= margin else "undecided"


def decide(
    values: dict[str, float],
    differences: Sequence[Difference],
    *,
    against_baseline: Sequence[Difference] = (),
    margin: float,
    confidence: float,
    num_groups: int,
    caveats: Sequence[str] = (),
) -> Verdict:
    """Turn the differences of all pairs of arms into one verdict.

    Args:
        values: Arm -> F1, in the caller's order; two or more.
        differences: One of each pair of arms, of one metric, first before second in the order of `values`.
        against_baseline: Each arm minus the untrained rule.
        margin: Largest difference that counts as none.
        confidence: Of the intervals, for the sentences.
        num_groups: Base windows that were scored, for the sentences.
        caveats: Sentences that come before the verdict's own.

    Returns:
        The verdict.
    """
    ranking = sorted(values, key=lambda name: -values[name])
    best = ranking[0]
    of_pair = {frozenset((item.first, item.second)): item for item in differences}
    against = {other: of_pair[frozenset((best, other))] for other in ranking[1:]}
    outcome = _overall(against)
    # The arm that the outcome hangs on: the next best one that is not settled otherwise.
    rival = next(name for name, item in against.items() if item.outcome == outcome)
    pair = against[rival]
    beats = {item.first: item.better == item.first for item in against_baseline}
    words = _Words(values, f"{100 * confidence:g} %", margin, num_groups)
    return Verdict(
        outcome=outcome,
        winner=best if outcome == "winner" else None,
        first=pair.first,
        second=pair.second,
        metric=pair.metric,
        difference=pair.difference,
        confidence_interval=pair.confidence_interval,
        reason=words.reason(outcome, best, rival, against),
        margin=margin,
        detectable_difference=pair.detectable_difference,
        groups_needed=pair.groups_needed,
        seeds_needed=pair.seeds_needed,
        lack=pair.lack,
        beats_baseline=beats,
        caveats=(
            *caveats,
            *words.small_win(outcome, pair),
            *words.seeds_matter(outcome, pair),
            *(words.beaten(item) for item in against_baseline if not beats[item.first]),
        ),
    )


def _overall(against: dict[str, Difference]) -> Outcome:
    outcomes = {item.outcome for item in against.values()}
    if outcomes == {"winner"}:
        return "winner"
    return "undecided" if "undecided" in outcomes else "equivalent"


@dataclass(frozen=True)
class _Words:
    """What all sentences have in common."""

    values: dict[str, float]
    level: str
    margin: float
    num_groups: int

    def reason(self, outcome: Outcome, best: str, rival: str, against: dict[str, Difference]) -> str:
        pair = against[rival]
        low, high = pair.confidence_interval
        if pair.first != best:
            low, high = -high, -low
        scores = f"{self.values[best]:.3f} against {self.values[rival]:.3f} {_METRIC_WORDS[pair.metric]}"
        span = f"between {low:.3f} and {high:.3f} ({self.level} interval)"
        match outcome:
            case "winner":
                others = rival if len(against) == 1 else f"every other arm, {rival} being the next"
                return (
                    f"{best} is better than {others}: {scores} on the same windows, and the true difference "
                    f"lies {span}."
                )
            case "equivalent":
                equals = [name for name, item in against.items() if item.outcome == "equivalent"]
                return (
                    f"{', '.join([best, *equals[:-1]])} and {equals[-1]} are equally good: {scores}, and the "
                    f"true difference lies {span}, within the margin of {self.margin:g}."
                )
            case "undecided" if pair.lack == "groups":
                return (
                    f"No verdict can be given on {best} and {rival}, {scores}: {self.num_groups} base windows, weighed "
                    "by their bars, say too little of what others would show. Six of equal weight are the least, 30 or "
                    "more of like weight are usual."
                )
            case "undecided" if pair.lack == "trainings":
                return (
                    f"No verdict can be given on {best} and {rival}, {scores}: so few trainings of each arm do not "
                    "tell how far luck in training shifts the scores. 3 folds or 3 seeds are the least, 3 seeds x 5 "
                    "folds are usual."
                )
            case "undecided":
                return (
                    f"These data cannot tell {best} and {rival} apart: {scores}, but with {self.num_groups} "
                    f"base windows the true difference may lie anywhere {span}; a difference under "
                    f"{pair.detectable_difference:.3f} cannot be seen, and {self.needed(pair)}."
                )
            case _:
                assert_never(outcome)

    def needed(self, pair: Difference) -> str:
        groups = (
            ""
            if pair.groups_needed is None
            else f"about {pair.groups_needed} more base windows with folds in proportion"
        )
        seeds = "" if pair.seeds_needed is None else f"{pair.seeds_needed} more seed{'s'[: pair.seeds_needed - 1]}"
        if not groups and not seeds:
            return "neither more base windows nor more seeds alone would decide: it takes both"
        return f"{' or '.join(filter(None, (groups, seeds)))} would decide if that is the true difference"

    def small_win(self, outcome: Outcome, top: Difference) -> list[str]:
        if outcome != "winner" or abs(top.difference) >= self.margin:
            return []
        low, high = top.confidence_interval
        if -self.margin <= low and high <= self.margin:
            return [f"The difference is real but smaller than the margin of {self.margin:g}: it hardly matters."]
        estimate = f"its estimate of {abs(top.difference):.3f} is smaller than the margin of {self.margin:g}"
        return [f"The difference is real, but {estimate}: it may hardly matter."]

    def seeds_matter(self, outcome: Outcome, pair: Difference) -> list[str]:
        if outcome != "undecided" or pair.training_share <= 0.5:
            return []
        return ["Most of the uncertainty is training noise: more seeds help more than more base windows."]

    def beaten(self, item: Difference) -> str:
        low, high = item.confidence_interval
        return (
            f"{item.first} {NOT_BEATEN} {item.second}: the difference is "
            f"{item.difference:+.3f} ({self.level} interval {low:+.3f} to {high:+.3f})."
        )
