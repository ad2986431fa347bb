"""Raw bars from text or Parquet, checked: nothing is guessed, and where two readings are possible neither is taken.

Legend: R rows of the file, B bars.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jade_model.data.faults import Faults
from jade_model.data.parquet.bars import impossible_prices, shown_bar
from jade_model.data.text.cells import DecimalMark, Numbers, read_numbers
from jade_model.data.text.columns import PRICES, NamedColumns, Reading, expanded, name_columns, plain_name
from jade_model.data.text.order import ascending_rows, check_jumps, check_order
from jade_model.data.text.table import read_table
from jade_model.data.text.times import A_TIME, UNITS, WrittenTimes, is_clock_alone, is_date_alone, read_times
from jade_model.data.text.zones import resolve

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_MOST_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Bars:
    """One instrument's bars, oldest first.

    Attributes:
        time_B: UTC, datetime64[ns], strictly ascending; steps may differ where bars are absent.
        bars_B4: Open, high, low, close, float64.
        row_B: The file's data row of each bar, from 0, as bar numbers count them.
        num_rows: Data rows of the file.
        is_zoned: Whether the times are known to be UTC; if not, they are taken as such.
        instrument: As the file names it; empty if it does not.
        path: The file.
        notes: What was understood or left out, for people.
    """

    time_B: NDArray[np.datetime64]
    bars_B4: NDArray[np.float64]
    row_B: NDArray[np.int64]
    num_rows: int
    is_zoned: bool
    instrument: str = ""
    path: str = ""
    notes: tuple[str, ...] = ()


def read_bars(path: str | Path, reading: Reading = Reading()) -> list[Bars]:  # noqa: B008 - frozen
    """Read bars from a text file, CSV or what docs/data.md lists of vendors' formats, or from a Parquet file.

    Args:
        path: The file; its columns are known by name, or as `reading` says.
        reading: What the file does not say itself.

    Returns:
        The bars; several series where `reading.by` names a column that tells them apart.

    Raises:
        DataError: A value is no price or time, times are not in order, or something can be read two ways; all is named.
        ConfigError: The reading contradicts itself.
    """
    faults = Faults(str(path))
    table = read_table(expanded(path), faults)
    columns = name_columns(table, reading, faults, example="time=1,open=2,high=3,low=4,close=5")
    faults.line_N = table.line_R
    price_columns = [columns.column(what, faults) for what in PRICES]
    time_cells = _time_columns(columns, faults)
    faults.raise_if_any()
    series = _series(columns, faults)
    times = _times(columns, time_cells, faults)
    texts = [columns.cells(at) for at in price_columns if at is not None]
    marks = ["." if at in table.numeric else reading.decimal for at in price_columns]
    prices = [_prices(*price, faults) for price in zip(texts, PRICES, marks, strict=True)]
    faults.raise_if_any()
    price_R4 = np.stack([numbers.value_R for numbers in prices], axis=1)
    is_missing_R = np.any([numbers.is_missing_R for numbers in prices], axis=0)
    rows = _Rows(columns, times, texts, price_R4, is_missing_R, faults)
    found = [_bars_of(rows, rows_B, name or table.instrument) for name, rows_B in series.items()]
    faults.raise_if_any()
    return [bars for bars in found if bars is not None]


def bars_of_frame(frame: pd.DataFrame, instrument: str = "") -> Bars:
    """Take one series of bars from a table.

    Args:
        frame: Columns open, high, low, close in any case, and times in a column time, timestamp, datetime or date, or
            as the index; times without a zone are taken as UTC. Other columns are left alone.
        instrument: Its name.

    Raises:
        DataError: A column is missing or stands twice, a value is no price or time, or times do not ascend.
    """
    import pandas as pd

    faults = Faults(instrument or "(table of bars)")
    names = [str(name).strip().lower() for name in frame.columns]
    for name in PRICES:
        if names.count(name) != 1:
            faults.add(name, f"{names.count(name)} columns of that name", "one; the table has " + ", ".join(names))
    faults.raise_if_any()
    timed = [at for at, name in enumerate(names) if name in _FRAME_TIMES]
    if len(timed) > 1 or not (timed or isinstance(frame.index, pd.DatetimeIndex)):
        found = ", ".join(names[at] for at in timed) or "no column and no index of times"
        raise faults.stop("time", found, f"one column {', '.join(_FRAME_TIMES)}, or an index of times")
    given = frame.iloc[:, timed[0]] if timed else frame.index
    if not pd.api.types.is_datetime64_any_dtype(given):
        raise faults.stop("time", f"values of kind {given.dtype}", "times: pandas.to_datetime makes them of text")
    index = pd.DatetimeIndex(given)
    is_zoned = index.tz is not None
    utc = index.tz_convert("UTC").tz_localize(None) if is_zoned else index
    time_B = np.asarray(utc, dtype="datetime64[ns]")
    try:
        bars_B4 = np.stack([frame.iloc[:, names.index(name)].to_numpy(dtype=np.float64) for name in PRICES], axis=1)
    except (TypeError, ValueError) as error:
        raise faults.stop(
            "open", f"values that are no numbers ({error})", "numbers in open, high, low, close"
        ) from error
    faults.add_rows(np.isnat(time_B), "time", lambda _: "no time", "a time")
    late_B = np.concatenate([[False], time_B[1:] <= time_B[:-1]])
    faults.add_rows(late_B, "time", lambda row: str(time_B[row]), "times that ascend, each once (frame.sort_index())")
    _check_prices(bars_B4, faults)
    faults.raise_if_any()
    return Bars(time_B, bars_B4, np.arange(len(time_B)), len(time_B), is_zoned, instrument, faults.file)


_FRAME_TIMES = ("time", "timestamp", "datetime", "date")


@dataclass(frozen=True, eq=False)
class _TimeColumn:
    name: str
    times: WrittenTimes
    zone: str | None


def _time_columns(columns: NamedColumns, faults: Faults) -> list[tuple[str, pa.Array]]:
    """Return each column that may hold the bars' times; a date and a time of day count as one."""
    import pyarrow.compute as pc

    found = columns.candidates("time")
    said_date = columns.candidates("date") if "date" in columns.reading.columns else []
    dates = said_date or [at for at in found if plain_name(columns.names[at])[0] in {"date", "dt", "dtyyyymmdd"}]
    clocks = [at for at in found if at not in dates and is_clock_alone(columns.cells(at))]
    pairs = [(date, clock) for date in dates for clock in clocks if is_date_alone(columns.cells(date))]
    if len(pairs) == 1:
        date, clock = pairs[0]
        name = f"{columns.names[date]} {columns.names[clock]}".strip() or "date time"
        joined = pc.binary_join_element_wise(columns.cells(date), columns.cells(clock), " ")
        rest = [at for at in found if at not in {date, clock}]
        return [(name, joined), *((columns.names[at], columns.cells(at)) for at in rest)]
    if not found and "time" not in columns.reading.columns:
        # pandas writes an index without a name in a column without one, or of these names.
        of_pandas = {"", "index", "unnamed: 0", "__index_level_0__"}
        found = [at for at, name in enumerate(columns.names) if name.lower() in of_pandas]
        found = [at for at in found if columns.has_header]
    if not found:
        expected = "a column time, timestamp, datetime or date; --columns time=NAME says which it is"
        faults.add("time", columns.missing("time"), expected)
    return [(columns.names[at] or "time", columns.cells(at)) for at in found]


