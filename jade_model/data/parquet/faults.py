"""Where a file breaks the contract, collected batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import Violation


@dataclass
class Faults:
    """Collects violations of one file. Rows are numbered within the batch at hand until they are noted here.

    Attributes:
        file: Path as given.
        first_row: The file's row that the batch at hand starts with.
        window_id_N: The batch's identifiers, str or None; None as a whole where there is no such column.
        found: All so far.
    """

    file: str
    first_row: int = 0
    window_id_N: NDArray[np.object_] | None = None
    found: list[Violation] = field(default_factory=list)

    def add(self, column: str | None, found: str, expected: str) -> None:
        """Note what concerns the whole file or column."""
        self.found.append(Violation(self.file, None, column, found, expected))

    def add_rows(self, wrong_N: NDArray[np.bool_], column: str, found: Callable[[int], str], expected: str) -> None:
        """Note each row where wrong_N is true; `found` describes one row, by its number in the batch."""
        for row in np.flatnonzero(wrong_N).tolist():
            window_id = None if self.window_id_N is None else self.window_id_N[row]
            self.found.append(Violation(self.file, self.first_row + row, column, found(row), expected, window_id))
