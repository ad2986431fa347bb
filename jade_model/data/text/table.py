"""A file of text, or Parquet -> a table of its cells as text, each with its line. Nothing is converted here.

Legend: R rows.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jade_model.data.faults import Faults

if TYPE_CHECKING:
    import pyarrow as pa

_EXPECTED = "a text file with a header and one bar or span a line, separated by comma, semicolon, tab or |"
# What may stand for a decimal mark or group digits comes last: none of the others occurs within a number or time.
_SEPARATORS = "\t;|,"
_HEAD_BYTES = 1 << 18
_MOST_LINES_ABOVE = 20
_PARQUET = b"PAR1"
_OTHER_FORMATS = {
    _PARQUET: "a Parquet file",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"ARROW1": "an Arrow file",
    b"SQLite format": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
}
# Looks like a value: digits with what numbers and times are written with, and no word.
_VALUE = re.compile(r"[$€£¥]?[+-]?[\d.][\d.,:/' _+-]*([eE][+-]?\d+)?([T ][\d:.]+)?( ?(Z|UTC|GMT))?([+-]\d\d:?\d\d)?")
_YFINANCE_CORNERS = {"price", "ticker", "date", "datetime", ""}


@dataclass(frozen=True, eq=False)
class TextTable:
    """Cells of one file.

    Attributes:
        names: Of the columns, as the header has them, white space aside; none where the file has no header.
        columns: Cells as Arrow strings, one array of R a column.
        line_R: The line that each row stands on, counted from 1; of Parquet the row.
        instrument: What the header says all rows are of; empty if nothing.
        notes: What was left out above the header.
        numeric: Columns that are numbers in the file itself, whose decimal mark is no question.
    """

    names: tuple[str, ...] | None
    columns: tuple[pa.Array, ...]
    line_R: NDArray[np.int64]
    instrument: str = ""
    notes: tuple[str, ...] = ()
    numeric: frozenset[int] = frozenset()


def read_table(path: Path, faults: Faults, *, may_be_empty: bool = False) -> TextTable:
    """Read a CSV file, or the one in a gzip or zip archive; UTF-8, or UTF-16 by its mark. Or Parquet.

    Args:
        path: The file.
        faults: Gets what is wrong.
        may_be_empty: Whether a header alone is enough.

    Raises:
        DataError: The file is none, or its rows differ in length.
    """
    if is_parquet(path):
        return _parquet(path, faults, may_be_empty=may_be_empty)
    content = read_text(path, faults)
    if content.lstrip()[:1] in {b"[", b"{"}:
        expected = f"{_EXPECTED}; pandas.read_json(...).to_csv(...) makes one"
        raise faults.stop(None, "JSON", expected)
    head = content[:_HEAD_BYTES].decode("utf-8", errors="ignore").split("\n")
    separator, first, notes = _top(head, faults)
    rows = [_cells(line, separator) for line in head[first : first + 4]]
    names, num_header, instrument = _header(rows, faults)
    columns, line_R = _parse(content, separator, len(rows[0]), first + num_header, faults)
    if not len(line_R) and not may_be_empty:
        raise faults.stop(None, "no rows", "at least one")
    return TextTable(names, columns, line_R, instrument, notes)


def read_text(path: Path, faults: Faults) -> bytes:
    """Return a file's text as UTF-8 with plain newlines, unpacked.

    Raises:
        DataError: There is no such file, or it holds something else than text.
    """
    try:
        content = _unpacked(path.read_bytes(), faults)
    except FileNotFoundError as error:
        raise faults.stop(None, "no such file", "a CSV file") from error
    except IsADirectoryError as error:
        raise faults.stop(None, "a folder", "a CSV file") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise faults.stop(None, f"what cannot be read ({error})", "a readable file") from error
    for magic, kind in _OTHER_FORMATS.items():
        if content.startswith(magic):
            raise faults.stop(None, kind, f"{_EXPECTED}; or Parquet")
    content = _as_utf8(content, faults)
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    start = content[:200].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise faults.stop(None, "a web page", _EXPECTED)
    return content


def is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet, by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(len(_PARQUET)) == _PARQUET
    except OSError:
        return False


def _parquet(path: Path, faults: Faults, *, may_be_empty: bool) -> TextTable:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import types

    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise faults.stop(
            None, f"what cannot be read ({str(error).splitlines()[0]})", "a whole Parquet file"
        ) from error
    if "features" in table.column_names:
        raise faults.stop("features", "windows that are cut already", "a table of raw bars, one a row")
    if not table.num_rows and not may_be_empty:
        raise faults.stop(None, "no rows", "at least one")
    columns, numeric = [], set()
    for at, column in enumerate(table.columns):
        values = pa.chunked_array(column.chunks, column.type).combine_chunks()
        if types.is_nested(values.type) or types.is_binary(values.type) or types.is_large_binary(values.type):
            columns.append(pa.array([""] * table.num_rows))
            continue
        if types.is_floating(values.type) or types.is_integer(values.type) or types.is_decimal(values.type):
            numeric.add(at)
        columns.append(_as_text(values))
    names = tuple(str(name) for name in table.column_names)
    return TextTable(names, tuple(columns), np.arange(1, table.num_rows + 1), numeric=frozenset(numeric))


def _as_text(values: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    if types.is_floating(values.type):
        values = values.cast(pa.float64())
        number_R = np.asarray(values.fill_null(np.nan).to_numpy(zero_copy_only=False))
        is_finite_R = np.isfinite(number_R)
        if (np.abs(number_R[is_finite_R]) < 2**53).all() and (np.mod(number_R[is_finite_R], 1) == 0).all():
            # Whole numbers keep all their digits: times since 1970 are read by them.
            values = pa.array(np.where(is_finite_R, number_R, 0).astype(np.int64), mask=np.isnan(number_R))
    text = values.cast(pa.string()).fill_null("")
    return pc.utf8_trim_whitespace(text)


def _unpacked(content: bytes, faults: Faults) -> bytes:
    if content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    if not content.startswith(b"PK\x03\x04"):
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
        if "[Content_Types].xml" in names:
            raise faults.stop(None, "an Excel workbook", "a CSV file: save the sheet as one")
        if len(names) != 1:
            raise faults.stop(None, f"an archive of {', '.join(sorted(names)) or 'nothing'}", "one file in it")
        return archive.read(names[0])


def _as_utf8(content: bytes, faults: Faults) -> bytes:
    marks = {b"\xff\xfe\x00\x00": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise faults.stop(
            None, f"text that is not {encoding.upper()}", "UTF-8, or UTF-16 with its mark: save it so", line=line
        ) from error
    if "\0" in text:
        raise faults.stop(None, "binary data", _EXPECTED)
    return content if encoding == "utf-8" else text.encode()


def _top(head: list[str], faults: Faults) -> tuple[str, int, tuple[str, ...]]:
    """Return the separator, the number of lines above the header, and a word on those that said something."""
    notes: list[str] = []
    for number, line in enumerate(head[:_MOST_LINES_ABOVE]):
        said = line.strip()
        hint = re.fullmatch(r'"?sep=(.)"?', said, re.IGNORECASE)
        found = [separator for separator in _SEPARATORS if len(_cells(line, separator)) > 1]
        is_comment = said.startswith(("#", "//")) and not _names_prices(said)
        if said and not hint and found and not is_comment:
            return _only_separator(found, number + 1, faults), number, tuple(notes)
        if said and not hint:
            notes.append(f"line {number + 1} left out: {said[:100]!r}")
    filled = [line for line in head if line.strip()]
    raise faults.stop(None, f"no separator in {filled[0][:80]!r}" if filled else "an empty file", _EXPECTED)


def _names_prices(line: str) -> bool:
    """Return whether a line that starts as a comment does is the header: `#time,open,high,low,close`, `# t,o,h,l,c`."""
    words = set(re.findall(r"[a-z]+", line.lower()))
    return words >= {"open", "close"} or words >= {"o", "c"} or words >= {"start", "end"}


def _only_separator(found: list[str], number: int, faults: Faults) -> str:
    marks = [separator for separator in found if separator != ","]
    if len(marks) > 1:
        shown = " and ".join(repr(mark) for mark in marks)
        raise faults.stop(None, f"{shown} both as separators", "one of them", line=number)
    return marks[0] if marks else ","


def _cells(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [""])


def _header(rows: list[list[str]], faults: Faults) -> tuple[tuple[str, ...] | None, int, str]:
    """Return the columns' names, how many lines they take, and the instrument they name."""
    names = tuple(cell.strip() for cell in rows[0])
    if is_data(rows[0]):
        return None, 0, ""
    # yfinance: names, tickers, and a line that names the index alone.
    for depth in (2, 1):
        if len(rows) <= depth or len(rows[depth]) != len(names) or len(names) < 3:
            continue
        corners = {row[0].strip().lower() for row in rows[: depth + 1]}
        index = rows[depth][0].strip()
        if index.lower() in {"date", "datetime"} and not any(cell.strip() for cell in rows[depth][1:]):
            if not corners <= _YFINANCE_CORNERS:
                break
            return _yfinance(rows[: depth + 1], faults)
    return names, 1, ""


