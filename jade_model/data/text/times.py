"""Cells -> times, each by the exact shape of its text.

A column has few shapes (see cells.py); each is understood once, and the digits of all its cells are then read at their
places. Nothing depends on how large a number is or on what stands in other cells, but for two questions that no cell
answers alone: which of 03/04 is the month, and whether twelve digits are a calendar's.

Legend: R rows, M rows of one shape.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from jade_model.data.faults import Faults
from jade_model.data.text.cells import shapes_of

if TYPE_CHECKING:
    import pyarrow as pa

TimeUnit = Literal["s", "ms", "us", "ns"]
UNITS: tuple[TimeUnit, ...] = get_args(TimeUnit)

SECOND = 1_000_000_000
MINUTE, DAY = 60 * SECOND, 86_400 * SECOND
A_TIME = "a time such as 2024-01-31 14:30, 20240131143000 or seconds since 1970"

_NS_PER_UNIT: dict[TimeUnit, int] = {"s": SECOND, "ms": 1_000_000, "us": 1_000, "ns": 1}
# Whole digits of times since 1970 between 1973 and 2286. Where a time is earlier, its unit has to be said.
_UNIT_OF_WIDTH: dict[int, TimeUnit] = {9: "s", 10: "s", 12: "ms", 13: "ms", 15: "us", 16: "us", 18: "ns", 19: "ns"}
_CALENDAR_WIDTHS = (8, 12, 14, 17)
_YEARS = (1700, 2200)
_DIGIT_YEARS = (1900, 2100)
_FULL_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july",
    "august", "september", "october", "november", "december",
)  # fmt: skip
# Months' names in full or by three letters; Sept is the one that people write with four.
_MONTHS = {name: at for at, full in enumerate(_FULL_MONTHS, 1) for name in (full, full[:3])} | {"sept": 9}
_MONTH_NAME = r"(?P<month_name>[A-Za-z]{3,9})\.?"
_DATE = (
    r"(?:(?P<year>9999)(?P<mark>[-/.])(?P<month>99?)(?P=mark)(?P<day>99?)"
    r"|(?P<either>99?)(?P<mark2>[-/.])(?P<other>99?)(?P=mark2)(?P<year2>9999)"
    r"|(?P<compact>99999999)"
    rf"|(?P<day2>99?)[- ]{_MONTH_NAME}[- ,]+(?P<year3>9999)"
    rf"|{_MONTH_NAME.replace('month_name', 'month_name2')} (?P<day3>99?),? (?P<year4>9999))"
)
_CLOCK = (
    r"(?:(?P<hour>99?):(?P<minute>99)(?::(?P<second>99)(?:[.,:](?P<fraction>9{1,9}))?)?(?: ?(?P<half>[AaPp])[Mm])?"
    r"|(?P<digits>9{3,9}))"
)
_ZONE = (
    r"(?: ?(?P<utc>Z|UTC|GMT)?(?: ?(?P<sign>[+-])(?P<zone_hour>99?):?(?P<zone_minute>99)?)?"
    r"| (?P<zone_name>[A-Za-z]+(?:/[A-Za-z_]+)+))"
)
_CALENDAR = re.compile(rf"{_DATE}(?:(?:[T_]| +|, *){_CLOCK}{_ZONE})?")
_SAY_UNIT = "need --unit s, ms, us or ns"
# What programs write that is no time by itself, and what to do about it.
_HINTS = {
    r"9{5}(\.9+)?": f"write the days that a spreadsheet counts as dates; numbers since 1970 {_SAY_UNIT}",
    r"9{8}\.9+|9{12}\.9+|9{14}\.9+": "a calendar's digits that became a number have to be written without a point",
    r"9{6}": f"a date has four digits for its year; numbers since 1970 {_SAY_UNIT}",
    r"[+-]?9+\.?9*": f"numbers of other sizes {_SAY_UNIT}",
    r"9+(\.9*)?[eE][+-]?9+": "a spreadsheet cut its digits: export it with all of them",
    r"99?[-/.]99?[-/.]99(\D.*)?": "years of four digits: nobody can tell which of these is the year",
    r".*9 ?[A-Za-z]{2,5}": (
        "a zone by its distance from UTC, or --timezone ZONE for times without: letters name several"
    ),
    r"9{4}-?W99.*|9{4}-9{3}": "weeks and days of the year have to be written as dates",
}
_RANGE = re.compile(r"(?:[^T]*[^T:9])?99?:99-99?:99")
_CLOCK_ALONE = re.compile(rf"{_CLOCK}{_ZONE}")
_SINCE_1970 = re.compile(r"[+-]?(?P<whole>9+)(?:\.(?P<part>9*))?")


@dataclass(frozen=True)
class TimeRules:
    """What was said of how times are written.

    Attributes:
        zone: Of times that name none: an IANA name or an offset such as +02:00; None if nobody said.
        day_first: Whether 03/04/2024 is in April; None leaves it to days above 12.
        unit: Of numbers since 1970; None leaves it to each number's digits.
    """

    zone: str | None = None
    day_first: bool | None = None
    unit: TimeUnit | None = None


@dataclass(frozen=True, eq=False)
class WrittenTimes:
    """One column's times as they are written.

    Attributes:
        wall_R: What the cell's clock shows, datetime64[ns]; NaT where it can't be read.
        precision_R: What it covers, in ns: a day, a minute, a second or a part of one, int64.
        has_zone_R: Whether it says its distance from UTC; numbers since 1970 do.
        offset_R: That distance in ns, int64.
        by_unit_R: The unit that a number since 1970 was read in, as its place in UNITS; -1 for other times.
    """

    wall_R: NDArray[np.datetime64]
    precision_R: NDArray[np.int64]
    has_zone_R: NDArray[np.bool_]
    offset_R: NDArray[np.int64]
    by_unit_R: NDArray[np.int64]

    @property
    def is_read_R(self) -> NDArray[np.bool_]:
        """Where there is a time."""
        return ~np.isnat(self.wall_R)

    def take(self, rows: NDArray[np.intp] | slice) -> WrittenTimes:
        """Return some of the times."""
        return WrittenTimes(*(getattr(self, item.name)[rows] for item in fields(self)))


def is_clock_alone(cells: pa.Array) -> bool:
    """Return whether a column has times of day, to be joined with a column of dates."""
    shapes = [shape for shape in shapes_of(cells).shapes if "9" in shape]
    return bool(shapes) and all(_CLOCK_ALONE.fullmatch(shape) for shape in shapes)


def is_date_alone(cells: pa.Array) -> bool:
    """Return whether a column has dates without a time of day."""
    matches = [_CALENDAR.fullmatch(shape) for shape in shapes_of(cells).shapes if "9" in shape]
    return bool(matches) and all(match is not None and not match["hour"] and not match["digits"] for match in matches)


def read_times(cells: pa.Array, column: str, rules: TimeRules, faults: Faults) -> WrittenTimes:
    """Read a column; what can't be read one way only is named.

    Args:
        cells: Trimmed text.
        column: Its name.
        rules: What the user said.
        faults: Gets what is wrong.
    """
    reader = _Reader(cells, column, rules, faults)
    rows_of = reader.shapes.rows_of()
    reader.choose_month_order(rows_of)
    for shape, rows_M in zip(reader.shapes.shapes, rows_of, strict=True):
        reader.read_shape(shape, rows_M)
    return reader.finish()


class _Reader:
    """Reads one column shape by shape into the arrays of WrittenTimes."""

    def __init__(self, cells: pa.Array, column: str, rules: TimeRules, faults: Faults) -> None:
        num_rows = len(cells)
        self.cells, self.column, self.rules, self.faults = cells, column, rules, faults
        self.shapes = shapes_of(cells)
        self.day_first = rules.day_first
        self.wall_R = np.full(num_rows, np.datetime64("NaT", "ns"))
        self.precision_R = np.zeros(num_rows, dtype=np.int64)
        self.has_zone_R = np.zeros(num_rows, dtype=bool)
        self.offset_R = np.zeros(num_rows, dtype=np.int64)
        self.by_unit_R = np.full(num_rows, -1, dtype=np.int64)
        self.why: dict[str, NDArray[np.bool_]] = {}
        self.clock_digits: dict[int, int] = {}

    def choose_month_order(self, rows_of: list[NDArray[np.intp]]) -> None:
        """Find out whether days or months stand first in 03/04/2024, or refuse."""
        evidence: dict[bool, int] = {}
        undecided: int | None = None
        for shape, rows_M in zip(self.shapes.shapes, rows_of, strict=True):
            match = _CALENDAR.fullmatch(shape)
            if match is None or not match["either"]:
                continue
            digits = self.shapes.digits(rows_M, shape)
            first_M, second_M = (_number(digits, match.span(name)) for name in ("either", "other"))
            for day_first, above_M in ((True, (first_M > 12)), (False, (second_M > 12))):
                if above_M.any():
                    evidence[day_first] = min(evidence.get(day_first, len(self.cells)), int(rows_M[above_M][0]))
            if (first_M != second_M).any():
                undecided = int(rows_M[first_M != second_M][0]) if undecided is None else undecided
        if self.day_first is not None or undecided is None:
            self.day_first = bool(self.day_first)
        elif len(evidence) == 1:
            (self.day_first,) = evidence
        else:
            found = f"{self._shown(undecided)}, where either number may be the month"
            if evidence:
                found = " and ".join(self._shown(at) for at in evidence.values()) + ": days first and months first"
            expected = "--day-first or --month-first, or dates such as 2024-01-31"
            self.faults.add(self.column, found, expected, line=self.faults.line_of(undecided))
            self.faults.raise_if_any()

    def read_shape(self, shape: str, rows_M: NDArray[np.intp]) -> None:
        """Read all cells of one shape."""
        since = _SINCE_1970.fullmatch(shape)
        calendar = _CALENDAR.fullmatch(shape)
        if since is not None and self.rules.unit is not None:
            self._read_since_1970(since, shape, rows_M, self.rules.unit)
        elif since is not None and set(shape) == {"9"} and len(shape) in {*_CALENDAR_WIDTHS, 10}:
            self._read_digits(since, shape, rows_M)
        elif since is not None and shape[0] == "9" and len(since["whole"]) in _UNIT_OF_WIDTH:
            self._read_since_1970(since, shape, rows_M, _UNIT_OF_WIDTH[len(since["whole"])])
        elif calendar is not None:
            self._read_calendar(calendar, shape, rows_M)
        else:
            hint = next((f"; {hint}" for kind, hint in _HINTS.items() if re.fullmatch(kind, shape)), "")
            self._refuse(rows_M, A_TIME + hint)

    def _read_digits(self, since: re.Match[str], shape: str, rows_M: NDArray[np.intp]) -> None:
        """Read YYYYMMDD, and with HHMM, HHMMSS or HHMMSSfff; or a number since 1970 of as many digits."""
        width = len(shape)
        digits = self.shapes.digits(rows_M, shape)
        second_M, is_clock_M = _clock_of_digits(digits[:, 8:])
        day_M, is_day_M = _days_of_digits(digits)
        is_calendar_M = is_day_M & is_clock_M
        unit = _UNIT_OF_WIDTH.get(width)
        if unit is not None and not (is_calendar_M.all() if width == 10 else is_calendar_M.any()):
            self._read_since_1970(since, shape, rows_M, unit)
        elif width == 10:
            self._refuse(rows_M, "one reading: YYYYMMDDHH, or seconds since 1970 (--unit s)")
        elif unit is not None and not is_calendar_M.all():
            self._refuse(rows_M, f"one kind of number: YYYYMMDDHHMM, or {unit} since 1970 (--unit {unit})")
        else:
            precision = {8: DAY, 12: MINUTE, 14: SECOND}.get(width, SECOND // 1000)
            self._set(rows_M, is_calendar_M, day_M * DAY + second_M, precision)
            self._refuse(rows_M[~is_calendar_M], A_TIME)

    def _read_since_1970(self, match: re.Match[str], shape: str, rows_M: NDArray[np.intp], unit: TimeUnit) -> None:
        expected = f"times between {_YEARS[0]} and {_YEARS[1]}"
        width = len(match["whole"])
        if width > 19:
            self._refuse(rows_M, expected)
            return
        scale = _NS_PER_UNIT[unit]
        digits = self.shapes.digits(rows_M, shape)
        part = (match["part"] or "")[: len(str(scale)) - 1]
        # As unsigned: 19 digits may exceed what ns can hold.
        unsigned_M = digits[:, slice(*match.span("whole"))].astype(np.uint64) @ (
            np.uint64(10) ** np.arange(width - 1, -1, -1, dtype=np.uint64)
        )
        limit = np.datetime64(f"{_YEARS[1]}", "ns").astype(np.int64) // scale
        is_in_range_M = unsigned_M < np.uint64(limit)
        ns_M = np.where(is_in_range_M, unsigned_M, 0).astype(np.int64) * scale
        if part:
            part_M = _number(digits, (match.start("part"), match.start("part") + len(part)))
            ns_M += part_M * (scale // 10 ** len(part))
        if shape[0] == "-":
            ns_M = -ns_M
        is_in_range_M &= ns_M > np.datetime64(f"{_YEARS[0]}", "ns").astype(np.int64)
        self._set(rows_M, is_in_range_M, ns_M, scale // 10 ** len(part))
        self.has_zone_R[rows_M[is_in_range_M]] = True
        self.by_unit_R[rows_M[is_in_range_M]] = UNITS.index(unit)
        self._refuse(rows_M[~is_in_range_M], expected)

    def _read_calendar(self, match: re.Match[str], shape: str, rows_M: NDArray[np.intp]) -> None:
        if _RANGE.fullmatch(shape):
            self._refuse(
                rows_M, "one time rather than from when to when; a zone's distance stands behind seconds or a T"
            )
            return
        digits = self.shapes.digits(rows_M, shape)
        day_M, is_good_M = self._read_date(match, digits)
        clock_M, is_clock_M, precision = self._read_clock(match, digits, rows_M)
        is_good_M &= is_clock_M
        offset_M = np.zeros(len(rows_M), dtype=np.int64)
        wall_M = day_M * DAY + clock_M
        if match["sign"]:
            hour_M = _number(digits, match.span("zone_hour"))
            minute_M = _number(digits, match.span("zone_minute")) if match["zone_minute"] else np.zeros_like(hour_M)
            offset_M = (hour_M * 60 + minute_M) * (MINUTE if match["sign"] == "+" else -MINUTE)
            is_good_M &= (hour_M <= 14) & (minute_M % 15 == 0) & (minute_M < 60)
        elif match["zone_name"]:
            offset_M, is_known_M = _offsets_in(match["zone_name"], wall_M, is_good_M)
            is_good_M &= is_known_M
        self._set(rows_M, is_good_M, wall_M, precision)
        self.offset_R[rows_M] = offset_M
        self.has_zone_R[rows_M] = bool(match["utc"] or match["sign"] or match["zone_name"])
        self._refuse(rows_M[~is_good_M], A_TIME)

    def _read_date(
        self, match: re.Match[str], digits: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        def number(*names: str) -> NDArray[np.int64]:
            return _number(digits, next(match.span(name) for name in names if match[name]))

        if match["compact"]:
            return _days_of_digits(digits[:, slice(*match.span("compact"))])
        year_M = number("year", "year2", "year3", "year4")
        if match["either"]:
            first_M, second_M = number("either"), number("other")
            return _days(year_M, *((second_M, first_M) if self.day_first else (first_M, second_M)))
        name = (match["month_name"] or match["month_name2"] or "").lower()
        if not name:
            return _days(year_M, number("month"), number("day"))
        return _days(year_M, np.full(len(digits), _MONTHS.get(name, 0)), number("day2", "day3"))

    def _read_clock(
        self, match: re.Match[str], digits: NDArray[np.int64], rows_M: NDArray[np.intp]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], int]:
        """Return ns since midnight, where they are possible, and what they cover."""
        width = len(match["digits"] or "")
        if width in {4, 6, 9}:
            self.clock_digits.setdefault(width, int(rows_M[0]))
            clock_M, is_clock_M = _clock_of_digits(digits[:, slice(*match.span("digits"))])
            return clock_M, is_clock_M, {4: MINUTE, 6: SECOND, 9: SECOND // 1000}[width]
        if width:
            self._refuse(rows_M, "HHMM or HHMMSS with the leading zeros that programs drop from numbers: 0930, 093000")
        if not match["hour"]:
            return np.zeros(len(digits), dtype=np.int64), np.ones(len(digits), dtype=bool), DAY
        hour_M, minute_M = _number(digits, match.span("hour")), _number(digits, match.span("minute"))
        second_M = _number(digits, match.span("second")) if match["second"] else np.zeros_like(hour_M)
        fine_M = (hour_M < 24) & (minute_M < 60) & (second_M < 60)
        if match["half"]:
            fine_M &= (hour_M >= 1) & (hour_M <= 12)
            hour_M = hour_M % 12 + (12 if match["half"] in "Pp" else 0)
        clock_M = ((hour_M * 60 + minute_M) * 60 + second_M) * SECOND
        precision = SECOND if match["second"] else MINUTE
        if match["fraction"]:
            precision = SECOND // 10 ** len(match["fraction"])
            clock_M = clock_M + _number(digits, match.span("fraction")) * precision
        return clock_M, fine_M, precision

    def finish(self) -> WrittenTimes:
        """Name what could not be read, and return the rest."""
        if len(self.clock_digits) > 1:
            places = ", ".join(
                f"{self._shown(row)} (line {self.faults.line_of(row)})" for row in self.clock_digits.values()
            )
            expected = "times of one width, HHMM or HHMMSS: where leading zeros were dropped, 1000 may be 00:10:00"
            self.faults.add(self.column, places, expected)
        for expected, wrong_R in self.why.items():
            self.faults.add_rows(wrong_R, self.column, self._shown, expected)
        return WrittenTimes(self.wall_R, self.precision_R, self.has_zone_R, self.offset_R, self.by_unit_R)

    def _set(
        self, rows_M: NDArray[np.intp], is_good_M: NDArray[np.bool_], ns_M: NDArray[np.int64], precision: int
    ) -> None:
        rows_M = rows_M[is_good_M]
        self.wall_R[rows_M] = ns_M[is_good_M].astype("datetime64[ns]")
        self.precision_R[rows_M] = precision

    def _refuse(self, rows_M: NDArray[np.intp], expected: str) -> None:
        if len(rows_M):
            self.why.setdefault(expected, np.zeros(len(self.cells), dtype=bool))[rows_M] = True

    def _shown(self, row: int) -> str:
        return repr(self.cells[row].as_py())


def _number(digits: NDArray[np.int64], span: tuple[int, int]) -> NDArray[np.int64]:
    first, last = span
    value_M: NDArray[np.int64] = digits[:, first:last] @ 10 ** np.arange(last - first - 1, -1, -1, dtype=np.int64)
    return value_M


def _clock_of_digits(digits: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Read HH, HHMM, HHMMSS or HHMMSSfff, or nothing: midnight."""
    padded = np.concatenate([digits, np.zeros((len(digits), 9 - digits.shape[1]), dtype=np.int64)], axis=1)
    hour_M, minute_M, second_M = (_number(padded, span) for span in ((0, 2), (2, 4), (4, 6)))
    seconds_M = (hour_M * 60 + minute_M) * 60 + second_M
    thousandth_M = _number(padded, (6, 9))
    return seconds_M * SECOND + thousandth_M * (SECOND // 1000), (hour_M < 24) & (minute_M < 60) & (second_M < 60)


def _days_of_digits(digits: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Read YYYYMMDD."""
    return _days(*(_number(digits, span) for span in ((0, 4), (4, 6), (6, 8))), years=_DIGIT_YEARS)


def _days(
    year_M: NDArray[np.int64], month_M: NDArray[np.int64], day_M: NDArray[np.int64], *, years: tuple[int, int] = _YEARS
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return days since 1970, and where there is such a day."""
    good_M = (year_M >= years[0]) & (year_M < years[1]) & (month_M >= 1) & (month_M <= 12) & (day_M >= 1)
    month_index_M = np.where(good_M, (year_M - 1970) * 12 + month_M - 1, 0)
    first_M = month_index_M.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    next_M = (month_index_M + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    good_M &= day_M <= next_M - first_M
    return np.where(good_M, first_M + day_M - 1, 0), good_M


def _offsets_in(
    name: str, wall_M: NDArray[np.int64], is_good_M: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return how far a zone's clock is ahead of UTC, and where that is known: not where clocks change."""
    from jade_model.data.text.zones import UnknownZone, to_utc

    wall = np.where(is_good_M, wall_M, 0).astype("datetime64[ns]")
    try:
        utc = to_utc(wall, name).utc_R
    except UnknownZone:
        return np.zeros(len(wall_M), dtype=np.int64), np.zeros(len(wall_M), dtype=bool)
    known_M = ~np.isnat(utc)
    return np.where(known_M, (wall - utc).astype(np.int64), 0), known_M
