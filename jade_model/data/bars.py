"""Raw bars and their labels from CSV files, checked.

Legend: B bars, S labelled spans.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import DataError
from jade_model.core.windows import TYPE_NAMES
from jade_model.data.parquet.bars import impossible_prices
from jade_model.data.parquet.faults import Faults

if TYPE_CHECKING:
    import pandas as pd

PRICES = ("open", "high", "low", "close")
_TIME_NAMES = ("timestamp", "datetime", "time", "date")

# Forms that can be read one way only; whether 03/04 is in March or April nobody can tell.
_TIME_FORMATS = (
    "ISO8601",
    "%Y.%m.%d %H:%M:%S",
    "%Y.%m.%d %H:%M",
    "%Y.%m.%d",
    "%Y%m%d %H:%M:%S",
    "%Y%m%d %H%M%S",
)
_A_TIME = "a time such as 2024-01-31 14:30 (UTC unless it says otherwise), or seconds since 1970"


@dataclass(frozen=True, eq=False)
class Bars:
    """One instrument's bars, oldest first.

    Attributes:
        time_B: UTC, datetime64[ns], strictly ascending; steps may differ where bars are absent.
        bars_B4: Open, high, low, close, float64.
    """

    time_B: NDArray[np.datetime64]
    bars_B4: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Labels:
    """Labelled spans of a series of bars, ascending and disjoint.

    Attributes:
        spans_S2: First bar and bar behind the last, int64.
        type_S: Index into TYPE_NAMES, int64.
    """

    spans_S2: NDArray[np.int64]
    type_S: NDArray[np.int64]


def read_bars(path: str | Path) -> Bars:
    """Read bars from a CSV file with a header (comma, semicolon or tab).

    Args:
        path: The file. Columns, in any order and case: open, high, low, close, and timestamp, datetime, time
            or date (date and time together are joined). Others are left alone. Times without a zone are UTC;
            whole numbers are seconds, milli-, micro- or nanoseconds since 1970, told apart by their size.

    Returns:
        The bars.

    Raises:
        DataError: A column is missing, a value is no price or time, or times are not ascending; all is named.
    """
    faults = Faults(str(path))
    table = _read_csv(path, PRICES, faults)
    time_B = _bar_times(table, faults)
    bars_B4 = np.stack([_numbers(table, name, faults) for name in PRICES], axis=1)
    is_number_B = np.isfinite(bars_B4).all(axis=1)
    for wrong_B, expected in impossible_prices(bars_B4):
        shown = {row: f"{_line(row)}: {_prices(bars_B4[row])}" for row in np.flatnonzero(wrong_B).tolist()}
        # What is no number has been named with its own column.
        faults.add_rows(wrong_B & is_number_B, "close", shown.__getitem__, expected)
    _check_ascending(time_B, faults)
    if faults.found:
        raise DataError(faults.found)
    return Bars(time_B, bars_B4)


def read_labels(path: str | Path, bars: Bars) -> Labels:
    """Read labelled spans from a CSV file with the columns start, end (times, both inclusive) and label.

    Args:
        path: The file; separators and times as in read_bars.
        bars: The bars that the times speak of.

    Returns:
        The spans in the order of time.

    Raises:
        DataError: A value cannot be read, or a span has no bars, lies outside of them or over another one.
    """
    faults = Faults(str(path))
    table = _read_csv(path, ("start", "end", "label"), faults)
    start_S, end_S = (_times(table[name], name, faults) for name in ("start", "end"))
    names = table["label"].fillna("").astype(str).str.strip().str.lower().to_numpy()
    type_S = np.array([TYPE_NAMES.index(name) if name in TYPE_NAMES else -1 for name in names], dtype=np.int64)
    faults.add_rows(type_S < 0, "label", lambda row: f"{_line(row)}: {names[row]!r}", f"one of {', '.join(TYPE_NAMES)}")
    spans_S2 = _locate(start_S, end_S, bars.time_B, faults)
    if faults.found:
        raise DataError(faults.found)
    order_S = np.argsort(spans_S2[:, 0], kind="stable")
    return Labels(spans_S2[order_S], type_S[order_S])


def _locate(
    start_S: NDArray[np.datetime64],
    end_S: NDArray[np.datetime64],
    time_B: NDArray[np.datetime64],
    faults: Faults,
) -> NDArray[np.int64]:
    """Return the bars that each pair of times encloses, half-open; name the pairs that are wrong."""
    given_S = ~np.isnat(start_S) & ~np.isnat(end_S)
    reversed_S = given_S & (start_S > end_S)
    outside_S = given_S & ~reversed_S & ((start_S < time_B[0]) | (end_S > time_B[-1]))
    spans_S2 = np.stack((np.searchsorted(time_B, start_S, "left"), np.searchsorted(time_B, end_S, "right")), axis=1)
    fine_S = given_S & ~reversed_S & ~outside_S
    empty_S = fine_S & (spans_S2[:, 0] == spans_S2[:, 1])

    def shown(row: int) -> str:
        return f"{_line(row)}: {start_S[row]} to {end_S[row]}"

    faults.add_rows(reversed_S, "start", shown, "a start that is not after the end")
    faults.add_rows(outside_S, "start", shown, f"times from {time_B[0]} to {time_B[-1]}, where the bars are")
    faults.add_rows(empty_S, "start", shown, "times with at least one bar between them")
    rows = np.flatnonzero(fine_S & ~empty_S)
    rows = rows[np.argsort(spans_S2[rows, 0], kind="stable")]
    over_S = np.zeros(len(start_S), dtype=bool)
    over_S[rows[1:]] = spans_S2[rows[1:], 0] < np.maximum.accumulate(spans_S2[rows, 1])[:-1]
    faults.add_rows(over_S, "start", shown, "spans that share no bar with an earlier one")
    return spans_S2


def _read_csv(path: str | Path, names: tuple[str, ...], faults: Faults) -> pd.DataFrame:
    """Return a table of at least one row with the columns `names`; all columns' names in lower case."""
    import pandas as pd

    path = Path(path).expanduser()
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(",;\t", key=header.count)
        found = [name.strip(' <>"\r\n').lower() for name in header.split(separator)]
        _check_header(found, names, faults)
        with warnings.catch_warnings():
            # pandas only warns of rows longer than the header, and drops what is over.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                sep=separator,
                names=found,
                skiprows=1,
                index_col=False,
                low_memory=False,
                skip_blank_lines=False,
                encoding="utf-8-sig",
            )
    except FileNotFoundError:
        faults.add(None, "no such file", "a CSV file")
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        faults.add(None, str(error).strip(), "a CSV file, every row as long as its header")
    else:
        # Blank lines count as rows, so that lines keep their numbers, but those at the end are nothing.
        filled = np.flatnonzero(table.notna().any(axis=1))
        if len(filled):
            return table.iloc[: filled[-1] + 1]
        faults.add(None, "no rows", "at least one")
    raise DataError(faults.found)


