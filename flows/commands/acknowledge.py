"""`jade acknowledge`."""

from __future__ import annotations

import click

from flows.commands.common import artifacts_option, json_option, print_json


@click.command("acknowledge")
@click.argument("run")
@artifacts_option
@json_option
def command(*, run: str, artifacts: str | None, as_json: bool) -> None:
    """Take what the comparison RUN scores as what is to be expected: its regression is no longer told.

    RUN is `latest`, a run's name, or its beginning. Of comparisons with the same data, arms and design, those before it
    no longer count.
    """
    from tasks.artifacts.repository import open_place
    from tasks.experiments.trend import acknowledge

    run_id = acknowledge(open_place(artifacts), run)
    if as_json:
        print_json({"run_id": run_id})
    else:
        click.echo(f"The trend of comparisons like {run_id} begins with it.")
