"""`jade rented`."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from flows.commands.common import json_option, print_json, print_table


@click.command("rented")
@click.option("--owner", metavar="TAG", help="Whose machines; the ledger's own if not given.")
@click.option("--all", "wants_all", is_flag=True, help="Also what has ended this month.")
@json_option
@click.pass_context
def command(context: click.Context, *, owner: str | None, wants_all: bool, as_json: bool) -> None:
    """List the rented machines of an owner, anywhere: age, cost so far, the run that each serves.

    Ledger and providers are both asked; what only one of them knows is said. Exit code 1 if a provider with machines of
    ours did not answer.
    """
    from tasks.provisioning.listing import list_rented
    from tasks.provisioning.registry import open_registry

    with closing(open_registry()) as registry:
        entries, problems = list_rented(registry, owner, wants_all=wants_all)
        spent = registry.ledger.spent_usd()
    if as_json:
        print_json({"machines": entries, "spent_this_month_usd": round(spent, 4), "problems": problems})
    else:
        if entries:
            columns = ["provider", "machine", "GPU", "state", "hours", "USD/h", "USD", "run", "note"]
            print_table(None, columns, [_row(entry) for entry in entries], numeric_from=9)
        else:
            click.echo("Nothing is rented.", err=True)
        click.echo(f"All runs of this ledger have cost {spent:.2f} USD this month (UTC).", err=True)
        for problem in problems.values():
            click.echo(problem, err=True)
    if problems:
        context.exit(1)


def _row(entry: dict[str, Any]) -> list[str]:
    return [
        entry["provider"],
        entry["machine_id"] or "?",
        entry["title"],
        entry["state"],
        "" if entry["hours"] is None else f"{entry['hours']:.2f}",
        f"{entry['price_usd_per_hour']:.3f}",
        "" if entry["cost_usd"] is None else f"{entry['cost_usd']:.2f}",
        entry["run_id"] or "",
        entry["note"] or "",
    ]
