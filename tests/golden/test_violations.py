"""What is said of data that cannot be used, word for word, as `jade validate`, `jade window` and a comparison say it.

To write it down anew after a change that is meant: `python tests/golden/test_violations.py`.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jade_model.core.errors import DataError
from jade_model.data.bars import read_bars
from jade_model.data.checks import check_data
from jade_model.data.groups import group_windows
from jade_model.data.labels import read_labels
from jade_model.data.sample import sample_windows
from jade_model.data.schema import load_windows

KEPT = Path(__file__).with_name("violations.txt")
NUM_BARS = 16
FLAT = [2.0, 3.0, 1.0, 2.0]
GOOD: dict[str, Any] = {
    "window_id": ["a", "b"],
    "features": [[FLAT] * NUM_BARS] * 2,
    "label": ["reversal", "consolidation"],
    "expansion_start": [3, 5],
    "expansion_end": [6, 5],
}


def with_bar(*bar: Any) -> dict[str, Any]:
    return {"features": pa.array([[FLAT] * NUM_BARS, [FLAT] * 7 + [list(bar)] + [FLAT] * 8])}


def of_length(*lengths: int) -> dict[str, Any]:
    return {"features": [[FLAT] * length for length in lengths]}


FILES: dict[str, dict[str, Any]] = {
    "nothing is wrong": {},
    "no windows": {name: pa.array([], pa.array(values).type) for name, values in GOOD.items()},
    "a column is missing": {"features": None},
    "no labels": {"label": None, "expansion_start": None, "expansion_end": None},
    "an identifier is missing": {"window_id": ["a", None]},
    "an identifier stands twice": {"window_id": ["a", "a"]},
    "bars as text": {"features": ["1,2", "3,4"]},
    "bars of three prices": {"features": [[FLAT[:3]] * NUM_BARS] * 2},
    "a window is missing": {"features": [[FLAT] * NUM_BARS, None]},
    "windows of other lengths": of_length(NUM_BARS, NUM_BARS + 1),
    "windows too short": of_length(15, 15),
    "windows too long": of_length(1025, 1025),
    "no number": with_bar(2.0, 3.0, float("nan"), 2.0),
    "an infinite price": with_bar(2.0, float("inf"), 1.0, 2.0),
    "a price is missing": with_bar(2.0, None, 1.0, 2.0),
    "a high under the close": with_bar(2.0, 3.0, 1.0, 4.0),
    "a low over the open": with_bar(2.0, 3.0, 2.5, 3.0),
    "an unknown label": {"label": ["reversal", "breakout"]},
    "labels as numbers": {"label": [1, 2]},
    "a label is missing": {"label": ["reversal", None]},
    "a start without an end": {"expansion_end": [6, None]},
    "an end before its start": {"expansion_end": [2, 5]},
    "a span past the window": {"expansion_end": [6, NUM_BARS]},
    "a span before the window": {"expansion_start": [-1, 5]},
    "bounds with fractions": {"expansion_start": [3.5, 5.0]},
    "bounds as text": {"expansion_start": ["3", "five"]},
    "lists of unlike lengths": {"expansion_starts": [[3], [1, 5]], "expansion_ends": [[6], [2]]},
    "spans overlap": {"expansion_starts": [[3], [5, 6]], "expansion_ends": [[6], [7, 8]]},
    "lists disagree with bounds": {"expansion_starts": [[3], [9]], "expansion_ends": [[6], [9]]},
    "a list of starts alone": {"expansion_starts": [[3], [5]]},
    "an overlap over 1": {"overlap_fraction": [1.0, 1.5]},
    "an overlap as text": {"overlap_fraction": ["all", "half"]},
    "times as text": {"start_time": ["2024-01-02", "soon"]},
}

BARS: dict[str, str] = {
    "nothing": "",
    "no bars": "time,open,high,low,close\n",
    "no column of times": "open,high,low,close\n1,2,1,2\n",
    "no column of closes": "time,open,high,low\n2024-01-02,1,2,1\n",
    "no number": "time,open,high,low,close\n2024-01-02,1,2,1,2\n2024-01-03,1,x,1,2\n",
    "a high under the close": "time,open,high,low,close\n2024-01-02,1,2,1,2\n2024-01-03,1,2,1,3\n",
    "no time": "time,open,high,low,close\n2024-01-02,1,2,1,2\nlater,1,2,1,2\n",
    "day or month": "time,open,high,low,close\n01/02/2024,1,2,1,2\n02/02/2024,1,2,1,2\n",
    "one time twice": "time,open,high,low,close\n2024-01-02,1,2,1,2\n2024-01-02,1,3,1,2\n",
    "a line too short": "time,open,high,low,close\n2024-01-02,1,2,1,2\n2024-01-03,1,2\n",
    "a decimal comma or not": "time;open;high;low;close\n2024-01-02;1,500;2,500;1,000;2,000\n",
}

LABELS: dict[str, str] = {
    "no columns of spans": "from,until\n2024-01-02,2024-01-03\n",
    "an end before its start": "start,end,label\n2024-01-05,2024-01-03,reversal\n",
    "outside the bars": "start,end,label\n2023-01-05,2023-01-06,reversal\n",
    "no time": "start,end,label\n2024-01-03,soon,reversal\n",
    "an unknown label": "start,end,label\n2024-01-03,2024-01-04,breakout\n",
}


def frozen(folder: Path) -> str:
    """Return every case with what is said of it."""
    said = [f"# {kind}: {name}\n{words}\n" for kind, name, words in _said(folder)]
    return "\n".join(said).replace(f"{folder}/", "")


def _said(folder: Path) -> Iterator[tuple[str, str, str]]:
    for name, change in FILES.items():
        columns = {column: values for column, values in (GOOD | change).items() if values is not None}
        pq.write_table(pa.table(columns), folder / "windows.parquet")
        yield "windows", name, _refusal(lambda: load_windows(folder / "windows.parquet"))
    for name, text in BARS.items():
        (folder / "bars.csv").write_text(text)
        yield "bars", name, _refusal(lambda: read_bars(folder / "bars.csv"))
    days = (f"2024-01-{day:02},1,2,1,2\n" for day in range(2, 10))
    (folder / "bars.csv").write_text("time,open,high,low,close\n" + "".join(days))
    (bars,) = read_bars(folder / "bars.csv")
    for name, text in LABELS.items():
        (folder / "labels.csv").write_text(text)
        yield "labels", name, _refusal(lambda: read_labels(folder / "labels.csv", bars))
    windows = sample_windows(num_bases=4)
    again = windows.take(np.zeros(4, np.intp))
    unlabelled = dataclasses.replace(
        windows, spans_S2=windows.spans_S2[:0], span_offsets_N1=np.zeros_like(windows.span_offsets_N1)
    )
    for name, unfit in (("few", windows), ("copies", again), ("no spans", unlabelled)):
        report = check_data(unfit, group_windows(unfit), feature_sets=["relativity-12"])
        checks = [f"{each.name} {each.status}: found {each.found}; expected {each.expected}" for each in report.checks]
        yield "checks", name, "\n".join(checks)


def _refusal(read: Callable[[], object]) -> str:
    try:
        read()
    except DataError as error:
        return str(error)
    return ""


def test_what_is_said_of_bad_data_is_what_was_written_down(tmp_path: Path) -> None:
    assert frozen(tmp_path) == KEPT.read_text()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        KEPT.write_text(frozen(Path(made)))
