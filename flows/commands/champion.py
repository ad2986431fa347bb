"""`jade champion`, `promote` and `rollback`: the model in use."""

from __future__ import annotations

import click

from flows.commands.common import artifacts_option, json_option, print_json, print_table, tell
from tasks.settings.prefect import prepare_prefect


@click.command("champion")
@click.option("--history", is_flag=True, help="Every champion so far.")
@click.option("--verify", is_flag=True, help="Recompute the digests of its card; exit code 1 if one differs.")
@artifacts_option
@json_option
@click.pass_context
def champion(context: click.Context, *, history: bool, verify: bool, artifacts: str | None, as_json: bool) -> None:
    """Show the model in use: what it is, what it was trained on, what it is worth."""
    from tasks.artifacts.repository import open_place
    from tasks.core.errors import RunNotFound
    from tasks.experiments.champion import champion_history
    from tasks.experiments.model_card import read_card, verify_card
    from tasks.experiments.promote import champion_run, why_champion

    place = open_place(artifacts)
    layout = champion_run(place)
    if layout is None:
        raise RunNotFound(f"{place.address} has no champion yet: `jade retrain` makes one")
    card = read_card(layout)
    compared = verify_card(layout) if verify else []
    entries = champion_history(place.store) if history else []
    if as_json:
        print_json(
            {
                "run_id": layout.run_id,
                "folder": str(layout.root),
                "model": str(layout.root / card["model"]["folder"]),
                "card": card,
                "verified": dict(compared) if verify else None,
                "history": [
                    {"number": entry.number, "at": entry.at.isoformat(), "kind": entry.kind, "run_id": entry.run_id}
                    | {"by": entry.by or None}
                    for entry in entries
                ]
                if history
                else None,
            }
        )
    else:
        click.echo(f"{layout.run_id}: {card['model']['arm']}, recipe {card['model']['recipe']}")
        click.echo(why_champion(place, card))
        click.echo(f"Card: {layout.report / 'MODEL_CARD.md'}")
        for what, agrees in compared:
            click.echo(f"{'agrees ' if agrees else 'DIFFERS'}  {what}")
        if entries:
            rows = [
                [str(entry.number), f"{entry.at:%Y-%m-%d %H:%M}", entry.kind, entry.by, entry.run_id]
                for entry in entries
            ]
            print_table("Champions (UTC)", ["", "when", "how", "by", "run"], rows, numeric_from=9)
    if not all(agrees for _, agrees in compared):
        context.exit(1)


@click.command("promote")
@click.argument("run")
@click.option("--force", is_flag=True, help="Even if it failed a gate, or was judged against another champion.")
@artifacts_option
@json_option
def promote(*, run: str, force: bool, artifacts: str | None, as_json: bool) -> None:
    """Make a retrained RUN the champion: `challenger`, a run's name, or its beginning."""
    prepare_prefect(quiet=True, check=False)
    from tasks.artifacts.repository import open_place
    from tasks.experiments.promote import promote_by_hand

    entry = promote_by_hand(open_place(artifacts), run, force=force)
    text = f"{entry.run_id} is champion. `jade rollback` goes back."
    tell({"champion": entry.run_id, "number": entry.number}, text, as_json=as_json)


@click.command("rollback")
@artifacts_option
@json_option
def rollback(*, artifacts: str | None, as_json: bool) -> None:
    """Make the champion before this one the champion again; again and again, back to the first."""
    prepare_prefect(quiet=True, check=False)
    from tasks.artifacts.repository import open_place
    from tasks.experiments.promote import roll_back_champion

    entry = roll_back_champion(open_place(artifacts))
    text = f"{entry.run_id} is champion again."
    tell({"champion": entry.run_id, "number": entry.number}, text, as_json=as_json)
