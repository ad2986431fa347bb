"""What the single-span model is given: checked, in float64, divided by the temperature.

Legend: B windows, T bars, L lengths of a span (index l is length l + 1), M spans labelled a window at most, K
scores a bar: inside, start and last, and where spans have scores as wholes those of the L that start there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from jade_model.core.crf.inputs import lengths_of, zero_masked
from jade_model.core.segment.grid import edge_scores, span_grid


class Potentials(NamedTuple):
    """Everything that the scores of outcomes are made of, nats, float64.

    Attributes:
        left_BT: What a span's first bar decides; see `grid.edge_scores`.
        right_BT: What a span's last bar decides.
        length_bias_L: What its length decides.
        none_B: Score of there being no span.
        own_BTL: What each span is worth as a whole, by start and length; None if nothing.
        further_B: What each span after the first adds.
        length_B: Bars that count in each window; None if all do.
    """

    left_BT: Tensor
    right_BT: Tensor
    length_bias_L: Tensor
    none_B: Tensor
    own_BTL: Tensor | None
    further_B: Tensor
    length_B: Tensor | None

    def grid_BLT(self) -> Tensor:
        """Return the score of each span by length and start."""
        return span_grid(self.left_BT, self.right_BT, self.length_bias_L, self.own_BTL)


class Biases(NamedTuple):
    """The single-span layer's parameters; `further` is 0 where there is no such parameter."""

    length_L: Tensor
    none: Tensor
    further: Tensor | float


def potentials(scores_BTK: Tensor, biases: Biases, mask_BT: Tensor | None, *, temperature: float = 1.0) -> Potentials:
    """Check and combine the network's scores and the layer's parameters.

    Args:
        scores_BTK: Inside, start and last score of each bar, float; with L more, by length, the score as a whole
            of each span that starts at the bar, finite also past the window.
        biases: The layer's parameters.
        mask_BT: True on bars that count, a prefix of each window, of at least one bar; None if all do.
        temperature: What every score is divided by.

    Raises:
        ValueError: Shapes are not as described, the mask has a gap or lacks a first bar, or the temperature
            is not positive.
    """
    max_length = len(biases.length_L)
    if scores_BTK.dim() != 3 or scores_BTK.shape[2] not in {3, 3 + max_length} or scores_BTK.shape[1] == 0:
        raise ValueError(
            f"scores must have shape [windows, bars, 3 or {3 + max_length}], got {tuple(scores_BTK.shape)}"
        )
    if mask_BT is not None and mask_BT.shape != scores_BTK.shape[:2]:
        raise ValueError(f"mask must have shape {tuple(scores_BTK.shape[:2])}, got {tuple(mask_BT.shape)}")
    if mask_BT is not None and not mask_BT[:, 0].all():
        raise ValueError("mask must be on at the first bar of every window")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    length_B = lengths_of(mask_BT)
    scaled_BTK = zero_masked(scores_BTK, length_B).double() / temperature
    left_BT, right_BT = edge_scores(scaled_BTK[:, :, :3], length_B)
    log_spans_B = _num_spans(scores_BTK, length_B, max_length).log()
    return Potentials(
        left_BT,
        right_BT,
        biases.length_L.double() / temperature,
        (biases.none + log_spans_B) / temperature,
        scaled_BTK[:, :, 3:] if scores_BTK.shape[2] > 3 else None,
        (biases.further - log_spans_B) / temperature,
        length_B,
    )


def _num_spans(scores_BTK: Tensor, length_B: Tensor | None, max_length: int) -> Tensor:
    """Count the spans that each window can hold, float64 [B]."""
    batch, num_bars, _ = scores_BTK.shape
    if length_B is None:
        length_B = torch.full((batch,), num_bars, device=scores_BTK.device)
    longest_B = length_B.clamp(max=max_length).double()
    return longest_B * length_B - longest_B * (longest_B - 1) / 2


def check_spans(span_BM2: Tensor, counts_BM: Tensor, room_BM2: Tensor, max_length: int) -> None:
    """Refuse spans that the model has no outcome for.

    Args:
        span_BM2: Start and end, half-open, int64.
        counts_BM: Which of them count.
        room_BM2: As `span_targets.territories` returns it.
        max_length: L, bars.

    Raises:
        ValueError: A span is empty or too long, leaves the window, or overlaps its neighbour.
    """
    length_BM = span_BM2[:, :, 1] - span_BM2[:, :, 0]
    fits_BM = (length_BM >= 1) & (length_BM <= max_length)
    fits_BM &= (span_BM2[:, :, 0] >= room_BM2[:, :, 0]) & (span_BM2[:, :, 1] <= room_BM2[:, :, 1])
    bad_BM = counts_BM & ~fits_BM
    if bad_BM.any():
        row, column = (int(index) for index in bad_BM.nonzero()[0])
        raise ValueError(
            f"{int(bad_BM.sum())} spans cannot be: the first is {span_BM2[row, column].tolist()} in window {row}. "
            f"Spans must be half-open, disjoint, inside the window and 1 to {max_length} bars long. For longer "
            "ones raise max_span_length (recipe field model.max_span_length)."
        )
