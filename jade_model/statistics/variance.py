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
H homes (data sets, those with a single unit joined), P contrasts; 2 is (2 tp, 2 tp + fp + fn), 3 is (tp, fp, fn).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from jade_model.statistics.intervals import (
    FEWEST_DEGREES,
    FEWEST_GROUPS,
    FEWEST_TRAININGS,
    ROUNDING,
    Estimates,
    Lack,
    degrees_of_sum,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_LARGEST_SHARE = 0.99  # of a unit in its home: beyond, nothing is left to hold it against


class ClusteredF1:
    """F1s of arms on the same windows, with what is known of their errors."""

    def __init__(
        self,
        group_N: IntArray,
        *,
        dataset_N: IntArray,
        training_SN: IntArray,
        given_models: bool = False,
    ) -> None:
        """Keep the design.

        Args:
            group_N: Windows of one group share bars; unique over the data sets.
            dataset_N: Data sets are strata: each keeps its number of groups and its weight.
            training_SN: Which training scored window n in seed s; any numbers, unique within the seed; -1
                where the window was not scored. Windows of one fold share a training; trainings are taken to
                be independent, so folds of one seed must not start from the same weights.
            given_models: Whether the question is about these very models, so that other trainings don't matter.

        Raises:
            ValueError: The shapes differ, or no window was scored.
        """
        if dataset_N.shape != group_N.shape or training_SN.ndim != 2 or training_SN.shape[1:] != group_N.shape:
            raise ValueError(
                f"shapes differ: group_N {group_N.shape}, dataset_N {dataset_N.shape}, "
                f"training_SN {training_SN.shape}; expected [N], [N] and [S, N]"
            )
        self.scored_SN = training_SN >= 0
        if not self.scored_SN.any():
            raise ValueError("no window was scored: training_SN is -1 everywhere")
        self.dataset_N = dataset_N
        self.given_models = given_models
        self._group_N, self._training_SN = group_N, training_SN
        self.num_groups = len(np.unique(group_N[self.scored_SN.any(axis=0)]))
        self._views: dict[int | None, _View] = {}

    def f1(self, counts_ASN3: IntArray, contrasts_PA: FloatArray, dataset: int | None = None) -> Estimates:
        """Estimate linear combinations of the arms' F1s.

        An arm's F1 is micro-averaged over the windows of one seed, and then averaged over seeds: what one
        training of the recipe can be expected to score, which is what a user gets. (Counts pooled over
        seeds would be the score of no model that anybody has, and would let a seed that marks much count
        for more.)

        Args:
            counts_ASN3: (tp, fp, fn), 0 where a window was not scored.
            contrasts_PA: Weights of the arms; a row of 1 and -1 is a difference.
            dataset: Windows of this data set only; None pools all.

        Returns:
            Estimates of the P combinations.

        Raises:
            ValueError: The data set has no scored window, or the counts' shape is not [A, S, N, 3].
        """
        if counts_ASN3.shape[1:] != (*self.scored_SN.shape, 3):
            raise ValueError(
                f"counts have shape {counts_ASN3.shape}; expected [A, S, N, 3] with S, N {self.scored_SN.shape}"
            )
        view = self._view(dataset)
        terms_AX2 = _terms(counts_ASN3[:, view.seed_X, view.row_X])
        return _estimate(view, terms_AX2, contrasts_PA, given_models=self.given_models)

    def _view(self, dataset: int | None) -> _View:
        if dataset not in self._views:
            in_view_N = np.ones(len(self.dataset_N), dtype=bool) if dataset is None else self.dataset_N == dataset
            if not (self.scored_SN & in_view_N).any():
                raise ValueError(f"data set {dataset} has no scored window")
            self._views[dataset] = _View(self._group_N, self.dataset_N, self._training_SN, self.scored_SN & in_view_N)
        return self._views[dataset]


class _View:
    """The scored windows of one data set, or of all, and the units that they belong to."""

    def __init__(
        self, group_N: IntArray, dataset_N: IntArray, training_SN: IntArray, scored_SN: NDArray[np.bool_]
    ) -> None:
        self.seed_X, self.row_X = np.nonzero(scored_SN)
        seed_X = np.unique(self.seed_X, return_inverse=True)[1]
        self.seed_index_X, self.num_seeds = seed_X, int(seed_X.max()) + 1
        dataset_X, group_X = dataset_N[self.row_X], group_N[self.row_X]
        training_X = _numbered(seed_X, training_SN[scored_SN])
        self.group_X = _numbered(group_X)
        self.training_X = training_X
        self.cell_X = _numbered(training_X, group_X)
        # A group that spans data sets lives where its first window is.
        self.dataset_of_group_U = _first(dataset_X, self.group_X)
        self.dataset_of_training_U = _first(dataset_X, training_X)
        if np.any(self.dataset_of_training_U[training_X] != dataset_X):
            # Trainings over several data sets at once spread round one common mean.
            self.dataset_of_training_U = np.zeros_like(self.dataset_of_training_U)


MOST_UNEVEN = 0.5
"""Degrees of freedom that folds of unequal size may cost: 3 folds of 70, 68 and 68 windows are still 3 folds."""


@dataclass(frozen=True, eq=False)
class _Component:
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

    @property
    def variance_P(self) -> FloatArray:
        return np.asarray((self.part_PU**2).sum(axis=1), dtype=np.float64)


def _estimate(view: _View, terms_AX2: FloatArray, contrasts_PA: FloatArray, *, given_models: bool) -> Estimates:
    above_AX, below_AX = terms_AX2[..., 0], terms_AX2[..., 1]
    totals_AS2 = np.stack([_sums(terms, view.seed_index_X, view.num_seeds) for terms in (above_AX, below_AX)], axis=-1)
    value_P = contrasts_PA @ _ratio(totals_AS2).mean(axis=1)
    scale_AX = 1 / np.maximum(totals_AS2[:, view.seed_index_X, 1], 1) / view.num_seeds
    parts = (above_AX * scale_AX, below_AX * scale_AX)
    groups = _component(*parts, view.group_X, view.dataset_of_group_U, contrasts_PA, power=1.0)
    trainings = _component(*parts, view.training_X, view.dataset_of_training_U, contrasts_PA, power=0.5)
    cell_home_U = _first(view.dataset_of_training_U[view.training_X], view.cell_X)
    cells = _component(*parts, view.cell_X, cell_home_U, contrasts_PA, power=0.5)
    group_P, training_P, cell_P = groups.variance_P, trainings.variance_P, cells.variance_P
    lack: Lack | None = None
    if groups.num_units < FEWEST_GROUPS or groups.design_degrees < FEWEST_DEGREES:
        lack = "groups"
    elif not given_models and trainings.design_degrees < FEWEST_TRAININGS - 1 - MOST_UNEVEN:
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
    telling_P = _telling_groups(view, terms_AX2, contrasts_PA)
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
        part_PU=groups.part_PU,
        few_telling_P=few_P,
        lack=lack,
        num_groups=groups.num_units,
        effective_groups=groups.effective,
        num_trainings=trainings.num_units,
        group_variance_P=group_P,
        cell_variance_P=cell_P,
        group_degrees_P=groups.degrees_P,
        training_degrees_P=trainings.degrees_P,
        num_seeds=view.num_seeds,
    )


