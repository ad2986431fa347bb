"""The columns that bound expansions -> half-open spans, checked.

Legend: N rows of the batch, S spans of all rows together. `bounds_S2` are a file's inclusive bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jade_model.data.faults import Faults
from jade_model.data.parquet.bars import list_lengths
from jade_model.data.parquet.layout import BOUND_LISTS, BOUNDS

if TYPE_CHECKING:
    import pyarrow as pa

_BOTH_OR_NONE = "both bounds or none"


def decode_spans(
    columns: dict[str, pa.Array], length_N: NDArray[np.int64], faults: Faults
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read one span a row, or lists of them; where a row has lists, they are what counts.

    Args:
        columns: The batch's readable columns.
        length_N: Bars of each row; -1 where unknown, and then no span is outside.
        faults: Gets what is wrong.

    Returns:
        Number of spans of each row, int64 [N]; half-open spans, ascending within a row, int64 [S, 2].
    """
    row_S, bounds_S2 = _single(columns, length_N, faults)
    is_listed_N, row_L, bounds_L2 = _listed(columns, length_N, faults)
    beside_S = is_listed_N[row_S]
    _name_disagreement(row_S[beside_S], bounds_S2[beside_S], row_L, bounds_L2, faults)
    row_S = np.concatenate((row_S[~beside_S], row_L))
    bounds_S2 = np.concatenate((bounds_S2[~beside_S], bounds_L2))
    order_S = np.lexsort((bounds_S2[:, 0], row_S))
    # The one place where a file's inclusive end becomes half-open.
    spans_S2 = bounds_S2[order_S] + np.array([0, 1])
    return np.bincount(row_S, minlength=len(length_N)), spans_S2


def decode_integers(array: pa.Array, column: str, faults: Faults) -> NDArray[np.int64]:
    """Read integers, also those that stand as doubles because nulls stand beside them; null is 0."""
    values, _, is_odd = _whole_numbers(array)
    _name_odd_numbers(array, column, is_odd, faults)
    return values