def _times(columns: NamedColumns, cells: list[tuple[str, pa.Array]], faults: Faults) -> _TimeColumn:
    """Read the times; where several columns have some, they have to agree, and the most precise one counts."""
    rules = columns.reading.time_rules()
    read: list[_TimeColumn] = []
    for name, column in cells:
        # Faults of a column that holds no times at all are not the file's, if another one does.
        own = Faults(faults.file, line_N=faults.line_N)
        zone = "UTC" if plain_name(name)[1] else rules.zone
        day_first = rules.day_first
        if day_first is None and name.lower() == "gmt time":
            day_first = True  # Dukascopy's name for them, and its order
        times = read_times(column, name, replace(rules, day_first=day_first), own)
        if len(cells) > 1 and not times.is_read_R.any() and set(column.unique().to_pylist()) <= _NO_TIMES:
            continue
        faults.found += own.found
        read.append(_TimeColumn(name, times, zone))
    if not read:
        raise faults.stop("time", "no column with times", f"{A_TIME}; --columns time=NAME says where")
    faults.raise_if_any()
    best = min(read, key=lambda item: (int(item.times.precision_R.max()), not item.times.has_zone_R.any()))
    _check_other_parts(columns, best.times, faults)
    for other in read:
        if other is not best:
            _check_agreement(best, other, faults)
    return best


