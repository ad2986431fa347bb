"""Are bars in the order of time, and at one scale of prices? Causes are named, not their symptoms.

Legend: B bars.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jade_model.data.faults import Faults
from jade_model.data.text.times import DAY, WrittenTimes
from jade_model.data.text.zones import clocks_set_back

if TYPE_CHECKING:
    import pyarrow as pa

_JUMP_OF_YEARS = 2 * 366 * DAY
_USUAL_STEPS = 100
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
# A factor of a thousand between neighbours, give or take what a price may move meanwhile.
_THOUSANDFOLD = (400.0, 2500.0)
_IMPOSSIBLE_MOVE = 900.0


def ascending_rows(times: WrittenTimes, rows_B: NDArray[np.intp]) -> tuple[NDArray[np.intp], bool]:
    """Return the rows oldest first, and whether the file has the newest first."""
    time_B = (times.wall_R - times.offset_R.astype("timedelta64[ns]"))[rows_B]
    steps = np.diff(time_B[~np.isnat(time_B)]).astype(np.int64)
    # Clocks that are set back make some steps of such a file go the other way.
    is_newest_first = len(steps) > 0 and int((steps < 0).sum()) > 0.9 * len(steps)
    return (rows_B[::-1], True) if is_newest_first else (rows_B, False)


def check_order(time_B: NDArray[np.datetime64], column: str, faults: Faults, *, is_zoned: bool, is_mixed: bool) -> None:
    """Name bars at the time of another one, out of order, or years away from their neighbours.

    Args:
        time_B: UTC.
        column: Name of the times.
        faults: Gets what is wrong.
        is_zoned: Whether the times are known to be UTC.
        is_mixed: Whether numbers since 1970 were read in several units, or beside other times.
    """
    ns_B = time_B.astype(np.int64)
    step_B = np.diff(ns_B)
    if not len(step_B):
        return
    if (step_B <= 0).any():
        _name_disorder(time_B, step_B, column, faults, is_zoned=is_zoned)
        return
    usual = int(np.sort(step_B)[(len(step_B) - 1) // 2])
    far_B = (step_B > _JUMP_OF_YEARS) & (step_B > _USUAL_STEPS * usual)
    far = np.flatnonzero(far_B | ((step_B > _JUMP_OF_YEARS) & is_mixed))
    for before in far[:20].tolist():
        found = f"{_shown(time_B[before + 1])} after {_shown(time_B[before])}, a jump of years"
        why = "numbers of one unit (--unit), or " if is_mixed else ""
        expected = f"{why}bars without a hole of years: cut the parts on their own"
        faults.add(column, found, expected, line=faults.line_of(before + 1))


def _name_disorder(
    time_B: NDArray[np.datetime64], step_B: NDArray[np.int64], column: str, faults: Faults, *, is_zoned: bool
) -> None:
    back = np.flatnonzero(step_B <= 0) + 1
    again = [row for row in back.tolist() if clocks_set_back(time_B, row)] if not is_zoned else []
    if again and len(again) == len(back):
        row = again[0]
        found = (
            f"{_shown(time_B[row])} after {_shown(time_B[row - 1])}, as where clocks are set back ({len(back)} times)"
        )
        expected = "--timezone ZONE, such as America/New_York, or times in UTC"
        faults.add(column, found, expected, line=faults.line_of(row))
        return
    kept_B = _longest_ascending(time_B.astype(np.int64))
    wrong_B = ~kept_B
    last_kept_B = np.maximum.accumulate(np.where(kept_B, np.arange(len(time_B)), -1))
    kept = time_B[kept_B]
    same_B = wrong_B & (kept[np.searchsorted(kept[:-1], time_B)] == time_B)
    if wrong_B.mean() > 0.1 and (step_B > 0).mean() > 0.9:
        row = int(back[0])
        found = f"{_shown(time_B[row])} after {_shown(time_B[row - 1])}, and so on: times start again {len(back)} times"
        expected = "one series of bars, oldest or newest first; where these are two, a column that names them, for --by"
        faults.add(column, found, expected, line=faults.line_of(row))
        return

    def shown(row: int) -> str:
        before = int(last_kept_B[row])
        return f"{_shown(time_B[row])}" + (
            f" after {_shown(time_B[before])}" if before >= 0 else " before earlier times"
        )

    faults.add_rows(same_B, column, lambda row: f"{_shown(time_B[row])} again", "each time once")
    faults.add_rows(wrong_B & ~same_B, column, shown, "times in order")


def _longest_ascending(ns_B: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return one longest strictly ascending subsequence: the fewest bars are blamed (patience sorting)."""
    tails: list[int] = []
    tail_at: list[int] = []
    before = np.full(len(ns_B), -1, dtype=np.int64)
    for at, value in enumerate(ns_B.tolist()):
        if not tails or value > tails[-1]:
            place = len(tails)
            tails.append(value)
            tail_at.append(at)
        else:
            place = bisect_right(tails, value - 1)
            # Of equal times the first in the file stays.
            if tails[place] != value:
                tails[place], tail_at[place] = value, at
        if place:
            before[at] = tail_at[place - 1]
    kept_B = np.zeros(len(ns_B), dtype=bool)
    at = tail_at[-1]
    while at >= 0:
        kept_B[at] = True
        at = int(before[at])
    return kept_B


def check_jumps(bars_B4: NDArray[np.float64], texts: list[pa.Array], faults: Faults) -> None:
    """Name prices that a thousandfold jump says were written for another decimal mark.

    Args:
        bars_B4: Open, high, low, close, in the order of time.
        texts: Their cells, column by column.
        faults: Gets the first such place: it is about the file.
    """
    flat = bars_B4.ravel()
    size = np.where(flat > 0, flat, np.nan)
    with np.errstate(invalid="ignore"):
        ratio = size[1:] / size[:-1]
        fold = np.maximum(ratio, 1 / ratio)
        suspects = np.flatnonzero((fold > _THOUSANDFOLD[0]) & (fold < _THOUSANDFOLD[1]))
        close_ratio = size[3::4][1:] / size[3::4][:-1]
        moves = np.flatnonzero(np.maximum(close_ratio, 1 / close_ratio) > _IMPOSSIBLE_MOVE)
    # No loop over all of them: a file that is wrong throughout shows it at once.
    for at in suspects[:1000].tolist():
        small = at if flat[at] < flat[at + 1] else at + 1
        large = 2 * at + 1 - small
        cell = texts[small % 4][small // 4].as_py()
        if _THOUSANDS.fullmatch(cell):
            other = texts[large % 4][large // 4].as_py()
            found = f"{cell!r} beside {other!r}, a thousandfold jump"
            expected = "--decimal , where the point groups thousands, --decimal . if it does not"
            faults.add("close", found, expected, line=faults.line_of(small // 4))
            return
    if len(moves):
        row = int(moves[0]) + 1
        found = f"a close of {texts[3][row].as_py()} after {texts[3][row - 1].as_py()}, a thousandfold jump"
        faults.add("close", found, "prices at one scale; --decimal . if these are", line=faults.line_of(row))


def _shown(time: np.datetime64) -> str:
    text = str(time)
    return text.rstrip("0").rstrip(".") if "." in text else text
