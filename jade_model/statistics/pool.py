"""All data sets' windows in one row, with what every arm got right and wrong in them.

Legend: N windows of all data sets together, S seeds, M scored windows of one training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jade_model.core.windows import Windows
from jade_model.data.splits import Grouping, Split
from jade_model.scoring.decoding import DecoderName
from jade_model.scoring.metrics import Counts
from jade_model.statistics.scored_windows import ArmCounts, ScoredWindows

RULE, SPAN_SCORE = "largest_move", "span_score"
SEVERAL_SPANS_RATE = 0.02
"""Share of windows with several spans up to which one span a window is what is looked for."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set of a comparison or a sweep, and how it was divided.

    Attributes:
        windows: Its windows.
        grouping: Which of them share bars.
        splits: Of every seed and fold.
        rule: Every split with the counts of the untrained rule on its scored windows.
        rule_bars: Mean length that the rule marks.
        span_score: Every split with the counts of the trained baseline (scoring.span_score); empty if it was left out.
        span_score_parameters: How many it has.
    """

    windows: Windows
    grouping: Grouping
    splits: Sequence[Split]
    rule: Sequence[tuple[Split, Counts]]
    rule_bars: float
    span_score: Sequence[tuple[Split, Counts]] = ()
    span_score_parameters: int = 0


@dataclass(frozen=True, eq=False)
class ScoredPart:
    """What one training got right and wrong.

    Attributes:
        dataset: Index among the pool's data sets.
        seed: Of the split.
        rows_M: Scored rows of the data set.
        counts: One row each.
    """

    dataset: int
    seed: int
    rows_M: NDArray[np.intp]
    counts: Counts


def verdict_decoder(loss_decoders: Sequence[DecoderName], data: Sequence[DataSet]) -> DecoderName:
    """Choose the decoder that an arm is judged by, from the labels' shape alone, never from scores.

    Where hardly a window holds several spans, one span a window is decoded; else bars above a probability.
    """
    spans_N = np.concatenate([np.diff(item.windows.span_offsets_N1) for item in data])
    if float((spans_N > 1).mean()) <= SEVERAL_SPANS_RATE:
        return "one_span"
    return "threshold" if "threshold" in loss_decoders else "marginal"


class Pool:
    """The windows of all data sets that were scored in some seeds.

    Args:
        data: The data sets.
        seeds: Those whose splits count.
    """

    def __init__(self, data: Sequence[DataSet], seeds: Sequence[int]) -> None:
        self.data, self.seeds = data, list(seeds)
        sizes = [item.windows.num_windows for item in data]
        self.first_D = np.concatenate([[0], np.cumsum(sizes)])
        num_groups_D = np.concatenate([[0], np.cumsum([item.grouping.num_groups for item in data])])
        group_N = np.concatenate([item.grouping.group_N + num_groups_D[d] for d, item in enumerate(data)])
        dataset_N = np.concatenate([np.full(size, d, dtype=np.int64) for d, size in enumerate(sizes)])
        training_SN = np.full((len(self.seeds), len(group_N)), -1, dtype=np.int64)
        num_folds = 1 + max(split.fold for item in data for split in item.splits)
        for d, item in enumerate(data):
            for split in item.splits:
                if split.seed in self.seeds:
                    rows = self.first_D[d] + split.test_rows
                    training_SN[self.seeds.index(split.seed), rows] = d * num_folds + split.fold
        self.windows = ScoredWindows(
            group_N.astype(np.int64),
            training_SN,
            dataset_N=dataset_N,
            dataset_names=[item.windows.name for item in data],
        )

    def counts(self, name: str, parts: Iterable[ScoredPart]) -> ArmCounts:
        """Put together what an arm's trainings said; those of other seeds are passed over."""
        bars_SN3, spans_SN3 = self._empty(), self._empty()
        for part in parts:
            if part.seed in self.seeds:
                where = (self.seeds.index(part.seed), self.first_D[part.dataset] + part.rows_M)
                bars_SN3[where] = part.counts.bars_N3
                spans_SN3[where] = part.counts.spans_NJ3[:, 0]
        return ArmCounts(name, bars_SN3, spans_SN3)

    def rule_counts(self) -> ArmCounts:
        """Return the untrained rule's counts."""
        return self._of_splits(RULE, [item.rule for item in self.data])

    def span_score_counts(self) -> ArmCounts | None:
        """Return the trained baseline's counts; None if a data set has none."""
        found = [item.span_score for item in self.data]
        return self._of_splits(SPAN_SCORE, found) if all(found) else None

    def _of_splits(self, name: str, scored: Sequence[Sequence[tuple[Split, Counts]]]) -> ArmCounts:
        parts = (
            ScoredPart(d, split.seed, np.sort(split.test_rows), counts)
            for d, of_data in enumerate(scored)
            for split, counts in of_data
        )
        return self.counts(name, parts)

    def _empty(self) -> NDArray[np.int64]:
        return np.zeros((len(self.seeds), int(self.first_D[-1]), 3), dtype=np.int64)
