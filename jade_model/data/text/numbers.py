"""Cells -> prices, by one rule for a file's decimal mark. Legend: R rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from jade_model.data.text.shapes import shapes_of

if TYPE_CHECKING:
    import pyarrow as pa

DecimalMark = Literal[".", ","]

_MISSING = {"", "-", "na", "n/a", "#n/a", "nan", "null", "none", "nil"}
# Of shapes, where every digit is a 9.
_SIGN = r"[$€£¥]?[+-]?"
_SPACED = r"9{1,3}([ '\xa0\u202f]9{3})+"
_PLAIN = re.compile(rf"{_SIGN}(9+\.?9*|\.9+)([eE][+-]?9+)?")
_GROUPED = {
    ".": re.compile(rf"{_SIGN}(9{{1,3}}(,9{{3}})+|{_SPACED})(\.9*)?"),
    ",": re.compile(rf"{_SIGN}(9+|9{{1,3}}(\.9{{3}})+|{_SPACED})(,9*)?"),
}
_WITH_COMMA = re.compile(rf"{_SIGN}9[9.,' ]*,[9.,' ]*")
_NOT_OF_FLOATS = {".": r"[,' \x{a0}\x{202f}]", ",": r"[.' \x{a0}\x{202f}]"}


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

    found = shapes_of(cells)

    def where(test: Callable[[str], object]) -> NDArray[np.bool_]:
        return np.array([bool(test(shape)) for shape in found.shapes], dtype=bool)[found.index_R]

    is_missing_R = where(lambda shape: shape.lower() in _MISSING)
    if decimal is None:
        is_number_R = where(_PLAIN.fullmatch)
    else:
        is_number_R = where(
            lambda shape: _GROUPED[decimal].fullmatch(shape) or (decimal == "." and _PLAIN.fullmatch(shape))
        )
        cells = pc.replace_substring_regex(cells, _NOT_OF_FLOATS[decimal], "")
        cells = pc.replace_substring(cells, ",", ".")
    if any(shape[:1] in "$€£¥+" for shape in found.shapes if shape):
        cells = pc.replace_substring_regex(cells, r"^[$€£¥]?\+?", "")
    value_R = np.array(pc.if_else(pa.array(is_number_R), cells, "nan").cast(pa.float64()))
    is_bad_R = ~is_missing_R & ~np.isfinite(value_R)
    has_comma_R = is_bad_R & where(_WITH_COMMA.fullmatch) & (decimal is None)
    return Numbers(np.where(is_number_R, value_R, np.nan), is_missing_R, is_bad_R, has_comma_R)
