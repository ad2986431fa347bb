"""What is known of an estimate: its standard error, and how wide an interval that takes.

Legend: B draws, P estimates, X as many as P or, where one stands for all, 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from jade_model.statistics.student import student_cdf, student_quantile

FloatArray = NDArray[np.float64]

UNKNOWN_TRAINING_NOISE = 1.0
"""Training noise assumed where trainings give no clue, as a multiple of the groups' variance.

Twice what trainings of small networks over few epochs show (`benchmarks/verdict_calibration.md`), so that the
interval errs on the wide side.
"""

PRIOR_TRAININGS = 2
"""As many trainings as the assumption counts for, beside those that were done."""

FEWEST_GROUPS = 6
"""With fewer, no test can reach 5 %: the signs of n differences have 2^n outcomes, two of them extreme."""

ROUNDING = 1e-12  # F1s nearer than this are the same number computed in another order
_NORMAL = NormalDist()


@dataclass(frozen=True, eq=False)
class Estimates:
    """P linear combinations of arms' F1s with what is known of their uncertainty.

    With fewer than FEWEST_GROUPS groups the standard error is 1: nothing is known.

    Attributes:
        value_P: Estimate.
        standard_error_P: Of the value, groups and trainings together.
        degrees_P: Degrees of freedom of the standard error.
        training_share_P: Share of the variance that is training noise, [0, 1].
        draws_BP: Bootstrap draws less their mean, in their own standard deviations; all 0 where nothing
            varies.
        num_groups: Groups that were resampled.
    """

    value_P: FloatArray
    standard_error_P: FloatArray
    degrees_P: FloatArray
    training_share_P: FloatArray
    draws_BP: FloatArray
    num_groups: int

    def critical_values(self, confidence: float, *, jointly: bool) -> FloatArray:
        """Return the intervals' half-widths in standard errors, shape [P].

        The absolute standardised draws give the quantile (jointly: their largest over the contrasts,
        max-t), never less than the normal distribution's; Student's t then widens it for few groups and
        trainings.

        Args:
            confidence: Chance that an interval holds, or with `jointly` that all P hold together, in (0, 1).
            jointly: Whether the P contrasts are one family.
        """
        sizes_BX = self._sizes(jointly=jointly)
        above = math.floor((1 - confidence) * (len(sizes_BX) + 1)) - 1
        drawn_X = np.sort(sizes_BX, axis=0)[::-1][max(0, above)]
        drawn_X = np.maximum(drawn_X, _NORMAL.inv_cdf(0.5 + confidence / 2))
        drawn_P = np.broadcast_to(drawn_X, self.value_P.shape)
        return np.array([_normal_to_student(*pair) for pair in zip(drawn_P, self.degrees_P, strict=True)])

    def p_values(self, *, jointly: bool) -> FloatArray:
        """Return two-sided p-values of value_P = 0, shape [P]; with `jointly`, for P tests at the same time.

        They are the intervals of `critical_values` turned round: p <= 1 - confidence exactly where the
        interval leaves 0 out.
        """
        sizes_XB = np.ascontiguousarray(self._sizes(jointly=jointly).T)
        p_P = np.ones(len(self.value_P))
        for column, (value, error, degrees) in enumerate(
            zip(self.value_P, self.standard_error_P, self.degrees_P, strict=True)
        ):
            if abs(value) <= ROUNDING:
                continue
            size = _student_to_normal(abs(value) / error, degrees) if error > 0 else math.inf
            sizes_B = sizes_XB[0 if jointly else column]
            drawn = (1 + np.count_nonzero(sizes_B >= size)) / (1 + len(sizes_B))
            p_P[column] = max(drawn, 2 * _NORMAL.cdf(-size))
        return p_P

    def _sizes(self, *, jointly: bool) -> FloatArray:
        """Return the draws' sizes, [B, P]; with `jointly` the largest of each draw, [B, 1]."""
        sizes_BP = np.abs(self.draws_BP)
        return sizes_BP.max(axis=1, keepdims=True) if jointly else sizes_BP


def _normal_to_student(z: float, degrees: float) -> float:
    # Six normal standard deviations leave 1e-9, which is as far as the quadrature is exact.
    return student_quantile(_NORMAL.cdf(min(z, 6.0)), degrees)


def _student_to_normal(t: float, degrees: float) -> float:
    below = student_cdf(t, degrees)
    return _NORMAL.inv_cdf(below) if below < 1 else math.inf
