"""What is known of an estimate: its standard error, and how wide an interval that takes.

Legend: B draws, P estimates, U units (groups, trainings or cells), X as many as P or, where one stands for all, 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

FloatArray = NDArray[np.float64]

FEWEST_GROUPS = 6
"""With fewer, no test can reach 5 %: the signs of n differences have 2^n outcomes, two of them extreme."""

FEWEST_DEGREES = 3.0
"""Of the variance between groups: below, a few groups carry so much weight that their spread is not known."""

FEWEST_TRAININGS = 3
"""Of an arm, in effect: two say next to nothing of how far trainings differ."""

ROUNDING = 1e-12  # F1s nearer than this are the same number computed in another order

SHARE_CONFIDENCE = 0.9
"""Of the largest share of the variance that trainings are taken to have."""

Lack = Literal["groups", "trainings"]
_NUM_DRAWS = 20_000


@dataclass(frozen=True, eq=False)
class Component:
    """What units of one kind say of P contrasts.

    Attributes:
        part_PU: Each unit's part in the contrast's error.
        degrees_P: Of the sum of their squares.
        design_degrees: What they would be if all units varied alike, whatever was found.
        num_units: Those with any weight.
        effective: As many units of equal weight would weigh as evenly.
    """

    part_PU: FloatArray
    degrees_P: FloatArray
    design_degrees: float
    num_units: int
    effective: float

    @cached_property
    def variance_P(self) -> FloatArray:
        """Sum of the squares, [P]."""
        return np.asarray((self.part_PU**2).sum(axis=1), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Estimates:
    """P linear combinations of arms' F1s with what is known of their uncertainty.

    Attributes:
        value_P: Estimate.
        standard_error_P: Of the value, groups and trainings together; 1 where nothing is known.
        degrees_P: Degrees of freedom of the standard error.
        training_share_P: Share of the variance that is training noise, [0, 1].
        groups: What groups say of it; their parts are what correlates the P estimates.
        trainings: What trainings say of it.
        cell_variance_P: What the groups' variance would be if nothing of it were their own.
        few_telling_P: Whether fewer than FEWEST_GROUPS groups tell anything of the value.
        lack: What there is too little of for any verdict, or None.
        num_seeds: Seeds that scored anything.
    """

    value_P: FloatArray
    standard_error_P: FloatArray
    degrees_P: FloatArray
    training_share_P: FloatArray
    groups: Component
    trainings: Component
    cell_variance_P: FloatArray
    few_telling_P: NDArray[np.bool_]
    lack: Lack | None
    num_seeds: int

    def refused(self) -> Estimates:
        """Return these estimates as unknown where something lacks: an interval then spans all that can be."""
        if self.lack is None:
            return self
        return replace(self, standard_error_P=np.ones_like(self.value_P), degrees_P=np.ones_like(self.value_P))

    def shares(self, row: int) -> tuple[float, float, float]:
        """Return the shares of a variance that are the groups' own, of cells (groups by trainings), and of trainings.

        More groups lessen the first two, more seeds the last two. One seed does not tell the first two apart: they are
        taken to be the groups' own, so that seeds are not promised too much.
        """
        group, cell, seeds = float(self.groups.variance_P[row]), float(self.cell_variance_P[row]), self.num_seeds
        own = group if seeds == 1 else min(group, max(0.0, (group - cell) * seeds / (seeds - 1)))
        trainings = float(self.training_share_P[row])
        of_groups = own / group if group > 0 else 1.0
        return (1 - trainings) * of_groups, (1 - trainings) * (1 - of_groups), trainings

    def critical_values(self, confidence: float, *, jointly: bool) -> FloatArray:
        """Return the intervals' half-widths in standard errors, shape [P].

        The normal distribution gives the quantile (jointly: of the largest of the P correlated ones, max-t);
        Student's t then widens it for few groups and trainings.

        Args:
            confidence: Chance that an interval holds, or with `jointly` that all P hold together, in (0, 1).
            jointly: Whether the P contrasts are one family.
        """
        z = self.normal_quantile(confidence, jointly=jointly)
        return student_quantile(z, self.degrees_P)

    def normal_quantile(self, confidence: float, *, jointly: bool) -> float:
        """Return the half-widths in standard errors that a known standard error would need."""
        z = float(-special.ndtri((1 - confidence) / 2))
        if jointly and len(self.value_P) > 1:
            above = math.floor((1 - confidence) * (_NUM_DRAWS + 1)) - 1
            drawn = float(self._largest_B[above]) if above >= 0 else math.inf
            # Beyond what draws can tell, the P tails together (Bonferroni).
            z = max(z, min(drawn, float(-special.ndtri((1 - confidence) / 2 / len(self.value_P)))))
        return z

    def p_values(self, *, jointly: bool) -> FloatArray:
        """Return two-sided p-values of value_P = 0, shape [P]; with `jointly`, for P tests at the same time.

        They are the intervals of `critical_values` turned round: p <= 1 - confidence exactly where the
        interval leaves 0 out.
        """
        size_P = np.abs(self.value_P)
        error_P = np.where(self.standard_error_P > 0, self.standard_error_P, 1.0)
        tail_P = special.stdtr(self.degrees_P, -size_P / error_P)
        alone_P = np.where(self.standard_error_P > 0, 2 * tail_P, 0.0)
        p_P = alone_P
        if jointly and len(self.value_P) > 1:
            count_P = np.searchsorted(-self._largest_B, special.ndtri(alone_P / 2), side="right")
            p_P = np.maximum(alone_P, np.minimum((1 + count_P) / (1 + _NUM_DRAWS), len(p_P) * alone_P))
        return np.where(size_P <= ROUNDING, 1.0, np.minimum(p_P, 1.0))

    @cached_property
    def _largest_B(self) -> FloatArray:
        """Draws of the largest of P correlated normal numbers, by size, the largest first."""
        part_PU, length_P = self.groups.part_PU, np.sqrt(self.groups.variance_P)
        unit_PU = np.divide(part_PU, length_P[:, None], out=np.zeros_like(part_PU), where=length_P[:, None] > 0)
        # In an order and with signs of their own, so that the answer does not hang on how the arms are listed.
        unit_PU = unit_PU[np.argsort(length_P, kind="stable")]
        unit_PU *= np.where(np.take_along_axis(unit_PU, np.abs(unit_PU).argmax(axis=1)[:, None], axis=1) < 0, -1, 1)
        correlation_PP = unit_PU @ unit_PU.T
        # What never varies is taken as independent, which errs on the wide side.
        np.fill_diagonal(correlation_PP, 1.0)
        value_P, vector_PP = np.linalg.eigh(correlation_PP)
        root_PP = vector_PP * np.sqrt(np.maximum(value_P, 0.0))
        draws_BP = np.random.default_rng(0).standard_normal((_NUM_DRAWS, len(value_P))) @ root_PP.T
        return np.sort(np.abs(draws_BP).max(axis=1))[::-1]


def student_quantile(z: float, degrees_X: FloatArray) -> FloatArray:
    """Return what is exceeded under Student's t as seldom as z is under the normal distribution.

    Args:
        z: Any number.
        degrees_X: Degrees of freedom, at least 1.
    """
    return np.asarray(-special.stdtrit(degrees_X, special.ndtr(-z)), dtype=np.float64)


def degrees_of_sum(
    group_X: FloatArray,
    group_degrees_X: FloatArray,
    excess_X: FloatArray,
    training_X: FloatArray,
    training_degrees_X: FloatArray,
) -> FloatArray:
    """Return the degrees of freedom of groups' variance and what trainings add to it (Satterthwaite).

    The trainings' share is the largest that their own variance allows at SHARE_CONFIDENCE: few trainings that happen to
    agree say little.

    Args:
        group_X: Groups' variance.
        group_degrees_X: Its degrees of freedom.
        excess_X: What trainings add.
        training_X: Variance between trainings, of which that is a part.
        training_degrees_X: Its degrees of freedom, > 0.
    """
    total_X = np.maximum(group_X + excess_X, ROUNDING**2)
    largest_X = training_X * training_degrees_X / special.chdtri(training_degrees_X, SHARE_CONFIDENCE)
    share_X = np.minimum(1.0, largest_X / total_X)
    doubt_X = (group_X / total_X) ** 2 / group_degrees_X + share_X**2 / training_degrees_X
    degrees_X = np.array(group_degrees_X, dtype=np.float64)
    np.divide(1.0, doubt_X, out=degrees_X, where=doubt_X > 0)
    return degrees_X
