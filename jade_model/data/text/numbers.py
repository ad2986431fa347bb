"""Cells -> prices, by one rule for a file's decimal mark. Legend: R rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

DecimalMark = Literal[".", ","]

_MISSING = ("", "-", "na", "n/a", "#n/a", "nan", "null", "none", "nil")
_SIGN = r"^[$€£¥]?[+-]?"
_PLAIN = _SIGN + r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_GROUPED = {
    ".": _SIGN + r"(\d{1,3}(,\d{3})+|\d{1,3}([ '\x{a0}\x{202f}]\d{3})+)(\.\d*)?$",
    ",": _SIGN + r"(\d+|\d{1,3}(\.\d{3})+|\d{1,3}([ '\x{a0}\x{202f}]\d{3})+)(,\d*)?$",
}


@dataclass(frozen=True, eq=False)
class Numbers:
    """One column's prices.

    Attributes:
        value_R: float64, NaN where there is none.
        is_missing_R: Where the cell says that there is none.
        is_bad_R: Where it can't be read.
        has_comma_R: Where a comma, which two readings are possible of, is the reason for that.
    """

    value_R: NDArray[np.float64]
    is_missing_R: NDArray[np.bool_]
    is_bad_R: NDArray[np.bool_]
    has_comma_R: NDArray[np.bool_]


def read_numbers(cells: pa.Array, decimal: DecimalMark | None) -> Numbers:
    """Read one column.

    Args:
        cells: Trimmed text.
        decimal: The decimal mark; the other mark, spaces and apostrophes may then group digits by three. None reads
            plain numbers with a point, and no groups: whether 1,234 is over a thousand nobody can tell.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    is_missing_R = _mask(pc.is_in(pc.utf8_lower(cells), pa.array(_MISSING)))
    if decimal == ",":
        is_number_R = _mask(pc.match_substring_regex(cells, _GROUPED[","]))
        cells = pc.replace_substring(pc.replace_substring_regex(cells, r"[.' \x{a0}\x{202f}]", ""), ",", ".")
    else:
        is_number_R = _mask(pc.match_substring_regex(cells, _PLAIN))
        if decimal == ".":
            is_number_R |= _mask(pc.match_substring_regex(cells, _GROUPED["."]))
            cells = pc.replace_substring_regex(cells, r"[,' \x{a0}\x{202f}]", "")
    cells = pc.replace_substring_regex(cells, r"^[$€£¥]?\+?", "")
    value_R = np.array(pc.if_else(pa.array(is_number_R), cells, "nan").cast(pa.float64()))
    is_bad_R = ~is_missing_R & ~np.isfinite(value_R)
    has_comma_R = is_bad_R & _mask(pc.match_substring_regex(cells, r"^[+-]?[\d][\d.,' ]*$")) & (decimal is None)
    return Numbers(np.where(is_number_R, value_R, np.nan), is_missing_R, is_bad_R, has_comma_R)


def _mask(array: pa.Array) -> NDArray[np.bool_]:
    return np.array(array.to_numpy(zero_copy_only=False), dtype=bool)