def _check_header(found: list[str], names: tuple[str, ...], faults: Faults) -> None:
    """Raise DataError, with all that is missing or doubled, unless the header has each of `names` once."""
    for name in names:
        if name not in found:
            faults.add(name, f"no such column among {', '.join(found)}", f"a column {name}")
    if names == PRICES and not set(_TIME_NAMES) & set(found):
        expected = f"one of {', '.join(_TIME_NAMES)}"
        faults.add(_TIME_NAMES[0], f"no such column among {', '.join(found)}", expected)
    for name in sorted({name for name in found if found.count(name) > 1}):
        faults.add(name, "several columns of this name", "one")
    if faults.found:
        raise DataError(faults.found)


def _bar_times(table: pd.DataFrame, faults: Faults) -> NDArray[np.datetime64]:
    found = [name for name in _TIME_NAMES if name in table.columns]
    if found == ["time", "date"]:
        joined = table["date"].astype(str) + " " + table["time"].astype(str)
        return _times(joined, "time", faults)
    return _times(table[found[0]], found[0], faults)


def _times(column: pd.Series[Any], name: str, faults: Faults) -> NDArray[np.datetime64]:
    """Return UTC times, NaT where unreadable; name those."""
    import pandas as pd

    unit = _epoch_unit(column)
    if unit is not None:
        parsed = pd.to_datetime(column, unit=unit, utc=True, errors="coerce")
    else:
        text = column.astype(str).str.strip()
        # pandas would read "now" and "today".
        text = text.where(text.str.contains(r"\d"), "")
        attempts = (pd.to_datetime(text, format=form, utc=True, errors="coerce") for form in _TIME_FORMATS)
        best = next((attempt for attempt in attempts if not attempt.isna().any()), None)
        parsed = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce") if best is None else best
    time = np.asarray(parsed.dt.tz_localize(None), dtype="datetime64[ns]")
    faults.add_rows(np.isnat(time), name, lambda row: f"{_line(row)}: {_shown(column.iloc[row])}", _A_TIME)
    return time


def _epoch_unit(column: pd.Series[Any]) -> Literal["s", "ms", "us", "ns"] | None:
    """Return the unit of numbers since 1970, by their size; None for what is no such number."""
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column) or column.isna().all():
        return None
    largest = float(column.abs().max())
    # Below are no times after 1973 but dates such as 20240131.
    if largest < 1e8:
        return None
    return "s" if largest < 1e11 else "ms" if largest < 1e14 else "us" if largest < 1e17 else "ns"


def _numbers(table: pd.DataFrame, name: str, faults: Faults) -> NDArray[np.float64]:
    import pandas as pd

    numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
    faults.add_rows(
        ~np.isfinite(numbers), name, lambda row: f"{_line(row)}: {_shown(table[name].iloc[row])}", "a finite price"
    )
    return numbers


def _check_ascending(time_B: NDArray[np.datetime64], faults: Faults) -> None:
    """Compare times that could be read with the ones before them; the others have been named."""
    row_C = np.flatnonzero(~np.isnat(time_B))
    step_C = np.diff(time_B[row_C]).astype(np.int64)
    if len(step_C) > 1 and (step_C < 0).all():
        faults.add("time", "newest bars first", "oldest bars first: reverse the file's rows")
        return
    for wrong_C, expected in ((step_C == 0, "each time once"), (step_C < 0, "ascending times: sort the file's rows")):
        before = dict(zip(row_C[1:][wrong_C].tolist(), time_B[row_C[:-1][wrong_C]], strict=True))
        wrong_B = np.zeros(len(time_B), dtype=bool)
        wrong_B[list(before)] = True
        shown = {row: f"{_line(row)}: {time_B[row]} after {time}" for row, time in before.items()}
        faults.add_rows(wrong_B, "time", shown.__getitem__, expected)


def _prices(bar_4: NDArray[np.float64]) -> str:
    return "open, high, low, close " + ", ".join(f"{price:g}" for price in bar_4)


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def _line(row: int) -> str:
    # What an editor shows: counted from 1, behind the header.
    return f"line {row + 2}"