def _yfinance(rows: list[list[str]], faults: Faults) -> tuple[tuple[str, ...], int, str]:
    upper = [[cell.strip() for cell in row[1:]] for row in rows[:-1]]
    level = next((row for row in upper if "close" in {cell.lower() for cell in row}), upper[0])
    tickers = sorted({cell for row in upper if row is not level for cell in row if cell})
    if len(tickers) > 1:
        raise faults.stop(None, f"tickers side by side: {', '.join(tickers)}", "one ticker a file", line=1)
    return (rows[-1][0].strip(), *level), len(rows), "".join(tickers)


def is_data(cells: list[str]) -> bool:
    """Return whether a line holds values rather than names: at least half of its filled cells do."""
    filled = [cell.strip() for cell in cells if cell.strip()]
    if filled and [cell for cell in filled if cell.isdigit()] == [str(number) for number in range(len(filled))]:
        return False  # pandas numbers columns without names
    return 2 * sum(_VALUE.fullmatch(cell) is not None for cell in filled) >= max(len(filled), 1)


def _parse(
    content: bytes, separator: str, num_columns: int, num_above: int, faults: Faults
) -> tuple[tuple[pa.Array, ...], NDArray[np.int64]]:
    """Return the columns below the header, without blank lines, and the rows' lines."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as arrow_csv

    names = [str(number) for number in range(num_columns)]
    odd: list[tuple[int, int]] = []

    def note(row: arrow_csv.InvalidRow) -> str:
        if row.text.strip():
            odd.append((row.number, row.actual_columns))
        skipped.append(row.number)
        return "skip"

    skipped: list[int] = []
    body = content.rstrip(b" \n") + b"\n"
    num_lines = body.count(b"\n")
    if num_lines <= num_above or not content.strip():
        return tuple(pa.array([], pa.string()) for _ in names), np.zeros(0, dtype=np.int64)
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(body),
            # Only one thread numbers the rows; a block as large as the file keeps them together.
            read_options=arrow_csv.ReadOptions(
                use_threads=False, skip_rows=num_above, column_names=names, block_size=len(body) + 1
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator, ignore_empty_lines=False, invalid_row_handler=note
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise faults.stop(None, f"what cannot be read ({str(error).splitlines()[0]})", _EXPECTED) from error
    is_row_L = np.ones(num_lines + 1, dtype=bool)
    is_row_L[: num_above + 1] = is_row_L[skipped] = False
    line_R = np.flatnonzero(is_row_L)
    if len(line_R) != table.num_rows:
        raise faults.stop(None, "line breaks within quotes", "one row a line")
    expected = f"{num_columns}, as in the lines before"
    for number, count in odd:
        faults.add(None, f"{count} cells", expected, line=number)
    faults.raise_if_any()
    columns = [pc.utf8_trim_whitespace(column.combine_chunks()) for column in table.columns]
    columns = [column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for column in columns]
    is_blank_R = np.ones(table.num_rows, dtype=bool)
    for column in columns:
        is_blank_R &= np.asarray(pc.equal(column, "").to_numpy(zero_copy_only=False), dtype=bool)
    kept = pa.array(~is_blank_R)
    return tuple(column.filter(kept) for column in columns), line_R[~is_blank_R]
