"""Random bars and labels in every form that people have come back as the same instants and prices, or not at all."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jade_model.core.errors import DataError
from jade_model.data.bars import read_bars
from jade_model.data.labels import read_labels
from jade_model.data.text.columns import Reading

# strftime's form -> whether it tells UTC by itself
FORMS = {
    "%Y-%m-%d %H:%M": False,
    "%Y-%m-%dT%H:%M:%S.%f": False,
    "%Y.%m.%d,%H:%M:%S": False,
    "%Y%m%d,%H%M": False,
    "%Y%m%d,%H%M%S": False,
    "%Y%m%d %H%M%S": False,
    "%Y%m%d%H%M": False,
    "%Y%m%d%H%M%S": False,
    "%d.%m.%Y %H:%M": False,
    "%m/%d/%Y %I:%M %p": False,
    "%d-%b-%Y %H:%M": False,
    "%Y-%m-%d %H:%M:%S%z": True,
    "s": True,
    "ms": True,
    "us": True,
    "ns": True,
}
ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe")
PROFILES = {"": None, "binance": ("ms", 6), "kraken": ("s", 3), "mt4": ("%Y.%m.%d,%H:%M", 1)}


def written(times: pd.DatetimeIndex, form: str) -> list[str]:
    """Write times of a zone."""
    if "%" in form:
        return times.strftime(form).tolist()
    return (
        (times.tz_convert("UTC").tz_localize(None).as_unit("ns").asi8 // pd.Timedelta(1, form).value)
        .astype(str)
        .tolist()
    )


@st.composite
def series(draw: st.DrawFn) -> tuple[pd.DatetimeIndex, np.ndarray]:
    """Return times in UTC, some absent, and bars with prices of up to six digits behind the point."""
    first = draw(st.datetimes(pd.Timestamp("1999-01-01"), pd.Timestamp("2029-01-01"))).replace(second=0, microsecond=0)
    step = draw(st.sampled_from([1, 5, 30, 60, 1440]))
    places = np.cumsum(draw(st.lists(st.integers(1, 3), min_size=4, max_size=40)))
    times = pd.DatetimeIndex(pd.Timestamp(first) + pd.to_timedelta(places * step, unit="min"), tz="UTC")
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([0.0007, 1.1, 990.0, 42_000.0]))
    close = scale * np.exp(np.cumsum(rng.normal(0, 0.01, len(places))))
    open_ = close * np.exp(rng.normal(0, 0.01, len(places)))
    edges = np.stack([np.maximum(open_, close) * 1.01, np.minimum(open_, close) * 0.99])
    return times, np.round(np.stack([open_, *edges, close], axis=1), 7)


@settings(max_examples=150)
@given(
    made=series(),
    form=st.sampled_from(list(FORMS)),
    zone=st.sampled_from(ZONES),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    decimal=st.sampled_from([".", ","]),
    newest_first=st.booleans(),
    says_zone=st.booleans(),
    says_order=st.booleans(),
    profile=st.sampled_from(list(PROFILES)),
    compressed=st.sampled_from(["", ".gz"]),
)
def test_bars_come_back_as_the_same_instants_and_prices_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory,
    made: tuple[pd.DatetimeIndex, np.ndarray],
    form: str,
    zone: str,
    separator: str,
    decimal: str,
    newest_first: bool,
    says_zone: bool,
    says_order: bool,
    profile: str,
    compressed: str,
) -> None:
    times, bars = made
    more = 0
    if profile:
        form, more = PROFILES[profile]  # type: ignore[misc]
    if separator == "," and decimal == ",":
        decimal = "."
    local = times.tz_convert(ZoneInfo(zone))
    lines = []
    for time, bar in zip(written(local, form), bars.tolist(), strict=True):
        prices = [f"{price:.7f}".replace(".", decimal) for price in bar]
        lines.append(separator.join([*time.split(","), *prices, *["1"] * more]))
    names = ["date", "time"] if "," in form else ["time"]
    header = [] if profile else [separator.join([*names, "open", "high", "low", "close"])]
    path = tmp_path_factory.mktemp("bars") / f"bars.csv{compressed}"
    table = pd.Series([*header, *(lines[::-1] if newest_first else lines)])
    table.to_csv(path, index=False, header=False, sep="\x1f", quoting=3)
    reading = Reading(
        format=profile or None,
        zone=zone if says_zone else None,
        day_first={"%d.%m": True, "%m/%d": False}.get(form[:5]) if says_order else None,
        decimal="," if decimal == "," else None,
    )
    tells = FORMS.get(form, False)
    try:
        (read,) = read_bars(path, reading)
    except DataError as error:
        message = str(error)
        assert any(
            flag in message for flag in ("--timezone", "--day-first", "twice", "again", "in order", "set forward")
        )
        # Where everything is said, only an hour that clocks show twice cannot be told.
        if (says_zone or tells) and (says_order or form[:5] not in {"%d.%m", "%m/%d"}):
            assert "set back" in message
        return
    expected = times if tells or says_zone else local.tz_localize(None)
    np.testing.assert_array_equal(read.time_B, np.asarray(expected.tz_localize(None), dtype="datetime64[ns]"))
    np.testing.assert_allclose(read.bars_B4, bars, rtol=0, atol=1e-12)
    assert read.is_zoned == (tells or says_zone)


@settings(max_examples=100)
@given(
    made=series(),
    form=st.sampled_from([form for form in FORMS if "," not in form]),
    zone=st.sampled_from(ZONES),
    says_zone=st.booleans(),
    bounds=st.tuples(st.integers(0, 39), st.integers(0, 39)),
)
def test_spans_come_back_on_the_same_bars_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory,
    made: tuple[pd.DatetimeIndex, np.ndarray],
    form: str,
    zone: str,
    says_zone: bool,
    bounds: tuple[int, int],
) -> None:
    times, bars = made
    folder = tmp_path_factory.mktemp("labels")
    pd.DataFrame(bars, columns=["open", "high", "low", "close"]).assign(time=written(times, "ms")).to_csv(
        folder / "bars.csv", index=False
    )
    start, end = sorted(min(bound, len(times) - 1) for bound in bounds)
    first, last = (written(times[[at]].tz_convert(ZoneInfo(zone)), form)[0] for at in (start, end))
    (folder / "labels.csv").write_text(f"start;end;label\n{first};{last};reversal\n")
    reading = Reading(zone=zone if says_zone else None)
    (series_read,) = read_bars(folder / "bars.csv", reading)
    try:
        labels = read_labels(Path(folder / "labels.csv"), series_read, reading)
    except DataError as error:
        assert any(flag in str(error) for flag in ("--timezone", "--day-first", "set back"))  # noqa: PT017 - likewise
        return
    assert FORMS[form] or says_zone
    assert labels.spans_S2.tolist() == [[start, end + 1]]
