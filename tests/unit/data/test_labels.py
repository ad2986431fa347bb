"""Labelled spans lie where they were drawn, whatever they were exported by, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jade_model.core.errors import DataError
from jade_model.core.windows import TYPE_NAMES
from jade_model.data.bars import read_bars
from jade_model.data.cutting import Cutting, cut_windows
from jade_model.data.labels import Labels, read_labels
from jade_model.data.text.columns import Reading

HEADER = "start,end,label\n"


def bars_csv(folder: Path, *, zone: str = "", newest_first: bool = False, missing: str = "") -> Path:
    """Two hours of bars of five minutes from nine on the second of January, and of the day after."""
    lines = []
    for day in (2, 3):
        for minute in range(0, 120, 5):
            time = f"2024-01-{day:02} {9 + minute // 60:02}:{minute % 60:02}{zone}"
            lines.append(f"{time},{'' if missing and time.endswith(missing) else 1},2,1,2")
    path = folder / "bars.csv"
    path.write_text("time,open,high,low,close\n" + "\n".join(lines[:: -1 if newest_first else 1]) + "\n")
    return path


def read(folder: Path, text: str, bars: Path | None = None, **said: Any) -> Labels:
    (series,) = read_bars(bars or bars_csv(folder), Reading(**said))
    (folder / "labels").write_text(text)
    return read_labels(folder / "labels", series, Reading(**said))


def refusal(folder: Path, text: str, bars: Path | None = None, **said: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, text, bars, **said)
    return str(caught.value)


def task(regions: list[dict[str, Any]], name: str = "/data/upload/1/ab12-bars.csv", **changes: Any) -> dict[str, Any]:
    result = [{"type": "timeserieslabels", "from_name": "label", "value": region} for region in regions]
    other = {"type": "choices", "value": {"choices": ["good"]}}
    return {"id": 1, "data": {"csv": name}, "annotations": [{"result": [*result, other], **changes}]}


def region(start: Any, end: Any, *labels: str) -> dict[str, Any]:
    return {"start": start, "end": end, "instant": False, "timeserieslabels": list(labels) or ["Reversal"]}


TIMES = region("2024-01-02 09:10", "2024-01-02 09:20")
NUMBERS = region(2, 4)
# What is read as bars 2 to 4, of one label.
READ: dict[str, str] = {
    "times": HEADER + "2024-01-02 09:10,2024-01-02 09:20,reversal\n",
    "times between bars": HEADER + "2024-01-02 09:06:30,2024-01-02 09:24:59, Reversal\n",
    "other names": "Label;End_Time;Start_Time\nREVERSAL;2024.01.02 09:20;2024.01.02 09:10\n",
    "days first": HEADER + "02/01/2024 09:10,02/01/2024 09:20,reversal\n",
    "bar numbers": "start_bar,end_bar,label\n2,4,reversal\n",
    "Label Studio": json.dumps([task([TIMES])]),
    "Label Studio, by number": json.dumps([task([NUMBERS])]),
    "Label Studio, ours among several": json.dumps([task([TIMES]), task([region(7, 8)], "other.csv")]),
    "Label Studio, one cancelled": json.dumps(
        [task([TIMES]) | {"annotations": [{"was_cancelled": True, "result": []}, *task([TIMES])["annotations"]]}]
    ),
    "Label Studio, JSON-MIN": json.dumps([{"id": 1, "csv": "/ab12-bars.csv", "label": [TIMES], "annotator": 1}]),
    "Label Studio, CSV": 'annotation_id,csv,label\n3,/ab12-bars.csv,"' + json.dumps([TIMES]).replace('"', '""') + '"\n',
}
REFUSED: dict[str, tuple[str, str, str]] = {
    "reversed": (HEADER + "2024-01-02 09:20,2024-01-02 09:10,reversal\n", "line 2", "not after the end"),
    "before the bars": (HEADER + "2024-01-02 08:00,2024-01-02 09:10,reversal\n", "08:00", "where the bars are"),
    "after the bars": (HEADER + "2024-01-03 09:00,2024-01-04,reversal\n", "2024-01-04", "where the bars are"),
    "in a hole": (HEADER + "2024-01-02 12:00,2024-01-02 13:00,reversal\n", "12:00", "at least one bar"),
    "over another": (HEADER + "2,4,reversal\n4,5,reversal\n", "line 3", "share no bar"),
    "unknown label": (HEADER + "2,4,breakout\n", "'breakout'", "reversal"),
    "no time": (HEADER + "2024-01-02 09:10,never,reversal\n", "'never'", "a time such as"),
    "a number without a bar": (HEADER + "2,48,reversal\n", "bars 2 to 48", "0 to 47"),
    "a zone that bars lack": (HEADER + "2024-01-02 09:10Z,2024-01-02 09:20Z,reversal\n", "a zone", "--timezone"),
    "seconds since 1970, which are UTC": (HEADER + "1704186600,1704187200,reversal\n", "a zone", "--timezone"),
    "leading zeros lost": (HEADER + "20240102 910,20240102 920,reversal\n", "20240102 910", "leading zeros"),
    "days or months first": (HEADER + "02/01/2024 09:10,03/01/2024 09:10,reversal\n", "either number", "--day-first"),
    "no header": ("2024-01-02 09:10,2024-01-02 09:20,reversal\n", "a header is missing", "start=1,end=2,label=3"),
    "another column": ("start,end,name\n1,2,reversal\n", "no such column", "--columns label=NAME"),
    "several instruments": ("symbol," + HEADER + "A,1,2,reversal\nB,3,4,reversal\n", "spans of A, B", "instrument"),
    "two annotations": (json.dumps([task([]) | {"annotations": task([])["annotations"] * 2}]), "2 annotations", "one"),
    "tasks about other files": (json.dumps([task([], "a.csv"), task([], "b.csv")]), "0 of them", "export it alone"),
    "two labels of a region": (json.dumps([task([region(1, 2, "reversal", "x")])]), "region 0", "one label"),
    "other JSON": ("[1, 2]", "no list of tasks", "Label Studio"),
    "no JSON": ("[{", "no JSON", "Label Studio"),
}


@pytest.mark.parametrize("case", READ)
def test_spans_are_read_as_they_were_drawn(tmp_path: Path, case: str) -> None:
    labels = read(tmp_path, READ[case], day_first=True if case == "days first" else None)
    assert labels.spans_S2.tolist() == [[2, 5]]
    assert [TYPE_NAMES[kind] for kind in labels.type_S] == ["reversal"]


@pytest.mark.parametrize("case", REFUSED)
def test_what_lies_nowhere_or_in_two_places_is_refused(tmp_path: Path, case: str) -> None:
    text, found, expected = REFUSED[case]
    message = refusal(tmp_path, text)
    assert found in message
    assert expected in message


def test_spans_come_in_the_order_of_time(tmp_path: Path) -> None:
    labels = read(tmp_path, HEADER + "30,31,reversal\n2,4,consolidation\n")
    assert labels.spans_S2.tolist() == [[2, 5], [30, 32]]
    assert [TYPE_NAMES[kind] for kind in labels.type_S] == ["consolidation", "reversal"]


@pytest.mark.parametrize(
    ("end", "last"), [("2024-01-02", 23), ("2024-01-02 09:20", 4), ("2024-01-02 09:20:00", 4), ("2024-01-02 09:19", 3)]
)
def test_an_end_covers_what_it_names(tmp_path: Path, end: str, last: int) -> None:
    labels = read(tmp_path, f"{HEADER}2024-01-02,{end},reversal\n")
    assert labels.spans_S2.tolist() == [[0, last + 1]]


def test_an_end_of_a_minute_covers_its_seconds(tmp_path: Path) -> None:
    bars = tmp_path / "b.csv"
    times = [f"2024-01-02 09:{second // 60:02}:{second % 60:02}" for second in range(0, 240, 20)]
    bars.write_text("time,open,high,low,close\n" + "".join(f"{time},1,2,1,2\n" for time in times))
    labels = read(tmp_path, HEADER + "2024-01-02 09:01,2024-01-02 09:02,reversal\n", bars)
    assert labels.spans_S2.tolist() == [[3, 9]]


def test_labels_without_a_zone_beside_bars_with_one_need_it_said(tmp_path: Path) -> None:
    bars = bars_csv(tmp_path, zone="+00:00")
    text = HEADER + "2024-01-02 04:10,2024-01-02 04:20,reversal\n"
    message = refusal(tmp_path, text, bars)
    assert "no zone" in message
    assert "--timezone" in message
    assert read(tmp_path, text, bars, zone="America/New_York").spans_S2.tolist() == [[2, 5]]


def test_numbers_count_the_files_rows_in_their_order_left_out_ones_too(tmp_path: Path) -> None:
    text = HEADER + "2,4,reversal\n"
    newest_first = bars_csv(tmp_path, newest_first=True)
    assert read(tmp_path, text, newest_first).spans_S2.tolist() == [[43, 46]]
    incomplete = bars_csv(tmp_path, missing="01-02 09:05")
    labels = read(tmp_path, text, incomplete)
    assert labels.spans_S2.tolist() == [[1, 4]]
    assert "0 is the first row of bars.csv" in labels.notes[0]


def test_a_file_of_labels_without_rows_says_that_there_are_none(tmp_path: Path) -> None:
    bars, labels = bars_csv(tmp_path), tmp_path / "none.csv"
    labels.write_text(HEADER)
    windows, _ = cut_windows(bars, labels, Cutting(window_length=16, stride=16))
    assert windows.is_labelled
    assert windows.num_spans_N.tolist() == [0, 0, 0]
    with pytest.raises(DataError, match="--stride"):
        cut_windows(bars, labels, Cutting(window_length=16))


def test_each_instruments_spans_are_cut_out_of_its_own_bars(tmp_path: Path) -> None:
    text = bars_csv(tmp_path).read_text().splitlines()
    bars, labels = tmp_path / "both.csv", tmp_path / "labels.csv"
    lines = [f"{name},{line}" for name in "AB" for line in text[1:]]
    bars.write_text("\n".join([f"symbol,{text[0]}", *lines]) + "\n")
    labels.write_text("symbol," + HEADER + "B,2024-01-02 09:10,2024-01-02 09:20,reversal\n")
    windows, _ = cut_windows(bars, labels, Cutting(window_length=16), Reading(by="symbol"))
    assert windows.instrument_N.tolist() == ["B"]
    both, _ = cut_windows(bars, labels, Cutting(window_length=16, stride=16), Reading(by="symbol"))
    assert both.instrument_N.tolist() == ["A"] * 3 + ["B"] * 3
    assert both.num_spans_N.tolist() == [0, 0, 0, 1, 0, 0]
    assert len(set(both.window_id_N)) == 6
