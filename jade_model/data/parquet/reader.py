"""Parquet files -> checked batches: which files, in what order, and what can only be seen across batches.

Legend: N rows of one batch, R rows of one file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import Violation
from jade_model.core.windows import MAX_WINDOW_LENGTH, MIN_WINDOW_LENGTH
from jade_model.data.faults import Faults
from jade_model.data.parquet.files import named_by_folders
from jade_model.data.parquet.layout import EXPECTED, TEXTS, check_layout
from jade_model.data.parquet.rows import Rows, decode_batch

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_BATCH_SIZE = 1024
_READ_BUFFER_BYTES = 1 << 20


def scan(
    file: str, *, require_labels: bool, batch_size: int = _BATCH_SIZE
) -> Iterator[tuple[Rows | None, list[Violation]]]:
    """Read and check one file batch by batch, with memory for one batch.

    Args:
        file: Path.
        require_labels: False reads no column that labelling made.
        batch_size: Largest number of rows a batch.

    Yields:
        A batch's rows and what is wrong with them, the first time also what is with the file as a whole; no rows where
        nothing can be read (any more).
    """
    import pyarrow as pa

    faults = Faults(file)
    named = {name: value for name, value in named_by_folders(file).items() if name in TEXTS}
    try:
        with _open(file) as parquet:
            given = set(named) - set(parquet.schema_arrow.names)
            for name in sorted({*named_by_folders(file)} & EXPECTED.keys() - {*TEXTS, *parquet.schema_arrow.names}):
                faults.add(name, "it in the name of a folder", "a column in the file: folders only name text")
            columns = check_layout(parquet.schema_arrow, faults, require_labels=require_labels, given=given)
            if parquet.metadata.num_rows == 0:
                faults.add(None, "no rows", "at least one window")
            elif columns:
                # Threads read ahead, and with that the memory would grow with the file.
                for batch in parquet.iter_batches(batch_size, columns=columns, use_threads=False):
                    rows = decode_batch(batch, faults, named)
                    yield rows, faults.found
                    faults = Faults(file, faults.first_row + batch.num_rows)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError) as error:
        # Nothing is wrong with the file: this reader does not know what it holds.
        found = f"types that Jade cannot read ({str(error).strip().splitlines()[0]})"
        faults.add(None, found, "plain strings, numbers, lists and timestamps")
    except (pa.ArrowException, OSError) as error:
        cut = "" if file.lower().endswith(".parquet") else "; `jade window` cuts windows out of raw bars"
        faults.add(None, _reason(file, error), f"a readable Parquet file{cut}")
    if faults.found:
        yield None, faults.found


def with_rows(files: list[str]) -> list[str]:
    """Leave out files without rows, as Spark writes them for empty parts, if others have some."""
    import pyarrow as pa

    filled = []
    for file in files if len(files) > 1 else []:
        try:
            with _open(file) as parquet:
                is_empty = parquet.metadata.num_rows == 0
        except (pa.ArrowException, OSError):
            is_empty = False  # named by whoever reads it
        filled += [] if is_empty else [file]
    return filled or files


def check_files(files: list[str], *, require_labels: bool, keep: list[Rows] | None = None) -> list[Violation]:
    """Read all files once and name everything that breaks the contract.

    Args:
        files: Paths.
        require_labels: As in scan.
        keep: Gets the rows of every batch, for as long as nothing is wrong; None keeps memory flat.

    Returns:
        Violations in the order of files and rows, those of whole files first.
    """
    violations: list[list[Violation]] = []
    lengths_R: list[NDArray[np.int32]] = []
    hashes_R: list[NDArray[np.int64]] = []
    for file in files:
        found: list[Violation] = []
        length_batches, hash_batches = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.int64)]
        for rows, wrong in scan(file, require_labels=require_labels):
            found += wrong
            if rows is not None:
                length_batches.append(rows.length_N.astype(np.int32))
                # 8 bytes a window instead of a string: a million windows are checked in flat memory.
                hash_batches.append(np.fromiter(map(hash, rows.window_id_N), np.int64, len(rows.window_id_N)))
                if keep is not None and not found:
                    keep.append(rows)
        violations.append(found)
        lengths_R.append(np.concatenate(length_batches))
        hashes_R.append(np.concatenate(hash_batches))
    across = _wrong_lengths(files, lengths_R) + _duplicates(files, hashes_R)
    for number, file in enumerate(files):
        violations[number] += [violation for violation in across if violation.file == file]
        violations[number].sort(key=lambda violation: -1 if violation.row is None else violation.row)
    return [violation for of_file in violations for violation in of_file]


def _wrong_lengths(files: list[str], lengths_R: list[NDArray[np.int32]]) -> list[Violation]:
    """Name windows of another length than most of their file, and files of another length than the first.

    Args:
        files: Paths.
        lengths_R: For each file, the number of bars of each row; -1 where unknown.

    Returns:
        Violations, file by file.
    """
    violations = []
    first: tuple[str, int] | None = None
    for file, length_R in zip(files, lengths_R, strict=True):
        if not (length_R >= 0).any():
            continue
        usual = _commonest(length_R[length_R >= 0])
        wrong = np.flatnonzero((length_R >= 0) & (length_R != usual))
        ids = _identifiers_at(file, wrong)
        if not MIN_WINDOW_LENGTH <= usual <= MAX_WINDOW_LENGTH:
            expected = f"{MIN_WINDOW_LENGTH} to {MAX_WINDOW_LENGTH} bars"
            violations.append(Violation(file, None, "features", f"windows of {usual} bars", expected))
        violations += [
            Violation(file, row, "features", f"{length_R[row]} bars", f"{usual} bars, as in most rows", ids.get(row))
            for row in wrong.tolist()
        ]
        first = first or (file, usual)
        if usual != first[1]:
            expected = f"{first[1]} bars, as in {first[0]}"
            violations.append(Violation(file, None, "features", f"windows of {usual} bars", expected))
    return violations


def _commonest(length_R: NDArray[np.int32]) -> int:
    values, firsts, counts = np.unique(length_R, return_index=True, return_counts=True)
    # Of equally common ones, the first in the file.
    return int(values[np.lexsort((firsts, -counts))[0]])


def _open(file: str) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(Path(file).expanduser(), buffer_size=_READ_BUFFER_BYTES, pre_buffer=False)


def _reason(file: str, error: Exception) -> str:
    path = Path(file).expanduser()
    if path.is_file() and path.stat().st_size == 0:
        return "an empty file"
    return f"no Parquet file, or a damaged one ({str(error).strip().splitlines()[0]})"


def _duplicates(files: list[str], hashes_R: list[NDArray[np.int64]]) -> list[Violation]:
    """Name every identifier that stood before. Equal hashes are only a suspicion: the strings decide."""
    none = np.zeros(0, dtype=np.int64)
    values, counts = np.unique(np.concatenate([none, *hashes_R]), return_counts=True)
    suspects = values[counts > 1]
    if not len(suspects):
        return []
    violations = []
    seen: dict[str, tuple[str, int]] = {}
    for file, hash_R in zip(files, hashes_R, strict=True):
        for row, window_id in _identifiers_at(file, np.flatnonzero(np.isin(hash_R, suspects))).items():
            if window_id not in seen:
                seen[window_id] = (file, row)
                continue
            other_file, other_row = seen[window_id]
            place = f"row {other_row}" + ("" if other_file == file else f" of {other_file}")
            found = f"{window_id!r}, as in {place}"
            violations.append(Violation(file, row, "window_id", found, "an identifier of its own", window_id))
    return violations


def _identifiers_at(file: str, rows: NDArray[np.int64]) -> dict[int, str]:
    """Return the identifiers of some rows, by row, ascending; rows without one are left out."""
    if not len(rows):
        return {}
    found = {}
    for first_row, window_id_N in _identifier_batches(file):
        inside = rows[(rows >= first_row) & (rows < first_row + len(window_id_N))]
        found.update({row: window_id_N[row - first_row] for row in inside.tolist()})
    return {row: window_id for row, window_id in found.items() if window_id}


def _identifier_batches(file: str) -> Iterator[tuple[int, NDArray[np.object_]]]:
    """Yield first row and identifiers of each batch; none where they cannot be read, for scan names that."""
    import pyarrow as pa

    first_row = 0
    try:
        with _open(file) as parquet:
            if "window_id" not in check_layout(parquet.schema_arrow, Faults(file), require_labels=False):
                return
            for batch in parquet.iter_batches(_BATCH_SIZE, columns=["window_id"], use_threads=False):
                yield first_row, decode_batch(batch, Faults(file)).window_id_N
                first_row += batch.num_rows
    except (pa.ArrowException, OSError):
        return
