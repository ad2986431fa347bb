"""Which windows show the same bars, and so may not stand on two sides of a split.

Legend: N windows, T bars a window, B telling bars of all windows, R runs of them, P pairs of windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jade_model.core.windows import Windows

RUN_LENGTH = 3
ENOUGH_SHARED_BARS = 8

_CHUNK_BARS = 1 << 22


@dataclass(frozen=True, eq=False)
class Grouping:
    """Windows in groups that share no bars with one another.

    Attributes:
        group_N: Number of each window's group, by first appearance, int64.
        num_groups: How many there are.
        num_shared_bar_joins: Joins of groups that identifiers alone leave apart, made because their windows
            show the same bars.
        num_time_overlap_joins: Further joins, of windows of one instrument at overlapping times.
    """

    group_N: NDArray[np.int64]
    num_groups: int
    num_shared_bar_joins: int
    num_time_overlap_joins: int = 0


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Windows that belong together: bar t of `left` is bar t - shift of `right`."""

    left_P: NDArray[np.int64]
    right_P: NDArray[np.int64]
    shift_P: NDArray[np.int64]


def group_windows(windows: Windows) -> Grouping:
    """Join windows of one base, windows that show the same bars, and windows of overlapping times.

    Shared bars are looked for as runs of three *telling* bars: bars with a range that do not repeat the bar
    before them. A run that stands in two windows counts if at the shift it suggests all bars of the overlap
    agree, or at least eight telling ones do (some bars of a series may have been corrected between two
    downloads). So flat stretches, repeated bars and chance matches on a coarse price grid join nothing, and
    windows that share flat bars only stay apart: such bars tell a model nothing.

    Times are compared where instrument and start are known. How long a bar lasts is read off windows known to
    show the same bars at a shift; where no such pair tells, only equal starts join.

    Args:
        windows: At least one window.

    Returns:
        The groups.
    """
    _, base_N = np.unique(windows.base_window_id_N, return_inverse=True)
    by_base = _same_base(windows, base_N)
    by_bars = _sharing_bars(windows)
    by_time = _sharing_times(windows, [by_base, by_bars])
    num_groups = []
    for joined in ([by_base], [by_base, by_bars], [by_base, by_bars, by_time]):
        left, right = (np.concatenate([getattr(pairs, side) for pairs in joined]) for side in ("left_P", "right_P"))
        root_N = _components(windows.num_windows, left, right)
        num_groups.append(len(np.unique(root_N)))
    # A root is its component's first window, so that numbering roots numbers groups by first appearance.
    group_N = np.unique(root_N, return_inverse=True)[1].astype(np.int64)
    return Grouping(group_N, num_groups[2], num_groups[0] - num_groups[1], num_groups[1] - num_groups[2])


def _same_base(windows: Windows, base_N: NDArray[np.intp]) -> _Pairs:
    order_N = np.argsort(base_N, kind="stable")
    same = base_N[order_N][1:] == base_N[order_N][:-1]
    left_P, right_P = order_N[:-1][same], order_N[1:][same]
    return _Pairs(left_P, right_P, windows.offset_N[right_P] - windows.offset_N[left_P])


def _sharing_bars(windows: Windows) -> _Pairs:
    """Return pairs of windows with the same bars: enough of them to connect all that share."""
    hash_NT = _hash_bars(windows.bars_NT4)
    is_telling_NT = windows.bars_NT4[:, :, 1] > windows.bars_NT4[:, :, 2]
    is_telling_NT[:, 1:] &= hash_NT[:, 1:] != hash_NT[:, :-1]
    run_R, row_R, bar_R = _runs(hash_NT, is_telling_NT)
    order_R = np.argsort(run_R, kind="stable")
    run_R, row_R, bar_R = run_R[order_R], row_R[order_R], bar_R[order_R]
    num_rows, length = hash_NT.shape
    found = [np.zeros((0, 3), dtype=np.int64)]
    first_R = np.flatnonzero(run_R[1:] == run_R[:-1])
    step = 1
    # Neighbours among the windows of one run connect them all. Only where a pair of neighbours turns out to
    # be a chance match, the run's windows further apart are compared too.
    while len(first_R):
        second_R = first_R + step
        shift_R = bar_R[first_R] - bar_R[second_R]
        # One number a pair sorts many times faster than three.
        code_R = np.ravel_multi_index(
            (row_R[first_R], row_R[second_R], shift_R + length), (num_rows, num_rows, 2 * length)
        )
        code_P, index_R = np.unique(code_R, return_inverse=True)
        left_P, right_P, shift_P = np.unravel_index(code_P, (num_rows, num_rows, 2 * length))
        pairs_P3 = np.stack((left_P, right_P, shift_P - length), axis=1)
        is_shared_P = _agree(hash_NT, is_telling_NT, pairs_P3)
        found.append(pairs_P3[is_shared_P & (left_P != right_P)])
        is_chance_R = ~is_shared_P[index_R]
        step += 1
        suspicious = np.isin(run_R[first_R], run_R[first_R][is_chance_R])
        first_R = first_R[suspicious & (first_R + step < len(run_R))]
        first_R = first_R[run_R[first_R] == run_R[first_R + step]]
    return _Pairs(*np.concatenate(found).T)


