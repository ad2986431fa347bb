"""The Parquet contract: windows of bars in files, read, checked and written.

One row a window: `window_id`, `features` (lists of open, high, low, close), and for training `label` with
`expansion_start` and `expansion_end` (both inclusive; both null: no expansion) or, for several expansions,
the lists `expansion_starts` and `expansion_ends`. Optional: `base_window_id`, `offset`, `overlap_fraction`,
`source`, `quality`, `instrument`, `start_time`.

What touches Parquet imports pyarrow when it is called. Hosts without it read windows with
`windows.load_arrays`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np

from jade_model.core.errors import DataError, Violation
from jade_model.core.files import atomic_path, sha256_file
from jade_model.core.windows import Windows
from jade_model.data.parquet.files import Source, find_files
from jade_model.data.parquet.reader import check_files, scan, with_rows
from jade_model.data.parquet.rows import Rows
from jade_model.data.parquet.table import to_table
from jade_model.data.sample import NAME as SAMPLE
from jade_model.data.sample import sample_windows

_ROW_GROUP_SIZE = 8192


def load_windows(source: Source, *, name: str | None = None, require_labels: bool = True) -> Windows:
    """Read windows into memory and check them in full.

    Args:
        source: A Parquet file, a folder of them (searched through, in the order of their paths), a glob, or
            several of these; the windows of all files follow one another. Or `sample`, the built-in sample.
        name: Short name of the data set; by default the file's stem, or the folder's name for several files.
        require_labels: False reads bars only: columns with labels are neither needed, read nor checked.

    Returns:
        All windows, at least one.

    Raises:
        DataError: The files break the contract; all violations are in it.
    """
    if source == SAMPLE:
        return sample_windows()
    files, violations = _files_of(source)
    batches: list[Rows] = []
    violations += check_files(files, require_labels=require_labels, keep=batches)
    if violations:
        raise DataError(violations)
    return _join(batches, _origin_of(source, files, name), is_labelled=require_labels)


def iter_windows(source: Source, *, batch_size: int, require_labels: bool = True) -> Iterator[Windows]:
    """Check all windows, then give them batch by batch; memory does not grow with their number.

    Args:
        source: As load_windows takes it.
        batch_size: Largest number of windows a batch; batches end with their file.
        require_labels: As for load_windows.

    Yields:
        Windows in file order, checked. Their digest is that of all the files.

    Raises:
        DataError: The files break the contract; all violations are in it, before the first batch is given.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    if source == SAMPLE:
        windows = sample_windows()
        for first in range(0, windows.num_windows, batch_size):
            yield windows.take(np.arange(first, min(first + batch_size, windows.num_windows)))
        return
    files, violations = _files_of(source)
    violations += check_files(files, require_labels=require_labels)
    if violations:
        raise DataError(violations)
    origin = _origin_of(source, files, None)
    for file in files:
        for rows, wrong in scan(file, require_labels=require_labels, batch_size=batch_size):
            if wrong or rows is None:  # changed since it was checked
                raise DataError(wrong)
            yield _join([rows], origin, is_labelled=require_labels)


def write_windows(windows: Windows, path: str | Path) -> None:
    """Write the windows as one Parquet file in the contract's schema, in one step.

    Args:
        windows: What to write.
        path: Where to; an older file there is replaced.
    """
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(to_table(windows), temporary, compression="zstd", row_group_size=_ROW_GROUP_SIZE)


def _files_of(source: Source) -> tuple[list[str], list[Violation]]:
    files, violations = find_files(source)
    return with_rows(files), violations


def _join(batches: list[Rows], origin: Mapping[str, str], *, is_labelled: bool) -> Windows:
    num_spans_N = np.concatenate([rows.num_spans_N for rows in batches])
    bars_B4 = np.concatenate([rows.bars_B4 for rows in batches])
    shared = {name: np.concatenate([getattr(rows, name) for rows in batches]) for name in _SHARED_FIELDS}
    return Windows(
        name=origin["name"],
        path=origin["path"],
        sha256=origin["sha256"],
        window_id_N=np.concatenate([rows.window_id_N for rows in batches]).astype(np.str_),
        bars_NT4=bars_B4.reshape(len(num_spans_N), -1, 4),
        span_offsets_N1=np.concatenate(([0], np.cumsum(num_spans_N))),
        is_labelled=is_labelled,
        **shared,
    )


_SHARED_FIELDS = ({item.name for item in fields(Rows)} & {item.name for item in fields(Windows)}) - {"window_id_N"}


def _origin_of(source: Source, files: list[str], name: str | None) -> dict[str, str]:
    given = [source] if isinstance(source, (str, Path)) else source
    paths = [Path(file).expanduser() for file in files]
    digests = [sha256_file(path) for path in paths]
    if name is None:
        # A single file is known by its stem, several by the folder that holds the first.
        name = paths[0].stem if len(paths) == 1 else paths[0].resolve().parent.name
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return {"name": name, "path": ", ".join(str(part) for part in given), "sha256": sha256}
