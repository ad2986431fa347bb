"""The `features` column -> bars, checked.

Legend: N rows of the batch, B bars of all readable rows together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jade_model.data.faults import Faults
from jade_model.data.parquet.layout import price_fields

ROUNDING = 1e-9
"""How far, in shares of the price, open and close may lie outside of low and high."""

if TYPE_CHECKING:
    import pyarrow as pa


def decode_bars(array: pa.Array, faults: Faults) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Flatten lists of bars without touching a row in Python, and check every price.

    Args:
        array: Lists (of any Arrow kind) of lists of four numbers, or of structures that name them.
        faults: Gets what is wrong.

    Returns:
        Number of bars of each row, -1 where unreadable, int64 [N]; the other rows' bars, float64 [B, 4].
    """
    import pyarrow as pa

    length_N = list_lengths(array)
    faults.add_rows(length_N < 0, "features", lambda _: "null", "a list of bars")
    bars = array.flatten()
    if pa.types.is_struct(bars.type):
        return length_N, _decode_structures(bars, length_N, faults)
    width_B = list_lengths(bars)
    if (width_B != 4).any():
        wrong_N = _name_odd_bars(width_B, length_N, faults)
        array = array.filter(pa.array(~wrong_N))
        length_N = np.where(wrong_N, -1, length_N)
    bars_B4 = _floats(array.flatten().flatten()).reshape(-1, 4)
    _name_impossible_prices(bars_B4, length_N, faults)
    return length_N, bars_B4


def _decode_structures(bars: pa.Array, length_N: NDArray[np.int64], faults: Faults) -> NDArray[np.float64]:
    """Read bars that are structures with named prices."""
    places = price_fields(bars.type) or []
    # `flatten` puts nulls into the fields of a bar that is null.
    fields = bars.flatten()
    bars_B4 = np.stack([_floats(fields[at]) for at in places], axis=1)
    _name_impossible_prices(bars_B4, length_N, faults)
    return bars_B4


def _floats(array: pa.Array) -> NDArray[np.float64]:
    import pyarrow as pa

    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.float64)


def list_lengths(array: pa.Array) -> NDArray[np.int64]:
    """Return each list's number of items, -1 for null, int64 [len(array)]."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(array), -1)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def impossible_prices(
    bars_B4: NDArray[np.float64], crosses_zero_B: NDArray[np.bool_]
) -> list[tuple[NDArray[np.bool_], str]]:
    """Return each way in which bars are impossible beside the bars that are; [] if all are possible.

    Prices may be negative, as oil's were. A price of 0 stands for a missing one, unless those around it cross zero.

    Args:
        bars_B4: Open, high, low, close.
        crosses_zero_B: Whether the bar belongs to a window or series with negative prices.

    Returns:
        Pairs of a mask over bars, bool [B], and what was expected. A bar stands in one mask at most.
    """
    open_B, high_B, low_B, close_B = bars_B4.T
    # The good case in one go: every comparison with NaN is false.
    fine_B = (low_B > 0) & (high_B < np.inf)
    fine_B &= (low_B <= open_B) & (open_B <= high_B)
    fine_B &= (low_B <= close_B) & (close_B <= high_B)
    if fine_B.all():
        return []
    number_B = np.isfinite(bars_B4).all(axis=1)
    filled_B: NDArray[np.bool_] = number_B & (crosses_zero_B | (bars_B4 != 0).all(axis=1))
    # Averages and adjusted prices stand above the high by their last bit.
    rounding_B = ROUNDING * np.abs(np.where(np.isfinite(bars_B4), bars_B4, 0)).max(axis=1)
    with np.errstate(invalid="ignore"):
        ordered_B = filled_B & (low_B <= high_B + rounding_B)
        fine_B = ordered_B & (np.minimum(open_B, close_B) >= low_B - rounding_B)
        fine_B &= np.maximum(open_B, close_B) <= high_B + rounding_B
    return [
        (~number_B, "finite prices (leave missing bars out)"),
        (number_B & ~filled_B, "prices other than 0 (leave missing bars out)"),
        (filled_B & ~ordered_B, "a high that is not below the low"),
        (ordered_B & ~fine_B, "open and close from low to high"),
    ]


def shown_bar(bar_4: NDArray[np.float64]) -> str:
    """Return a bar's prices with all their digits."""
    return "open, high, low, close " + ", ".join(repr(price).removesuffix(".0") for price in bar_4.tolist())


def _name_odd_bars(width_B: NDArray[np.int64], length_N: NDArray[np.int64], faults: Faults) -> NDArray[np.bool_]:
    row_B, bar_B = _places(length_N)
    odd_B = np.flatnonzero(width_B != 4)
    rows, firsts = np.unique(row_B[odd_B], return_index=True)
    shown = {
        row: f"bar {bar_B[place]} " + (f"with {width_B[place]} values" if width_B[place] >= 0 else "null")
        for row, place in zip(rows.tolist(), odd_B[firsts].tolist(), strict=True)
    }
    faults.add_found(shown, "features", "four values a bar: open, high, low, close")
    return np.isin(np.arange(len(length_N)), rows)


def _name_impossible_prices(bars_B4: NDArray[np.float64], length_N: NDArray[np.int64], faults: Faults) -> None:
    row_B, bar_B = _places(length_N)
    crosses_zero_N = np.bincount(row_B[(bars_B4 < 0).any(axis=1)], minlength=len(length_N)) > 0
    for wrong_B, expected in impossible_prices(bars_B4, crosses_zero_N[row_B]):
        places = np.flatnonzero(wrong_B)
        rows, firsts, counts = np.unique(row_B[places], return_index=True, return_counts=True)
        shown = {}
        for row, place, count in zip(rows.tolist(), places[firsts].tolist(), counts.tolist(), strict=True):
            more = f" and {count - 1} more such bars" if count > 1 else ""
            shown[row] = f"bar {bar_B[place]} with {shown_bar(bars_B4[place])}{more}"
        faults.add_found(shown, "features", expected)


def _places(length_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return row, and number within the row, of each bar of the readable rows."""
    num_bars_N = np.maximum(length_N, 0)
    row_B = np.repeat(np.arange(len(length_N)), num_bars_N)
    first_N = np.cumsum(num_bars_N) - num_bars_N
    return row_B, np.arange(len(row_B)) - first_N[row_B]
