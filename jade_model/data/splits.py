"""Training, validation and test windows, such that no group of windows stands on two sides.

Legend: N windows, G groups, P parts, L strata.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import ConfigError
from jade_model.core.files import atomic_path
from jade_model.core.windows import NO_TYPE, Windows
from jade_model.data.groups import Grouping, group_windows

__all__ = [
    "Grouping",
    "Split",
    "SplitKind",
    "group_windows",
    "grouped_folds",
    "holdout_split",
    "load_split",
    "save_split",
    "seed_split",
    "straddling_groups",
]

SplitKind = Literal["holdout", "fold", "seed"]

_ROWS = ("train_rows", "validation_rows", "test_rows")
_SEED_TEST_FRACTION = 0.2
_SEED_RANDOM_STATE = 42


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one data set by what they are for, each ascending but for the seed's split.

    Attributes:
        train_rows: Intp.
        validation_rows: Intp; what thresholds are chosen on. The same as test_rows in the seed's split.
        test_rows: Intp; what is scored.
        seed: Of the shuffle.
        fold: Number of the fold; 0 for a single split.
        kind: How it was made.
    """

    train_rows: NDArray[np.intp]
    validation_rows: NDArray[np.intp]
    test_rows: NDArray[np.intp]
    seed: int
    fold: int
    kind: SplitKind


def holdout_split(
    windows: Windows,
    grouping: Grouping,
    *,
    seed: int,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
) -> Split:
    """Split once into training, validation and test windows, by group and stratified by type.

    Args:
        windows: N windows.
        grouping: Their groups.
        seed: Of the shuffle.
        fractions: Shares of training, validation and test windows, each above 0; only their ratios count.

    Returns:
        The split; every row stands in one part.

    Raises:
        ConfigError: There are fewer than three groups, or a share is not above 0.
    """
    if not all(math.isfinite(share) and share > 0 for share in fractions):
        raise ConfigError(f"split fractions are {fractions}; each of the three must be above 0")
    rng = np.random.default_rng([seed, 0])
    part_N = _deal(grouping.group_N, _strata(windows), fractions, rng, "training, validation and test windows")
    train, validation, test = (np.flatnonzero(part_N == part) for part in range(3))
    return Split(train, validation, test, seed=seed, fold=0, kind="holdout")


def grouped_folds(
    windows: Windows, grouping: Grouping, *, num_folds: int, seed: int, validation_fraction: float
) -> list[Split]:
    """Split into folds, by group and stratified by type: each window is tested exactly once.

    Args:
        windows: N windows.
        grouping: Their groups.
        num_folds: At least 2.
        seed: Of the shuffle; other seeds give other folds.
        validation_fraction: Share of each fold's remaining windows that is set aside to choose thresholds on,
            in [0, 1); 0 leaves validation_rows empty.

    Returns:
        One split a fold.

    Raises:
        ConfigError: There are too few groups for the folds, or for a validation part beside a training part.
    """
    if num_folds < 2:
        raise ConfigError(f"{num_folds} folds asked for; at least 2 are needed")
    if not 0 <= validation_fraction < 1:
        raise ConfigError(f"validation_fraction is {validation_fraction}; it must lie in [0, 1)")
    stratum_N = _strata(windows)
    rng = np.random.default_rng([seed, 1])
    fold_N = _deal(grouping.group_N, stratum_N, [1.0] * num_folds, rng, f"{num_folds} folds")
    splits = []
    for fold in range(num_folds):
        train, test = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        validation = np.zeros(0, dtype=np.intp)
        if validation_fraction > 0:
            rng = np.random.default_rng([seed, 2, fold])
            shares = [1 - validation_fraction, validation_fraction]
            what = f"training and validation windows beside fold {fold} of {num_folds}"
            is_validation = _deal(grouping.group_N[train], stratum_N[train], shares, rng, what) == 1
            train, validation = train[~is_validation], train[is_validation]
        splits.append(Split(train, validation, test, seed=seed, fold=fold, kind="fold"))
    return splits


