"""How far a micro F1, or a difference of two, might lie from its estimate: a paired bootstrap over groups.

Two things would change if the whole study were done again: other base windows would have been drawn, and
every model would have been trained from another seed. The bootstrap resamples groups (never rows: windows
of one base show the same bars), with the same weights for every arm, so that what is hard for all arms
cancels in a difference. Training noise that all windows of one training share is invisible to it and is
estimated from the spread between trainings.

Variance of a contrast: V_groups + V_trainings - V_cells, the two-way cluster formula of Cameron, Gelbach and
Miller (2011), with V_groups from the bootstrap (n - 1 of n groups drawn and rescaled: Rao and Wu, 1988, which
makes the variance unbiased for few groups) and the other two from the F1's linearisation. A cell is what one
training says of one group. V_trainings - V_cells, what trainings add, is known badly where they are few: it
is averaged with an assumption (PRIOR_TRAININGS) and is never negative. Degrees of freedom: Satterthwaite.

Legend: A arms, S seeds, N windows, G groups, C cells, M trainings, B draws, P contrasts; 2 is (2 tp,
2 tp + fp + fn), 3 is (tp, fp, fn).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jade_model.statistics.intervals import FEWEST_GROUPS, PRIOR_TRAININGS, ROUNDING, UNKNOWN_TRAINING_NOISE, Estimates

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_WEIGHTS_AT_ONCE = 1 << 21  # draws times groups, as wide numbers: 16 MB


class PairedBootstrap:
    """The same resampled groups for everything that is scored on the same windows."""

    def __init__(
        self,
        group_N: IntArray,
        *,
        dataset_N: IntArray,
        training_SN: IntArray,
        num_draws: int = 4000,
        seed: int = 0,
    ) -> None:
        """Draw the weights once.

        Args:
            group_N: Windows of one group share bars; unique over the data sets.
            dataset_N: Data sets are strata: each keeps its number of groups in every draw.
            training_SN: Which training scored window n in seed s; any numbers, unique within the seed; -1
                where the window was not scored. Windows of one fold share a training; trainings are taken to
                be independent, so folds of one seed must not start from the same weights.
            num_draws: B.
            seed: Of the draws.

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
        self.training_SN = training_SN
        is_in = self.scored_SN.any(axis=0)
        _, group = np.unique(group_N[is_in], return_inverse=True)
        self._group_N = np.full(len(group_N), -1, dtype=np.int64)
        self._group_N[is_in] = group
        self.num_groups = int(group.max()) + 1
        home_G = np.zeros(self.num_groups, dtype=np.int64)
        # A group that spans data sets lives where its first window is.
        home_G[group[::-1]] = dataset_N[is_in][::-1]
        self._views: dict[int | None, _View] = {}
        self._weights_BG, self._scale_G = _draw_weights(home_G, num_draws, np.random.default_rng(seed))

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
        terms_ASN2 = _terms(counts_ASN3)[:, view.used_S] * view.scored_SN[None, :, :, None]
        total_AS2 = terms_ASN2.sum(axis=2)
        value_A = _ratio(total_AS2).mean(axis=1)
        return _estimates(
            value_P=contrasts_PA @ value_A,
            draws_BP=self._draws(terms_ASN2) @ contrasts_PA.T,
            influence_PC=contrasts_PA @ view.influence(terms_ASN2, total_AS2, value_A),
            view=view,
        )

    def _view(self, dataset: int | None) -> _View:
        if dataset not in self._views:
            in_view_N = np.ones(len(self.dataset_N), dtype=bool) if dataset is None else self.dataset_N == dataset
            if not (self.scored_SN & in_view_N).any():
                raise ValueError(f"data set {dataset} has no scored window")
            self._views[dataset] = _View(self._group_N, self.dataset_N, self.training_SN, self.scored_SN & in_view_N)
        return self._views[dataset]

    def _draws(self, terms_ASN2: FloatArray) -> FloatArray:
        """Return every arm's F1, averaged over seeds, in every draw, shape [B, A]."""
        num_arms, num_seeds = terms_ASN2.shape[:2]
        rows = np.flatnonzero(self._group_N >= 0)
        columns_NX = terms_ASN2[:, :, rows].transpose(2, 0, 1, 3).reshape(len(rows), -1)
        sums_GX = np.zeros((self.num_groups, columns_NX.shape[1]))
        np.add.at(sums_GX, self._group_N[rows], columns_NX)
        sums_GX *= self._scale_G[:, None]
        draws_BA = np.empty((len(self._weights_BG), num_arms))
        for part in _parts(len(draws_BA), self.num_groups):
            totals = self._weights_BG[part].astype(np.float64) @ sums_GX
            draws_BA[part] = _ratio(totals.reshape(-1, num_arms, num_seeds, 2)).mean(axis=2)
        return draws_BA