def _hash_bars(bars_NT4: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return 64 bits for each bar; equal bars have equal ones."""
    hash_NT = np.zeros(bars_NT4.shape[:2], dtype=np.uint64)
    for column in range(bars_NT4.shape[2]):
        hash_NT = _mix(hash_NT + np.ascontiguousarray(bars_NT4[:, :, column]).view(np.uint64))
    return hash_NT


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all 64 (the finaliser of splitmix64, Steele, Lea and Flood 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _runs(
    hash_NT: NDArray[np.uint64], is_telling_NT: NDArray[np.bool_]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Return hash, window and first bar of each run of telling bars, with whatever stands between them."""
    row_B, bar_B = np.nonzero(is_telling_NT)
    num_runs = max(len(row_B) - RUN_LENGTH + 1, 0)
    run_R = np.zeros(num_runs, dtype=np.uint64)
    for place in range(RUN_LENGTH):
        at_R = slice(place, place + num_runs)
        distance_R = (bar_B[at_R] - bar_B[:num_runs]).astype(np.uint64)
        run_R = _mix(_mix(run_R + distance_R) + hash_NT[row_B[at_R], bar_B[at_R]])
    is_within_R = row_B[:num_runs] == row_B[RUN_LENGTH - 1 :][:num_runs]
    return run_R[is_within_R], row_B[:num_runs][is_within_R], bar_B[:num_runs][is_within_R]


def _agree(
    hash_NT: NDArray[np.uint64], is_telling_NT: NDArray[np.bool_], pairs_P3: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether the bars of each (left, right, shift) agree where the two windows overlap."""
    length = hash_NT.shape[1]
    agrees_P = np.zeros(len(pairs_P3), dtype=bool)
    for shift in np.unique(pairs_P3[:, 2]).tolist():
        left = slice(max(shift, 0), length + min(shift, 0))
        right = slice(max(-shift, 0), length + min(-shift, 0))
        places = np.flatnonzero(pairs_P3[:, 2] == shift)
        for chunk in np.array_split(places, len(places) * length // _CHUNK_BARS + 1):
            rows_left, rows_right = pairs_P3[chunk, 0], pairs_P3[chunk, 1]
            same = hash_NT[rows_left, left] == hash_NT[rows_right, right]
            num_telling = (same & is_telling_NT[rows_left, left]).sum(axis=1)
            agrees_P[chunk] = same.all(axis=1) | (num_telling >= ENOUGH_SHARED_BARS)
    return agrees_P


def _sharing_times(windows: Windows, known: list[_Pairs]) -> _Pairs:
    is_dated_N = (windows.instrument_N != "") & ~np.isnat(windows.start_time_N)
    start_N = windows.start_time_N.astype("datetime64[ns]").astype(np.int64)
    names, instrument_N = np.unique(windows.instrument_N, return_inverse=True)
    duration_I = np.full(len(names), np.inf)
    for pairs in known:
        usable = is_dated_N[pairs.left_P] & is_dated_N[pairs.right_P] & (pairs.shift_P != 0)
        usable &= instrument_N[pairs.left_P] == instrument_N[pairs.right_P]
        left_P, right_P = pairs.left_P[usable], pairs.right_P[usable]
        ns_per_bar_P = (start_N[right_P] - start_N[left_P]) / pairs.shift_P[usable]
        # Gaps only lengthen: the smallest is a bar's duration.
        np.minimum.at(duration_I, instrument_N[left_P][ns_per_bar_P > 0], ns_per_bar_P[ns_per_bar_P > 0])
    duration_I[np.isinf(duration_I)] = 0.0
    order = np.flatnonzero(is_dated_N)
    order = order[np.lexsort((start_N[order], instrument_N[order]))]
    left_P, right_P = order[:-1], order[1:]
    apart_P = start_N[right_P] - start_N[left_P]
    within_P = apart_P < windows.window_length * duration_I[instrument_N[left_P]]
    joined_P = (instrument_N[left_P] == instrument_N[right_P]) & (within_P | (apart_P == 0))
    left_P, right_P = left_P[joined_P], right_P[joined_P]
    return _Pairs(left_P, right_P, np.zeros_like(left_P))


def _components(num_nodes: int, left_P: NDArray[np.int64], right_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each node the smallest node that edges connect it to."""
    root = np.arange(num_nodes)
    while True:
        low, high = np.minimum(root[left_P], root[right_P]), np.maximum(root[left_P], root[right_P])
        if (low == high).all():
            return root
        np.minimum.at(root, high, low)
        while not np.array_equal(root, root[root]):
            root = root[root]