def _component(
    above_AX: FloatArray,
    below_AX: FloatArray,
    unit_X: IntArray,
    dataset_U: IntArray,
    contrasts_PA: FloatArray,
    *,
    power: float,
) -> _Component:
    """Return what the units' residuals say, each over (1 - its share in its home) to the power."""
    num_units = len(dataset_U)
    above_AU, below_AU = _sums(above_AX, unit_X, num_units), _sums(below_AX, unit_X, num_units)
    weight_U = below_AU.mean(axis=0)
    is_weighty_U = weight_U > 0
    home_U = _homes(dataset_U, is_weighty_U)
    num_homes = int(home_U.max()) + 1
    above_AH, below_AH = _sums(above_AU, home_U, num_homes), _sums(below_AU, home_U, num_homes)
    residual_AU = above_AU - _ratio(np.stack([above_AH, below_AH], axis=-1))[:, home_U] * below_AU
    weight_H = np.bincount(home_U, weight_U, num_homes)
    share_U = np.divide(weight_U, weight_H[home_U], out=np.zeros_like(weight_U), where=is_weighty_U)
    share_U = np.minimum(share_U, _LARGEST_SHARE)
    part_PU = contrasts_PA @ (residual_AU / (1 - share_U) ** power)
    total = weight_U.sum()
    return _Component(
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


def _telling_groups(view: _View, terms_AX2: FloatArray, contrasts_PA: FloatArray) -> IntArray:
    """Return how many groups a contrast rests on, [P].

    Of a difference, those in which its arms differ; of a score, the fewer of those with something found and those with
    something wrong.
    """
    num_groups = len(view.dataset_of_group_U)
    above_AU = _sums(terms_AX2[..., 0], view.group_X, num_groups)
    wrong_AU = _sums(terms_AX2[..., 1] - terms_AX2[..., 0], view.group_X, num_groups)
    found = np.empty(len(contrasts_PA), dtype=np.int64)
    for row, weights_A in enumerate(contrasts_PA):
        used = np.flatnonzero(weights_A)
        if abs(weights_A.sum()) > ROUNDING:
            found[row] = min((above_AU[used] > 0).any(axis=0).sum(), (wrong_AU[used] > 0).any(axis=0).sum())
        else:
            differ_U = np.zeros(num_groups, dtype=bool)
            for terms_AX in (terms_AX2[used, :, 0], terms_AX2[used, :, 1]):
                differs_X = (terms_AX != terms_AX[:1]).any(axis=0)
                differ_U[view.group_X[differs_X]] = True
            found[row] = differ_U.sum()
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


def _terms(counts_K3: NDArray[Any]) -> FloatArray:
    """Return F1's numerator and denominator in the last axis."""
    twice = 2.0 * counts_K3[..., 0]
    return np.stack([twice, twice + counts_K3[..., 1] + counts_K3[..., 2]], axis=-1)


def _ratio(terms_K2: FloatArray) -> FloatArray:
    """Return F1, and 1 where nothing was labelled and nothing marked."""
    above, below = terms_K2[..., 0], terms_K2[..., 1]
    return np.divide(above, below, out=np.ones_like(above), where=below > 0)
