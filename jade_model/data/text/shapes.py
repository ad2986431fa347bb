"""The shape of a cell: its text with every digit as 9. A column has few of them, so each is looked at once.

Legend: R rows, M rows of one shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa


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
