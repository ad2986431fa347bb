"""Labelled spans of a series of bars: from a table of times or bar numbers, or from Label Studio's exports.

Legend: B bars, S labelled spans.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jade_model.core.windows import TYPE_NAMES
from jade_model.data.bars import Bars
from jade_model.data.faults import Faults
from jade_model.data.text.cells import shapes_of
from jade_model.data.text.columns import NamedColumns, Reading, expanded, name_columns
from jade_model.data.text.table import TextTable, is_parquet, read_table, read_text
from jade_model.data.text.times import WrittenTimes, read_times
from jade_model.data.text.zones import resolve

if TYPE_CHECKING:
    import pyarrow as pa

_BAR_NUMBER_DIGITS = 7
_REGION = "timeserieslabels"


@dataclass(frozen=True, eq=False)
class Labels:
    """Labelled spans of a series of bars, ascending and disjoint.

    Attributes:
        spans_S2: First bar and bar behind the last, int64.
        type_S: Index into TYPE_NAMES, int64.
        notes: What was understood or left out, for people.
    """

    spans_S2: NDArray[np.int64]
    type_S: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    @staticmethod
    def none() -> Labels:
        """Return no labels."""
        return Labels(np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.int64))


@dataclass
class _Spans:
    """Spans as they are written, before anything is understood."""

    start: pa.Array
    end: pa.Array
    label: pa.Array
    line_S: NDArray[np.int64] | None
    instrument: pa.Array | None = None
    notes: list[str] = field(default_factory=list)


def read_labels(path: str | Path, bars: Bars, reading: Reading = Reading()) -> Labels:  # noqa: B008 - frozen
    """Read labelled spans: a CSV file with the columns start, end and label, or Label Studio's JSON or CSV.

    Both bounds are inclusive. An end covers what it names: a date its day, 14:35 its minute. Bounds of up to seven
    digits are bar numbers: 0 is the first bar of the file of bars, in the file's order.

    Args:
        path: The file; separators and times as in read_bars.
        bars: The bars that the spans speak of.
        reading: What the file does not say itself.

    Returns:
        The spans in the order of time; none if the file has a header alone.

    Raises:
        DataError: A value cannot be read, or a span has no bars, lies outside of them or over another one; or one of
            the two files says its times' zone, and the other does not.
    """
    faults = Faults(str(path))
    written = _read_spans(expanded(path), bars, reading, faults)
    faults.line_N = written.line_S
    written = _of_instrument(written, bars, reading, faults)
    faults.line_N = written.line_S
    names = [str(name).strip().lower() for name in written.label.to_pylist()]
    type_S = np.array([TYPE_NAMES.index(name) if name in TYPE_NAMES else -1 for name in names], dtype=np.int64)
    shown_S = written.label
    expected = f"one of {', '.join(TYPE_NAMES)}"
    faults.add_rows(type_S < 0, "label", lambda row: repr(shown_S[row].as_py()), expected)
    if not names:
        return Labels.none()
    if reading.unit is None and _are_bar_numbers(written):
        spans_S2 = _numbered(written, bars, faults)
        what = Path(bars.path).name
        written.notes.append(f"bounds are bar numbers: 0 is the first row of {what}, {bars.num_rows - 1} its last")
    else:
        spans_S2 = _timed(written, bars, reading, faults)
    faults.raise_if_any()
    order_S = np.argsort(spans_S2[:, 0], kind="stable")
    return Labels(spans_S2[order_S], type_S[order_S], tuple(written.notes))


def _read_spans(path: Path, bars: Bars, reading: Reading, faults: Faults) -> _Spans:
    text = b"" if is_parquet(path) else read_text(path, faults)
    if text.lstrip()[:1] in {b"[", b"{"}:
        return _from_json(text, bars, faults)
    table = read_table(path, faults, may_be_empty=True)
    columns = name_columns(table, reading, faults, example="start=1,end=2,label=3")
    if columns.has_header and not columns.candidates("start") and _is_label_studio(table):
        return _from_label_studio_csv(columns, bars, faults)
    found = [columns.column(what, faults) for what in ("start", "end", "label")]
    faults.raise_if_any()
    start, end, label = (columns.cells(at) for at in found if at is not None)
    series = columns.series_columns() if reading.by is None else [columns.named(reading.by)]
    names = [columns.cells(at) for at in series if at is not None]
    return _Spans(start, end, label, table.line_R, names[0] if names else None, list(table.notes))


def _of_instrument(written: _Spans, bars: Bars, reading: Reading, faults: Faults) -> _Spans:
    """Keep the spans of the bars' instrument, where both files name theirs."""
    import pyarrow as pa

    if written.instrument is None:
        if reading.by is not None:
            raise faults.stop(reading.by, "no such column", f"the column {reading.by} of the bars, in the labels too")
        return written
    names = [str(name) for name in written.instrument.to_pylist()]
    mine_S = np.array([name.lower() == bars.instrument.lower() for name in names], dtype=bool)
    others = sorted({name for name, is_mine in zip(names, mine_S, strict=True) if not is_mine})
    if mine_S.all() or not names:
        return written
    if reading.by is None and (not bars.instrument or not mine_S.any()):
        if len(set(names)) == 1 and not bars.instrument:
            return written
        expected = f"spans of {bars.instrument or 'one instrument, or bars that name theirs'}"
        raise faults.stop(None, f"spans of {', '.join(others[:5])}", expected)
    if reading.by is None:
        written.notes.append(f"{int((~mine_S).sum())} spans of {', '.join(others[:5])} left out")
    kept = pa.array(mine_S)
    return _Spans(
        written.start.filter(kept),
        written.end.filter(kept),
        written.label.filter(kept),
        None if written.line_S is None else written.line_S[mine_S],
        notes=written.notes,
    )


