"""A trained baseline that costs seconds: the score of whole spans alone, with no network over the bars.

Some hundred parameters read how far and how straight price went over each candidate span (`SpanScorer`) and how long it
is. What a network over the bars adds shows beside it.

Legend: N windows, T bars, B windows of one batch, K span scores a bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jade_model.core.adamw import AdamW
from jade_model.core.checkpoint import SEEDING
from jade_model.core.features import feature_set
from jade_model.core.recipes import recipe as recipe_of
from jade_model.core.segment import SpanScorer
from jade_model.core.span_heads.segment import SegmentHead
from jade_model.core.targets import fitted_recipe
from jade_model.core.training_data import PreparedWindows, prepare
from jade_model.core.windows import Windows
from jade_model.data.splits import Split
from jade_model.scoring.decoding import Cleanup, DecoderName, decode
from jade_model.scoring.evaluate import choose_decoders, selection_rows
from jade_model.scoring.metrics import ScoredRows, count, truth_of
from jade_model.scoring.predictions import Predictions

EPOCHS, BATCH_SIZE = 20, 64
LEARNING_RATE = 0.04


class SpanScoreModel(nn.Module):
    """Scores of whole spans, lengths and "none", as a distribution over what a window can hold.

    Args:
        max_span_length: Longest span, bars.
        several: Whether a window may hold more than one.
    """

    def __init__(self, max_span_length: int, *, several: bool) -> None:
        super().__init__()
        self.scorer = SpanScorer(max_span_length, recipe_of("jade_single_span").model.span_units)
        self.head = SegmentHead(max_span_length, several=several)

    def forward(self, path_BT4: Tensor) -> Tensor:
        """Return span scores, [B, T, K]; those of single bars are 0."""
        whole_BTL = self.scorer(path_BT4)
        return torch.cat([whole_BTL.new_zeros((*whole_BTL.shape[:2], self.head.scores_per_bar)), whole_BTL], dim=2)


def evaluate_span_score(
    windows: Windows, splits: Sequence[Split], decoder: DecoderName, *, cleanup: Cleanup
) -> tuple[list[ScoredRows], int]:
    """Train and score the baseline on the same splits as the arms.

    Args:
        windows: The data set.
        splits: Of every seed and fold.
        decoder: One that the single-span loss has.
        cleanup: What happens to marked bars.

    Returns:
        What it got right and wrong in each split; and the number of parameters.
    """
    recipe = fitted_recipe(recipe_of("jade_single_span"), windows)
    recipe = replace(recipe, training=replace(recipe.training, mirror=False))
    num_path = feature_set(recipe.feature_set).num_path
    prepared = prepare(windows, recipe)
    path_NT4, truth = prepared.x_VNTF[0, :, :, :num_path], truth_of(windows)
    scored, num_parameters = [], 0
    for split in splits:
        model = _trained(path_NT4, prepared, split, several=recipe.model.several_spans)
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        chosen_on, rows = selection_rows(split), np.sort(split.test_rows)
        choice = choose_decoders(_predict(model, path_NT4[chosen_on]), truth.take(chosen_on), cleanup)[decoder]
        counts = count(decode(_predict(model, path_NT4[rows]), choice), truth.take(rows))
        scored.append(ScoredRows(split.seed, rows, counts))
    return scored, num_parameters


def _trained(path_NT4: Tensor, prepared: PreparedWindows, split: Split, *, several: bool) -> SpanScoreModel:
    generator = torch.Generator().manual_seed(1000 * split.seed + split.fold)
    rows = torch.from_numpy(np.sort(split.train_rows))
    # Longer spans than it was ever shown would only cost time.
    length_BM = prepared.labels.span_BM2[rows].diff(dim=2).squeeze(2)
    max_span_length = int(length_BM.max())
    with SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * split.seed + split.fold)
        model = SpanScoreModel(max_span_length, several=several)
    model.head.start_from(prepared.labels.num_spans_B[rows])
    optimiser = AdamW(model.parameters(), learning_rate=LEARNING_RATE, weight_decay=0.0)
    config = recipe_of("jade_single_span").training
    for epoch in range(EPOCHS):
        optimiser.set_learning_rate(LEARNING_RATE * (1.0 - 0.9 * epoch / EPOCHS))
        for batch in torch.split(rows[torch.randperm(len(rows), generator=generator)], BATCH_SIZE):
            labels = prepared.labels.take(batch)
            loss_B = model.head.loss(model(path_NT4[batch]), labels, config)
            loss = (loss_B * labels.weight_B).sum() / labels.weight_B.sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.eval()


@torch.no_grad()
def _predict(model: SpanScoreModel, path_NT4: Tensor) -> Predictions:
    spans = model.head.posterior(model(path_NT4).double())
    nothing: NDArray[np.float64] = np.zeros((len(path_NT4), 3))
    return Predictions(
        loss="single_span",
        temperature=1.0,
        probability_NT=spans.probability_BT.numpy(),
        path_NT=spans.path_BT.numpy(),
        margin_N=spans.margin_B.numpy(),
        # It has no other heads.
        type_probability_N3=nothing,
        pointers_N2=nothing[:, :2],
        countdown_NT=np.zeros(path_NT4.shape[:2]),
        posterior_pointers_N2=nothing[:, :2],
        posterior_countdown_NT=np.zeros(path_NT4.shape[:2]),
    )
