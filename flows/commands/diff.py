"""`jade diff`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from flows.commands.common import artifacts_option, json_option, print_json, print_table
from tasks.artifacts.repository import open_run
from tasks.runs.diff import diff_runs


@click.command("diff")
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@artifacts_option
@json_option
def command(first: str, second: str, *, artifacts: str | None, as_json: bool) -> None:
    """Say what differs between two runs in data, settings, code, versions, host and results."""
    found = diff_runs(open_run(first, artifacts)[1], open_run(second, artifacts)[1])
    if as_json:
        print_json([asdict(difference) for difference in found])
    elif not found:
        click.echo("the runs are alike: same data, settings, code, versions and results")
    else:
        rows = [
            [difference.section, difference.field, _shown(difference.first), _shown(difference.second)]
            for difference in found
        ]
        print_table(None, ["", "field", "first", "second"], rows, numeric_from=2)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
