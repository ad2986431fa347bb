"""When an arm of a sweep cannot win any more: successive elimination with a stated error rate.

After each round of trainings (a *look*) every pair of the arms that are still in the race is compared on the windows
that both were scored on. An arm is stopped once another is shown to be better: its simultaneous interval (max-t over
all pairs, as in a comparison) lies above 0 at the confidence of that look. The error rate is the probability that the
rule ever stops an arm for one that is not truly better. It is shared out over the looks in equal parts (Bonferroni),
and within a look the interval holds for all pairs together, so that it stays at most `error_rate` however many arms
there are and whichever the rule has stopped before: pairs that are no longer looked at can't err. The last look, which
makes the ranking, stops nobody and takes no share.

Equal parts rather than a spending function: rounds are few and of equal size, and an early stop saves most.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from jade_model.core.config import require
from jade_model.scoring.parts import Metric
from jade_model.statistics.scored_windows import ArmCounts, ScoredWindows
from jade_model.statistics.verdict import Difference, Question


@dataclass(frozen=True)
class StoppingRule:
    """How arms are stopped.

    Attributes:
        error_rate: Probability, over the whole sweep, that an arm is stopped for one that is not better, in (0, 0.5].
        looks: How often the rule looks, at least 1: rounds less the last one.
        metric: Which F1 decides.
    """

    error_rate: float
    looks: int
    metric: Metric = "f1"

    def __post_init__(self) -> None:
        require(0 < self.error_rate <= 0.5, f"error_rate is {self.error_rate}; it must lie in (0, 0.5]")
        require(self.looks >= 1, f"looks is {self.looks}; it must be at least 1")

    @property
    def confidence(self) -> float:
        """That all intervals of one look hold together."""
        return 1 - self.error_rate / self.looks


@dataclass(frozen=True)
class Elimination:
    """An arm that was stopped.

    Attributes:
        arm: Its name.
        better: The arm that is shown to be better, by the most.
        difference: Better minus arm.
        confidence_interval: Simultaneous over all pairs of the look, at the look's confidence.
        look: 1-based.
    """

    arm: str
    better: str
    difference: float
    confidence_interval: tuple[float, float]
    look: int


def eliminate(
    rule: StoppingRule, look: int, arms: Sequence[ArmCounts], windows: ScoredWindows
) -> tuple[Elimination, ...]:
    """Return the arms that cannot win any more, in the order given.

    Args:
        rule: How.
        look: Which one this is, 1-based.
        arms: Those still in the race, all scored on all of the windows.
        windows: What they were scored on.

    Returns:
        None of them twice, and never all: the arm with the largest score always stays.

    Raises:
        ConfigError: It is a look more than the rule counts on.
    """
    require(1 <= look <= rule.looks, f"this is look {look}; the rule's error rate is shared over {rule.looks}")
    if len(arms) < 2:
        return ()
    pairs = list(itertools.combinations(range(len(arms)), 2))
    # The margin has no part in `winner`; a large one spares the search for what would decide the others.
    question = Question(rule.metric, margin=0.5, confidence=rule.confidence)
    found = windows.differences(arms, pairs, question, metrics=(rule.metric,), views=False)
    worst: dict[str, Elimination] = {}
    for item in found:
        if item.better is None:
            continue
        entry = _elimination(item, look)
        if entry.arm not in worst or entry.difference > worst[entry.arm].difference:
            worst[entry.arm] = entry
    return tuple(worst[arm.name] for arm in arms if arm.name in worst)


def _elimination(item: Difference, look: int) -> Elimination:
    low, high = item.confidence_interval
    if item.difference > 0:
        return Elimination(item.second, item.first, item.difference, (low, high), look)
    return Elimination(item.first, item.second, -item.difference, (-high, -low), look)
