"""How often two recipes that are equal over all training sets are called different because of the one at hand.

    python benchmarks/training_luck.py --comparisons 1000

Each arm learns from features of its own, drawn alike: over many data sets neither is better. Nearest neighbour, naive
Bayes and a ridge regression are trained out of fold on one data set, and the verdict is that of `jade compare`. Folds
share most of their training windows, so that no split of one data set shows how much its luck amounts to.
verdict_calibration.md keeps the table.

Legend: N windows, M windows of a fold, S seeds, D features.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from verdict_calibration import MARGIN, rate, show

from jade_model.statistics.compare import compare_arms
from jade_model.statistics.scored_windows import ArmCounts, ScoredWindows
from jade_model.statistics.verdict import Question

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Learner = Callable[[FloatArray, IntArray, FloatArray], NDArray[np.bool_]]

NUM_FEATURES, SHIFT, SPAN_BARS = 10, 0.5, 5
NUM_GROUPS = (30, 60, 105, 200, 400)
DESIGNS = ((3, 5), (1, 5))


def nearest(known_ND: FloatArray, label_N: IntArray, asked_MD: FloatArray) -> NDArray[np.bool_]:
    """Take the label of the nearest window."""
    distance_MN = (known_ND**2).sum(axis=1) - 2 * asked_MD @ known_ND.T
    return np.asarray(label_N[distance_MN.argmin(axis=1)] == 1)


def naive_bayes(known_ND: FloatArray, label_N: IntArray, asked_MD: FloatArray) -> NDArray[np.bool_]:
    """Compare products of normal densities, each with the mean and variance of its class."""
    logs = []
    for label in (0, 1):
        of_ND = known_ND[label_N == label]
        mean_D, variance_D = of_ND.mean(axis=0), of_ND.var(axis=0) + 1e-2
        density_M = -0.5 * (np.log(variance_D) + (asked_MD - mean_D) ** 2 / variance_D).sum(axis=1)
        logs.append(density_M + np.log(max(len(of_ND), 1)))
    return np.asarray(logs[1] > logs[0])


def ridge(known_ND: FloatArray, label_N: IntArray, asked_MD: FloatArray) -> NDArray[np.bool_]:
    """Regress the label on the features, with a penalty as large as a tenth of the windows."""
    mean_D = known_ND.mean(axis=0)
    centred_ND = known_ND - mean_D
    penalty = 0.1 * len(known_ND) * np.eye(known_ND.shape[1])
    weight_D = np.linalg.solve(centred_ND.T @ centred_ND + penalty, centred_ND.T @ (label_N - label_N.mean()))
    return np.asarray((asked_MD - mean_D) @ weight_D + label_N.mean() > 0.5)


LEARNERS: dict[str, Learner] = {"nearest neighbour": nearest, "naive Bayes": naive_bayes, "ridge regression": ridge}


def declares_winner(learn: Learner, num_groups: int, seeds: int, folds: int, rng: np.random.Generator) -> bool:
    """Draw a data set of one window a group, train both arms out of fold, and ask for the verdict."""
    label_N = rng.permutation(np.arange(num_groups) % 2)
    fold_SN = np.stack([rng.permutation(num_groups) % folds for _ in range(seeds)])
    arms = []
    for name in ("a", "b"):
        feature_ND = SHIFT * label_N[:, None] + rng.standard_normal((num_groups, NUM_FEATURES))
        marked_SN = np.zeros(fold_SN.shape, dtype=bool)
        for seed in range(seeds):
            for fold in range(folds):
                asked_N = fold_SN[seed] == fold
                marked_SN[seed, asked_N] = learn(feature_ND[~asked_N], label_N[~asked_N], feature_ND[asked_N])
        arms.append(_arm(name, marked_SN, label_N == 1))
    windows = ScoredWindows(np.arange(num_groups), fold_SN)
    return compare_arms(arms, windows, Question(margin=MARGIN)).verdict.outcome == "winner"


def _arm(name: str, marked_SN: NDArray[np.bool_], has_span_N: NDArray[np.bool_]) -> ArmCounts:
    counts_SN3 = np.stack([marked_SN & has_span_N, marked_SN & ~has_span_N, ~marked_SN & has_span_N], axis=2)
    return ArmCounts(name, SPAN_BARS * counts_SN3.astype(np.int64), counts_SN3.astype(np.int64))


def _row(learner: str, seeds: int, folds: int, comparisons: int) -> Sequence[str]:
    cells = []
    for num_groups in NUM_GROUPS:
        rng = np.random.default_rng(num_groups)
        cells.append(
            rate(declares_winner(LEARNERS[learner], num_groups, seeds, folds, rng) for _ in range(comparisons))
        )
    return [f"{learner}, {seeds} x {folds}", *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1000)
    comparisons = parser.parse_args().comparisons
    print(f"A winner is declared, {comparisons} comparisons a cell:\n")
    header = ("learner, design", *(f"{number} groups" for number in NUM_GROUPS))
    show(header, (_row(learner, *design, comparisons) for learner in LEARNERS for design in DESIGNS))


if __name__ == "__main__":
    main()
