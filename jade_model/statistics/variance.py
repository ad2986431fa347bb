"""How far a micro F1, or a difference of two, might lie from its estimate.

Two things would change if the whole study were done again: other base windows would have been drawn, and every model
would have been trained from another seed. Groups (windows that share bars) are drawn within data sets; trainings are
nested in data sets; a group is scored by one training a seed.

Variance of a contrast: V_groups + max(0, V_trainings - V_cells), at least V_trainings: the two-way cluster formula of
Cameron, Gelbach and Miller (2011), where a cell is what one training says of one group, on the F1's linearisation.
V_groups is a jackknife within data sets (a residual counts as if its group had not helped to make the mean that it is
held against: CR3 of Bell and McCaffrey, 2002), V_trainings likewise by the milder CR2.

Degrees of freedom: each component's are those of its quadratic form if all units of one kind vary alike, whatever their
weight, or those that the data sets' own variances make (Satterthwaite), if those are fewer. For the sum, trainings are
taken to have the largest share that the data do not exclude (at 90 %): few trainings that happen to agree say little.

Legend: A arms, S seeds, N windows, X scored windows of all seeds in one row, U units (groups, trainings or cells),
H homes (data sets, those with a single unit joined), P contrasts; 3 is (tp, fp, fn);
an F1 is `above` = 2 tp over `below` = 2 tp + fp + fn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from jade_model.statistics.intervals import (
    FEWEST_DEGREES,
    FEWEST_GROUPS,
    FEWEST_TRAININGS,
    ROUNDING,
    Component,
    Estimates,
    Lack,
    degrees_of_sum,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_MOST_UNEVEN = 0.5
"""Degrees of freedom that folds of unequal size may cost: 3 folds of 70, 68 and 68 windows are still 3 folds."""
_LARGEST_SHARE = 0.99  # of a unit in its home: beyond, nothing is left to hold it against


class Design:
    """The scored windows of one data set, or of all, and the units that they belong to.

    Args:
        group_N: Windows of one group share bars; unique over the data sets.
        dataset_N: Data sets are strata: each keeps its number of groups and its weight.
        training_SN: Which training scored window n in seed s; any numbers, unique within the seed. Windows of one fold
            share a training; trainings are taken to be independent, so folds of one seed must not start from the same
            weights.
        scored_SN: Which windows count; one at least.
    """

    def __init__(
        self, group_N: IntArray, dataset_N: IntArray, training_SN: IntArray, scored_SN: NDArray[np.bool_]
    ) -> None:
        self.scored_at_X, self.row_X = np.nonzero(scored_SN)
        self.seed_X = _numbered(self.scored_at_X)
        self.num_seeds = int(self.seed_X.max()) + 1
        dataset_X, group_X = dataset_N[self.row_X], group_N[self.row_X]
        self.group_X = _numbered(group_X)
        self.training_X = _numbered(self.seed_X, training_SN[scored_SN])
        self.cell_X = _numbered(self.training_X, group_X)
        # A group that spans data sets lives where its first window is.
        self.dataset_of_group_U = _first(dataset_X, self.group_X)
        self.dataset_of_training_U = _first(dataset_X, self.training_X)
        if np.any(self.dataset_of_training_U[self.training_X] != dataset_X):
            # Trainings over several data sets at once spread round one common mean.
            self.dataset_of_training_U = np.zeros_like(self.dataset_of_training_U)


def estimate(design: Design, counts_ASN3: IntArray, contrasts_PA: FloatArray, *, given_models: bool) -> Estimates:
    """Estimate linear combinations of the arms' F1s.

    An arm's F1 is micro-averaged over the windows of one seed, and then averaged over seeds: what one training of the
    recipe can be expected to score, which is what a user gets. (Counts pooled over seeds would be the score of no model
    that anybody has, and would let a seed that marks much count for more.)

    Args:
        design: Of the windows.
        counts_ASN3: (tp, fp, fn), 0 where a window was not scored.
        contrasts_PA: Weights of the arms; a row of 1 and -1 is a difference.
        given_models: Whether the question is about these very models, so that other trainings don't matter.
    """
    counts_AX3 = counts_ASN3[:, design.scored_at_X, design.row_X]
    above_AX = 2 * counts_AX3[..., 0].astype(np.float64)
    below_AX = above_AX + counts_AX3[..., 1] + counts_AX3[..., 2]
    above_AS, below_AS = (_sums(terms_AX, design.seed_X, design.num_seeds) for terms_AX in (above_AX, below_AX))
    value_P = contrasts_PA @ _ratio(above_AS, below_AS).mean(axis=1)
    scale_AX = 1 / np.maximum(below_AS[:, design.seed_X], 1) / design.num_seeds
    parts = (above_AX * scale_AX, below_AX * scale_AX)
    groups = _component(*parts, design.group_X, design.dataset_of_group_U, contrasts_PA, power=1.0)
    trainings = _component(*parts, design.training_X, design.dataset_of_training_U, contrasts_PA, power=0.5)
    cell_home_U = _first(design.dataset_of_training_U[design.training_X], design.cell_X)
    cells = _component(*parts, design.cell_X, cell_home_U, contrasts_PA, power=0.5)
    group_P, training_P, cell_P = groups.variance_P, trainings.variance_P, cells.variance_P
    lack: Lack | None = None
    if groups.num_units < FEWEST_GROUPS or groups.design_degrees < FEWEST_DEGREES:
        lack = "groups"
    elif not given_models and trainings.design_degrees < FEWEST_TRAININGS - 1 - _MOST_UNEVEN:
        lack = "trainings"
    if given_models:
        excess_P, degrees_P = np.zeros_like(group_P), groups.degrees_P
    elif lack == "trainings":
        # Only intervals of single scores show this; of differences nothing is said.
        excess_P, degrees_P = group_P.copy(), groups.degrees_P
    else:
        excess_P = np.maximum(np.maximum(0.0, training_P - cell_P), training_P - group_P)
        degrees_P = degrees_of_sum(group_P, groups.degrees_P, excess_P, training_P, trainings.degrees_P)
    total_P = np.where(group_P + excess_P < ROUNDING**2, 0.0, group_P + excess_P)
    share_P = np.divide(excess_P, total_P, out=np.zeros_like(total_P), where=total_P > 0)
    telling_P = _telling_groups(design, above_AX, below_AX, contrasts_PA)
    # With few groups that tell anything, what they show is no measure of what they might: the rule of three.
    unseen_P = _upper_rate(telling_P, groups.effective)
    quantile_P = special.stdtrit(degrees_P, 0.975)
    few_P = telling_P < FEWEST_GROUPS
    error_P = np.where(few_P, np.maximum(np.sqrt(total_P), unseen_P / quantile_P), np.sqrt(total_P))
    if lack == "groups":
        error_P, degrees_P = np.ones_like(error_P), np.ones_like(degrees_P)
    return Estimates(
        value_P=value_P,
        standard_error_P=error_P,
        degrees_P=degrees_P,
        training_share_P=share_P,
        groups=groups,
        trainings=trainings,
        cell_variance_P=cell_P,
        few_telling_P=few_P,
        lack=lack,
        num_seeds=design.num_seeds,
    )


def _component(
    above_AX: FloatArray,
    below_AX: FloatArray,
    unit_X: IntArray,
    dataset_U: IntArray,
    contrasts_PA: FloatArray,
    *,
    power: float,
) -> Component:
    """Return what the units' residuals say, each over (1 - its share in its home) to the power."""
    num_units = len(dataset_U)
    above_AU, below_AU = _sums(above_AX, unit_X, num_units), _sums(below_AX, unit_X, num_units)
    weight_U = below_AU.mean(axis=0)
    is_weighty_U = weight_U > 0
    home_U = _homes(dataset_U, is_weighty_U)
    num_homes = int(home_U.max()) + 1
    above_AH, below_AH = _sums(above_AU, home_U, num_homes), _sums(below_AU, home_U, num_homes)
    residual_AU = above_AU - _ratio(above_AH, below_AH)[:, home_U] * below_AU
    weight_H = np.bincount(home_U, weight_U, num_homes)
    share_U = np.divide(weight_U, weight_H[home_U], out=np.zeros_like(weight_U), where=is_weighty_U)
    share_U = np.minimum(share_U, _LARGEST_SHARE)
    part_PU = contrasts_PA @ (residual_AU / (1 - share_U) ** power)
    total = weight_U.sum()
    return Component(
        part_PU,
        *_degrees(part_PU, weight_U, share_U, home_U, num_homes, power),
        int(is_weighty_U.sum()),
        float(total**2 / (weight_U**2).sum()) if total > 0 else 0.0,
    )


