"""The best path of a linear chain, in numpy, all windows at once.

Legend: B windows, T bars, K tags.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jade_model.core.crf.scan import Array, ChainScores, Ints


def best_paths(emissions_TKB: Array, chain: ChainScores, length_B: Ints | None) -> NDArray[Any]:
    """Find the path of highest score in each window (Viterbi, 1967).

    Args:
        emissions_TKB: Log potentials of each bar's tags, float64.
        chain: Log potentials between tags.
        length_B: Bars that count in each window, from the first, at least 1; None if all do.

    Returns:
        Tags, uint8 or int64 [T, B], 0 on masked bars; the lowest tag where two are equally good.
    """
    num_bars, num_tags, batch = emissions_TKB.shape
    search = _best_of_two_tags if num_tags == 2 and chain.fits() else _best_of_any_tags
    path_TB = search(emissions_TKB, chain, np.full(batch, num_bars) if length_B is None else length_B)
    if length_B is not None:
        path_TB *= np.arange(num_bars)[:, None] < length_B
    return path_TB


def _best_of_two_tags(emissions_TKB: Array, chain: ChainScores, length_B: Ints) -> NDArray[Any]:
    """Follow one number: the lead of the best path so far that ends in tag 1 over the best that ends in tag 0.

    One step of the recursion clips the lead between two limits, those from which on tag 1 is the better origin
    for tag 0 and for tag 1, turns its sign if these stand in reverse order, and adds a constant.
    """
    num_bars, _, batch = emissions_TKB.shape
    (stay_0, rise), (fall, stay_1) = chain.transitions_KK.tolist()
    limit_0, limit_1 = stay_0 - fall, rise - stay_1
    low, high, is_turned = min(limit_0, limit_1), max(limit_0, limit_1), limit_1 > limit_0
    lead_TB = emissions_TKB[:, 1] - emissions_TKB[:, 0]
    lead_TB[0] += chain.start_K[1] - chain.start_K[0]
    lead_TB[1:] += rise - fall if is_turned else stay_1 - stay_0
    combine, maximum, minimum = np.subtract if is_turned else np.add, np.maximum, np.minimum
    clipped_B = np.empty(batch)
    for bar in range(1, num_bars):
        maximum(lead_TB[bar - 1], low, out=clipped_B)
        minimum(clipped_B, high, out=clipped_B)
        lead_B = lead_TB[bar]
        combine(lead_B, clipped_B, out=lead_B)

    # A tag is `to_1 if the next one is 1 else to_0`, which is `to_0 ^ (next & (to_0 ^ to_1))`; the last is on its own.
    path_TB, differ_TB = lead_TB > limit_0, lead_TB > limit_1
    differ_TB ^= path_TB
    last = length_B - 1, np.arange(batch)
    path_TB[last], differ_TB[last] = lead_TB[last] > chain.end_K[0] - chain.end_K[1], False
    flip_B, both, either = np.empty(batch, dtype=np.bool_), np.logical_and, np.logical_xor
    for bar in range(num_bars - 2, -1, -1):
        both(path_TB[bar + 1], differ_TB[bar], out=flip_B)
        tag_B = path_TB[bar]
        either(tag_B, flip_B, out=tag_B)
    tags_TB: NDArray[Any] = path_TB.view(np.uint8)
    return tags_TB


def _best_of_any_tags(emissions_TKB: Array, chain: ChainScores, length_B: Ints) -> NDArray[Any]:
    num_bars, num_tags, batch = emissions_TKB.shape
    windows_B, tags_K1 = np.arange(batch), np.arange(num_tags)[:, None]
    score_KB = chain.start_K[:, None] + emissions_TKB[0]
    came_from_TKB = np.empty((num_bars, num_tags, batch), dtype=np.intp)
    for bar in range(1, num_bars):
        candidate_KKB = score_KB[:, None] + chain.transitions_KK[:, :, None]
        counts_B = bar < length_B
        # The path stands still on masked bars, so that every window is traced back from the last bar.
        came_from_TKB[bar] = np.where(counts_B, candidate_KKB.argmax(axis=0), tags_K1)
        score_KB = np.where(counts_B, candidate_KKB.max(axis=0) + emissions_TKB[bar], score_KB)
    path_TB = np.empty((num_bars, batch), dtype=np.int64)
    path_TB[-1] = (score_KB + chain.end_K[:, None]).argmax(axis=0)
    for bar in range(num_bars - 1, 0, -1):
        path_TB[bar - 1] = came_from_TKB[bar, path_TB[bar], windows_B]
    return path_TB
