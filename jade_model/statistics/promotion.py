"""Whether a retrained model may replace the one in use.

The statistics are the comparison's own (`comparison.compare_arms`): one verdict over all windows, and one for each of
the two parts, what the folds' models and what the final models have not seen. The models are taken as they are: what is
promoted is these weights and not a recipe, so that other trainings don't matter.

Legend: N windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python

from jade_model.data.groups import Grouping
from jade_model.data.retraining import HOLDOUT, Roles
from jade_model.scoring.metrics import Counts
from jade_model.statistics.compare import compare_arms
from jade_model.statistics.scored_windows import ArmCounts, ArmScore, ScoredWindows, score_of
from jade_model.statistics.verdict import Difference, Question

PARTS = ("out of fold", "hold-out")
CHALLENGER, CHAMPION, RULE, ANCHOR = "challenger", "champion", "largest_move", "anchor"


@dataclass(frozen=True)
class Gate:
    """One thing that must hold before a model is used.

    Attributes:
        name: What.
        passed: Whether it holds.
        found: What is there.
        expected: What should be there.
    """

    name: str
    passed: bool
    found: str
    expected: str


@dataclass(frozen=True)
class PromotionRule:
    """What a challenger has to show.

    Attributes:
        margin: F1 that a challenger may be worse than the champion at most, in (0, 1).
        max_calibration_error: Of its probabilities, over bars.
        confidence: Of every interval.
    """

    margin: float = 0.03
    max_calibration_error: float = 0.05
    confidence: float = 0.95


@dataclass(frozen=True)
class Judgement:
    """What the challenger is worth, beside the champion and the rules.

    Attributes:
        scores: Of challenger, champion and untrained rule: all windows, and by part.
        differences: Challenger minus champion, and both minus the rule; likewise.
        all_positive_f1: What marking every bar gives.
        calibration_error: Of the challenger.
        num_unjudged: Windows left out because all of the champion's models have seen some of their group.
        caveats: Sentences for people.
        since_anchor: Challenger minus anchor in bar F1: the best champion so far, where that is not the present one.
    """

    scores: tuple[ArmScore, ...]
    differences: tuple[Difference, ...]
    all_positive_f1: float
    calibration_error: float
    num_unjudged: int
    caveats: tuple[str, ...]
    since_anchor: Difference | None = None

    @property
    def challenger(self) -> ArmScore:
        """The challenger's bar F1 over all windows."""
        return score_of(self.scores, CHALLENGER)

    def difference(self, part: str | None = None) -> Difference | None:
        """Return challenger minus champion in bar F1; None without a champion."""
        wanted = (CHALLENGER, CHAMPION, "f1", part)
        found = (item for item in self.differences if (item.first, item.second, item.metric, item.dataset) == wanted)
        return next(found, None)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(to_jsonable_python(self))


@dataclass(frozen=True)
class Decision:
    """Whether the challenger becomes champion.

    Attributes:
        promote: Whether.
        reason: One sentence.
        gates: All that had to hold.
        is_best: Whether those that come later are held against this one too: it is shown to be better than the best
            before it, or there was none.
    """

    promote: bool
    reason: str
    gates: tuple[Gate, ...]
    is_best: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(to_jsonable_python(self))


def judge(
    roles: Roles,
    grouping: Grouping,
    challenger: Counts,
    rule: Counts,
    champion: Counts | None,
    *,
    judged_N: NDArray[np.bool_],
    all_positive_f1: float,
    calibration_error: float,
    promotion: PromotionRule,
    anchor: tuple[Counts, NDArray[np.bool_]] | None = None,
) -> Judgement:
    """Compare challenger, champion and rule on the same windows, none of which the scored models have seen.

    Args:
        roles: Of all N windows.
        grouping: Their groups.
        challenger: Hits and misses of all N windows.
        rule: Likewise.
        champion: Likewise; None if there is none yet.
        judged_N: False where the champion has no model that has not seen the window's group.
        all_positive_f1: Of marking every bar.
        calibration_error: Of the challenger.
        promotion: Margin and confidence.
        anchor: Hits and misses of the best champion so far, and where it has a model that has not seen the window's
            group; None if that is the champion itself.

    Raises:
        ValueError: The champion or the anchor has seen all windows.
    """
    training_N = np.where(roles.role_N == HOLDOUT, roles.final, roles.role_N)
    windows = ScoredWindows(
        grouping.group_N,
        np.where(judged_N, training_N, -1)[None],
        dataset_N=(roles.role_N == HOLDOUT).astype(np.int64),
        dataset_names=PARTS,
        given_models=True,
    )
    arms = [_arm(CHALLENGER, challenger, judged_N), *([] if champion is None else [_arm(CHAMPION, champion, judged_N)])]
    baseline = _arm(RULE, rule, judged_N)
    question = Question(margin=promotion.margin, confidence=promotion.confidence)
    if champion is not None:
        compared = compare_arms(arms, windows, question, baseline=baseline)
        scores, differences = compared.scores, compared.differences
    else:
        scores = tuple(windows.scores([*arms, baseline], confidence=promotion.confidence))
        differences = tuple(windows.differences([*arms, baseline], [(0, 1)], question))
    since_anchor = None
    if anchor is not None:
        counts, fresh_N = anchor
        since = ScoredWindows(grouping.group_N, np.where(fresh_N, training_N, -1)[None], given_models=True)
        challenged = [_arm(CHALLENGER, challenger, fresh_N), _arm(ANCHOR, counts, fresh_N)]
        (since_anchor,) = since.differences(challenged, [(0, 1)], question, metrics=("f1",))
    return Judgement(
        scores,
        differences,
        all_positive_f1,
        calibration_error,
        int((~judged_N).sum()),
        tuple(windows.caveats()),
        since_anchor,
    )


