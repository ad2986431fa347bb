"""Counts of arms that were never trained, drawn from two models of how trained ones come to differ.

`threshold`: an arm finds a window's span where skill + the group's ease + its own affinity to that group + the luck of
the training + the luck of this training with this group + the window's own exceed 0; the bars that it then gets wrong
at either end, and what it marks instead where it fails, are drawn too. The variances are such that 105 base windows
give the spread that was measured on real ones: standard error 0.02 of an F1 of 0.7 to 0.75.

`beta`: groups are mostly easy or hopeless, by a chance of their own (Beta) that the arm's skill and the training shift
on the logit scale; most windows of a group share one draw; bars that are marked in vain are negative binomial.

Legend: A arms, G groups, N windows, S seeds, F folds, D data sets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jade_model.scoring.metrics import f1_of
from jade_model.statistics.scored_windows import ArmCounts, ScoredWindows

NAMES = "abcdef"
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """A study, and the arms in it.

    Attributes:
        skills: Of each arm; 1 finds about three spans of four.
        num_groups: Base windows, of one data set.
        num_seeds: Repetitions.
        num_folds: Of each repetition and data set; 1 scores all windows with one training.
        affinity: Spread of an arm's own likes and dislikes among base windows; 0 for arms of one recipe.
        training_noise: Spread of the skill between trainings; a second one where the last arm has its own.
        datasets: Base windows of each data set, each trained alone; empty: one of num_groups.
        sizes: Windows a group: one to three, or heavy-tailed (a few groups hold most), or one.
        heaviest: Windows of the first group, where it is to outweigh the others.
        tails: Of ease, affinity and luck with a group: normal, Student's t of 3, or exponential.
        positives: Share of windows that have a span.
        model: Which of the two.
    """

    skills: tuple[float, ...] = (1.0, 1.0)
    num_groups: int = 105
    num_seeds: int = 3
    num_folds: int = 5
    affinity: float = 0.0
    training_noise: float | tuple[float, float] = 0.15
    datasets: tuple[int, ...] = ()
    sizes: Literal["few", "heavy", "one"] = "few"
    heaviest: int = 0
    tails: Literal["normal", "t3", "exponential"] = "normal"
    positives: float = 1.0
    model: Literal["threshold", "beta"] = "threshold"


@dataclass(frozen=True, eq=False)
class Study:
    """What was drawn: the arms' counts, and of each window the group [N], the data set [N] and the trainings [S, N]."""

    arms: list[ArmCounts]
    group_N: NDArray[np.int64]
    dataset_N: NDArray[np.int64]
    training_SN: NDArray[np.int64]

    def windows(self) -> ScoredWindows:
        names = tuple(str(index) for index in range(int(self.dataset_N.max()) + 1))
        return ScoredWindows(self.group_N, self.training_SN, dataset_N=self.dataset_N, dataset_names=names)


EASE, RUN_WITH_GROUP, WINDOW = 1.0, 0.6, 0.6
GIVES_UP_BELOW = -1.2  # further from the span than this, nothing at all is marked
SHARED = 0.7  # of a group's windows, under `beta`: those that come out as the group's first


def draw(design: Design, rng: np.random.Generator) -> Study:
    datasets = design.datasets or (design.num_groups,)
    home_G = np.repeat(np.arange(len(datasets)), datasets)
    num_groups = len(home_G)
    match design.sizes:
        case "few":
            sizes_G = rng.choice([1, 2, 3], size=num_groups, p=[0.15, 0.65, 0.2])
        case "heavy":
            sizes_G = np.maximum(1, np.round(np.exp(rng.normal(0.7, 1.2, num_groups)))).astype(np.int64)
        case "one":
            sizes_G = np.ones(num_groups, dtype=np.int64)
    sizes_G[0] = design.heaviest or sizes_G[0]
    group_N = np.repeat(np.arange(num_groups), sizes_G)
    fold_SG = np.empty((design.num_seeds, num_groups), dtype=np.int64)
    for home in range(len(datasets)):
        members = np.flatnonzero(home_G == home)
        for row in fold_SG:
            row[members] = rng.permutation(len(members)) % design.num_folds + home * design.num_folds
    ease_G = _spread(rng, design, num_groups)
    length_N = np.where(rng.random(len(group_N)) < design.positives, rng.integers(4, 9, len(group_N)), 0)
    arms = []
    noise = design.training_noise
    for index, skill in enumerate(design.skills):
        own_noise = noise if isinstance(noise, float) else noise[min(index, 1)]
        luck = rng.normal(0, own_noise, (design.num_seeds, design.num_folds * len(datasets)))
        score_SG = (
            skill + design.affinity * _spread(rng, design, num_groups) + np.take_along_axis(luck, fold_SG, axis=1)
        )
        score_SG = score_SG + RUN_WITH_GROUP * _spread(rng, design, score_SG.shape)
        make = _threshold_counts if design.model == "threshold" else _beta_counts
        arms.append(make(NAMES[index], score_SG, ease_G, group_N, length_N, rng))
    return Study(arms, group_N, home_G[group_N], fold_SG[:, group_N])


