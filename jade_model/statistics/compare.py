"""From counts on the same windows to scores with intervals, differences with tests, and a verdict.

A difference is first arm minus second, in the order in which the caller gives the arms. All pairs of arms are
tested at the same time (max-t): the interval that is shown, the adjusted p-value and the outcome are one and
the same test. The arms against the untrained rule are a family of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from jade_model.core.config import require
from jade_model.scoring.parts import METRICS, Metric
from jade_model.statistics.scored_windows import ArmCounts, ArmScore, ScoredWindows, score_of
from jade_model.statistics.verdict import THE_USUAL, Difference, Question, Verdict, decide, over_datasets


@dataclass(frozen=True)
class ComparedArms:
    """Everything that can be said about the arms.

    Attributes:
        scores: Every arm and the baseline, both metrics, pooled and (where there are several) by data set.
        differences: Every pair of arms, then every arm against the baseline; both metrics, pooled and by
            data set.
        verdict: Pooled.
    """

    scores: tuple[ArmScore, ...]
    differences: tuple[Difference, ...]
    verdict: Verdict

    def score(self, arm: str, metric: Metric = "f1", dataset: str | None = None) -> ArmScore:
        """Return one arm's score.

        Raises:
            KeyError: There is none.
        """
        return score_of(self.scores, arm, metric, dataset)


def compare_arms(
    arms: Sequence[ArmCounts],
    windows: ScoredWindows,
    question: Question = THE_USUAL,
    *,
    baseline: ArmCounts | None = None,
    caveats: Sequence[str] = (),
    metrics: Sequence[Metric] = METRICS,
) -> ComparedArms:
    """Compare arms that were scored on the same windows.

    Args:
        arms: Two or more, with different names.
        windows: What they were scored on.
        question: What the verdict is about.
        baseline: The untrained rule on the same windows; one seed stands for all.
        caveats: Sentences to put before the verdict's own, such as that the split leaks.
        metrics: Which F1s are scored; that of the question is among them.

    Returns:
        Scores, differences and verdict.

    Raises:
        ConfigError: Fewer than two arms, or a name twice.
        ValueError: Arrays of different shapes.
    """
    everyone = [*arms, *([] if baseline is None else [baseline])]
    names = [arm.name for arm in everyone]
    require(len(arms) > 1, f"a comparison needs two arms at least; got {names}")
    require(len(set(names)) == len(names), f"every arm (and the baseline) needs a name of its own; got {names}")
    pairs = list(itertools.combinations(range(len(arms)), 2))
    between = windows.differences(arms, pairs, question, metrics=metrics)
    against: list[Difference] = []
    if baseline is not None:
        against = windows.differences(
            everyone, [(row, len(arms)) for row in range(len(arms))], question, metrics=metrics
        )
    scores = windows.scores(everyone, confidence=question.confidence, metrics=metrics)
    metric = question.metric
    values = {score.arm: score.value for score in scores if score.metric == metric and score.dataset is None}
    verdict = decide(
        {arm.name: values[arm.name] for arm in arms},
        [item for item in between if item.metric == metric and item.dataset is None],
        question,
        num_groups=windows.num_groups,
        against_baseline=[item for item in against if item.metric == metric and item.dataset is None],
        caveats=(*caveats, *windows.caveats()),
    )
    pair = (verdict.first, verdict.second, metric)
    each = [item for item in between if (item.first, item.second, item.metric) == pair and item.dataset is not None]
    order = [arm.name for arm in arms]
    ahead, behind = (verdict.first, verdict.second)[:: 1 if verdict.difference >= 0 else -1]
    told = windows.what_decides(arms, order.index(ahead), order.index(behind), metric)
    over, said = over_datasets(verdict, each, question.confidence)
    more = {"what_decides": told, "over_datasets": over, "caveats": [*said, *verdict.caveats]}
    return ComparedArms(tuple(scores), (*between, *against), verdict.model_copy(update=more))
