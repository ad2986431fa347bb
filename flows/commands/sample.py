"""`jade sample`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.commands.common import json_option, print_json
from flows.commands.reading import check_output
from jade_model.data.sample import sample_windows
from jade_model.data.schema import write_windows


@click.command("sample")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Other seeds give other windows.")
@json_option
def command(out: Path, *, seed: int, as_json: bool) -> None:
    """Write the built-in sample of labelled windows as a Parquet file."""
    target = check_output(out, inputs=[])
    windows = sample_windows(seed=seed)
    write_windows(windows, target)
    if as_json:
        print_json({"path": str(out), "num_windows": windows.num_windows, "window_length": windows.window_length})
    else:
        click.echo(f"{out}: {windows.num_windows} windows of {windows.window_length} bars")