def true_scores(design: Design, *, num_groups: int = 60_000) -> list[float]:
    """Return each arm's expected bar-level F1, from very many base windows and trainings."""
    many = replace(design, num_groups=num_groups, num_seeds=1, num_folds=num_groups, datasets=(), heaviest=0)
    arms = draw(many, np.random.default_rng(0)).arms
    return [float(f1_of(arm.bar_counts_SN3[0].sum(axis=0))) for arm in arms]


def planted(design: Design, difference: float) -> Design:
    """Return the design with the first of two arms so much worse in F1.

    Raises:
        ValueError: No skill down to 6 below makes such a difference.
    """
    skill = design.skills[1]
    low, high = 0.0, 6.0
    for _ in range(14):
        gap = (low + high) / 2
        found = replace(design, skills=(skill - gap, skill))
        first, second = true_scores(found, num_groups=20_000)
        low, high = (gap, high) if second - first < difference else (low, gap)
    if abs(second - first - difference) > 0.005:
        raise ValueError(f"the difference came to {second - first:.3f} instead of {difference:.3f}")
    return found


def _spread(rng: np.random.Generator, design: Design, size: int | tuple[int, ...]) -> FloatArray:
    match design.tails:
        case "normal":
            return rng.standard_normal(size)
        case "t3":
            return rng.standard_t(3, size) / np.sqrt(3)
        case "exponential":
            return rng.exponential(1, size) - 1


def _threshold_counts(
    name: str,
    score_SG: FloatArray,
    ease_G: FloatArray,
    group_N: NDArray[np.int64],
    length_N: NDArray[np.int64],
    rng: np.random.Generator,
) -> ArmCounts:
    score_SN = (score_SG + EASE * ease_G)[:, group_N] + rng.normal(0, WINDOW, (len(score_SG), len(group_N)))
    is_hit = (score_SN > 0) & (length_N > 0)
    marks = (score_SN > np.where(length_N > 0, GIVES_UP_BELOW, -GIVES_UP_BELOW)) & ~is_hit
    cut_off, too_many = rng.binomial(3, 0.25, score_SN.shape), rng.binomial(3, 0.25, score_SN.shape)
    found_SN = np.where(is_hit, length_N - cut_off, 0)
    vain_SN = np.where(is_hit, too_many, np.where(marks, rng.integers(3, 8, score_SN.shape), 0))
    return _arm(name, found_SN, vain_SN, length_N)


def _beta_counts(
    name: str,
    score_SG: FloatArray,
    ease_G: FloatArray,
    group_N: NDArray[np.int64],
    length_N: NDArray[np.int64],
    rng: np.random.Generator,
) -> ArmCounts:
    chance_G = np.clip(1 / (1 + np.exp(-2.5 * ease_G)), 1e-3, 1 - 1e-3)
    logit_SG = np.log(chance_G / (1 - chance_G)) + score_SG
    chance_SG = rng.beta(4 / (1 + np.exp(-logit_SG)) + 1e-3, 4 / (1 + np.exp(logit_SG)) + 1e-3)
    first_N = np.r_[True, group_N[1:] != group_N[:-1]]
    drawn_SN = rng.random((len(score_SG), len(group_N)))
    shared_SN = drawn_SN[:, np.maximum.accumulate(np.where(first_N, np.arange(len(group_N)), 0))]
    drawn_SN = np.where(rng.random(drawn_SN.shape) < SHARED, shared_SN, drawn_SN)
    chance_SN = chance_SG[:, group_N]
    found_SN = np.where(drawn_SN < chance_SN, length_N - rng.binomial(np.minimum(length_N, 2), 0.2, drawn_SN.shape), 0)
    vain_SN = rng.negative_binomial(0.6, 0.35, drawn_SN.shape)
    return _arm(name, found_SN, vain_SN, length_N)


def _arm(name: str, found_SN: NDArray[np.int64], vain_SN: NDArray[np.int64], length_N: NDArray[np.int64]) -> ArmCounts:
    bars_SN3 = np.stack([found_SN, vain_SN, length_N - found_SN], axis=2)
    overlaps = (found_SN > 0) & (found_SN >= 0.5 * bars_SN3.sum(axis=2))
    marks = found_SN + vain_SN > 0
    events_SN3 = np.stack([overlaps, marks & ~overlaps, (length_N > 0) & ~overlaps], axis=2)
    return ArmCounts(name, bars_SN3.astype(np.int64), events_SN3.astype(np.int64))
