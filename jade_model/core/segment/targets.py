"""Labelled spans against the single-span model: their scores, spread over neighbouring boundaries if asked.

Legend: B windows, T bars, L lengths of a span (index l is length l + 1), M spans labelled a window at most, R
offsets by which a boundary is moved.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jade_model.core.pick import pick


def territories(span_BM2: Tensor, counts_BM: Tensor, length_B: Tensor | None, num_bars: int) -> Tensor:
    """Return the bars within which each span's boundaries may be moved so that spans stay disjoint.

    Args:
        span_BM2: Start and end, half-open, ascending and disjoint, int64.
        counts_BM: Whether there is such a span, a prefix of each row.
        length_B: Bars that count in each window; None if all do.
        num_bars: T.

    Returns:
        Start and end, half-open, [B, M, 2]: up to the middle of the gap to the neighbour, or the window's
        edge.
    """
    room_BM2 = torch.zeros_like(span_BM2)
    room_BM2[:, :, 1] = num_bars if length_B is None else length_B[:, None]
    middle_BM = (span_BM2[:, :-1, 1] + span_BM2[:, 1:, 0]) // 2
    room_BM2[:, 1:, 0] = middle_BM
    room_BM2[:, :-1, 1] = torch.where(counts_BM[:, 1:], middle_BM, room_BM2[:, :-1, 1])
    return room_BM2


def expected_span_score(
    left_BT: Tensor,
    right_BT: Tensor,
    length_bias_L: Tensor,
    own_BTL: Tensor | None,
    span_BM2: Tensor,
    counts_BM: Tensor,
    room_BM2: Tensor,
    *,
    smoothing_bars: float,
) -> Tensor:
    """Average each span's score over discretised Gaussians around its start and, independently, its end.

    Args:
        left_BT: As `grid.edge_scores` returns it.
        right_BT: As `grid.edge_scores` returns it.
        length_bias_L: Score of each length.
        own_BTL: Score of each span as a whole, by start and length; None if nothing.
        span_BM2: Start and end, half-open, int64.
        counts_BM: Which of them count.
        room_BM2: As `territories` returns it.
        smoothing_bars: Standard deviation, bars; 0 takes the span as it is.

    Returns:
        Nats, [B, M]; the weights are normalised over the spans that exist within the room. 0 for spans that do
        not count, NaN for others that do not exist.
    """
    num_bars, max_length = left_BT.shape[1], len(length_bias_L)
    reach = math.ceil(3 * smoothing_bars)
    offset_R = torch.arange(-reach, reach + 1, device=span_BM2.device)
    exponent_R = -0.5 * (offset_R / smoothing_bars) ** 2 if reach else offset_R.double()
    start_BMR, end_BMR = (span_BM2[:, :, side, None] + offset_R for side in (0, 1))
    length_BMRR = end_BMR[:, :, None] - start_BMR[:, :, :, None]
    exists_BMRR = (start_BMR >= room_BM2[:, :, :1])[:, :, :, None] & (end_BMR <= room_BM2[:, :, 1:])[:, :, None]
    exists_BMRR = exists_BMRR & (length_BMRR >= 1) & (length_BMRR <= max_length)
    weight_BMRR = torch.where(exists_BMRR, (exponent_R[:, None] + exponent_R).double().exp(), 0)
    weight_BMRR = weight_BMRR / weight_BMRR.sum(dim=(2, 3), keepdim=True)
    weight_BMRR = weight_BMRR.masked_fill(~counts_BM[:, :, None, None], 0)

    batch = len(left_BT)
    place_BMR = start_BMR.clamp(0, num_bars - 1), (end_BMR - 1).clamp(0, num_bars - 1)
    left_BMR, right_BMR = (
        pick(values_BT, place.reshape(batch, -1)).reshape(place.shape)
        for values_BT, place in zip((left_BT, right_BT), place_BMR, strict=True)
    )
    index_BMRR = (length_BMRR - 1).clamp(0, max_length - 1)
    score_BMRR = left_BMR[:, :, :, None] + right_BMR[:, :, None] + length_bias_L[index_BMRR]
    if own_BTL is not None:
        pair_BMRR = place_BMR[0][:, :, :, None] * max_length + index_BMRR
        score_BMRR = score_BMRR + pick(own_BTL.flatten(1), pair_BMRR.flatten(1)).reshape(pair_BMRR.shape)
    return (weight_BMRR * score_BMRR).sum(dim=(2, 3))