def _are_bar_numbers(written: _Spans) -> bool:
    shapes = {shape for cells in (written.start, written.end) for shape in shapes_of(cells).shapes}
    return all(shape.strip("9") == "" and 0 < len(shape) <= _BAR_NUMBER_DIGITS for shape in shapes)


def _numbered(written: _Spans, bars: Bars, faults: Faults) -> NDArray[np.int64]:
    """Return the bars that each pair of bar numbers encloses."""
    start_S, end_S = (np.array([int(cell) for cell in cells.to_pylist()]) for cells in (written.start, written.end))

    def shown(row: int) -> str:
        return f"bars {start_S[row]} to {end_S[row]}"

    reversed_S = start_S > end_S
    outside_S = ~reversed_S & (end_S >= bars.num_rows)
    faults.add_rows(reversed_S, "start", shown, "a start that is not after the end")
    faults.add_rows(outside_S, "end", shown, f"bars from 0 to {bars.num_rows - 1}")
    # Of a file with the newest bars first, the first number is of the last bar.
    row_B = bars.row_B
    if len(row_B) > 1 and row_B[0] > row_B[-1]:
        row_B, start_S, end_S = bars.num_rows - 1 - row_B, bars.num_rows - 1 - end_S, bars.num_rows - 1 - start_S
    spans_S2 = np.stack((np.searchsorted(row_B, start_S, "left"), np.searchsorted(row_B, end_S, "right")), axis=1)
    _check_spans(spans_S2, ~reversed_S & ~outside_S, shown, faults)
    return spans_S2


def _timed(written: _Spans, bars: Bars, reading: Reading, faults: Faults) -> NDArray[np.int64]:
    """Return the bars that each pair of times encloses."""
    rules = reading.time_rules()
    start, end = _bounds(written, reading, faults)
    start_S, is_start_zoned = resolve(start, rules.zone, "start", faults)
    end_S, is_end_zoned = resolve(end, rules.zone, "end", faults, ends=True)
    behind_start_S, _ = resolve(start, rules.zone, "start", Faults(faults.file), ends=True)
    last_S, _ = resolve(end, rules.zone, "end", Faults(faults.file))
    faults.raise_if_any()
    if bars.is_zoned != (is_start_zoned and is_end_zoned) or is_start_zoned != is_end_zoned:
        which = ("no zone", "one") if bars.is_zoned else ("a zone", "none")
        found = f"times with {which[0]} where those of the bars have {which[1]}"
        raise faults.stop("start", found, "--timezone ZONE, such as UTC or America/New_York, for those without")

    def shown(row: int) -> str:
        return f"{written.start[row].as_py()} to {written.end[row].as_py()}"

    time_B = bars.time_B
    reversed_S = start_S >= end_S
    outside_S = ~reversed_S & ((behind_start_S <= time_B[0]) | (last_S > time_B[-1]))
    faults.add_rows(reversed_S, "start", shown, "a start that is not after the end")
    ends = " to ".join(str(time.astype("datetime64[s]")) for time in (time_B[0], time_B[-1]))
    faults.add_rows(outside_S, "start", shown, f"times from {ends} UTC, where the bars are")
    spans_S2 = np.stack((np.searchsorted(time_B, start_S, "left"), np.searchsorted(time_B, end_S, "left")), axis=1)
    _check_spans(spans_S2, ~reversed_S & ~outside_S, shown, faults)
    return spans_S2


def _bounds(written: _Spans, reading: Reading, faults: Faults) -> tuple[WrittenTimes, WrittenTimes]:
    """Read both columns as one: whether days stand first in one of them shows in the other."""
    import pyarrow as pa

    rules = reading.time_rules()
    both = pa.concat_arrays([written.start, written.end])
    probe = Faults(faults.file)
    if written.line_S is not None:
        probe.line_N = np.concatenate([written.line_S, written.line_S])
    times = read_times(both, "start, end", rules, probe)
    faults.found += probe.found
    faults.raise_if_any()
    half = len(written.start)
    return times.take(slice(half)), times.take(slice(half, None))