class _View:
    """The windows of one data set, or of all, cut into cells: what one training says of one group."""

    def __init__(
        self, group_N: IntArray, dataset_N: IntArray, training_SN: IntArray, scored_SN: NDArray[np.bool_]
    ) -> None:
        self.used_S = scored_SN.any(axis=1)
        self.scored_SN = scored_SN[self.used_S]
        self.num_groups = len(np.unique(group_N[scored_SN.any(axis=0)]))
        self._seed, self._row = np.nonzero(self.scored_SN)
        training = training_SN[self.used_S][self.scored_SN]
        keys = np.stack([self._seed, training, group_N[self._row], dataset_N[self._row]], axis=1)
        cells, cell = np.unique(keys, axis=0, return_inverse=True)
        self._cell = cell.reshape(-1)
        self.training_C = np.unique(cells[:, :2], axis=0, return_inverse=True)[1].reshape(-1)
        self.dataset_C = np.unique(cells[:, 3], return_inverse=True)[1].reshape(-1)
        self.num_cells = len(cells)
        self.num_trainings = int(self.training_C.max()) + 1
        self.num_datasets = int(self.dataset_C.max()) + 1
        # Trainings on one data set each spread round that data set's mean, others round the common one.
        homes = len(np.unique(np.stack([self.training_C, self.dataset_C], axis=1), axis=0))
        self.num_centres = self.num_datasets if homes == self.num_trainings else 1

    def influence(self, terms_ASN2: FloatArray, total_AS2: FloatArray, value_A: FloatArray) -> FloatArray:
        """Return each cell's part in the seeds' mean F1, centred by data set, shape [A, C].

        Linearised: (2 tp - F (2 tp + fp + fn)) / (sum of 2 tp + fp + fn over the seed's windows) / seeds.
        """
        weight_AS = 1 / np.maximum(total_AS2[..., 1], 1) / total_AS2.shape[1]
        part_ASN = (terms_ASN2[..., 0] - value_A[:, None, None] * terms_ASN2[..., 1]) * weight_AS[:, :, None]
        part_AX = part_ASN[:, self._seed, self._row]
        influence_AC = np.stack([np.bincount(self._cell, part, self.num_cells) for part in part_AX])
        size_H = np.bincount(self.dataset_C)
        means_AH = np.stack([np.bincount(self.dataset_C, part) for part in influence_AC]) / size_H
        return influence_AC - means_AH[:, self.dataset_C]


def _estimates(*, value_P: FloatArray, draws_BP: FloatArray, influence_PC: FloatArray, view: _View) -> Estimates:
    centred_BP = draws_BP - draws_BP.mean(axis=0)
    group_variance_P = (centred_BP**2).mean(axis=0)
    group_variance_P[group_variance_P < ROUNDING**2] = 0.0
    spread_P = np.sqrt(group_variance_P)
    standardised_BP = np.divide(centred_BP, spread_P, out=np.zeros_like(centred_BP), where=spread_P > 0)
    group_degrees = max(1, view.num_groups - view.num_datasets)
    # Few trainings say little of their noise: they are joined by PRIOR_TRAININGS that say UNKNOWN_TRAINING_NOISE.
    free = view.num_trainings - view.num_centres
    sums_PM = np.stack([np.bincount(view.training_C, row, view.num_trainings) for row in influence_PC])
    training_P = (sums_PM**2).sum(axis=1) * view.num_trainings / max(1, free)
    cell_P = (influence_PC**2).sum(axis=1) * view.num_cells / max(1, view.num_cells - view.num_datasets)
    assumed_P = UNKNOWN_TRAINING_NOISE * group_variance_P
    seen_and_assumed = free + PRIOR_TRAININGS
    excess_P = (free * (training_P - cell_P) + PRIOR_TRAININGS * assumed_P) / seen_and_assumed
    excess_P = np.maximum(0.0, excess_P)
    doubt_P = group_variance_P**2 / group_degrees
    doubt_P += (free * training_P**2 + PRIOR_TRAININGS * assumed_P**2) / seen_and_assumed**2
    degrees_P = np.divide(
        (group_variance_P + excess_P) ** 2,
        doubt_P,
        out=np.full(len(value_P), float(group_degrees)),
        where=doubt_P > 0,
    )
    total_P = group_variance_P + excess_P
    if view.num_groups < FEWEST_GROUPS:
        # An F1 or a difference of two spans at most this: the interval says that nothing is known.
        total_P, degrees_P = np.ones_like(total_P), np.ones_like(total_P)
    return Estimates(
        value_P=value_P,
        standard_error_P=np.sqrt(total_P),
        degrees_P=np.maximum(1.0, degrees_P),
        training_share_P=np.divide(excess_P, total_P, out=np.zeros_like(total_P), where=total_P > 0),
        draws_BP=standardised_BP,
        num_groups=view.num_groups,
    )


def _draw_weights(home_G: IntArray, num_draws: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], FloatArray]:
    """Return how often each group was drawn, [B, G], and what its sums are multiplied by, [G]."""
    # A group is drawn once on average: 256 times is out of reach.
    weights_BG = np.ones((num_draws, len(home_G)), dtype=np.uint8)
    scale_G = np.ones(len(home_G))
    for home in np.unique(home_G):
        members = np.flatnonzero(home_G == home)
        size = len(members)
        if size == 1:
            continue  # one group says nothing of the spread: it stays
        for part in _parts(num_draws, size):
            rows = np.arange(part.stop - part.start)[:, None]
            drawn = rng.integers(size, size=(len(rows), size - 1)) + rows * size
            counts = np.bincount(drawn.reshape(-1), minlength=len(rows) * size)
            weights_BG[part, members] = counts.reshape(len(rows), size)
        scale_G[members] = size / (size - 1)
    return weights_BG, scale_G


def _parts(num_draws: int, num_groups: int) -> Iterator[slice]:
    """Cut the draws so that memory stays flat however many groups there are."""
    step = max(1, _WEIGHTS_AT_ONCE // num_groups)
    for start in range(0, num_draws, step):
        yield slice(start, min(num_draws, start + step))


def _terms(counts_K3: NDArray[Any]) -> FloatArray:
    """Return F1's numerator and denominator in the last axis."""
    twice = 2.0 * counts_K3[..., 0]
    return np.stack([twice, twice + counts_K3[..., 1] + counts_K3[..., 2]], axis=-1)


def _ratio(terms_K2: FloatArray) -> FloatArray:
    """Return F1, and 1 where nothing was labelled and nothing marked."""
    above, below = terms_K2[..., 0], terms_K2[..., 1]
    return np.divide(above, below, out=np.ones_like(above), where=below > 0)
