"""The rules by which scores and differences become one verdict, and the sentences that say so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self, assert_never

import numpy as np
from pydantic import Field, model_validator
from scipy import special

from jade_model.core.config import require
from jade_model.scoring.parts import AtLeastOne, Interval, Margin, Metric, NonNegative, Part, Share, Signed
from jade_model.statistics.intervals import Lack

Outcome = Literal["winner", "equivalent", "undecided"]

FEWEST_DATASETS = 6
"""From so many on, something can be said of instruments that are not among them."""

NOT_BEATEN = "does not beat the untrained rule"
MOSTLY_LUCK = "Most of the uncertainty is training noise"
LEAKS = "The split leaks"
WHOLE_SPANS_ALONE = "the score of whole spans alone"

GROUPS_NEEDED = (
    "additional base windows that would decide, about, with folds in proportion; null if decided, or if no number of "
    "them alone would"
)
SEEDS_NEEDED = "likewise additional seeds, on the same windows"
LACK = "what there is too little of for any verdict: the interval then spans all that can be; null if nothing"

_METRIC_WORDS: dict[Metric, str] = {"f1": "bar F1", "span_f1_iou50": "span F1 (IoU 0.5)"}


@dataclass(frozen=True)
class Question:
    """What a verdict is asked about.

    Attributes:
        metric: Which F1 decides.
        margin: Largest F1 difference that counts as none, in (0, 1).
        confidence: Of every interval, in [0.5, 1).

    Raises:
        ConfigError: A number is out of range.
    """

    metric: Metric = "f1"
    margin: float = 0.03
    confidence: float = 0.95

    def __post_init__(self) -> None:
        require(0 < self.margin < 1, f"margin is {self.margin}; it must lie inside (0, 1)")
        require(0.5 <= self.confidence < 1, f"confidence is {self.confidence}; it must lie in [0.5, 1)")


THE_USUAL = Question()


class Difference(Part):
    """First minus second, on the same windows."""

    first: str = Field(description="arm")
    second: str = Field(description="arm, or the baseline largest_move")
    metric: Metric = Field(description="which F1")
    dataset: str | None = Field(description="data[].name, null for all pooled")
    difference: Signed = Field(description="first minus second")
    confidence_interval: Interval = Field(
        description="simultaneous over all pairs of arms, or over all arms against the baseline"
    )
    p_value: Share = Field(description="two-sided, as if this were the only test")
    adjusted_p_value: Share = Field(
        description="two-sided, for the whole family; at most 1 - confidence exactly where the interval leaves 0 out"
    )
    outcome: Outcome = Field(description="what the interval shows of this pair")
    # The first files of this version lack these.
    standard_error: NonNegative | None = Field(default=None, description="base windows and training noise together")
    training_share: Share | None = Field(default=None, description="share of the variance that is training noise")
    detectable_difference: Share | None = Field(
        default=None, description="smallest true difference that would be seen with 80 % chance"
    )
    groups_needed: AtLeastOne | None = Field(default=None, description=GROUPS_NEEDED)
    seeds_needed: AtLeastOne | None = Field(default=None, description=SEEDS_NEEDED)
    lack: Lack | None = Field(default=None, description=LACK)

    @property
    def better(self) -> str | None:
        """The one that the interval shows to be better, or None."""
        if self.outcome != "winner":
            return None
        return self.first if self.difference > 0 else self.second


class OverDatasets(Part):
    """The difference over instruments like the data sets, each counting alike."""

    difference: Signed = Field(description="first minus second, mean over data sets")
    confidence_interval: Interval = Field(description="Student's t over the data sets")
    num_datasets: Annotated[int, Field(ge=FEWEST_DATASETS)] = Field(description="how many")


class Verdict(Part):
    """Which arm is better, if that can be said."""

    outcome: Outcome = Field(
        description="winner: the best arm beats every other; equivalent: it beats some and differs from the rest by "
        "less than the margin; undecided: it cannot be told from one of them"
    )
    winner: str | None = Field(description="arm, null unless outcome is winner")
    first: str = Field(
        description="of the best arm and the one that the outcome hangs on (the next best, unless that one is settled "
        "and another is not), that which was named first"
    )
    second: str = Field(description="the other one")
    metric: Metric = Field(description="which F1")
    difference: Signed = Field(description="first minus second")
    confidence_interval: Interval = Field(description="of the difference, simultaneous over all pairs of arms")
    reason: str = Field(min_length=1, description="one plain sentence")
    margin: Margin = Field(description="largest F1 difference that counts as none")
    detectable_difference: Share = Field(
        description="smallest true difference of the two that would be seen with 80 % chance"
    )
    groups_needed: AtLeastOne | None = Field(description=GROUPS_NEEDED)
    seeds_needed: AtLeastOne | None = Field(default=None, description=SEEDS_NEEDED)
    lack: Lack | None = Field(default=None, description=LACK)
    beats_baseline: dict[str, bool] = Field(description="arm -> whether it beats the untrained rule")
    caveats: list[str] = Field(description="what to know before acting on it, one plain sentence each")
    what_decides: str = Field(
        default="",
        description="what makes the doubt, and which data set or training moves the difference most; empty where no "
        "verdict can be given",
    )
    over_datasets: OverDatasets | None = Field(
        default=None,
        description="the difference over instruments like the data sets, each counting alike; null with fewer than six",
    )

    @model_validator(mode="after")
    def _names_a_winner_where_there_is_one(self) -> Self:
        if (self.outcome == "winner") != (self.winner is not None):
            raise ValueError(f"outcome is {self.outcome!r} and winner is {self.winner!r}")
        return self


def over_datasets(
    verdict: Verdict, each: Sequence[Difference], confidence: float
) -> tuple[OverDatasets | None, list[str]]:
    """Return what the data sets say alone: the interval over instruments, and caveats, such as which disagree.

    Args:
        verdict: Pooled.
        each: The difference of the verdict's two arms in every data set.
        confidence: Of the interval.
    """
    if len(each) < 2:
        return None, []
    names = ", ".join(str(item.dataset) for item in each)
    caveats = [f"It holds for these {len(each)} data sets ({names}); another instrument may differ."]
    found = None
    if len(each) >= FEWEST_DATASETS:
        values = np.array([item.difference for item in each])
        error = float(values.std(ddof=1)) / math.sqrt(len(values))
        half = float(special.stdtrit(len(values) - 1, 0.5 + confidence / 2)) * error
        mean = float(values.mean())
        low, high = max(-1.0, mean - half), min(1.0, mean + half)
        found = OverDatasets(difference=mean, confidence_interval=(low, high), num_datasets=len(values))
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
    return found, caveats


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
    question: Question,
    *,
    num_groups: int,
    against_baseline: Sequence[Difference] = (),
    caveats: Sequence[str] = (),
) -> Verdict:
    """Turn the differences of all pairs of arms into one verdict.

    Args:
        values: Arm -> F1, in the caller's order; two or more.
        differences: One of each pair of arms, of one metric, first before second in the order of `values`.
        question: What is asked.
        num_groups: Base windows that were scored, for the sentences.
        against_baseline: Each arm minus the untrained rule.
        caveats: Sentences that come before the verdict's own.
    """
    ranking = sorted(values, key=lambda name: -values[name])
    best = ranking[0]
    of_pair = {frozenset((item.first, item.second)): item for item in differences}
    against = {other: of_pair[frozenset((best, other))] for other in ranking[1:]}
    outcome = _overall(against)
    # The arm that the outcome hangs on: the next best one that is not settled otherwise.
    rival = next(name for name, item in against.items() if item.outcome == outcome)
    pair = against[rival]
    detectable = 1.0 if pair.detectable_difference is None else pair.detectable_difference
    beats = {item.first: item.better == item.first for item in against_baseline}
    words = _Words(values, f"{100 * question.confidence:g} %", question.margin, num_groups)
    return Verdict(
        outcome=outcome,
        winner=best if outcome == "winner" else None,
        first=pair.first,
        second=pair.second,
        metric=pair.metric,
        difference=pair.difference,
        confidence_interval=pair.confidence_interval,
        reason=words.reason(outcome, best, rival, against),
        margin=question.margin,
        detectable_difference=detectable,
        groups_needed=pair.groups_needed,
        seeds_needed=pair.seeds_needed,
        lack=pair.lack,
        beats_baseline=beats,
        caveats=[
            *caveats,
            *words.small_win(outcome, pair),
            *words.seeds_matter(outcome, pair),
            *(words.beaten(item) for item in against_baseline if not beats[item.first]),
        ],
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
        if outcome != "undecided" or (pair.training_share or 0.0) <= 0.5:
            return []
        return [f"{MOSTLY_LUCK}: more seeds help more than more base windows."]

    def beaten(self, item: Difference) -> str:
        low, high = item.confidence_interval
        return (
            f"{item.first} {NOT_BEATEN} {item.second}: the difference is "
            f"{item.difference:+.3f} ({self.level} interval {low:+.3f} to {high:+.3f})."
        )
