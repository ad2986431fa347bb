"""The contract's columns and their types, and which of them a file has."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from jade_model.data.faults import Faults

if TYPE_CHECKING:
    import pyarrow as pa

BOUNDS = ("expansion_start", "expansion_end")
BOUND_LISTS = ("expansion_starts", "expansion_ends")
TEXTS = ("window_id", "base_window_id", "label", "source", "quality", "instrument")
_FROM_LABELLING = ("label", *BOUNDS, *BOUND_LISTS, "overlap_fraction", "quality")


def check_layout(
    schema: pa.Schema, faults: Faults, *, require_labels: bool, given: AbstractSet[str] = frozenset()
) -> list[str]:
    """Name missing columns and columns of a wrong type; say which can be read.

    Args:
        schema: The file's Arrow schema.
        faults: Gets what is wrong.
        given: Columns that are not the file's but known of it.
        require_labels: Whether label and spans must be there; if not, they are neither read nor checked.

    Returns:
        The contract's columns that are there in a type that can be read.
    """
    if "features" not in schema.names and {"open", "high", "low", "close"} <= {name.lower() for name in schema.names}:
        faults.add(None, "raw bars, one a row", "windows of them: `jade window` cuts some")
        return []
    wanted = {"window_id", "features"}
    if require_labels:
        pairs = [pair for pair in (BOUNDS, BOUND_LISTS) if set(pair) & set(schema.names)]
        wanted |= {"label"}.union(*(pairs or [BOUNDS]))
    readable = []
    for column, expected in EXPECTED.items():
        if column in _FROM_LABELLING and not require_labels:
            continue
        indices = schema.get_all_field_indices(column)
        if not indices:
            if column in wanted - given:
                faults.add(column, "no such column", f"a column of {expected}")
        elif len(indices) > 1:
            faults.add(column, f"{len(indices)} columns of this name", "one")
        elif not _fits(column, schema.field(column).type):
            faults.add(column, f"type {schema.field(column).type}", expected)
        else:
            readable.append(column)
    return readable


EXPECTED = {
    "window_id": "strings",
    "features": "lists of bars, each a list of four numbers (or a structure of them): open, high, low, close",
    "label": "strings",
    "expansion_start": "integers (null: no expansion)",
    "expansion_end": "integers (null: no expansion)",
    "expansion_starts": "lists of integers",
    "expansion_ends": "lists of integers",
    "base_window_id": "strings",
    "offset": "integers",
    "overlap_fraction": "numbers from 0 to 1",
    "source": "strings",
    "quality": "strings",
    "instrument": "strings",
    "start_time": "timestamps (UTC) or dates",
}


def _fits(column: str, kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if column == "features":
        return _is_list(kind) and _is_bar(kind.value_type)
    if column in BOUND_LISTS:
        return types.is_null(kind) or (_is_list(kind) and _is_number(kind.value_type))
    # pandas writes a column of nulls without a type, and integers beside nulls as doubles.
    if types.is_null(kind):
        return column != "window_id"
    if column in TEXTS:
        return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
    if column == "start_time":
        return bool(types.is_timestamp(kind) or types.is_date(kind))
    return _is_number(kind)


def price_fields(kind: pa.StructType) -> list[int] | None:
    """Return where a structure has open, high, low and close, by name; None if it lacks one or has one twice."""
    names = [kind.field(at).name.lower() for at in range(kind.num_fields)]
    places = []
    for price in ("open", "high", "low", "close"):
        found = [at for at, name in enumerate(names) if name in {price, price[0]}]
        if len(found) != 1:
            return None
        places += found
    return places


def _is_bar(kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        places = price_fields(kind)
        return places is not None and all(_is_number(kind.field(at).type) for at in places)
    return _is_list(kind) and _is_number(kind.value_type)


def _is_list(kind: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))
