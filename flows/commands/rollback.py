"""`jade rollback`."""

from __future__ import annotations

import click

from flows.commands.common import artifacts_option, json_option, print_json
from tasks.settings.load import prepare_prefect


@click.command("rollback")
@artifacts_option
@json_option
def command(*, artifacts: str | None, as_json: bool) -> None:
    """Make the champion before this one the champion again; again and again, back to the first."""
    prepare_prefect(quiet=True)
    from tasks.artifacts.repository import open_place
    from tasks.experiments.promote import roll_back_champion

    entry = roll_back_champion(open_place(artifacts))
    if as_json:
        print_json({"champion": entry.run_id, "number": entry.number})
    else:
        click.echo(f"{entry.run_id} is champion again.")
