"""`jade window`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flows.commands.common import json_option, print_json
from flows.commands.reading import check_output, reading_of, reading_options, tell_notes
from jade_model.data.cutting import Cutting, cut_windows
from jade_model.data.schema import write_windows


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
def command(
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
    if as_json:
        print_json(facts)
    else:
        click.echo(
            f"{out}: {windows.num_windows} windows of {windows.window_length} bars, {len(windows.spans_S2)} spans"
        )
