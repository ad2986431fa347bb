"""Where a file breaks its contract, collected batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import DataError, Violation


@dataclass
class Faults:
    """Collects violations of one file. Rows are numbered within the batch at hand until they are noted here.

    Attributes:
        file: Path as given.
        first_row: The file's row that the batch at hand starts with.
        window_id_N: The batch's identifiers, str or None; None as a whole where there is no such column.
        line_N: Of a text file: the line of each row, which is named in the row's place.
        found: All so far.
    """

    file: str
    first_row: int = 0
    window_id_N: NDArray[np.object_] | None = None
    line_N: NDArray[np.int64] | None = None
    found: list[Violation] = field(default_factory=list)

    def add(self, column: str | None, found: str, expected: str, *, line: int | None = None) -> None:
        """Note what concerns the whole file or column, or one line."""
        self.found.append(Violation(self.file, None, column, found, expected, line=line))

    def add_rows(self, wrong_N: NDArray[np.bool_], column: str, found: Callable[[int], str], expected: str) -> None:
        """Note each row where wrong_N is true; `found` describes one row, by its number in the batch."""
        self.add_found({row: found(row) for row in np.flatnonzero(wrong_N).tolist()}, column, expected)

    def add_found(self, found: Mapping[int, str], column: str, expected: str) -> None:
        """Note what was found in each of some rows, by its number in the batch."""
        for row, shown in found.items():
            window_id = None if self.window_id_N is None else self.window_id_N[row]
            line, number = self.line_of(row), self.first_row + row if self.line_N is None else None
            self.found.append(Violation(self.file, number, column, shown, expected, window_id, line))

    def line_of(self, row: int) -> int | None:
        """Return the line of a row of a text file."""
        return None if self.line_N is None else int(self.line_N[row])

    def stop(self, column: str | None, found: str, expected: str, *, line: int | None = None) -> DataError:
        """Return the error of all that was found and this: the cause of whatever else there might be."""
        self.add(column, found, expected, line=line)
        return DataError(self.found)

    def raise_if_any(self) -> None:
        """Raise what was found so far, if anything.

        Raises:
            DataError: With all of it.
        """
        if self.found:
            raise DataError(self.found)