def seed_split(num_windows: int) -> Split:
    """Split as the original did: 80 % and 20 % at random, whatever belongs together. It leaks.

    Equal to scikit-learn's `train_test_split(range(n), test_size=0.2, random_state=42)`; its test part served
    as validation part too.

    Args:
        num_windows: At least 2.

    Returns:
        The split, rows in scikit-learn's order.

    Raises:
        ConfigError: There are fewer than 2 windows.
    """
    if num_windows < 2:
        raise ConfigError(f"{num_windows} windows cannot be split; at least 2 are needed")
    num_test = math.ceil(_SEED_TEST_FRACTION * num_windows)
    rows = np.random.RandomState(_SEED_RANDOM_STATE).permutation(num_windows).astype(np.intp)
    test, train = rows[:num_test], rows[num_test:]
    return Split(train, test, test, seed=_SEED_RANDOM_STATE, fold=0, kind="seed")


def straddling_groups(split: Split, grouping: Grouping) -> int:
    """Return how many groups have windows on more than one side of the split; 0 unless it leaks."""
    parts = [split.train_rows, split.validation_rows]
    if not np.array_equal(split.validation_rows, split.test_rows):
        parts.append(split.test_rows)
    num_sides_G = np.zeros(grouping.num_groups, dtype=np.int64)
    for rows in parts:
        num_sides_G[np.unique(grouping.group_N[rows])] += 1
    return int((num_sides_G > 1).sum())


def save_split(split: Split, path: Path) -> None:
    """Write a split, in one step: `.npz` without pickles, which `job.load_rows` reads too."""
    rows: dict[str, Any] = {name: getattr(split, name).astype(np.int64) for name in _ROWS}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, seed=np.array(split.seed), fold=np.array(split.fold), kind=np.array(split.kind), **rows)


def load_split(path: Path) -> Split:
    """Read what save_split wrote.

    Raises:
        ConfigError: The file is missing or is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            rows = {name: data[name].astype(np.intp) for name in _ROWS}
            return Split(seed=int(data["seed"]), fold=int(data["fold"]), kind=str(data["kind"]), **rows)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ConfigError(f"{path} is not a readable split: {error}") from error


def _strata(windows: Windows) -> NDArray[np.int64]:
    """Return the type of each window, or, for windows without a span, one stratum of their own."""
    return np.where(windows.num_spans_N > 0, windows.type_N, NO_TYPE - 1)


def _deal(
    group_N: NDArray[np.int64],
    stratum_N: NDArray[np.int64],
    shares: Sequence[float],
    rng: np.random.Generator,
    what: str,
) -> NDArray[np.intp]:
    """Deal whole groups out to parts, so that each part gets its share of all windows and of every stratum.

    Large groups are dealt first, groups of one size in random order; each goes where it moves the counts
    closest to their targets, in squared relative distance. No part stays empty.
    """
    groups, group_N = np.unique(group_N, return_inverse=True)
    if len(groups) < len(shares):
        raise ConfigError(
            f"{len(groups)} groups of windows that share no bars are too few for {what}: at least "
            f"{len(shares)} are needed. Use more data or ask for fewer parts."
        )
    strata, stratum_N = np.unique(stratum_N, return_inverse=True)
    count_GL = np.zeros((len(groups), len(strata) + 1))
    np.add.at(count_GL, (group_N, stratum_N), 1)
    # The total counts like one more stratum: else small rounding errors of many strata add up.
    count_GL[:, -1] = count_GL.sum(axis=1)
    target_PL = np.outer(np.array(shares) / sum(shares), count_GL.sum(axis=0))
    dealt_PL = np.zeros_like(target_PL)
    shuffled_G = rng.permutation(len(groups))
    order_G = shuffled_G[np.argsort(-count_GL[shuffled_G, -1], kind="stable")]
    part_G = np.zeros(len(groups), dtype=np.intp)
    for num_dealt, group in enumerate(order_G.tolist()):
        count_L = count_GL[group]
        change_PL = count_L * (2 * (dealt_PL - target_PL) + count_L) / target_PL
        cost_P = change_PL.sum(axis=1)
        empty_P = dealt_PL[:, -1] == 0
        if len(groups) - num_dealt <= empty_P.sum():
            cost_P[~empty_P] = np.inf
        cheapest = np.flatnonzero(cost_P <= cost_P.min() + 1e-9)
        part = int(cheapest[rng.integers(len(cheapest))])
        part_G[group] = part
        dealt_PL[part] += count_L
    return part_G[group_N]