def _homes(dataset_U: IntArray, is_weighty_U: NDArray[np.bool_]) -> IntArray:
    """Return data sets as homes; those with one unit that weighs anything are joined, a lone one to the smallest."""
    home_U = _numbered(dataset_U)
    size_H = np.bincount(home_U[is_weighty_U], minlength=int(home_U.max()) + 1)
    lonely = np.flatnonzero(size_H == 1)
    if len(lonely) == 1 and (size_H > 1).any():
        others = np.flatnonzero(size_H > 1)
        lonely = np.append(lonely, others[np.argmin(size_H[others])])
    joined_U = np.isin(home_U, lonely)
    return _numbered(np.where(joined_U, lonely.min() if len(lonely) else 0, home_U))


def _degrees(
    part_PU: FloatArray, weight_U: FloatArray, share_U: FloatArray, home_U: IntArray, num_homes: int, power: float
) -> tuple[FloatArray, float]:
    """Return the degrees of freedom of sums of squares, shape [P]: the fewer of two answers; and the first of them.

    One takes all units to vary alike: 2 E^2 / Var of the quadratic form in their independent values. The other takes
    each home's variance as it was found, with the degrees of the first kind (Satterthwaite, with Welch's correction).
    """

    def by_home(value_U: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(home_U, value_U, num_homes), dtype=np.float64)

    # Within a home: residuals of a weighted mean with weights u, squared and weighed by d; M M' = I - u1' - 1u' + s.
    d_U, u_U = weight_U**2 / (1 - share_U) ** (2 * power), share_U
    s_H = by_home(u_U**2)
    own_U = 1 - 2 * u_U + s_H[home_U]
    trace_H = by_home(d_U * own_U)
    d0_H, d1_H, d2_H = by_home(d_U), by_home(d_U * u_U), by_home(d_U * u_U**2)
    square_H = (s_H * d0_H) ** 2 - 4 * s_H * d0_H * d1_H + 2 * d0_H * d2_H + 2 * d1_H**2
    square_H += by_home(d_U**2 * (own_U**2 - (s_H[home_U] - 2 * u_U) ** 2))
    if trace_H.sum() <= 0:
        return np.zeros(len(part_PU)), 0.0
    alike = float(trace_H.sum() ** 2 / square_H.sum())
    degrees_H = np.divide(trace_H**2, square_H, out=np.zeros_like(trace_H), where=square_H > 0)
    variance_PH = np.stack([by_home(row**2) for row in part_PU])
    doubt_P = (variance_PH**2 / (degrees_H + 2)).sum(axis=1)
    found_P = np.full(len(part_PU), alike)
    np.divide(variance_PH.sum(axis=1) ** 2, doubt_P, out=found_P, where=doubt_P > 0)
    return np.where(doubt_P > 0, np.maximum(1.0, np.minimum(alike, found_P - 2)), alike), alike


