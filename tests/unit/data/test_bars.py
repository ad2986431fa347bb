"""Raw bars as people export them: each is read as it is meant, or refused with the option that decides."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jade_model.core.errors import DataError
from jade_model.data.bars import Bars, read_bars
from jade_model.data.text.columns import Reading, parse_columns

HEADER = "time,open,high,low,close\n"
BAR = ",1,2,1,2\n"


def bars_at(*times: str, header: str = HEADER, separator: str = ",") -> str:
    return (header + "".join(time + BAR for time in times)).replace(",", separator)


def read(folder: Path, text: str | bytes, **said: Any) -> list[Bars]:
    path = folder / "bars.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_bars(path, Reading(**said))


def refusal(folder: Path, text: str | bytes, **said: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, text, **said)
    return str(caught.value)


def zipped(name: str, text: str) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr(name, text)
    return buffer.getvalue()


YFINANCE = (
    "Price,Close,High,Low,Open,Volume\nTicker,AAPL,AAPL,AAPL,AAPL,AAPL\nDate,,,,,\n"
    "2024-01-02,2,3,1,1.5,9\n2024-01-03,2,3,1,1.5,9\n"
)
BINANCE = "1704153600000,1.5,3,1,2,9,1704153659999,1,1,1,1,0\n1704240000000,1.5,3,1,2,9,1704240059999,1,1,1,1,0\n"
STOOQ = "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>\n"
INVESTING = (
    '"Date","Price","Open","High","Low","Vol."\n"01/31/2024","42,580.5","42,945.7","43,737.8","42,299.5","54K"\n'
    '"01/30/2024","42,945.7","43,304.4","43,822.7","42,692.7","57K"\n'
)
METATRADER = (
    "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\n"
    "2024.01.02\t00:00:00\t1.5\t3\t1\t2\t9\n2024.01.03\t00:00:00\t1.5\t3\t1\t2\t9\n"
)
FOREXITE = (
    "<TICKER>,<DTYYYYMMDD>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>\nA,20240102,093000,1,2,1,2\nA,20240102,093100,1,2,1,2\n"
)
SPACED = (
    "time;open;high;low;close\n2024-01-02;1\u202f234,5;1\xa0300;1 200;1 250,0\n2024-01-03;1 234,5;1 300;1 200;1 250\n"
)
DUKASCOPY = "Gmt time,Open,High,Low,Close\n"
# name -> text, what the user says, first time and time of the second bar in UTC
READ: dict[str, tuple[str | bytes, dict[str, Any], str, str]] = {
    "ISO": (bars_at("2024-01-02 09:30", "2024-01-02T09:31:00"), {}, "2024-01-02T09:30", "2024-01-02T09:31"),
    "offsets": (bars_at("2024-01-02 09:30:00-05:00", "2024-01-02 15:31+0100"), {},
                "2024-01-02T14:30", "2024-01-02T14:31"),
    "a unit for each number": (bars_at("1704153600", "1704153660000", "1704153720000000", "1704153780000000000"), {},
                               "2024-01-02", "2024-01-02T00:01"),
    "parts of seconds": (bars_at("1704153600.5", "1704153600750.25"), {},
                         "2024-01-02T00:00:00.5", "2024-01-02T00:00:00.75025"),
    "seconds before 1973, said so": (bars_at("-86400", "0", "86400"), {"unit": "s"}, "1969-12-31", "1970-01-01"),
    "14 digits of a calendar": (bars_at("20241119185000", "20241119185500"), {},
                                "2024-11-19T18:50", "2024-11-19T18:55"),
    "12 digits of a calendar": (bars_at("202411191850", "202411191855"), {}, "2024-11-19T18:50", "2024-11-19T18:55"),
    "17 digits of a calendar": (bars_at("20241119185000250", "20241119185000500"), {},
                                "2024-11-19T18:50:00.250", "2024-11-19T18:50:00.500"),
    "8 digits of a calendar": (bars_at("20240102", "20240103"), {}, "2024-01-02", "2024-01-03"),
    "HHMM": (bars_at("20240103,0930", "20240103,0935", header="date," + HEADER), {},
             "2024-01-03T09:30", "2024-01-03T09:35"),
    "HHMMSS": (STOOQ + "A,5,20240103,000500,1,2,1,2,9\nA,5,20240103,001000,1,2,1,2,9\n", {},
               "2024-01-03T00:05", "2024-01-03T00:10"),
    "a header that says UTC": (bars_at("2024-01-02 09:30", "2024-01-02 09:31", header="Time (UTC),o,h,l,c\n"),
                               {"zone": "Europe/Berlin"}, "2024-01-02T09:30", "2024-01-02T09:31"),
    "a zone that is said": (bars_at("2024-01-02 09:30", "2024-07-02 09:30"), {"zone": "America/New_York"},
                            "2024-01-02T14:30", "2024-07-02T13:30"),
    "Interactive Brokers": (bars_at("20240102  09:30:00 US/Eastern", "20240102 09:31:00 US/Eastern"), {},
                            "2024-01-02T14:30", "2024-01-02T14:31"),
    "days above 12": (bars_at("12/02/2024 9:30", "13/02/2024 9:30"), {}, "2024-02-12T09:30", "2024-02-13T09:30"),
    "months first, said so": (bars_at("01.02.2024", "02.02.2024"), {"day_first": False}, "2024-01-02", "2024-02-02"),
    "half days": (bars_at("01/31/2024 12:05 AM", "01/31/2024 1:30 PM"), {}, "2024-01-31T00:05", "2024-01-31T13:30"),
    "names of months": (bars_at("02-Jan-2024 09:30", "03-Jan-2024 09:30"), {}, "2024-01-02T09:30", "2024-01-03T09:30"),
    "newest first": (bars_at("2024-01-04", "2024-01-03", "2024-01-02"), {}, "2024-01-02", "2024-01-03"),
    "tabs": (bars_at("2024-01-02", "2024-01-03", separator="\t"), {}, "2024-01-02", "2024-01-03"),
    "a line that names the separator": ("sep=;\n" + bars_at("2024-01-02", "2024-01-03", separator=";"), {},
                                        "2024-01-02", "2024-01-03"),
    "an index without a name": (bars_at("2024-01-02", "2024-01-03", header=",open,high,low,close\n"), {},
                                "2024-01-02", "2024-01-03"),
    "single letters": ("v,vw,o,c,h,l,t,n\n9,1,1.5,2,3,1,1704153600000,4\n9,1,1.5,2,3,1,1704153660000,4\n", {},
                       "2024-01-02", "2024-01-02T00:01"),
    "names that are said": ("Zeit,A,B,C,D\n2024-01-02" + BAR + "2024-01-03" + BAR,
                            {"columns": parse_columns(["time=Zeit,open=A", "high=B,low=C,close=D"])},
                            "2024-01-02", "2024-01-03"),
    "numbers of columns": (BINANCE, {"columns": parse_columns(["time=1,open=2,high=3,low=4,close=5"])},
                           "2024-01-02", "2024-01-03"),
    "gzip": (gzip.compress(bars_at("2024-01-02", "2024-01-03").encode()), {}, "2024-01-02", "2024-01-03"),
    "zip": (zipped("b.csv", bars_at("2024-01-02", "2024-01-03")), {}, "2024-01-02", "2024-01-03"),
    "UTF-16": (bars_at("2024-01-02", "2024-01-03").encode("utf-16"), {}, "2024-01-02", "2024-01-03"),
    "UTF-8 with its mark": (b"\xef\xbb\xbf" + bars_at("2024-01-02", "2024-01-03").encode(), {},
                            "2024-01-02", "2024-01-03"),
    "two columns of one time": ("https://www.CryptoDataDownload.com\nunix," + HEADER.replace("time", "date")
                                + "1704240000,2024-01-03 00:00:00" + BAR + "1704153600,2024-01-02 00:00:00" + BAR, {},
                                "2024-01-02", "2024-01-03"),
    "yfinance": (YFINANCE, {}, "2024-01-02", "2024-01-03"),
    "Binance": (BINANCE, {"format": "binance"}, "2024-01-02", "2024-01-03"),
    "Binance, now in microseconds": (BINANCE.replace("1704240000000", "1704240000000000"), {"format": "binance"},
                                     "2024-01-02", "2024-01-03"),
    "MetaTrader 4": ("2024.01.02,00:00,1.5,3,1,2,9\n2024.01.03,00:00,1.5,3,1,2,9\n", {"format": "mt4"},
                     "2024-01-02", "2024-01-03"),
    "MetaTrader 5": (METATRADER, {}, "2024-01-02", "2024-01-03"),
    "HistData": ("20240101 190000;1.5;3;1;2;0\n20240102 190000;1.5;3;1;2;0\n", {"format": "histdata"},
                 "2024-01-02", "2024-01-03"),
    "Dukascopy": (bars_at("02.01.2024 00:00:00.000", "03.01.2024 00:00:00.000", header=DUKASCOPY),
                  {"zone": "Europe/Berlin"}, "2024-01-02", "2024-01-03"),
    "Dukascopy, local": (bars_at("02.01.2024 01:00:00.000 GMT+0100", "13.01.2024 01:00:00.000 GMT+0100",
                                 header=DUKASCOPY.replace("Gmt", "Local")), {}, "2024-01-02", "2024-01-13"),
    "TradingView": ("time,open,high,low,close,Volume\n1704153600,1.5,3,1,2,9\n1704240000,1.5,3,1,2,9\n", {},
                    "2024-01-02", "2024-01-03"),
    "Kraken": ("1704153600,1.5,3,1,2,1,9,4\n1704240000,1.5,3,1,2,1,9,4\n", {"format": "kraken"},
               "2024-01-02", "2024-01-03"),
    "Coinbase": ("1704240000,1,3,1.5,2,9\n1704153600,1,3,1.5,2,9\n", {"format": "coinbase"},
                 "2024-01-02", "2024-01-03"),
    "Investing": (INVESTING, {"columns": {"close": "Price"}, "decimal": "."}, "2024-01-30", "2024-01-31"),
    "Kaggle": (bars_at("1325412060.0", "1325412120.0"), {}, "2012-01-01T10:01", "2012-01-01T10:02"),
    "Forexite": (FOREXITE, {}, "2024-01-02T09:30", "2024-01-02T09:31"),
    "EODHD": (bars_at("1704153600,0,2024-01-02 00:00:00", "1704153660,0,2024-01-02 00:01:00",
                      header="Timestamp,Gmtoffset,Datetime,Open,High,Low,Close\n"), {},
              "2024-01-02", "2024-01-02T00:01"),
    "NinjaTrader": ("20241119 185000;1;2;1;2;10\n20241119 185100;1;2;1;2;10\n", {"format": "ninjatrader"},
                    "2024-11-19T18:50", "2024-11-19T18:51"),
    "groups of digits by spaces": (SPACED, {"decimal": ","}, "2024-01-02", "2024-01-03"),
    "comments with commas above": ("# by X\n# of 1, 2, and 3, as asked\n" + bars_at("2024-01-02", "2024-01-03"), {},
                                   "2024-01-02", "2024-01-03"),
    "a comment for a header": (bars_at("2024-01-02", "2024-01-03", header="#" + HEADER), {},
                               "2024-01-02", "2024-01-03"),
    "clocks set forward, offsets with them": (bars_at("2024-03-31T01:30+01:00", "2024-03-31T03:00+02:00"), {},
                                              "2024-03-31T00:30", "2024-03-31T01:00"),
    "a zone in a column, said": (bars_at("2024-01-02 09:30,EST", "2024-01-02 09:31,EST", header="time,tz,o,h,l,c\n"),
                                 {"zone": "America/New_York"}, "2024-01-02T14:30", "2024-01-02T14:31"),
    "an hour that comes twice": (bars_at(*(f"2024-11-03 {at}" for at in ("01:00", "01:30", "01:00", "01:30"))),
                                 {"zone": "America/New_York"}, "2024-11-03T05:00", "2024-11-03T05:30"),
}  # fmt: skip

# name -> text, what the user says, what is found, what is asked for
REFUSED: dict[str, tuple[str | bytes, dict[str, Any], str, str]] = {
    "a jump of years by another unit": (bars_at("946684800", "1704067200000", "1704067260000"), {}, "jump of years",
                                        "--unit"),
    "numbers too small to be times": (bars_at("86400", "172800"), {}, "'86400'", "--unit s, ms, us or ns"),
    "YYYYMMDDHH or seconds": (bars_at("2024010209", "2024010210"), {}, "2024010209", "--unit s"),
    "no such day": (bars_at("20240230", "2024-13-01", "2024-01-01 25:00"), {}, "line 4", "a time such as"),
    "digits lost": (bars_at("1.70671E+12"), {}, "1.70671E+12", "a time such as"),
    "years of two digits": (bars_at("01/02/24"), {}, "01/02/24", "a time such as"),
    "days of a spreadsheet": (bars_at("45293.3958", "45293.3993"), {}, "'45293.3958'", "a spreadsheet counts"),
    "weeks": (bars_at("2024-W01-2", "2024-W01-3"), {}, "2024-W01-2", "written as dates"),
    "a calendar's digits as a float": (bars_at("20240102.0", "20240103.0"), {}, "'20240102.0'", "without a point"),
    "letters for a zone": (bars_at("20240102 09:30:00 EST", "20240102 09:31:00 EST"), {}, "EST", "distance from UTC"),
    "from when to when": (bars_at("2024-01-02,09:30-10:00", "2024-01-02,10:00-10:30", header="date," + HEADER), {},
                          "09:30-10:00", "from when to when"),
    "a zone in a column": (bars_at("2024-01-02 09:30,EST", "2024-01-02 09:31,EST", header="time,tz,o,h,l,c\n"), {},
                           "EST beside times without it", "--timezone"),
    "AM and PM in a column": (bars_at("2024-01-02,01:30,PM", "2024-01-02,01:31,PM", header="date,time,ampm,o,h,l,c\n"),
                              {}, "PM beside times without it", "whole times"),
    "hours in a column": (bars_at("2024-01-02,9", "2024-01-03,9", header="date,hour,o,h,l,c\n"), {},
                          "9 beside times without it", "whole times"),
    "parts of days": (bars_at("2024-01-02,0.39", "2024-01-03,0.39", header="date," + HEADER), {}, "'0.39'",
                      "a time such as"),
    "years of two digits in two columns": (bars_at("020124,100000", header="<DATE>,<TIME>,o,h,l,c\n"), {},
                                           "'020124'", "four digits for its year"),
    "a sum below": (bars_at("2024-01-02", "2024-01-03", "Total"), {}, "line 4", "'Total'"),
    "the second of two names, as pandas writes it": (HEADER.replace("close", "close,close.1") + "2024-01-02,1" + BAR,
                                                     {}, "'close', 'close.1'", "--columns close=NAME"),
    "JSON": ('{"t":"2024-01-02T05:00:00Z","o":1,"h":2,"l":1,"c":2}\n', {}, "JSON", "read_json"),
    "a quote in 32nds": (HEADER + "2024-01-02,110'16,110'24,110'08,110'20\n", {}, "110'16", "a finite price"),
    "words": (bars_at("now", "soon"), {}, "'now'", "a time such as"),
    "leading zeros lost": (bars_at("20240103,930", "20240103,935", header="date," + HEADER), {}, "'20240103 930'",
                           "leading zeros"),
    "times of two widths": (bars_at("20240103,1000", "20240103,101500", header="date," + HEADER), {},
                            "20240103 1000", "one width"),
    "days or months first": (bars_at("01/02/2024", "02/02/2024"), {}, "either number", "--day-first"),
    "days and months first": (bars_at("25/01/2024", "01/26/2024"), {}, "days first and months first", "--month-first"),
    "with a zone and without": (bars_at("2024-01-02 09:30Z", "2024-01-02 09:31"), {}, "line 3", "--timezone"),
    "clocks set back": (bars_at(*(f"2024-11-03 {at}" for at in ("00:00", "00:30", "01:00", "01:30", "01:00", "01:30"))),
                        {}, "clocks are set back", "--timezone"),
    "an hour that comes twice, shown once": (bars_at("2024-11-03 00:00", "2024-11-03 01:00", "2024-11-03 02:00"),
                                             {"zone": "America/New_York"}, "2024-11-03T01:00", "twice"),
    "an hour that never comes": (bars_at("2024-03-10 02:30"), {"zone": "America/New_York"}, "2024-03-10T02:30",
                                 "set forward"),
    "two instruments": ("symbol," + HEADER + "A,2024-01-01" + BAR + "B,2024-01-02" + BAR, {}, "A, B", "--by symbol"),
    "two timeframes of each instrument": ("symbol,per," + HEADER + "A,1,2024-01-01" + BAR + "A,5,2024-01-02" + BAR,
                                          {"by": "symbol"}, "within A: 1, 5", "--by per"),
    "two instruments without a name": (bars_at(*(f"2024-01-{day:02}" for day in [*range(1, 13), *range(1, 13)])), {},
                                       "times start again", "--by"),
    "tickers side by side": (YFINANCE.replace("AAPL,AAPL\n", "AAPL,MSFT\n"), {}, "AAPL, MSFT", "one ticker"),
    "a point that groups thousands": (HEADER + "2024-01-01,990,995,985,990\n2024-01-02,990,1.001,985,1.000\n", {},
                                      "'1.001' beside '990'", "--decimal ,"),
    "another scale": (HEADER + "2024-01-01,990,995,985,990\n2024-01-02,990000,995000,985000,991000\n", {},
                      "thousandfold", "one scale"),
    "a comma": (HEADER.replace(",", ";") + "2024-01-01;1,5;1,6;1,4;1,5\n", {}, "'1,5'", "--decimal"),
    "a group of two digits": (HEADER.replace(",", ";") + "2024-01-01;1.50;1,6;1,4;1,5\n", {"decimal": ","}, "'1.50'",
                              "a finite price"),
    "no price": (HEADER + "2024-01-01,1,inf,1,oops\n", {}, "'oops'", "a finite price"),
    "zeros": (HEADER + "2024-01-01,1,2,1,2\n2024-01-02,0,0,0,0\n", {}, "0, 0, 0, 0", "other than 0"),
    "no header": (BINANCE, {}, "a header is missing", "--format binance"),
    "columns of another vendor": (BINANCE, {"format": "mt4"}, "12 columns", "as mt4 writes"),
    "two columns of times that differ": ("timestamp," + HEADER + "1704153600,2024-01-02 01:00" + BAR, {},
                                         "two columns of times that differ", "--columns time=NAME"),
    "several columns of a name": (HEADER.replace("open", "open,Open") + "2024-01-01,1" + BAR, {}, "'open', 'Open'",
                                  "--columns open=NAME"),
    "no column of times": ("open,high,low,close\n1,2,1,2\n", {}, "no such column among open", "--columns time=NAME"),
    "no column of that name": (bars_at("2024-01-01"), {"columns": {"open": "Auf"}}, "no column 'Auf' among time",
                               "a column open"),
    "longer and shorter rows": (bars_at("2024-01-01", "2024-01-02,9") + "by nobody\n", {}, "line 4: found 1 cells",
                                "5, as in the lines before"),
    "a single bar out of order": (bars_at("2024-01-01", "2025-01-02", "2024-01-03", "2024-01-04"), {}, "line 3",
                                  "times in order"),
    "a time twice": (bars_at("2024-01-01", "2024-01-02", "2024-01-02", "2024-01-03"), {}, "line 4", "each time once"),
    "nothing": ("", {}, "an empty file", "a text file"),
    "a header alone": (HEADER, {}, "no rows", "at least one"),
    "a web page": ("<!DOCTYPE html>", {}, "a web page", "a text file"),
    "half of a Parquet file": (b"PAR1" + bytes(99), {}, "what cannot be read", "a whole Parquet file"),
    "nothing in an archive": (zipped("a.csv", ""), {}, "an empty file", "a text file"),
    "another encoding": (b"time;\xfc\n" + bars_at("2024-01-01").encode(), {}, "not UTF-8", "UTF-16"),
    "bytes": (b"time,open\x00\n", {}, "binary", "a text file"),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_what_people_export_is_read_as_it_is_meant(tmp_path: Path, case: str) -> None:
    text, said, first, second = READ[case]
    (bars,) = read(tmp_path, text, **said)
    np.testing.assert_array_equal(bars.time_B[:2], np.array([first, second], dtype="datetime64[ns]"))
    open_, high, low, close = bars.bars_B4[0]
    assert low <= min(open_, close) < max(open_, close) <= high


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_be_read_two_ways_or_none_is_refused_with_what_to_do(tmp_path: Path, case: str) -> None:
    text, said, found, expected = REFUSED[case]
    message = refusal(tmp_path, text, **said)
    assert found in message
    assert expected in message


def parquet(folder: Path, **columns: Any) -> Path:
    prices = {"open": [1.5, 1.6], "high": [3.0, 3.0], "low": [1, 1], "close": [2.0, 2.5]}
    pq.write_table(pa.table(prices | columns), folder / "bars.parquet")
    return folder / "bars.parquet"


TIMES = np.array(["2024-01-02T14:30", "2024-01-02T14:31"], dtype="datetime64[ns]")


@pytest.mark.parametrize(
    "time",
    [
        pa.array(TIMES),
        pa.array(TIMES).cast(pa.timestamp("us", "America/New_York")),
        pa.array(TIMES.astype("datetime64[s]").astype(np.int64)),
        pa.array((TIMES.astype(np.int64) // 1_000_000).astype(float)),
        pa.array(["20240102 14:30:00 UTC", "20240102 14:31:00 UTC"]),
    ],
    ids=str,
)
def test_raw_bars_in_parquet_come_through_the_same_door(tmp_path: Path, time: pa.Array) -> None:
    (bars,) = read_bars(parquet(tmp_path, __index_level_0__=time), Reading(decimal=","))
    np.testing.assert_array_equal(bars.time_B, TIMES)
    assert bars.bars_B4.tolist() == [[1.5, 3, 1, 2], [1.6, 3, 1, 2.5]]


def test_parquet_of_bars_is_held_to_the_same_rules(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2, column close: found open, high"):
        read_bars(parquet(tmp_path, time=TIMES, high=[3.0, 0.5]))
    with pytest.raises(DataError, match="--by symbol"):
        read_bars(parquet(tmp_path, time=TIMES, symbol=["A", "B"]))
    (bars,) = read_bars(parquet(tmp_path, time=TIMES, close=[None, 2.5]))
    assert "1 rows without a price left out (line 1)" in bars.notes[0]
    with pytest.raises(DataError, match="windows that are cut already"):
        read_bars(parquet(tmp_path, time=TIMES, features=[[[1.0]], [[2.0]]]))


def test_one_bad_line_is_blamed_alone(tmp_path: Path) -> None:
    assert refusal(tmp_path, REFUSED["a single bar out of order"][0]).count("found") == 1
    assert refusal(tmp_path, bars_at("2024-01-01", "x1", "2024-01-03")).count("found") == 1


def test_each_instrument_is_read_on_its_own_and_named(tmp_path: Path) -> None:
    first, second = read(tmp_path, REFUSED["two instruments"][0], by="symbol")
    assert (first.instrument, second.instrument) == ("A", "B")
    assert [len(bars.time_B) for bars in (first, second)] == [1, 1]
    assert read(tmp_path, YFINANCE)[0].instrument == "AAPL"


def test_the_other_decimal_mark_is_read_where_it_is_said(tmp_path: Path) -> None:
    (bars,) = read(tmp_path, "time;open;high;low;close\n2024-01-01;990;1.001,5;985,25;1 000,00\n", decimal=",")
    assert bars.bars_B4.tolist() == [[990.0, 1001.5, 985.25, 1000.0]]


def test_bars_without_a_price_are_left_out_and_said_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    text = bars_at("2024-01-01") + "2024-01-02,,,,\n\n2024-01-03,1,null,1,2\n" + bars_at("2024-01-04", header="")
    (bars,) = read(tmp_path, text)
    assert bars.row_B.tolist() == [0, 3]
    assert any("2 rows without a price left out (line 3, 5)" in note for note in bars.notes)
    assert "no row with all four prices" in refusal(tmp_path, HEADER + "2024-01-01,1,,1,2\n")


def test_negative_prices_zeros_among_them_and_a_close_above_the_high_by_rounding_are_read(tmp_path: Path) -> None:
    text = HEADER + "2020-04-20,1,2,-40,-37\n2020-04-21,-10,0,-17,-1\n2020-04-22,1,2,1,2.0000000001\n"
    assert read(tmp_path, text)[0].bars_B4[1].tolist() == [-10, 0, -17, -1]


def test_prices_are_shown_with_all_their_digits(tmp_path: Path) -> None:
    assert "1234567.91, 1234567.9, 1, 2" in refusal(tmp_path, HEADER + "2024-01-01,1234567.91,1234567.90,1,2\n")


def test_many_bad_lines_are_counted_by_kind_at_once(tmp_path: Path) -> None:
    lines = [f"{1704067200 + 60 * number},1,{'2' if number % 4 else 'x'},1,2" for number in range(300_000)]
    message = refusal(tmp_path, HEADER + "\n".join(lines) + "\n")
    assert message.count("\n") == 21
    assert "74980 in column high, expected a finite price" in message


def test_what_nobody_can_tell_from_the_file_is_said(tmp_path: Path) -> None:
    (bars,) = read(tmp_path, "made by hand\n" + bars_at("2024-01-02", "2024-01-01", "2023-12-31"))
    assert len(bars.notes) == 3
    assert not bars.is_zoned
    assert read(tmp_path, bars_at("1704153600"))[0].is_zoned
