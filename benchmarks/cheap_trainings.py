"""Real trainings, made cheap: small networks, few epochs, and nothing but the marked bars kept.

Legend: N windows, T bars, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from jade_model.core.checkpoint import model_of
from jade_model.core.config import Recipe
from jade_model.core.features import feature_set
from jade_model.core.recipes import recipe
from jade_model.core.targets import fitted_recipe
from jade_model.core.train import prepare, train
from jade_model.core.windows import Windows
from jade_model.data.groups import Grouping
from jade_model.data.splits import grouped_folds
from jade_model.scoring.decoding import DecoderName, decode
from jade_model.scoring.evaluate import selection_rows
from jade_model.scoring.metrics import Truth, bar_counts_N3, span_counts_NJ3, truth_of
from jade_model.scoring.predict import Predictor, posterior, run_network
from jade_model.scoring.thresholds import choose_threshold
from jade_model.statistics.scored_windows import ArmCounts


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What the models of all seeds marked in windows that they had not seen.

    Attributes:
        marked_SNT: Bars, bool.
        fold_SN: Which of the seed's folds scored the window, int64.
    """

    marked_SNT: NDArray[np.bool_]
    fold_SN: NDArray[np.int64]

    def counts(self, name: str, truth: Truth) -> ArmCounts:
        bars = [bar_counts_N3(marked_NT, truth.mask_NT) for marked_NT in self.marked_SNT]
        events = [span_counts_NJ3(marked_NT, truth, (0.5,))[:, 0] for marked_NT in self.marked_SNT]
        return ArmCounts(name, np.stack(bars), np.stack(events))


def cheap(name: str, *, hidden_size: int, epochs: int, batch_size: int, learning_rate: float) -> Recipe:
    """Return the recipe with a smaller network and a shorter training."""
    full = recipe(name)
    training = replace(
        full.training, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, checkpoint_every=epochs
    )
    return replace(full, model=replace(full.model, hidden_size=hidden_size), training=training)


def train_out_of_fold(
    arm: Recipe,
    windows: Windows,
    grouping: Grouping,
    *,
    training_seeds: Sequence[int],
    split_seeds: Sequence[int],
    num_folds: int,
    decoder: DecoderName = "one_span",
) -> OutOfFold:
    """Train and score every fold of every seed, one thread.

    Args:
        arm: What to train.
        windows: Labelled windows.
        grouping: Which of them share bars.
        training_seeds: Of the weights, S.
        split_seeds: Of the folds, S: arms that are compared share them.
        num_folds: Of each seed.
        decoder: How bars are marked; its cut-off is chosen on the windows that are not scored.
    """
    torch.set_num_threads(1)
    arm = fitted_recipe(arm, windows)
    data, truth = prepare(windows, arm), truth_of(windows)
    marked_SNT = np.zeros((len(training_seeds), windows.num_windows, windows.window_length), dtype=bool)
    fold_SN = np.full(marked_SNT.shape[:2], -1, dtype=np.int64)
    for row, (seed, split_seed) in enumerate(zip(training_seeds, split_seeds, strict=True)):
        for split in grouped_folds(windows, grouping, num_folds=num_folds, seed=split_seed, validation_fraction=0.0):
            trained = train(
                arm,
                data,
                train_rows=split.train_rows,
                validation_rows=split.validation_rows,
                seed=seed,
                fold=split.fold,
            )
            predictor = Predictor((model_of(trained),), feature_set(arm.feature_set))
            chosen_on, scored = selection_rows(split), split.test_rows
            choice = choose_threshold(
                posterior(run_network(predictor, windows.bars_NT4[chosen_on]), 1.0), truth.take(chosen_on), decoder
            )
            predictions = posterior(run_network(predictor, windows.bars_NT4[scored]), 1.0)
            marked_SNT[row, scored] = decode(predictions, choice)
            fold_SN[row, scored] = split.fold
    return OutOfFold(marked_SNT, fold_SN)