def _telling_groups(design: Design, above_AX: FloatArray, below_AX: FloatArray, contrasts_PA: FloatArray) -> IntArray:
    """Return how many groups a contrast rests on, [P].

    Of a difference, those in which its arms differ; of a score, the fewer of those with something found and those with
    something wrong.
    """
    num_groups = len(design.dataset_of_group_U)
    above_AU, wrong_AU = (_sums(terms_AX, design.group_X, num_groups) for terms_AX in (above_AX, below_AX - above_AX))
    found = np.empty(len(contrasts_PA), dtype=np.int64)
    for row, weights_A in enumerate(contrasts_PA):
        used = np.flatnonzero(weights_A)
        if abs(weights_A.sum()) > ROUNDING:
            found[row] = min((above_AU[used] > 0).any(axis=0).sum(), (wrong_AU[used] > 0).any(axis=0).sum())
        else:
            differs_AX = (above_AX[used] != above_AX[used[0]]) | (below_AX[used] != below_AX[used[0]])
            found[row] = len(np.unique(design.group_X[differs_AX.any(axis=0)]))
    return found


def _upper_rate(seen_P: IntArray, groups: float) -> FloatArray:
    """Return the largest rate that leaves a chance of 5 % to see as few (Clopper and Pearson): 3 / n for none of n."""
    few_P = np.minimum(seen_P, max(groups - 1, 0))
    return np.asarray(special.betaincinv(few_P + 1, np.maximum(groups - few_P, 1e-9), 0.95), dtype=np.float64)


def _numbered(*keys_X: IntArray) -> IntArray:
    """Number what differs in any key, from 0."""
    number_X = np.zeros(len(keys_X[0]), dtype=np.int64)
    for key_X in keys_X:
        _, found_X = np.unique(key_X, return_inverse=True)
        number_X = np.unique(number_X * (int(found_X.max()) + 1) + found_X, return_inverse=True)[1]
    return number_X


def _first(value_X: IntArray, unit_X: IntArray) -> IntArray:
    """Return each unit's first value, [U]."""
    first_U = np.zeros(int(unit_X.max()) + 1, dtype=np.int64)
    first_U[unit_X[::-1]] = value_X[::-1]
    return first_U


def _sums(value_AX: FloatArray, unit_X: IntArray, num_units: int) -> FloatArray:
    return np.stack([np.bincount(unit_X, row, num_units) for row in value_AX])


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Return F1, and 1 where nothing was labelled and nothing marked."""
    return np.divide(above, below, out=np.ones_like(above), where=below > 0)
