"""Retraining as data grow: who trains on what.

Every group of windows has a role that a hash of its earliest window decides: the fixed hold-out, or one of the folds.
So roles stay while data grow, and a model of last month and one of tonight can both be scored on windows that neither
has seen: a fold's windows by the models trained without that fold, the hold-out by the final models.

Legend: N windows, G groups.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import ConfigError
from jade_model.core.windows import Windows
from jade_model.data.groups import Grouping
from jade_model.data.splits import Split

HOLDOUT = -1
"""Role of windows that no model of a retraining is fitted to."""
UNJUDGED = -2
"""Of windows that the champion has seen with every one of its models."""

_SALT = b"jade retraining 1"


@dataclass(frozen=True, eq=False)
class Roles:
    """Who trains on which window.

    Attributes:
        role_N: HOLDOUT, or the fold whose model does not see the window, int64.
        watched_N: Whether the window's loss is watched instead of fitted wherever it could be fitted, bool.
        num_folds: How many folds there are; the final model is numbered like one more.
    """

    role_N: NDArray[np.int64]
    watched_N: NDArray[np.bool_]
    num_folds: int

    @property
    def final(self) -> int:
        """Number of the model that is trained on everything but the hold-out."""
        return self.num_folds


def assign_roles(
    windows: Windows,
    grouping: Grouping,
    *,
    num_folds: int,
    holdout_fraction: float,
    watched_fraction: float = 0.1,
) -> Roles:
    """Give every group its role, from a hash of its earliest window's bars: the same ones whatever joins the data.

    Args:
        windows: N windows.
        grouping: Their groups.
        num_folds: At least 2.
        holdout_fraction: Expected share of groups in the hold-out, in (0, 1).
        watched_fraction: Expected share of the others that is watched.

    Raises:
        ConfigError: A role has no group, because there are too few of them.
    """
    earliest_G = _earliest_windows(windows, grouping)
    chance_G3 = np.array([_chances(windows.bars_NT4[row]) for row in earliest_G])
    fold_G = np.minimum((chance_G3[:, 1] * num_folds).astype(np.int64), num_folds - 1)
    role_G = np.where(chance_G3[:, 0] < holdout_fraction, HOLDOUT, fold_G)
    missing = sorted({HOLDOUT, *range(num_folds)} - set(role_G.tolist()))
    if missing:
        names = ", ".join("the hold-out" if role == HOLDOUT else f"fold {role}" for role in missing)
        raise ConfigError(
            f"{grouping.num_groups} groups of windows that share no bars are too few for a hold-out of "
            f"{holdout_fraction:.0%} and {num_folds} folds: none falls into {names}. Use more data or fewer folds."
        )
    watched_G = (chance_G3[:, 2] < watched_fraction) & (role_G != HOLDOUT)
    return Roles(role_G[grouping.group_N], watched_G[grouping.group_N], num_folds)


def retraining_splits(roles: Roles, *, seed: int = 0) -> list[Split]:
    """Return one split a fold, and the final model's, which is scored on the hold-out.

    Args:
        roles: Of every window.
        seed: Of the trainings.
    """
    splits = []
    for fold in range(roles.num_folds + 1):
        scored_N = roles.role_N == (HOLDOUT if fold == roles.final else fold)
        seen_N = (roles.role_N != HOLDOUT) & ~scored_N
        fitted, watched, scored = (
            np.flatnonzero(rows_N) for rows_N in (seen_N & ~roles.watched_N, seen_N & roles.watched_N, scored_N)
        )
        splits.append(Split(fitted, watched, scored, seed=seed, fold=fold, kind="fold"))
    return splits


def honest_models(grouping: Grouping, known_N: NDArray[np.int64], *, final: int, unknown: int) -> NDArray[np.int64]:
    """Return which model of an earlier retraining has seen nothing of each window's group.

    Args:
        grouping: Of the windows now.
        known_N: Role that the earlier retraining gave to the window; `unknown` where it did not have it.
        final: Number of its final model.
        unknown: As it stands in known_N.

    Returns:
        A fold's number where the group's known windows were in that fold (or the hold-out), `final` where none was in
        a fold, UNJUDGED where they were in several folds: every model has seen some of them. int64 [N].
    """
    model_G = np.full(grouping.num_groups, final, dtype=np.int64)
    in_fold_N = (known_N != unknown) & (known_N != HOLDOUT)
    for group in np.unique(grouping.group_N[in_fold_N]):
        folds = np.unique(known_N[in_fold_N & (grouping.group_N == group)])
        model_G[group] = folds[0] if len(folds) == 1 else UNJUDGED
    return model_G[grouping.group_N]


def window_digests(windows: Windows) -> NDArray[np.str_]:
    """Return what each window is recognised by in other data, whatever its identifier says: its bars, str [N]."""
    bars_NT4 = np.ascontiguousarray(windows.bars_NT4)
    return np.array([hashlib.sha256(bars_T4.tobytes()).hexdigest() for bars_T4 in bars_NT4])


def _earliest_windows(windows: Windows, grouping: Grouping) -> NDArray[np.intp]:
    """Return the row of each group's earliest window: what later data cannot change."""
    start_N = np.where(np.isnat(windows.start_time_N), np.datetime64("9999-01-01", "ns"), windows.start_time_N)
    order = np.lexsort((windows.window_id_N, windows.offset_N, windows.base_window_id_N, start_N))
    _, first = np.unique(grouping.group_N[order], return_index=True)
    return order[first]


def _chances(bars_T4: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return three independent numbers in [0, 1) that depend on a window's bars alone."""
    digest = hashlib.sha256(_SALT + np.ascontiguousarray(bars_T4).tobytes()).digest()
    first, second, third = (int.from_bytes(digest[at : at + 8], "big") / 2**64 for at in (0, 8, 16))
    return first, second, third
