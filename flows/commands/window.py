"""`jade window`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.commands.common import json_option, print_json
from jade_model.data.cutting import cut_windows
from jade_model.data.schema import write_windows


@click.command("window")
@click.argument("bars", metavar="BARS.csv", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="CSV with columns start, end (inclusive times) and label.",
)
@click.option("--window-length", default=105, show_default=True, help="Bars a window.")
@click.option("--stride", type=int, help="Bars between windows; without labels, a window's length if not given.")
@click.option(
    "--offsets",
    default="",
    metavar="N,N",
    help="Also cut each labelled window shifted by so many bars, e.g. -52,52.",
)
@click.option("--instrument", default="", help="Name written into the column `instrument`.")
@click.option("--seed", default=0, show_default=True, help="Decides where in its window a labelled span lies.")
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
) -> None:
    """Cut raw bars (CSV: time, open, high, low, close) into windows, around labels if given."""
    try:
        shifts = [int(item) for item in offsets.replace(",", " ").split()]
    except ValueError as error:
        raise click.UsageError(f"--offsets takes whole numbers with commas between, not {offsets!r}") from error
    windows = cut_windows(
        bars,
        labels,
        window_length=window_length,
        stride=stride,
        overlap_offsets=shifts,
        instrument=instrument,
        seed=seed,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_windows(windows, out)
    facts = {
        "path": str(out),
        "num_windows": windows.num_windows,
        "window_length": windows.window_length,
        "num_spans": len(windows.spans_S2),
    }
    if as_json:
        print_json(facts)
    else:
        click.echo(
            f"{out}: {windows.num_windows} windows of {windows.window_length} bars, {len(windows.spans_S2)} spans"
        )
