"""`jade up`."""

from __future__ import annotations

import click

from flows.commands.common import json_option, print_json
from tasks.operations.installation import DEFAULT_PORT, LAST_PORT, local_installation, start_installation


@click.command("up")
@click.option(
    "--port",
    type=click.IntRange(1, LAST_PORT),
    default=DEFAULT_PORT,
    show_default=True,
    help="Of the server, on 127.0.0.1; reports take the next one.",
)
@click.option("--reset", is_flag=True, help="Deploy everything as prefect.yaml says, whatever was changed in the UI.")
@json_option
def command(*, port: int, reset: bool, as_json: bool) -> None:
    """Start a local Prefect server, a worker and the deployments of prefect.yaml; what runs already stays.

    What was paused, changed or deleted in the UI stays so. Runs and history lie in the state folder and stay when `jade
    down` stops it all.
    """
    installation = local_installation(port)
    click.echo("Starting (the first time takes about a minute)", err=True)
    started = start_installation(installation, reset=reset)
    if as_json:
        print_json({"ui": installation.ui_url, "api": installation.api_url, "started": started})
        return
    click.echo(f"UI: {installation.ui_url}")
    click.echo(f"\n  export PREFECT_API_URL={installation.api_url}")
    click.echo("  prefect deployment run compare/nightly --watch")
    click.echo(f"\nRuns: {installation.artifacts or 'the bucket of the settings'}")
    click.echo(f"Logs and history: {installation.folder}. `jade down` stops it.")
