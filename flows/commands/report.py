"""`jade report`."""

from __future__ import annotations

import click

from flows.commands.common import artifacts_option, json_option, print_json
from tasks.artifacts.repository import open_run
from tasks.experiments.report import write_run_report


@click.command("report")
@click.argument("run", metavar="RUN")
@artifacts_option
@json_option
def command(run: str, *, artifacts: str | None, as_json: bool) -> None:
    """Write a run's report again from its files, and publish it.

    RUN: a folder, s3://bucket/prefix/RUN, a run's name or its beginning, `latest` or another pointer.
    """
    place, layout = open_run(run, artifacts)
    written = write_run_report(layout)
    place.publish_report(layout)
    if as_json:
        print_json({"run_id": layout.run_id, "markdown": str(written.markdown), "html": str(written.html)})
    else:
        click.echo(f"{written.markdown}\n{written.html}")