def _single(
    columns: dict[str, pa.Array], length_N: NDArray[np.int64], faults: Faults
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Return the rows that have both bounds, and those bounds."""
    (start_N, start_null_N, start_odd_N), (end_N, end_null_N, end_odd_N) = (
        _whole_numbers(columns[name]) for name in BOUNDS
    )
    for name, odd_N in zip(BOUNDS, (start_odd_N, end_odd_N), strict=True):
        _name_odd_numbers(columns[name], name, odd_N, faults)
    has_start_N, has_end_N = ~start_null_N & ~start_odd_N, ~end_null_N & ~end_odd_N
    faults.add_rows(
        start_null_N & has_end_N, BOUNDS[0], lambda row: f"null beside {BOUNDS[1]} {end_N[row]}", _BOTH_OR_NONE
    )
    faults.add_rows(
        end_null_N & has_start_N, BOUNDS[1], lambda row: f"null beside {BOUNDS[0]} {start_N[row]}", _BOTH_OR_NONE
    )
    row_S = np.flatnonzero(has_start_N & has_end_N)
    bounds_S2 = np.stack((start_N[row_S], end_N[row_S]), axis=1)
    _name_wrong_bounds(row_S, bounds_S2, BOUNDS, length_N, faults)
    return row_S, bounds_S2


def _listed(
    columns: dict[str, pa.Array], length_N: NDArray[np.int64], faults: Faults
) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.int64]]:
    """Return which rows have readable lists, and the rows and bounds of their spans."""
    import pyarrow as pa

    starts, ends = (columns[name] for name in BOUND_LISTS)
    num_starts_N, num_ends_N = list_lengths(starts), list_lengths(ends)

    def found(row: int) -> str:
        return " and ".join(
            f"{'null' if number[row] < 0 else number[row]} {name}"
            for number, name in ((num_starts_N, BOUND_LISTS[0]), (num_ends_N, BOUND_LISTS[1]))
        )

    faults.add_rows(num_starts_N != num_ends_N, BOUND_LISTS[0], found, "lists of one length")
    is_listed_N = (num_starts_N == num_ends_N) & (num_starts_N >= 0)
    kept = pa.array(is_listed_N)
    row_S = np.repeat(np.flatnonzero(is_listed_N), num_starts_N[is_listed_N])
    bounds = []
    is_readable_S = np.ones(len(row_S), dtype=bool)
    for name, array in zip(BOUND_LISTS, (starts, ends), strict=True):
        values, is_null, is_odd = _whole_numbers(array.filter(kept).flatten())
        shown = {row: str(array[row].as_py()) for row in np.unique(row_S[is_null | is_odd]).tolist()}
        faults.add_found(shown, name, "whole numbers")
        bounds.append(values)
        is_readable_S &= ~(is_null | is_odd)
    row_S = row_S[is_readable_S]
    bounds_S2 = np.stack(bounds, axis=1)[is_readable_S]
    _name_wrong_bounds(row_S, bounds_S2, BOUND_LISTS, length_N, faults)
    _name_overlaps(row_S, bounds_S2, faults)
    return is_listed_N, row_S, bounds_S2


def _whole_numbers(array: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return values (0 where there is none), where null (or NaN: pandas writes it), and where not whole."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_null = np.asarray(array.is_null(nan_is_null=True).to_numpy(zero_copy_only=False), dtype=bool)
    if pa.types.is_integer(array.type):
        values = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
        return values.astype(np.int64), is_null, np.zeros(len(array), dtype=bool)
    numbers = np.where(is_null, 0.0, array.to_numpy(zero_copy_only=False).astype(np.float64))
    is_odd = (numbers != np.floor(numbers)) | (np.abs(numbers) > 2**53)
    return np.where(is_odd, 0.0, numbers).astype(np.int64), is_null, is_odd


def _name_odd_numbers(array: pa.Array, column: str, is_odd: NDArray[np.bool_], faults: Faults) -> None:
    faults.add_rows(is_odd, column, lambda row: str(array[row].as_py()), "a whole number")


def _name_wrong_bounds(
    row_S: NDArray[np.intp],
    bounds_S2: NDArray[np.int64],
    names: tuple[str, str],
    length_N: NDArray[np.int64],
    faults: Faults,
) -> None:
    start_S, end_S = bounds_S2.T
    length_S = np.where(length_N[row_S] < 0, np.iinfo(np.int64).max, length_N[row_S])
    checks = [
        (names[0], start_S > end_S, "a start that is not after the end"),
        (names[0], (start_S < 0) | ((start_S >= length_S) & (start_S <= end_S)), "a bar of the window"),
        (names[1], (end_S >= length_S) | ((end_S < 0) & (start_S <= end_S)), "a bar of the window"),
    ]
    for column, wrong_S, expected in checks:
        rows, firsts = np.unique(row_S[wrong_S], return_index=True)
        spans = bounds_S2[wrong_S][firsts].tolist()
        shown = {
            row: f"span {start} to {end} in a window of {_count(length_N[row])} bars"
            for row, (start, end) in zip(rows.tolist(), spans, strict=True)
        }
        faults.add_found(shown, column, expected)


def _count(length: int) -> str:
    return str(length) if length >= 0 else "unreadable"


def _name_overlaps(row_S: NDArray[np.intp], bounds_S2: NDArray[np.int64], faults: Faults) -> None:
    order_S = np.lexsort((bounds_S2[:, 0], row_S))
    row_S, (start_S, end_S) = row_S[order_S], bounds_S2[order_S].T
    over_S = np.flatnonzero((row_S[1:] == row_S[:-1]) & (start_S[1:] <= end_S[:-1])) + 1
    rows, firsts = np.unique(row_S[over_S], return_index=True)
    shown = {
        row: f"span {start_S[at]} to {end_S[at]} over span {start_S[at - 1]} to {end_S[at - 1]}"
        for row, at in zip(rows.tolist(), over_S[firsts].tolist(), strict=True)
    }
    faults.add_found(shown, BOUND_LISTS[0], "spans that share no bar")


def _name_disagreement(
    row_S: NDArray[np.intp],
    bounds_S2: NDArray[np.int64],
    row_L: NDArray[np.intp],
    bounds_L2: NDArray[np.int64],
    faults: Faults,
) -> None:
    """Name rows whose single span is none of their listed ones."""
    single_S3, listed_L3 = np.column_stack((row_S, bounds_S2)), np.column_stack((row_L, bounds_L2))
    _, same = np.unique(np.concatenate((single_S3, listed_L3)), axis=0, return_inverse=True)
    is_listed_S = np.isin(same.ravel()[: len(row_S)], same.ravel()[len(row_S) :])
    shown = {
        row: f"span {start} to {end}, which expansion_starts and expansion_ends do not list"
        for row, start, end in single_S3[~is_listed_S].tolist()
    }
    faults.add_found(shown, BOUNDS[0], "null, or one of the listed spans")
