"""What a comparison can see, and what it would take to decide it.

A design with more groups or more seeds is projected from the variance components of the present one, and its chance to
decide is that of a normal estimate round the observed difference, taken for the true one.

Legend: K designs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from jade_model.statistics.intervals import Estimates, degrees_of_sum, student_quantile

POWER = 0.8
_MOST = 100.0  # times as many groups, or seeds: further projections mean nothing
_STEPS = 2000


@dataclass(frozen=True)
class Needed:
    """What would decide with 80 % chance, each alone; None: no number of them up to 100 times as many.

    Attributes:
        groups: Additional ones, with folds in proportion: what few trainings add is not known well enough to project
            more groups alone.
        seeds: Additional ones, on the same groups.
    """

    groups: int | None
    seeds: int | None


def detectable_difference(standard_error: float, critical_value: float, degrees: float) -> float:
    """Smallest true difference whose interval leaves 0 out in 80 % of repetitions.

    Args:
        standard_error: Of the difference.
        critical_value: Half-width of the interval in standard errors.
        degrees: Degrees of freedom of the standard error.

    Returns:
        Difference of F1s, at most 1.
    """
    return min(1.0, (critical_value + float(special.stdtrit(degrees, POWER))) * standard_error)


def needed(estimates: Estimates, row: int, quantile: float, margin: float) -> Needed:
    """How many more groups or seeds would decide: show the difference, or show that it lies within the margin.

    Args:
        estimates: Of differences.
        row: Which one.
        quantile: Of the family, before Student's t widens it.
        margin: Largest difference that counts as none, > 0.
    """
    if estimates.lack == "groups":
        return Needed(None, None)
    times_K = np.geomspace(1.0, _MOST, _STEPS)
    size = abs(float(estimates.value_P[row]))
    found: list[int | None] = []
    for present, more in ((estimates.groups.num_units, "groups"), (estimates.num_seeds, "seeds")):
        error_K, degrees_K = _projected(estimates, row, times_K, more_seeds=more == "seeds")
        chance_K = chance_to_decide(size, error_K, student_quantile(quantile, degrees_K), margin)
        enough = np.flatnonzero(chance_K >= POWER)
        found.append(max(1, int(np.ceil(present * (times_K[enough[0]] - 1)))) if len(enough) else None)
    return Needed(*found)


def chance_to_decide(
    difference: float, error_K: NDArray[np.float64], critical_K: NDArray[np.float64], margin: float
) -> NDArray[np.float64]:
    """Return the chance that an interval leaves 0 out or lies within the margin.

    Args:
        difference: The true one.
        error_K: Standard errors.
        critical_K: Half-widths in standard errors.
        margin: Largest difference that counts as none.
    """
    shift_K = difference / error_K
    wins_K = special.ndtr(shift_K - critical_K) + special.ndtr(-critical_K - shift_K)
    reach_K = np.clip(margin / error_K - critical_K, 0.0, critical_K)
    equal_K = special.ndtr(reach_K - shift_K) - special.ndtr(-reach_K - shift_K)
    return np.asarray(wins_K + equal_K, dtype=np.float64)


def _projected(
    estimates: Estimates, row: int, times_K: NDArray[np.float64], *, more_seeds: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return standard errors and degrees of freedom of designs with so many times the groups, or the seeds."""
    group, cell = float(estimates.groups.variance_P[row]), float(estimates.cell_variance_P[row])
    variance = float(estimates.standard_error_P[row]) ** 2
    excess = max(0.0, variance - group)
    group_degrees = float(estimates.groups.degrees_P[row])
    training_degrees = max(float(estimates.trainings.degrees_P[row]), 0.0)
    # Folds in proportion to the groups are more trainings, as more seeds are.
    training_degrees_K = times_K * (training_degrees + 1) - 1
    if more_seeds:
        own_share, cell_share, _ = estimates.shares(row)
        own = group * own_share / max(own_share + cell_share, 1e-12)
        group_K, group_degrees_K = own + (group - own) / times_K, np.full_like(times_K, group_degrees)
    else:
        group_K, group_degrees_K = group / times_K, times_K * (group_degrees + 1) - 1
    cell_K, excess_K = cell / times_K, excess / times_K
    is_known_K = training_degrees_K > 0
    degrees_K = degrees_of_sum(
        group_K, group_degrees_K, excess_K, cell_K + excess_K, np.where(is_known_K, training_degrees_K, 1.0)
    )
    error_K = np.sqrt(group_K + excess_K)
    # Designs without a second training say nothing, whatever else they have.
    return np.where(is_known_K, np.maximum(error_K, 1e-9), 1.0), degrees_K
