"""`jade promote`."""

from __future__ import annotations

import click

from flows.commands.common import artifacts_option, json_option, print_json
from tasks.settings.load import prepare_prefect


@click.command("promote")
@click.argument("run")
@click.option("--force", is_flag=True, help="Even if it failed a gate, or was judged against another champion.")
@artifacts_option
@json_option
def command(*, run: str, force: bool, artifacts: str | None, as_json: bool) -> None:
    """Make a retrained RUN the champion: `challenger`, a run's name, or its beginning."""
    prepare_prefect(quiet=True)
    from tasks.artifacts.repository import open_place
    from tasks.experiments.promote import promote_by_hand

    entry = promote_by_hand(open_place(artifacts), run, force=force)
    if as_json:
        print_json({"champion": entry.run_id, "number": entry.number})
    else:
        click.echo(f"{entry.run_id} is champion. `jade rollback` goes back.")
