"""Spans in new windows, in batches: memory does not grow with the file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from jade_model.core.checkpoint import load_checkpoint
from jade_model.core.errors import CheckpointError
from jade_model.core.files import atomic_path, write_atomically
from jade_model.core.job import check_relative
from jade_model.core.windows import TYPE_NAMES, Windows
from jade_model.data.schema import iter_windows
from jade_model.scoring.decoding import DecoderChoice, decode
from jade_model.scoring.metrics import spans_from_mask
from jade_model.scoring.predict import Predictor, load_predictor, predict
from tasks.core.errors import BadRequest

DECODING_NAME = "decoding.json"
BATCH_SIZE = 4096
COLUMNS = (
    "window_id",
    "expansion_start",
    "expansion_end",
    "probability",
    "label",
    "label_probability",
    "instrument",
    "start_time",
    "expansion_start_time",
    "expansion_end_time",
)


@dataclass(frozen=True)
class Decoding:
    """How a trained model's output becomes spans; lies beside its checkpoint once it was evaluated.

    Attributes:
        choice: Decoder and cut-off.
        temperature: What the span scores are divided by.
        members: Checkpoints of the ensemble, relative to this file's folder.
    """

    choice: DecoderChoice
    temperature: float
    members: tuple[str, ...]


def save_decoding(decoding: Decoding, folder: Path) -> None:
    """Write `decoding.json` into a training's folder."""
    content = {
        **asdict(decoding.choice),
        "temperature": decoding.temperature,
        "members": list(decoding.members),
    }
    write_atomically(folder / DECODING_NAME, json.dumps(content, indent=2) + "\n")


def load_decoding(folder: Path) -> Decoding | None:
    """Read what save_decoding wrote; None where there is none.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = folder / DECODING_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        temperature, members = float(content.pop("temperature")), tuple(map(str, content.pop("members")))
        for member in members:
            check_relative(member, f"{path}: member")
        return Decoding(DecoderChoice(**content), temperature, members)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def open_model(model_path: Path, *, device: str) -> tuple[Predictor, Decoding | None]:
    """Load a checkpoint, or the model or ensemble of a training's folder.

    Raises:
        CheckpointError: It is no checkpoint, or the folder holds none.
        BadRequest: The path does not exist.
    """
    if not model_path.exists():
        raise BadRequest(f"there is no {model_path}")
    folder = model_path if model_path.is_dir() else model_path.parent
    decoding = load_decoding(folder)
    if not model_path.is_dir():
        return load_predictor(model_path, device=device), decoding
    if decoding is not None:
        return load_predictor([folder / member for member in decoding.members], device=device), decoding
    found = sorted(folder.glob("checkpoint_*.pt"))
    if len(found) != 1:
        raise CheckpointError(f"{folder} holds {len(found)} files checkpoint_*.pt; name the one that is meant")
    return load_predictor(found[0], device=device), None


def trained_length(model_path: Path) -> int:
    """Return the number of bars in the windows that a model was trained on.

    Raises:
        CheckpointError: As open_model.
    """
    if not model_path.is_dir():
        return load_checkpoint(model_path).window_length
    decoding = load_decoding(model_path)
    members = [] if decoding is None else [model_path / member for member in decoding.members]
    return load_checkpoint((members or sorted(model_path.glob("checkpoint_*.pt")))[0]).window_length


def predict_file(
    predictor: Predictor, choice: DecoderChoice, temperature: float, source: str, out: Path
) -> dict[str, int]:
    """Find spans in every window of a file, folder or glob, and write one row a span (or one empty row a window).

    `expansion_end` is inclusive, as in the data files. `probability` is the mean of the span's bars. `instrument` and
    `start_time`, of the window's first bar in UTC, are empty where the source does not say them.

    Args:
        predictor: From open_model.
        choice: How to decode.
        temperature: What the span scores are divided by.
        source: Windows; labels are not needed.
        out: `.parquet` or `.csv`.

    Returns:
        Numbers of windows and spans.

    Raises:
        DataError: The source breaks the contract.
        BadRequest: The ending is unknown.
    """
    batches = iter_windows(source, batch_size=BATCH_SIZE, require_labels=False)
    return _write(predictor, choice, temperature, ((batch, None) for batch in batches), out)


def predict_newest(
    predictor: Predictor,
    choice: DecoderChoice,
    temperature: float,
    windows: Windows,
    time_NT: NDArray[np.datetime64],
    out: Path,
) -> dict[str, int]:
    """Find spans in windows whose bars' times are known, and write them with these times.

    Args:
        predictor: From open_model.
        choice: How to decode.
        temperature: What the span scores are divided by.
        windows: From newest_windows.
        time_NT: Of every bar, UTC.
        out: `.parquet` or `.csv`.

    Returns:
        Numbers of windows and spans.

    Raises:
        BadRequest: The ending is unknown.
    """
    return _write(predictor, choice, temperature, [(windows, time_NT)], out)


def _write(
    predictor: Predictor,
    choice: DecoderChoice,
    temperature: float,
    batches: Iterable[tuple[Windows, NDArray[np.datetime64] | None]],
    out: Path,
) -> dict[str, int]:
    windows = spans = 0
    with _open_writer(out) as writer:
        for batch, time_NT in batches:
            rows = list(_rows(predictor, choice, temperature, batch, time_NT))
            writer.write(rows)
            windows += batch.num_windows
            spans += sum(row["expansion_start"] is not None for row in rows)
    return {"num_windows": windows, "num_spans": spans}


def _rows(
    predictor: Predictor,
    choice: DecoderChoice,
    temperature: float,
    batch: Windows,
    time_NT: NDArray[np.datetime64] | None,
) -> Iterator[dict[str, Any]]:
    predictions = predict(predictor, batch, temperature=temperature)
    mask_NT = decode(predictions, choice)
    row_S, start_S, end_S = spans_from_mask(mask_NT)
    first_N = np.searchsorted(row_S, np.arange(batch.num_windows + 1))
    type_N = predictions.type_probability_N3.argmax(axis=1)
    for row in range(batch.num_windows):
        start_time = batch.start_time_N[row]
        told = dict.fromkeys(COLUMNS) | {
            "window_id": str(batch.window_id_N[row]),
            "label": TYPE_NAMES[type_N[row]],
            "label_probability": float(predictions.type_probability_N3[row, type_N[row]]),
            "instrument": str(batch.instrument_N[row]) or None,
            "start_time": None if np.isnat(start_time) else start_time,
        }
        found = range(first_N[row], first_N[row + 1])
        if not found:
            yield told
        for span in found:
            start, end = int(start_S[span]), int(end_S[span])
            probability = float(predictions.probability_NT[row, start:end].mean())
            told |= {"expansion_start": start, "expansion_end": end - 1, "probability": probability}
            if time_NT is not None:
                told |= {"expansion_start_time": time_NT[row, start], "expansion_end_time": time_NT[row, end - 1]}
            yield dict(told)


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
