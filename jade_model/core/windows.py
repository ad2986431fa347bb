"""Windows of bars in memory, and the `.npz` they travel in to hosts that have numpy only.

Legend: N windows, T bars, S spans of all windows together. Spans are half-open.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import DataError, Violation
from jade_model.core.files import atomic_path

TYPE_NAMES: tuple[str, ...] = ("consolidation", "retracement", "reversal")
NO_TYPE = -1
MIN_WINDOW_LENGTH = 16
MAX_WINDOW_LENGTH = 1024

_ARRAYS_VERSION = 1


@dataclass(frozen=True, eq=False)
class Windows:
    """N windows of T bars each with the spans that were labelled in them.

    Attributes:
        name: Short name of the data set (the file's stem, or as given).
        path: Where it was read from, as given; for display only.
        sha256: Digest of the file's bytes (several files: of their digests, in order).
        window_id_N: Unique identifiers, str.
        base_window_id_N: Windows of one base show the same bars, shifted, str.
        bars_NT4: Open, high, low, close, float64.
        type_N: Index into TYPE_NAMES, or NO_TYPE, int64.
        span_offsets_N1: Row n's spans are spans_S2[span_offsets_N1[n]:span_offsets_N1[n + 1]], int64 [N + 1].
        spans_S2: Start and end, half-open, ascending and disjoint within a row, int64.
        offset_N: Shift against the base window in bars, int64.
        overlap_fraction_N: Visible share of the labelled span, float64; 1 where the file says nothing.
        quality_N: Annotation quality, str; empty where the file says nothing.
        source_N: str, likewise.
        instrument_N: str, likewise.
        start_time_N: Time of the first bar, UTC, datetime64[ns]; NaT where the file says nothing.
        is_labelled: False for files that only hold bars, to be predicted on.
    """

    name: str
    path: str
    sha256: str
    window_id_N: NDArray[np.str_]
    base_window_id_N: NDArray[np.str_]
    bars_NT4: NDArray[np.float64]
    type_N: NDArray[np.int64]
    span_offsets_N1: NDArray[np.int64]
    spans_S2: NDArray[np.int64]
    offset_N: NDArray[np.int64]
    overlap_fraction_N: NDArray[np.float64]
    quality_N: NDArray[np.str_]
    source_N: NDArray[np.str_]
    instrument_N: NDArray[np.str_]
    start_time_N: NDArray[np.datetime64]
    is_labelled: bool = True

    @property
    def num_windows(self) -> int:
        """N."""
        return int(self.bars_NT4.shape[0])

    @property
    def window_length(self) -> int:
        """T, in bars."""
        return int(self.bars_NT4.shape[1])

    @property
    def num_spans_N(self) -> NDArray[np.int64]:
        """Number of spans of each window, int64 [N]."""
        return np.diff(self.span_offsets_N1)

    @property
    def span_row_S(self) -> NDArray[np.intp]:
        """The window that each span lies in, intp [S], ascending."""
        return np.repeat(np.arange(self.num_windows), self.num_spans_N)

    def spans_of(self, row: int) -> NDArray[np.int64]:
        """Return row's spans, half-open, shape [number of spans, 2]."""
        return self.spans_S2[self.span_offsets_N1[row] : self.span_offsets_N1[row + 1]]

    def in_span_NT(self) -> NDArray[np.bool_]:
        """Return for each bar whether it lies in a span, bool [N, T]."""
        edges_NT = np.zeros((self.num_windows, self.window_length + 1), dtype=np.int64)
        np.add.at(edges_NT, (self.span_row_S, self.spans_S2[:, 0]), 1)
        np.add.at(edges_NT, (self.span_row_S, self.spans_S2[:, 1]), -1)
        return np.cumsum(edges_NT[:, :-1], axis=1) > 0

    def take(self, rows: NDArray[np.intp]) -> Windows:
        """Return some windows, in the order given; a row may be named more than once.

        Args:
            rows: Row numbers, integer [M].

        Returns:
            M windows with the same name, path and digest.
        """
        rows = np.asarray(rows, dtype=np.intp)
        num_spans_M = self.num_spans_N[rows]
        span_offsets_M1 = np.concatenate(([0], np.cumsum(num_spans_M)))
        # Position of each taken span: its row's first span, plus its rank within the row.
        rank_S = np.arange(span_offsets_M1[-1]) - np.repeat(span_offsets_M1[:-1], num_spans_M)
        taken_S = np.repeat(self.span_offsets_N1[rows], num_spans_M) + rank_S
        per_row = {name: getattr(self, name)[rows] for name in _PER_ROW}
        return Windows(
            name=self.name,
            path=self.path,
            sha256=self.sha256,
            span_offsets_N1=span_offsets_M1,
            spans_S2=self.spans_S2[taken_S],
            is_labelled=self.is_labelled,
            **per_row,
        )


_SCALARS = ("name", "path", "sha256", "is_labelled")
_ARRAYS = tuple(item.name for item in fields(Windows) if item.name not in _SCALARS)
_PER_ROW = tuple(name for name in _ARRAYS if name not in {"span_offsets_N1", "spans_S2"})


def save_arrays(windows: Windows, path: str | Path) -> None:
    """Write the windows as one uncompressed `.npz` without pickles, in one step.

    Args:
        windows: What to write.
        path: Where to; any suffix.
    """
    content = {name: getattr(windows, name) for name in _ARRAYS + _SCALARS}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, version=_ARRAYS_VERSION, **content)


def load_arrays(path: str | Path) -> Windows:
    """Read what save_arrays wrote; never unpickles.

    Raises:
        DataError: There is no such file, or it is not one that save_arrays of this version wrote.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise _not_prepared(path, "a single array")
        with loaded as data:
            if int(data["version"]) != _ARRAYS_VERSION:
                raise _not_prepared(path, f"version {int(data['version'])}")
            arrays = {name: data[name] for name in _ARRAYS}
            return Windows(
                name=str(data["name"]),
                path=str(data["path"]),
                sha256=str(data["sha256"]),
                is_labelled=bool(data["is_labelled"]),
                **arrays,
            )
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise _not_prepared(path, f"{type(error).__name__}: {error}") from error


def _not_prepared(path: str | Path, found: str) -> DataError:
    expected = f"windows that save_arrays wrote (version {_ARRAYS_VERSION})"
    return DataError([Violation(str(path), None, None, found, expected)])
