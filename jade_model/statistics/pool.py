"""All data sets' windows in one row, with what every arm got right and wrong in them.

Legend: N windows of all data sets together, S seeds, M scored windows of one training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jade_model.core.windows import Windows
from jade_model.data.splits import Grouping, Split
from jade_model.scoring.decoding import DecoderName
from jade_model.scoring.metrics import ScoredRows
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
        rule: What the untrained rule got right and wrong in every split.
        rule_bars: Mean length that the rule marks.
        span_score: Likewise the trained baseline (scoring.span_score); empty if it was left out.
        span_score_parameters: How many it has.
    """

    windows: Windows
    grouping: Grouping
    splits: Sequence[Split]
    rule: Sequence[ScoredRows]
    rule_bars: float
    span_score: Sequence[ScoredRows] = ()
    span_score_parameters: int = 0


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
            seeds=self.seeds,
        )

    def counts(self, name: str, scored: Sequence[Iterable[ScoredRows]]) -> ArmCounts:
        """Put together what an arm's trainings said of each data set; those of other seeds are passed over."""
        bars_SN3 = np.zeros((len(self.seeds), int(self.first_D[-1]), 3), dtype=np.int64)
        spans_SN3 = np.zeros_like(bars_SN3)
        for first, of_data in zip(self.first_D[:-1].tolist(), scored, strict=True):
            for part in of_data:
                if part.seed in self.seeds:
                    where = (self.seeds.index(part.seed), first + part.rows_M)
                    bars_SN3[where], spans_SN3[where] = part.counts.bars_N3, part.counts.spans_NJ3[:, 0]
        return ArmCounts(name, bars_SN3, spans_SN3)

    def rule_counts(self) -> ArmCounts:
        """Return the untrained rule's counts."""
        return self.counts(RULE, [item.rule for item in self.data])

    def span_score_counts(self) -> ArmCounts | None:
        """Return the trained baseline's counts; None if a data set has none."""
        found = [item.span_score for item in self.data]
        return self.counts(SPAN_SCORE, found) if all(found) else None
