"""`jade validate`, `window` and `sample`: data files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from pyarrow import ArrowException, parquet

from flows.commands.common import json_option, print_json, print_table, tell
from flows.commands.reading import check_output, reading_of, reading_options, refuse, tell_notes
from jade_model.core.errors import DataError
from jade_model.data.bars import read_bars, shown_time
from jade_model.data.cutting import Cutting, cut_windows
from jade_model.data.labels import read_labels
from jade_model.data.sample import sample_windows
from jade_model.data.schema import iter_windows, load_windows, write_windows
from jade_model.data.splits import group_windows
from jade_model.data.text.columns import Reading
from jade_model.data.text.table import is_parquet

BATCH_SIZE = 4096
MOST_WINDOWS_GROUPED = 20_000
"""Grouping needs all windows in memory; beyond this many, the check leaves it out."""


@click.command("validate")
@click.argument("data", metavar="DATA")
@click.option("--unlabelled", is_flag=True, help="Check a file for prediction: it needs only window_id and features.")
@click.option("--labels", type=click.Path(path_type=Path), help="Of raw bars: spans as `jade window` reads them.")
@reading_options
@json_option
def validate(data: str, *, unlabelled: bool, labels: Path | None, as_json: bool, **reading: Any) -> None:
    """Check windows (a Parquet file, folder or glob, or `sample`), or raw bars (text or Parquet); name every violation.

    docs/data.md is the contract of both.
    """
    are_bars = holds_bars(data)
    if are_bars:
        refuse(f"{data} holds raw bars, and this is about windows", unlabelled=unlabelled or None)
    else:
        refuse(f"{data} holds no raw bars, and this is about them", labels=labels, **reading)
    try:
        if are_bars:
            facts, notes = _facts_of_bars(data, labels, reading_of(reading))
        else:
            facts, notes = _facts_of_windows(data, labelled=not unlabelled), []
    except DataError as error:
        if as_json:
            print_json({"valid": False, "violations": [vars(violation) for violation in error.violations]})
            raise click.exceptions.Exit(2) from error
        raise
    tell_notes(notes)
    if as_json:
        print_json({"valid": True, **facts, **({"notes": notes} if notes else {})})
    else:
        print_table(f"{data} is valid", ["", ""], [[name, str(value)] for name, value in facts.items()])


def holds_bars(data: str) -> bool:
    """Return whether data are raw bars: a file of text, packed or not, or Parquet that has prices and no windows."""
    path = Path(data).expanduser()
    if not path.is_file():
        return path.suffix.lower() in {".csv", ".txt", ".tsv"} and not path.is_dir()
    if not is_parquet(path):
        return path.suffix.lower() != ".parquet"
    try:
        names = {name.lower() for name in parquet.read_schema(path).names}
    except (OSError, ArrowException):
        return False
    return "features" not in names and {"open", "high", "low", "close"} <= names


def _facts_of_bars(data: str, labels: Path | None, reading: Reading) -> tuple[dict[str, Any], list[str]]:
    facts: dict[str, Any] = {"num_bars": 0}
    notes: list[str] = []
    for bars in read_bars(data, reading):
        what = f" {bars.instrument}" if reading.by else ""
        facts["num_bars"] += len(bars.time_B)
        facts |= {f"first{what}": shown_time(bars.time_B[0]), f"last{what}": shown_time(bars.time_B[-1])}
        if len(bars.time_B) > 1:
            facts[f"usual step{what}, s"] = float(np.median(np.diff(bars.time_B)) / np.timedelta64(1, "s"))
        notes += bars.notes
        if labels is not None:
            found = read_labels(labels, bars, reading)
            facts[f"num_spans{what}"] = len(found.spans_S2)
            notes += found.notes
    return facts, list(dict.fromkeys(notes))


def _facts_of_windows(data: str, *, labelled: bool) -> dict[str, int | float | str]:
    """Count in batches: a file larger than memory is checked too."""
    num_windows = num_spans = num_in_span = num_bars = window_length = 0
    for batch in iter_windows(data, batch_size=BATCH_SIZE, require_labels=labelled):
        num_windows += batch.num_windows
        num_bars += batch.num_windows * batch.window_length
        num_spans += len(batch.spans_S2)
        num_in_span += int(batch.in_span_NT().sum())
        window_length = batch.window_length
    facts: dict[str, int | float | str] = {"num_windows": num_windows, "window_length": window_length}
    if not labelled:
        return facts
    facts |= {"num_spans": num_spans, "in_span_rate": round(num_in_span / num_bars, 6)}
    if num_windows > MOST_WINDOWS_GROUPED:
        return facts
    grouping = group_windows(load_windows(data))
    return facts | {"num_groups": grouping.num_groups, "num_shared_bar_joins": grouping.num_shared_bar_joins}


@click.command("window")
@click.argument("bars", metavar="BARS", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT.parquet", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="CSV with columns start, end (inclusive times or bar numbers) and label, or Label Studio's JSON or CSV.",
)
@click.option("--window-length", default=105, show_default=True, help="Bars a window.")
@click.option("--stride", type=int, help="Bars between windows; without labels, a window's length if not given.")
@click.option(
    "--offsets",
    default="",
    metavar="N,N",
    help="Also cut each labelled window shifted by so many bars, e.g. -52,52.",
)
@click.option("--instrument", default="", help="Name written into the column `instrument`, instead of the file's.")
@click.option("--seed", default=0, show_default=True, help="Decides where in its window a labelled span lies.")
@reading_options
@json_option
def window(
    *,
    bars: Path,
    out: Path,
    labels: Path | None,
    window_length: int,
    stride: int | None,
    offsets: str,
    instrument: str,
    seed: int,
    as_json: bool,
    **reading: Any,
) -> None:
    """Cut raw bars (CSV or Parquet: time, open, high, low, close) into windows, around labels if given.

    docs/data.md says what is read, with an example of each vendor's export. Where a file can be read two ways it is
    refused, and the message names the option that decides.
    """
    try:
        shifts = tuple(int(item) for item in offsets.replace(",", " ").split())
    except ValueError as error:
        raise click.UsageError(f"--offsets takes whole numbers with commas between, not {offsets!r}") from error
    target = check_output(out, inputs=[bars, labels])
    cutting = Cutting(window_length, stride, shifts, instrument, seed)
    windows, notes = cut_windows(bars, labels, cutting, reading_of(reading))
    write_windows(windows, target)
    facts = {
        "path": str(out),
        "num_windows": windows.num_windows,
        "window_length": windows.window_length,
        "num_spans": len(windows.spans_S2),
        "notes": notes,
    }
    tell_notes(notes)
    text = f"{out}: {windows.num_windows} windows of {windows.window_length} bars, {len(windows.spans_S2)} spans"
    tell(facts, text, as_json=as_json)


@click.command("sample")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Other seeds give other windows.")
@json_option
def sample(out: Path, *, seed: int, as_json: bool) -> None:
    """Write the built-in sample of labelled windows as a Parquet file."""
    target = check_output(out, inputs=[])
    windows = sample_windows(seed=seed)
    write_windows(windows, target)
    facts = {"path": str(out), "num_windows": windows.num_windows, "window_length": windows.window_length}
    tell(facts, f"{out}: {windows.num_windows} windows of {windows.window_length} bars", as_json=as_json)
