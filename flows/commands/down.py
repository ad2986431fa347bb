"""`jade down`."""

from __future__ import annotations

import click

from flows.commands.common import json_option, print_json
from tasks.operations.installation import local_installation, stop_installation


@click.command("down")
@json_option
def command(*, as_json: bool) -> None:
    """Stop the local Prefect server and worker, and what they run; runs and history stay."""
    installation = local_installation()
    stopped = stop_installation(installation)
    if as_json:
        print_json({"stopped": stopped})
    else:
        click.echo(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing ran.")