def _check_other_parts(columns: NamedColumns, times: WrittenTimes, faults: Faults) -> None:
    """Refuse times beside a column that holds a part of them: a zone, an hour, AM or PM; unless the user says it."""
    reading = columns.reading
    for at, name in enumerate(columns.names):
        values = [value for value in columns.cells(at).unique().to_pylist() if value]
        is_zone = plain_name(name)[0] in _ZONE_NAMES and reading.zone is None and not times.has_zone_R.all()
        is_part = plain_name(name)[0] in _PARTS and "time" not in reading.columns and not times.has_zone_R.all()
        if values and (is_zone or is_part):
            found = f"{', '.join(values[:_MOST_SHOWN])} beside times without it"
            expected = "--timezone ZONE, such as America/New_York" if is_zone else "whole times in one column, or two"
            raise faults.stop(name, found, expected)


def _check_agreement(best: _TimeColumn, other: _TimeColumn, faults: Faults) -> None:
    first_R, _ = resolve(best.times, best.zone, best.name, Faults(faults.file))
    second_R, _ = resolve(other.times, other.zone, other.name, Faults(faults.file))
    both_R = ~np.isnat(first_R) & ~np.isnat(second_R)
    ahead_R = np.where(both_R, (first_R - second_R).astype(np.int64), 0)
    differs_R = both_R & ((ahead_R < 0) | (ahead_R >= np.maximum(other.times.precision_R, 1)))
    if differs_R.any():
        row = int(np.flatnonzero(differs_R)[0])
        said = f"{best.name} says {shown_time(first_R[row])}, {other.name} {shown_time(second_R[row])}"
        found = f"two columns of times that differ: {said}"
        expected = "one column of times: --columns time=NAME says which"
        raise faults.stop(None, found, expected, line=faults.line_of(row))


def _series(columns: NamedColumns, faults: Faults) -> dict[str, NDArray[np.intp]]:
    """Return the rows of each series by its name; "" where nothing names it."""
    by = columns.reading.by
    tells = columns.series_columns()
    if by is not None:
        at = columns.named(by)
        if at is None:
            raise faults.stop(by, columns.missing(by), "the name of a column for --by")
        tells = [at, *(other for other in tells if other != at)]
    rows = {"": np.arange(len(columns.table.line_R))}
    for at in tells:
        column = columns.cells(at).dictionary_encode()
        names = [str(name) for name in column.dictionary.to_pylist()]
        index_R = np.asarray(column.indices.to_numpy(zero_copy_only=False))
        if by is not None and at == tells[0]:
            rows = {name: np.flatnonzero(index_R == number) for number, name in enumerate(names)}
            continue
        for series, rows_B in rows.items():
            inside = sorted({names[number] for number in np.unique(index_R[rows_B])} - {""})
            if len(inside) > 1:
                shown = ", ".join(inside[:_MOST_SHOWN]) + (", ..." if len(inside) > _MOST_SHOWN else "")
                of = f" within {series}" if series else ""
                expected = f"one series of bars a file, or --by {columns.names[at]} to cut each on its own"
                raise faults.stop(columns.names[at], f"{len(inside)} values{of}: {shown}", expected)
        if list(rows) == [""] and len(names) == 1 and plain_name(columns.names[at])[0] in _INSTRUMENT_NAMES:
            rows = {names[0]: rows[""]}
    return rows


