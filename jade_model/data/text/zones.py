"""Clocks of a zone -> UTC, with what clocks that are changed leave open.

Legend: R rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jade_model.core.errors import ConfigError
from jade_model.data.faults import Faults
from jade_model.data.text.times import MINUTE, WrittenTimes


class UnknownZone(ConfigError):
    """No time zone has this name."""


@dataclass(frozen=True, eq=False)
class UtcTimes:
    """Times in UTC.

    Attributes:
        utc_R: datetime64[ns]; NaT where the zone's clock showed the time never, or twice and nothing tells which.
        is_absent_R: Where it never did.
        is_twice_R: Where it did twice.
    """

    utc_R: NDArray[np.datetime64]
    is_absent_R: NDArray[np.bool_]
    is_twice_R: NDArray[np.bool_]


def to_utc(wall_R: NDArray[np.datetime64], zone: str) -> UtcTimes:
    """Turn what a zone's clock shows into UTC.

    An hour that comes twice is resolved where the rows themselves go through it twice: in ascending rows, the first
    pass comes before the step back.

    Args:
        wall_R: datetime64[ns] in the order of the file; NaT stays.
        zone: An IANA name, or an offset such as +02:00.

    Raises:
        UnknownZone: There is no such zone.
    """
    none_R = np.zeros(len(wall_R), dtype=bool)
    offset = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d{1,2}):?(\d\d)?", zone)
    if offset or zone.upper() in {"UTC", "GMT", "Z"}:
        minutes = int(offset[2]) * 60 + int(offset[3] or 0) if offset else 0
        ahead = np.timedelta64(minutes if not offset or offset[1] == "+" else -minutes, "m")
        return UtcTimes(wall_R - ahead, none_R, none_R)
    import pandas as pd

    try:
        index = pd.DatetimeIndex(wall_R)
        first, second = (
            np.asarray(
                index.tz_localize(zone, ambiguous=np.full(len(wall_R), is_first), nonexistent="NaT")
                .tz_convert("UTC")
                .tz_localize(None),
                dtype="datetime64[ns]",
            )
            for is_first in (True, False)
        )
    except (KeyError, ValueError, OSError) as error:
        raise UnknownZone(
            f"no time zone is called {zone!r}; use a name such as Europe/Berlin, UTC or +02:00"
        ) from error
    is_twice_R = (first != second) & ~np.isnat(first) & ~np.isnat(second)
    utc_R = np.where(is_twice_R, np.datetime64("NaT", "ns"), first)
    for rows in _stretches(is_twice_R):
        back = np.flatnonzero(np.diff(wall_R[rows]).astype(np.int64) <= 0)
        if len(back) == 1:
            step = rows[back[0] + 1]
            utc_R[rows] = np.where(rows < step, first[rows], second[rows])
    return UtcTimes(utc_R, np.isnat(first) & ~np.isnat(wall_R), is_twice_R & np.isnat(utc_R))


def _stretches(is_twice_R: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    rows = np.flatnonzero(is_twice_R)
    return np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if len(rows) else []


def resolve(
    times: WrittenTimes, zone: str | None, column: str, faults: Faults, *, ends: bool = False
) -> tuple[NDArray[np.datetime64], bool]:
    """Return UTC times, and whether they are known to be UTC: as written, where neither cells nor the user say a zone.

    Args:
        times: As written.
        zone: Of the cells that name none, or None.
        column: Its name.
        faults: Gets what is wrong.
        ends: Return the first moment behind what each time covers instead.

    Raises:
        UnknownZone: There is no such zone.
    """
    wall_R = times.wall_R + times.precision_R.astype("timedelta64[ns]") if ends else times.wall_R
    is_naive_R = times.is_read_R & ~times.has_zone_R
    utc_R = np.where(is_naive_R, wall_R, wall_R - times.offset_R.astype("timedelta64[ns]"))
    if not is_naive_R.any():
        return utc_R, True
    if zone is None:
        if (times.is_read_R & times.has_zone_R).any():
            places = [
                int(np.flatnonzero(times.is_read_R & mask_R)[0]) for mask_R in (times.has_zone_R, ~times.has_zone_R)
            ]
            lines = places if faults.line_N is None else [int(faults.line_N[row]) for row in places]
            found = f"times with a zone (line {lines[0]}) and without (line {lines[1]})"
            faults.add(column, found, "one kind, or --timezone ZONE for those without")
        return utc_R, False
    local = to_utc(np.where(is_naive_R, wall_R, np.datetime64("NaT", "ns")), zone)
    shown = wall_R.astype("datetime64[m]") if not ends else times.wall_R.astype("datetime64[m]")
    faults.add_rows(
        local.is_absent_R,
        column,
        lambda row: str(shown[row]),
        f"times that clocks in {zone} showed: they were set forward",
    )
    faults.add_rows(
        local.is_twice_R,
        column,
        lambda row: str(shown[row]),
        f"times with their distance from UTC where clocks in {zone} were set back and showed an hour twice",
    )
    return np.where(is_naive_R, local.utc_R, utc_R), True


def clocks_set_back(utc_R: NDArray[np.datetime64], row: int) -> bool:
    """Return whether times go back before a row as they do where clocks are: within an hour, in autumn or spring."""
    back = int((utc_R[row] - utc_R[row - 1]).astype(np.int64))
    day = utc_R[row].astype("datetime64[D]")
    month = int(day.astype("datetime64[M]").astype(np.int64) % 12) + 1
    is_weekend = int((day.astype(np.int64) + 4) % 7) == 0
    return -60 * MINUTE <= back <= 0 and month in {3, 4, 9, 10, 11} and is_weekend