def _check_spans(spans_S2: NDArray[np.int64], fine_S: NDArray[np.bool_], shown: Any, faults: Faults) -> None:
    """Name spans without a bar, and those that share one with an earlier span."""
    empty_S = fine_S & (spans_S2[:, 0] >= spans_S2[:, 1])
    faults.add_rows(empty_S, "start", shown, "times with at least one bar between them")
    rows = np.flatnonzero(fine_S & ~empty_S)
    rows = rows[np.argsort(spans_S2[rows, 0], kind="stable")]
    over_S = np.zeros(len(spans_S2), dtype=bool)
    if len(rows):
        over_S[rows[1:]] = spans_S2[rows[1:], 0] < np.maximum.accumulate(spans_S2[rows, 1])[:-1]
    faults.add_rows(over_S, "start", shown, "spans that share no bar with an earlier one")


def _is_label_studio(table: TextTable) -> bool:
    names = table.names or ()
    return "annotation_id" in names or any(_REGION in _first(column) for column in table.columns)


def _first(column: pa.Array) -> str:
    return str(column[0].as_py()) if len(column) else ""


def _from_json(text: bytes, bars: Bars, faults: Faults) -> _Spans:
    try:
        # Numbers stay text: the time 1592250751951.8657 is read by its digits, as in any other file.
        tasks = json.loads(text, parse_float=str, parse_int=str)
    except ValueError as error:
        raise faults.stop(None, f"no JSON ({error})", "Label Studio's export, as JSON, JSON-MIN or CSV") from error
    tasks = [tasks] if isinstance(tasks, dict) else tasks
    if not all(isinstance(task, dict) for task in tasks):
        raise faults.stop(None, "JSON that is no list of tasks", "Label Studio's export, as JSON, JSON-MIN or CSV")
    return _of_task(_one_task(tasks, bars, faults), faults)


def _from_label_studio_csv(columns: NamedColumns, bars: Bars, faults: Faults) -> _Spans:
    rows = zip(*(column.to_pylist() for column in columns.table.columns), strict=True)
    tasks: list[dict[str, Any]] = []
    for row in rows:
        task: dict[str, Any] = dict(zip(columns.names, row, strict=True))
        for name, cell in task.items():
            if cell.startswith("[") and ("start" in cell or cell == "[]"):
                try:
                    task[name] = json.loads(cell, parse_float=str, parse_int=str)
                except ValueError as error:
                    raise faults.stop(name, f"no JSON ({error})", "Label Studio's export") from error
        tasks.append(task)
    return _of_task(_one_task(tasks, bars, faults), faults)


def _one_task(tasks: Sequence[Mapping[str, Any]], bars: Bars, faults: Faults) -> Mapping[str, Any]:
    """Return the task about the bars' file: the only one, or the one that names it."""
    if len(tasks) == 1:
        return tasks[0]
    name = Path(bars.path).name
    ours = [task for task in tasks if any(source.endswith(name) for source in _sources(task))]
    if len(ours) != 1:
        found = f"{len(tasks)} tasks, {len(ours)} of them about {name}"
        raise faults.stop(None, found, "one task about the file of bars: export it alone, one annotation of it")
    return ours[0]


def _sources(task: Mapping[str, Any]) -> list[str]:
    data = task.get("data", task)
    return [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []


def _of_task(task: Mapping[str, Any], faults: Faults) -> _Spans:
    import pyarrow as pa

    if "annotations" in task:
        done = [item for item in task["annotations"] if str(item.get("was_cancelled", False)).lower() != "true"]
        if len(done) != 1:
            raise faults.stop(None, f"{len(done)} annotations of the task", "one: keep that which counts")
        results = done[0].get("result", [])
        regions = [item.get("value", {}) for item in results if item.get("type", _REGION) == _REGION]
    else:
        lists = [value for value in task.values() if isinstance(value, list)]
        regions = [item for value in lists for item in value if isinstance(item, dict) and "start" in item]
        if not lists:
            raise faults.stop(None, "no annotations", "Label Studio's export, as JSON, JSON-MIN or CSV")
    columns: dict[str, list[str]] = {"start": [], "end": [], "label": []}
    for number, region in enumerate(regions):
        labels = region.get(_REGION, [])
        if len(labels) != 1 or "start" not in region or "end" not in region:
            raise faults.stop("label", f"region {number} with the labels {labels}", "start, end and one label a region")
        columns["start"].append(str(region["start"]).strip())
        columns["end"].append(str(region["end"]).strip())
        columns["label"].append(str(labels[0]))
    arrays = [pa.array(columns[name], pa.string()) for name in ("start", "end", "label")]
    return _Spans(arrays[0], arrays[1], arrays[2], line_S=None)
