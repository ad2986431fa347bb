"""Windows -> an Arrow table in the contract's schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jade_model.core.windows import NO_TYPE, TYPE_NAMES, Windows

if TYPE_CHECKING:
    import pyarrow as pa


def to_table(windows: Windows) -> pa.Table:
    """Return the contract's columns for the windows.

    Left out are the labels of unlabelled windows, `instrument` and `start_time` where none is known, and the
    lists of bounds where no window has several spans.

    Args:
        windows: What to turn into a table; spans become inclusive here.

    Returns:
        One row a window.
    """
    import pyarrow as pa

    columns: dict[str, pa.Array] = {
        "window_id": pa.array(windows.window_id_N.tolist(), pa.string()),
        "base_window_id": pa.array(windows.base_window_id_N.tolist(), pa.string()),
        "offset": pa.array(windows.offset_N),
        "features": _bars(windows.bars_NT4),
    }
    if windows.is_labelled:
        columns |= _labels(windows)
    columns["source"] = _texts(windows.source_N)
    if (windows.instrument_N != "").any():
        columns["instrument"] = _texts(windows.instrument_N)
    if not np.isnat(windows.start_time_N).all():
        columns["start_time"] = pa.array(windows.start_time_N, pa.timestamp("ns")).cast(pa.timestamp("ns", tz="UTC"))
    return pa.table(columns)


def _labels(windows: Windows) -> dict[str, pa.Array]:
    import pyarrow as pa

    names = np.array([*TYPE_NAMES, ""])
    is_single_N = windows.num_spans_N == 1
    # Where a window has several spans or none, there is no single one to give.
    first_N2 = np.zeros((windows.num_windows, 2), dtype=np.int64)
    first_N2[is_single_N] = windows.spans_S2[windows.span_offsets_N1[:-1][is_single_N]]
    columns = {
        "label": _texts(names[np.where(windows.type_N == NO_TYPE, len(TYPE_NAMES), windows.type_N)]),
        "expansion_start": pa.array(first_N2[:, 0], mask=~is_single_N),
        "expansion_end": pa.array(first_N2[:, 1] - 1, mask=~is_single_N),
        "overlap_fraction": pa.array(windows.overlap_fraction_N),
        "quality": _texts(windows.quality_N),
    }
    if (windows.num_spans_N > 1).any():
        offsets = pa.array(windows.span_offsets_N1, pa.int32())
        columns["expansion_starts"] = pa.ListArray.from_arrays(offsets, pa.array(windows.spans_S2[:, 0]))
        columns["expansion_ends"] = pa.ListArray.from_arrays(offsets, pa.array(windows.spans_S2[:, 1] - 1))
    return columns


def _bars(bars_NT4: NDArray[np.float64]) -> pa.Array:
    import pyarrow as pa

    num_windows, length = bars_NT4.shape[:2]
    values = pa.array(np.ascontiguousarray(bars_NT4).ravel())
    bars = pa.ListArray.from_arrays(pa.array(np.arange(num_windows * length + 1) * 4, pa.int32()), values)
    return pa.ListArray.from_arrays(pa.array(np.arange(num_windows + 1) * length, pa.int32()), bars)


def _texts(text_N: NDArray[np.str_]) -> pa.Array:
    import pyarrow as pa

    return pa.array([text or None for text in text_N.tolist()], pa.string())
