"""Spans in new windows, written to files in batches: memory does not grow with the file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from jade_model.core.files import atomic_path
from jade_model.core.windows import Windows
from jade_model.data.schema import iter_windows
from jade_model.scoring.trained import COLUMNS, TrainedModel
from tasks.core.errors import BadRequest

BATCH_SIZE = 4096


def predict_file(model: TrainedModel, source: str, out: Path) -> dict[str, int]:
    """Find spans in every window of a file, folder or glob, and write one row a span (or one empty row a window).

    `expansion_end` is inclusive, as in the data files. `probability` is the mean of the span's bars. `instrument` and
    `start_time`, of the window's first bar in UTC, are empty where the source does not say them.

    Args:
        model: From open_model.
        source: Windows; labels are not needed.
        out: `.parquet` or `.csv`.

    Returns:
        Numbers of windows and spans.

    Raises:
        DataError: The source breaks the contract.
        BadRequest: The ending is unknown.
    """
    batches = iter_windows(source, batch_size=BATCH_SIZE, require_labels=False)
    return _write(model, ((batch, None) for batch in batches), out)


def predict_newest(model: TrainedModel, windows: Windows, time_NT: NDArray[np.datetime64], out: Path) -> dict[str, int]:
    """Find spans in windows whose bars' times are known, and write them with these times.

    Args:
        model: From open_model.
        windows: From newest_windows.
        time_NT: Of every bar, UTC.
        out: `.parquet` or `.csv`.

    Returns:
        Numbers of windows and spans.

    Raises:
        BadRequest: The ending is unknown.
    """
    return _write(model, [(windows, time_NT)], out)


def _write(
    model: TrainedModel, batches: Iterable[tuple[Windows, NDArray[np.datetime64] | None]], out: Path
) -> dict[str, int]:
    windows = spans = 0
    with _open_writer(out) as writer:
        for batch, time_NT in batches:
            rows = list(model.spans(batch, time_NT))
            writer.write(rows)
            windows += batch.num_windows
            spans += sum(row["expansion_start"] is not None for row in rows)
    return {"num_windows": windows, "num_spans": spans}


class _Writer(Protocol):
    def write(self, rows: Sequence[dict[str, Any]]) -> None: ...


@contextmanager
def _open_writer(out: Path) -> Iterator[_Writer]:
    """Open a table that appears under its name only once it is whole."""
    match out.suffix.lower():
        case ".csv":
            kind: type[_CsvWriter | _ParquetWriter] = _CsvWriter
        case ".parquet":
            kind = _ParquetWriter
        case _:
            raise BadRequest(f"{out}: the ending decides the format; use .parquet or .csv")
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary, kind(temporary) as writer:
        yield writer


def _utc_text(value: Any) -> Any:
    """Return times as text: 2024-01-31T14:30:00Z, with parts of a second where there are some."""
    if not isinstance(value, np.datetime64):
        return value
    seconds, _, part = str(value.astype("datetime64[ns]")).partition(".")
    return f"{seconds}.{part.rstrip('0')}".removesuffix(".") + "Z"


class _CsvWriter:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")

    def __enter__(self) -> Self:
        self._writer.writeheader()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        self._writer.writerows({name: _utc_text(value) for name, value in row.items()} for row in rows)


class _ParquetWriter:
    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        text, whole, real, time = pa.string(), pa.int32(), pa.float64(), pa.timestamp("ns", tz="UTC")
        kinds = (text, whole, whole, real, text, real, text, time, time, time)
        self._schema = pa.schema(list(zip(COLUMNS, kinds, strict=True)))
        self._writer = pq.ParquetWriter(path, self._schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        import pyarrow as pa

        columns = {field.name: [row[field.name] for row in rows] for field in self._schema}
        arrays = [
            # Arrow takes numpy's times as a whole array only; NaT is null there.
            pa.array(np.array(values, dtype="datetime64[ns]"), field.type)
            if pa.types.is_timestamp(field.type)
            else pa.array(values, field.type)
            for field, values in zip(self._schema, columns.values(), strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
