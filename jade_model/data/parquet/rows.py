"""One batch of a Parquet file -> numpy columns, and windows -> an Arrow table.

Legend: N rows of the batch, B bars of all rows together, S spans of all rows together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jade_model.core.windows import NO_TYPE, TYPE_NAMES
from jade_model.data.faults import Faults
from jade_model.data.parquet.bars import decode_bars
from jade_model.data.parquet.layout import BOUND_LISTS, BOUNDS
from jade_model.data.parquet.spans import decode_integers, decode_spans

if TYPE_CHECKING:
    import pyarrow as pa

_OFFSET_ENDING = r"_offset[+-]?\d+$"


@dataclass(frozen=True, eq=False)
class Rows:
    """One batch, decoded; whole only if the batch had no fault. Fields as in Windows, but for these.

    Attributes:
        window_id_N: str or None, as objects.
        length_N: Bars of each row; -1 where unreadable.
        bars_B4: Bars of all readable rows, float64.
        num_spans_N: Spans of each row.
    """

    window_id_N: NDArray[np.object_]
    base_window_id_N: NDArray[np.str_]
    length_N: NDArray[np.int64]
    bars_B4: NDArray[np.float64]
    type_N: NDArray[np.int64]
    num_spans_N: NDArray[np.int64]
    spans_S2: NDArray[np.int64]
    offset_N: NDArray[np.int64]
    overlap_fraction_N: NDArray[np.float64]
    quality_N: NDArray[np.str_]
    source_N: NDArray[np.str_]
    instrument_N: NDArray[np.str_]
    start_time_N: NDArray[np.datetime64]


def decode_batch(batch: pa.RecordBatch, faults: Faults, named: Mapping[str, str] | None = None) -> Rows:
    """Turn one batch into numpy columns and name every value that breaks the contract.

    Args:
        batch: Columns that check_layout found readable; what is absent takes its default.
        faults: Gets what is wrong; its first_row is the file's number of the batch's first row.
        named: Text columns that the names of the file's folders give, such as `instrument=AAA`.

    Returns:
        The rows. Windows may still differ in length: which length is right shows once all are read.
    """
    import pyarrow as pa

    num_rows = batch.num_rows
    columns = {name: _plain(batch.column(name)) for name in batch.schema.names}
    for name, value in (named or {}).items():
        columns.setdefault(name, pa.array([value or None] * num_rows, pa.string()))
    # Of a pair, one bound alone says nothing; check_layout has named the other.
    alone = {name for pair in (BOUNDS, BOUND_LISTS) if not set(pair) <= columns.keys() for name in pair}
    columns = {name: column for name, column in columns.items() if name not in alone}
    for name, kind in _kinds().items():
        if name not in columns or pa.types.is_null(columns[name].type):
            columns[name] = pa.nulls(num_rows, kind)
    window_id_N = _identifiers(columns.get("window_id"), num_rows, faults)
    length_N, bars_B4 = np.full(num_rows, -1), np.zeros((0, 4))
    if "features" in columns:
        length_N, bars_B4 = decode_bars(columns["features"], faults)
    num_spans_N, spans_S2 = decode_spans(columns, length_N, faults)
    return Rows(
        window_id_N=window_id_N,
        base_window_id_N=_bases(columns["base_window_id"], columns.get("window_id")),
        length_N=length_N,
        bars_B4=bars_B4,
        type_N=_types(columns.get("label"), num_spans_N, faults),
        num_spans_N=num_spans_N,
        spans_S2=spans_S2,
        offset_N=decode_integers(columns["offset"], "offset", faults),
        overlap_fraction_N=_fractions(columns["overlap_fraction"], faults),
        quality_N=_texts(columns["quality"]),
        source_N=_texts(columns["source"]),
        instrument_N=_texts(columns["instrument"]),
        start_time_N=_times(columns["start_time"], faults),
    )


def _kinds() -> dict[str, pa.DataType]:
    """Return the columns that a file may lack, or have without a value: all of it is null then."""
    import pyarrow as pa

    return {
        **dict.fromkeys(("base_window_id", "source", "quality", "instrument"), pa.string()),
        **dict.fromkeys((*BOUNDS, "offset"), pa.int64()),
        **dict.fromkeys(BOUND_LISTS, pa.list_(pa.int64())),
        "overlap_fraction": pa.float64(),
        "start_time": pa.timestamp("ns"),
    }


def _plain(array: pa.Array) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    # Arrow's kernels do not take all kinds of strings and decimals.
    if pa.types.is_string_view(kind):
        return array.cast(pa.string())
    return array.cast(pa.float64()) if pa.types.is_decimal(kind) else array


def _identifiers(array: pa.Array | None, num_rows: int, faults: Faults) -> NDArray[np.object_]:
    faults.window_id_N = None
    if array is None:
        return np.full(num_rows, None, dtype=object)
    window_id_N: NDArray[np.object_] = array.to_numpy(zero_copy_only=False).astype(object)
    faults.add_rows(~window_id_N.astype(bool), "window_id", lambda row: repr(window_id_N[row]), "an identifier")
    faults.window_id_N = window_id_N
    return window_id_N


def _bases(array: pa.Array, window_id: pa.Array | None) -> NDArray[np.str_]:
    """Return the base identifiers; where a file does not say, window_id without its `_offset...` ending."""
    import pyarrow.compute as pc

    base_N = _texts(array)
    if window_id is None or (base_N != "").all():
        return base_N
    derived = pc.replace_substring_regex(window_id, pattern=_OFFSET_ENDING, replacement="")
    return np.where(base_N == "", _texts(derived), base_N)


def _texts(array: pa.Array) -> NDArray[np.str_]:
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(array, "").to_numpy(zero_copy_only=False), dtype=np.str_)


def _types(array: pa.Array | None, num_spans_N: NDArray[np.int64], faults: Faults) -> NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if array is None:  # named by check_layout where it must be there
        return np.full(len(num_spans_N), NO_TYPE)
    if pa.types.is_null(array.type):
        array = array.cast(pa.string())
    encoded = array.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    known = {name: code for code, name in enumerate(TYPE_NAMES)}
    codes = [NO_TYPE if name is None else known.get(name.strip().lower(), NO_TYPE) for name in names]
    code_K = np.array([*codes, NO_TYPE], dtype=np.int64)
    position_N = np.asarray(pc.fill_null(encoded.indices, len(names)).to_numpy(zero_copy_only=False))
    type_N: NDArray[np.int64] = code_K[position_N]
    is_null_N = position_N == len(names)
    expected = f"one of {', '.join(TYPE_NAMES)}"
    faults.add_rows((type_N == NO_TYPE) & ~is_null_N, "label", lambda row: repr(names[position_N[row]]), expected)
    faults.add_rows(is_null_N & (num_spans_N > 0), "label", lambda _: "null beside an expansion", expected)
    return type_N


def _fractions(array: pa.Array, faults: Faults) -> NDArray[np.float64]:
    values_N = array.to_numpy(zero_copy_only=False).astype(np.float64)
    fraction_N = np.where(np.isnan(values_N), 1.0, values_N)
    faults.add_rows(
        ~((fraction_N >= 0) & (fraction_N <= 1)),
        "overlap_fraction",
        lambda row: f"{fraction_N[row]:g}",
        "0 to 1",
    )
    return fraction_N


def _times(array: pa.Array, faults: Faults) -> NDArray[np.datetime64]:
    import pyarrow as pa

    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("ms"))
    try:
        # A time zone is only how a time is shown: the stored value is UTC, with one or without.
        in_ns = array.cast(pa.timestamp("ns", tz=array.type.tz))
    except pa.ArrowInvalid as error:
        faults.add("start_time", str(error), "times from 1678 to 2261")
        return np.full(len(array), np.datetime64("NaT", "ns"))
    return np.asarray(in_ns.to_numpy(zero_copy_only=False), dtype="datetime64[ns]")
