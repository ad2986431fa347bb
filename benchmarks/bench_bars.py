"""Raw bars from text: 300,000 of them, and as many of which a quarter is bad, beside pandas reading the same file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.harness import Measurement, interleaved
from jade_model.core.errors import DataError
from jade_model.data.bars import read_bars

NUM_BARS = 300_000
MOST_S = 2.0
# name -> every fourth row; None where nothing is bad
KINDS: dict[str, str | None] = {
    "all good": None,
    "75,000 without a price": "{time},1,oops,1,2",
    "75,000 impossible": "{time},1,1,1,2",
    "75,000 twice at one time": "{before},1,2,1,2",
}


def measure() -> list[Measurement]:
    """Read each kind of file, or refuse it with all that is wrong."""
    with tempfile.TemporaryDirectory(prefix="jade-bars-") as folder:
        return [_measured(name, row, Path(folder)) for name, row in KINDS.items()]


def _measured(name: str, bad: str | None, folder: Path) -> Measurement:
    path = folder / f"{name}.csv"
    lines = ["time,open,high,low,close"]
    for number in range(NUM_BARS):
        row = "{time},1,2,1,2" if bad is None or number % 4 else bad
        time = 1_704_067_200 + 60 * number
        lines.append(row.format(time=time, before=time - 60))
    path.write_text("\n".join(lines) + "\n")

    def ours() -> None:
        try:
            read_bars(path)
        except DataError as error:
            if bad is None or len(error.violations) < NUM_BARS // 4 - 1:
                raise
        else:
            if bad is not None:
                raise AssertionError(f"{name}: read as if nothing were wrong")

    ours_s, peer_s = interleaved(ours, lambda: pd.read_csv(path), repeat=3)
    return Measurement(f"{NUM_BARS:,} bars, {name}", ours_s, peer_s, "pandas.read_csv, unchecked", max_s=MOST_S)
