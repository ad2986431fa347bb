"""Cells of text: their shapes, and the prices they hold by one rule for a file's decimal mark.

A cell's shape is its text with every digit as 9. A column has few of them, so each is looked at once.

Legend: R rows, M rows of one shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

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
class Shapes:
    """A column's shapes, and the bytes of its cells.

    Attributes:
        shapes: Those that occur.
        index_R: Which of them each cell has, int64.
        byte_D: UTF-8 of all cells together, uint8.
        start_R: Where each cell begins there, int64.
    """

    shapes: list[str]
    index_R: NDArray[np.int64]
    byte_D: NDArray[np.uint8]
    start_R: NDArray[np.int64]

    def rows_of(self) -> list[NDArray[np.intp]]:
        """Return the rows that have each shape, ascending."""
        order_R = np.argsort(self.index_R, kind="stable")
        firsts = np.searchsorted(self.index_R[order_R], np.arange(len(self.shapes) + 1))
        return [order_R[firsts[number] : firsts[number + 1]] for number in range(len(self.shapes))]

    def digits(self, rows_M: NDArray[np.intp], shape: str) -> NDArray[np.int64]:
        """Return the digit at every place of some cells of one ASCII shape, int64 [M, length]; elsewhere nonsense."""
        place_ML = self.start_R[rows_M, None] + np.arange(len(shape))
        digit_ML: NDArray[np.int64] = self.byte_D[place_ML].astype(np.int64) - ord("0")
        return digit_ML


def shapes_of(cells: pa.Array) -> Shapes:
    """Return the shapes of a column of strings without nulls."""
    import pyarrow as pa

    # A copy of its own: cells that were cut out of a larger array begin somewhere within its bytes.
    cells = pa.concat_arrays([cells.cast(pa.string()), pa.array([], pa.string())])
    _, offsets, content = cells.buffers()
    offset_R1 = np.frombuffer(offsets or b"\0\0\0\0", dtype=np.int32)[: len(cells) + 1].astype(np.int64)
    byte_D = np.frombuffer(content or b"", dtype=np.uint8)
    is_digit_D = (byte_D >= ord("0")) & (byte_D <= ord("9"))
    masked = pa.py_buffer(np.where(is_digit_D, np.uint8(ord("9")), byte_D).tobytes())
    encoded = pa.StringArray.from_buffers(len(cells), offsets, masked).dictionary_encode()
    index_R = np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)
    return Shapes(encoded.dictionary.to_pylist(), index_R, byte_D, offset_R1[:-1])


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
