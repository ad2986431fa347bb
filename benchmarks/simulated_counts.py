"""Counts of arms that were never trained, drawn from a model of how trained ones come to differ.

An arm finds a window's span where skill + the base window's ease + its own affinity to that base + the luck
of the training + the luck of this training with this base + the window's own exceed 0; the bars that it
then gets wrong at either end, and what it marks instead where it fails, are drawn too. The variances are
such that 105 base windows give the spread that was measured on real ones: standard error 0.02 of an F1 of
0.7 to 0.75.

Legend: A arms, G groups, N windows, S seeds, F folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jade_model.scoring.metrics import f1_of
from jade_model.statistics.scored_windows import ArmCounts

NAMES = "abcdef"


@dataclass(frozen=True)
class Design:
    """A study, and the arms in it.

    Attributes:
        skills: Of each arm; 1 finds about three spans of four.
        num_groups: Base windows.
        num_seeds: Repetitions.
        num_folds: Of each repetition; 1 scores all windows with one training.
        affinity: Spread of an arm's own likes and dislikes among base windows; 0 for arms of one recipe.
        training_noise: Spread of the skill between trainings.
    """

    skills: tuple[float, ...] = (1.0, 1.0)
    num_groups: int = 105
    num_seeds: int = 3
    num_folds: int = 5
    affinity: float = 0.0
    training_noise: float = 0.15


EASE, RUN_WITH_GROUP, WINDOW = 1.0, 0.6, 0.6
GIVES_UP_BELOW = -1.2  # further from the span than this, nothing at all is marked


def draw(design: Design, rng: np.random.Generator) -> tuple[list[ArmCounts], NDArray[np.int64], NDArray[np.int64]]:
    """Return the arms' counts, the groups [N] and the fold that scored each window [S, N]."""
    sizes_G = rng.choice([1, 2, 3], size=design.num_groups, p=[0.15, 0.65, 0.2])
    group_N = np.repeat(np.arange(design.num_groups), sizes_G)
    num_windows = len(group_N)
    ease_G = rng.normal(0, EASE, design.num_groups)
    length_N = rng.integers(4, 9, num_windows)
    fold_SG = np.stack([rng.permutation(design.num_groups) % design.num_folds for _ in range(design.num_seeds)])
    arms = []
    for name, skill in zip(NAMES, design.skills, strict=False):
        affinity_G = rng.normal(0, design.affinity, design.num_groups)
        luck_SF = rng.normal(0, design.training_noise, (design.num_seeds, design.num_folds))
        score_SG = skill + ease_G + affinity_G + np.take_along_axis(luck_SF, fold_SG, axis=1)
        score_SG = score_SG + rng.normal(0, RUN_WITH_GROUP, score_SG.shape)
        score_SN = score_SG[:, group_N] + rng.normal(0, WINDOW, (design.num_seeds, num_windows))
        arms.append(_counts(name, score_SN, length_N, rng))
    return arms, group_N, fold_SG[:, group_N]


def true_scores(design: Design) -> list[float]:
    """Return each arm's expected bar-level F1, from very many base windows and trainings."""
    many = Design(design.skills, 60_000, 1, 60_000, design.affinity, design.training_noise)
    arms, _, _ = draw(many, np.random.default_rng(0))
    return [float(f1_of(arm.bar_counts_SN3[0].sum(axis=0))) for arm in arms]


def _counts(
    name: str, score_SN: NDArray[np.float64], length_N: NDArray[np.int64], rng: np.random.Generator
) -> ArmCounts:
    is_hit, marks = score_SN > 0, score_SN > GIVES_UP_BELOW
    cut_off, too_many = rng.binomial(3, 0.25, score_SN.shape), rng.binomial(3, 0.25, score_SN.shape)
    found_SN = np.where(is_hit, length_N - cut_off, 0)
    vain_SN = np.where(is_hit, too_many, np.where(marks, rng.integers(3, 8, score_SN.shape), 0))
    bars_SN3 = np.stack([found_SN, vain_SN, length_N - found_SN], axis=2)
    overlaps = found_SN >= 0.5 * bars_SN3.sum(axis=2)
    events_SN3 = np.stack([is_hit & overlaps, marks & ~(is_hit & overlaps), ~(is_hit & overlaps)], axis=2)
    return ArmCounts(name, bars_SN3.astype(np.int64), events_SN3.astype(np.int64))