def decide_promotion(judgement: Judgement, promotion: PromotionRule, *, failed_checks: Sequence[str] = ()) -> Decision:
    """Say whether the challenger may become champion, and why.

    It may if it passes the gates and is better than the champion, or not worse by more than the margin: the whole
    interval of the difference lies above minus the margin. So that many small losses don't add up, the same is asked of
    the difference to the best champion so far. Without a champion, the gates alone decide.

    Args:
        judgement: From `judge`.
        promotion: The rule.
        failed_checks: Names of data checks that failed.
    """
    gates = _gates(judgement, promotion, failed_checks)
    broken = [gate for gate in gates if not gate.passed]
    difference = judgement.difference()
    against_best = judgement.since_anchor or difference
    if broken:
        told = "; ".join(f"{gate.name} (found {gate.found}; expected {gate.expected})" for gate in broken)
        failed = "it fails the gate" if len(broken) == 1 else f"it fails {len(broken)} gates"
        reason = f"{failed}: {told}"
    elif difference is None:
        reason = "there is no champion yet, and it passes every gate"
    else:
        low, high = difference.confidence_interval
        shown = f"the F1 difference is {difference.difference:+.3f} ({low:+.3f} to {high:+.3f})"
        if difference.better == CHALLENGER:
            reason = f"it is better than the champion: {shown}"
        else:
            reason = f"it is not worse than the champion by {promotion.margin:g} or more: {shown}"
    is_best = against_best is None or against_best.better == CHALLENGER
    return Decision(promote=not broken, reason=reason, gates=gates, is_best=is_best)


def _gates(judgement: Judgement, promotion: PromotionRule, failed_checks: Sequence[str]) -> tuple[Gate, ...]:
    score = judgement.challenger
    low, high = score.confidence_interval
    error = judgement.calibration_error
    gates = [
        Gate("data checks", not failed_checks, ", ".join(failed_checks) or "all passed", "all passed"),
        Gate(
            "F1 above marking every bar",
            low > judgement.all_positive_f1,
            f"{score.value:.3f} ({low:.3f} to {high:.3f}) against {judgement.all_positive_f1:.3f}",
            "the whole interval above it",
        ),
        Gate(
            "calibration",
            error <= promotion.max_calibration_error,
            f"expected calibration error {error:.3f}",
            f"at most {promotion.max_calibration_error:g}",
        ),
    ]

    def against(name: str, difference: Difference, *, whole: bool = True) -> None:
        """Ask that the interval, or with `whole` all of it, lies above minus the margin."""
        low, high = difference.confidence_interval
        gates.append(
            Gate(
                name,
                (low if whole else high) > -promotion.margin,
                f"F1 difference {difference.difference:+.3f} ({low:+.3f} to {high:+.3f})",
                f"the whole interval above {-promotion.margin:g}"
                if whole
                else f"not the whole interval below {-promotion.margin:g}",
            )
        )

    together, on_holdout = judgement.difference(), judgement.difference(PARTS[1])
    if together is not None and on_holdout is not None:
        against("not worse than the champion", together)
        against("nothing against it on the hold-out", on_holdout, whole=False)
    if judgement.since_anchor is not None:
        against("not worse than the best champion so far", judgement.since_anchor)
    return tuple(gates)


def _arm(name: str, counts: Counts, judged_N: NDArray[np.bool_]) -> ArmCounts:
    bars_N3 = np.where(judged_N[:, None], counts.bars_N3, 0)
    spans_N3 = np.where(judged_N[:, None], counts.spans_NJ3[:, 0], 0)
    return ArmCounts(name, bars_N3[None], spans_N3[None])
