"""Which column of a text file is what: by its name, by a vendor's profile, or as the user says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jade_model.core.errors import ConfigError
from jade_model.data.faults import Faults
from jade_model.data.text.cells import DecimalMark
from jade_model.data.text.table import TextTable
from jade_model.data.text.times import TimeRules, TimeUnit

if TYPE_CHECKING:
    import pyarrow as pa

PRICES = ("open", "high", "low", "close")

# Names in lower case, without brackets, quotes and UTC; _ and - count as spaces. Each can be meant one way only.
_NAMES: dict[str, tuple[str, ...]] = {
    "open": ("open", "o", "open price", "openprice", "price open", "1. open"),
    "high": ("high", "h", "high price", "highprice", "price high", "2. high"),
    "low": ("low", "l", "low price", "lowprice", "price low", "3. low"),
    "close": ("close", "c", "close price", "closeprice", "price close", "4. close", "close/last"),
    "time": (
        "time", "timestamp", "datetime", "date time", "date/time", "date", "dt", "dtyyyymmdd", "t", "ts", "ts event",
        "local time", "window start",
        "bar time", "candle time", "candle begin time", "open time", "opentime", "start", "start time", "starttime",
        "period start", "time period start", "unix", "unix time", "unix timestamp", "unix timestamp ms", "timestamp ms",
        "epoch",
    ),
    "start": ("start", "start time", "starttime", "start date", "start datetime", "start bar", "begin", "from"),
    "end": ("end", "end time", "endtime", "end date", "end datetime", "end bar", "stop", "to"),
    "label": ("label", "labels", "type", "class", "kind", "category"),
}  # fmt: skip
# A column of these with several values says that the file holds several series of bars.
_SERIES = (
    "symbol", "ticker", "instrument", "pair", "market pair", "asset", "security", "contract", "product", "stock",
    "coin", "base", "tic", "sym", "ric", "isin", "secid", "instrument id", "per", "period", "timeframe", "interval",
    "granularity", "side",
)  # fmt: skip
_SAY = "--columns {name}=NAME says which is meant"


@dataclass(frozen=True)
class Profile:
    """How a vendor writes bars.

    Attributes:
        columns: Names of the columns where the vendor writes no header, for each number of them; "" are left alone.
        day_first: Whether days stand before months.
        zone: Of the times, where the vendor says it.
        unit: Of numbers since 1970, likewise.
    """

    columns: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    day_first: bool | None = None
    zone: str | None = None
    unit: TimeUnit | None = None


_TIME_FIRST = ("time", *PRICES)
_DATE_AND_TIME_FIRST = ("date", "time", *PRICES)
# HistData's times are those of New York's winter all year round, as its documentation says.
_HISTDATA_ZONE = "-05:00"


def _followed(names: tuple[str, ...], *numbers: int) -> dict[int, tuple[str, ...]]:
    return {number: (*names, *[""] * (number - len(names))) for number in numbers}


PROFILES: dict[str, Profile] = {
    "binance": Profile(_followed(_TIME_FIRST, 12, 11)),
    "mt4": Profile(_followed(_DATE_AND_TIME_FIRST, 7, 6)),
    "mt5": Profile(_followed(_DATE_AND_TIME_FIRST, 9, 7)),
    "yfinance": Profile(),
    "histdata": Profile(_followed(_TIME_FIRST, 6) | _followed(_DATE_AND_TIME_FIRST, 7), zone=_HISTDATA_ZONE),
    "dukascopy": Profile(_followed(_TIME_FIRST, 6), day_first=True),
    "tradingview": Profile(),
    "kraken": Profile(_followed(_TIME_FIRST, 8, 7), unit="s"),
    "coinbase": Profile(_followed(("time", "low", "high", "open", "close"), 6), unit="s"),
    "ninjatrader": Profile(_followed(_TIME_FIRST, 6)),
}


@dataclass(frozen=True)
class Reading:
    """What the user says of text files; whatever is left out has to be plain from the file.

    Attributes:
        format: Name of a profile.
        columns: What (time, date, open, high, low, close, start, end, label) -> the file's name of its column, or its
            number, from 1, where the file has no header.
        zone: Time zone of times that carry none: an IANA name or an offset such as +02:00.
        day_first: Whether 03/04/2024 is in April.
        unit: Of numbers since 1970.
        decimal: The decimal mark.
        by: Column whose values tell several series in one file apart.
    """

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    zone: str | None = None
    day_first: bool | None = None
    unit: TimeUnit | None = None
    decimal: DecimalMark | None = None
    by: str | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in PROFILES:
            raise ConfigError(f"format is {self.format!r}; choose one of {', '.join(PROFILES)}")
        unknown = set(self.columns) - {*_NAMES, "date"}
        if unknown:
            known = ", ".join([*_NAMES, "date"])
            raise ConfigError(f"columns name {', '.join(sorted(unknown))}; what can be named is {known}")

    @property
    def profile(self) -> Profile:
        """The vendor's, or one that says nothing."""
        return Profile() if self.format is None else PROFILES[self.format]

    def time_rules(self) -> TimeRules:
        """Return what is known of times."""
        day_first = self.profile.day_first if self.day_first is None else self.day_first
        return TimeRules(self.zone or self.profile.zone, day_first, self.unit or self.profile.unit)