_ZONE_NAMES = {"tz", "timezone", "time zone", "zone", "tzname", "utc offset", "offset", "tz offset", "gmtoffset"}
_PARTS = {"hour", "minute", "second", "millisecond", "ms", "msec", "am/pm", "am pm", "ampm", "meridiem"}
_NO_TIMES = {"", "NaT", "nan", "NaN", "null", "None"}
_INSTRUMENT_NAMES = {"symbol", "ticker", "instrument", "pair"}


def _prices(cells: pa.Array, name: str, decimal: DecimalMark | None, faults: Faults) -> Numbers:
    numbers = read_numbers(cells, decimal)
    if numbers.has_comma_R.any():
        row = int(np.flatnonzero(numbers.has_comma_R)[0])
        found = f"a comma in {cells[row].as_py()!r}"
        expected = "--decimal , where it is the decimal mark, --decimal . where it groups thousands"
        raise faults.stop(name, found, expected, line=faults.line_of(row))
    faults.add_rows(numbers.is_bad_R, name, lambda row: repr(cells[row].as_py()), "a finite price")
    return numbers


@dataclass(frozen=True, eq=False)
class _Rows:
    """What was read of a file's rows, all series together; prices as text and as numbers."""

    columns: NamedColumns
    times: _TimeColumn
    texts: list[pa.Array]
    price_R4: NDArray[np.float64]
    is_missing_R: NDArray[np.bool_]
    faults: Faults


def _bars_of(rows: _Rows, rows_B: NDArray[np.intp], instrument: str) -> Bars | None:
    """Return one series in ascending order, without rows that lack a price; name what is wrong with it."""
    table, times, faults = rows.columns.table, rows.times, rows.faults
    missing_B = rows.is_missing_R[rows_B]
    said = list(table.notes)
    if missing_B.any():
        lines = table.line_R[rows_B[missing_B]].tolist()
        shown = ", ".join(map(str, lines[:_MOST_SHOWN])) + (", ..." if len(lines) > _MOST_SHOWN else "")
        said.append(f"{len(lines)} rows without a price left out (line {shown})")
        if missing_B.all():
            faults.add("close", "no row with all four prices", "at least one bar")
            return None
    rows_B, was_reversed = ascending_rows(times.times, rows_B[~missing_B])
    if was_reversed:
        said.append("newest bars first: turned around")
    bars_B4 = rows.price_R4[rows_B]
    own = Faults(faults.file, line_N=table.line_R[rows_B])
    ours = times.times.take(rows_B)
    time_B, is_zoned = resolve(ours, times.zone, times.name, own)
    if not own.found:
        units = [
            UNITS[unit] if unit >= 0 else "calendar" for unit in np.flatnonzero(np.bincount(ours.by_unit_R + 1)) - 1
        ]
        if len(units) > 1:
            said.append(f"times of several kinds, each read by its own digits: {', '.join(units)}")
        check_order(time_B, times.name, own, is_zoned=is_zoned, is_mixed=len(units) > 1)
    if not own.found and rows.columns.reading.decimal is None:
        check_jumps(bars_B4, [text.take(_indices(rows_B)) for text in rows.texts], own)
    if not own.found:
        _check_prices(bars_B4, own)
    faults.found += own.found
    if own.found:
        return None
    if not is_zoned:
        said.append(f"times in {times.name} carry no zone and are taken as UTC (--timezone says otherwise)")
    return Bars(time_B, bars_B4, rows_B, len(table.line_R), is_zoned, instrument, faults.file, tuple(said))


def _indices(rows_B: NDArray[np.intp]) -> pa.Array:
    import pyarrow as pa

    return pa.array(rows_B)


def _check_prices(bars_B4: NDArray[np.float64], faults: Faults) -> None:
    for wrong_B, expected in impossible_prices(bars_B4, np.full(len(bars_B4), (bars_B4 < 0).any())):
        faults.add_rows(wrong_B, "close", lambda row: shown_bar(bars_B4[row]), expected)


def shown_time(time: np.datetime64) -> str:
    """Return a time without the zeros behind its seconds."""
    text = str(time)
    return text.rstrip("0").rstrip(".") if "." in text else text
