"""`jade report`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.commands.common import artifacts_option, json_option, print_json
from tasks.reporting import write_run_report
from tasks.runs import find_run


@click.command("report")
@click.argument("run", metavar="RUN")
@artifacts_option
@json_option
def command(run: str, *, artifacts: str, as_json: bool) -> None:
    """Write a run's report again from its files. RUN: a folder, a run's name or its beginning, or `latest`."""
    layout = find_run(run, Path(artifacts))
    written = write_run_report(layout)
    if as_json:
        print_json({"run_id": layout.run_id, "markdown": str(written.markdown), "html": str(written.html)})
    else:
        click.echo(f"{written.markdown}\n{written.html}")