@dataclass(frozen=True, eq=False)
class NamedColumns:
    """A table whose columns can be asked for by what they mean.

    Attributes:
        table: The cells.
        names: Of the columns; numbers, from 1, where the file has no header and no profile names them.
        has_header: Whether the file itself names them.
        reading: What the user says.
    """

    table: TextTable
    names: tuple[str, ...]
    has_header: bool
    reading: Reading

    def candidates(self, what: str) -> list[int]:
        """Return the columns that are what is asked for: the one the user says, else all of its names."""
        said = self.reading.columns.get(what)
        if said is not None:
            return [at for at, name in enumerate(self.names) if name.casefold() == said.strip().casefold()]
        known = _NAMES.get(what, (what,))
        # pandas calls the second of two columns of one name close.1: which of them is meant nobody can tell.
        plain = [re.sub(r"(?<=[a-z])\.\d+$", "", plain_name(name)[0]) for name in self.names]
        return [at for at, name in enumerate(plain) if name in known]

    def column(self, what: str, faults: Faults) -> int | None:
        """Return the one column of what is asked for; name it if there is none or several."""
        found = self.candidates(what)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(repr(self.names[at]) for at in found)
            faults.add(what, f"several columns of this name: {names}", "one; " + _SAY.format(name=what))
        else:
            faults.add(what, self.missing(what), f"a column {what}; " + _SAY.format(name=what))
        return None

    def missing(self, what: str) -> str:
        """Say that a column is not there."""
        said = self.reading.columns.get(what)
        sought = f"no column {said!r} among " if said is not None else "no such column among "
        return sought + ", ".join(name or "(without a name)" for name in self.names)

    def cells(self, at: int) -> pa.Array:
        """Return one column's cells."""
        return self.table.columns[at]

    def series_columns(self) -> list[int]:
        """Return the columns that tell series apart, if they have several values."""
        return [at for at, name in enumerate(self.names) if plain_name(name)[0] in _SERIES]

    def named(self, name: str) -> int | None:
        """Return the column of exactly this name, in any case."""
        found = [at for at, known in enumerate(self.names) if known.casefold() == name.casefold()]
        return found[0] if len(found) == 1 else None


def plain_name(name: str) -> tuple[str, bool]:
    """Return a column's name in lower case without decoration, and whether it says UTC."""
    words = re.sub(r"[\s_\-]+", " ", name.strip(" <>#\"'[]").lower()).strip()
    said = re.sub(r"\(?\b(utc|gmt)\b\)?", " ", words)
    return " ".join(said.split()), said != words


def name_columns(table: TextTable, reading: Reading, faults: Faults, *, example: str) -> NamedColumns:
    """Name the columns of a file with a header, or of one without if the user says how.

    Args:
        table: The cells.
        reading: What the user says.
        faults: Gets what is wrong.
        example: What `--columns` could say of such a file.

    Raises:
        DataError: The file has no header, and nobody said what its columns are.
    """
    if table.names is not None:
        return NamedColumns(table, table.names, has_header=True, reading=reading)
    number = len(table.columns)
    numbers = tuple(str(at) for at in range(1, number + 1))
    if reading.format is not None and PROFILES[reading.format].columns:
        known = PROFILES[reading.format].columns
        if number in known:
            return NamedColumns(table, known[number], has_header=False, reading=reading)
        expected = f"{' or '.join(map(str, sorted(known)))}, as {reading.format} writes without a header"
        raise faults.stop(None, f"{number} columns", expected)
    if reading.columns:
        return NamedColumns(table, numbers, has_header=False, reading=reading)
    shown = ", ".join(str(column[0].as_py()) for column in table.columns[:6]) if len(table.line_R) else ""
    fitting = [name for name, profile in PROFILES.items() if number in profile.columns]
    formats = f", or --format {', '.join(fitting)} if that is where the file is from" if fitting else ""
    line = int(table.line_R[0]) if len(table.line_R) else None
    raise faults.stop(
        None,
        f"a first line that looks like data ({shown}): a header is missing",
        f"a header, or --columns {example} by their numbers{formats}",
        line=line,
    )


def parse_columns(text: Sequence[str]) -> dict[str, str]:
    r"""Read `open=o,time=Gmt time` as --columns takes it; a comma within a name is written `\,`.

    Raises:
        ConfigError: It is not of this form.
    """
    columns = {}
    for part in [part for item in text for part in re.split(r"(?<!\\),", item)]:
        what, equals, name = part.replace("\\,", ",").replace("\\ ", " ").partition("=")
        if not equals or not what.strip() or not name.strip():
            raise ConfigError(f"--columns takes open=NAME,time=NAME, not {part!r}")
        if what.strip().lower() in columns:
            raise ConfigError(f"--columns names {what.strip()} twice")
        columns[what.strip().lower()] = name.strip()
    return columns


def expanded(path: str | Path) -> Path:
    """Return the path with the home folder in the place of ~."""
    return Path(path).expanduser()
