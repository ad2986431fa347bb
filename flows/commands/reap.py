"""`jade reap`."""

from __future__ import annotations

import dataclasses
import socket
from contextlib import closing

import click

from flows.commands.common import json_option, print_json, print_table


@click.command("reap")
@click.option("--dry-run", is_flag=True, help="Only tell what would be freed.")
@click.option("--owner", metavar="TAG", help="Whose machines; the ledger's own if not given. No others are touched.")
@click.option("--run", "run_id", metavar="RUN", help="Only the machines of this run, which is known to have ended.")
@click.option("--unknown", is_flag=True, help="With --owner: also machines that this ledger knows nothing of.")
@click.option(
    "--scheduled",
    is_flag=True,
    help="Called on schedule, such as by cron: renting may rely on it for the next 15 minutes.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    *,
    dry_run: bool,
    owner: str | None,
    run_id: str | None,
    unknown: bool,
    scheduled: bool,
    as_json: bool,
) -> None:
    """Free rented machines that no live run claims, and settle requests that a crash has left half done.

    Exit code 1 if something could not be freed, or a provider with machines of ours did not answer.
    """
    from tasks.provisioning.reaper import Deed
    from tasks.provisioning.registry import open_registry

    with closing(open_registry()) as registry:
        reaper = registry.reaper(owner, is_dry=dry_run, frees_unknown=unknown)
        found = reaper.reap(ended_run=run_id or "")
        has_failed = any(item.deed is Deed.FAILED for item in found)
        if scheduled and not dry_run and not has_failed and run_id is None:
            registry.ledger.note_reaper(reaper.owner, f"jade reap on {socket.gethostname()}")
    if as_json:
        print_json([dataclasses.asdict(item) for item in found])
    elif found:
        done = {
            Deed.FREED: "would free" if dry_run else "freed",
            Deed.SETTLED: "would settle" if dry_run else "settled",
        }
        rows = [
            [
                item.provider,
                item.machine_id or item.name or "-",
                item.run_id,
                done.get(item.deed, item.deed.value),
                item.why,
                "" if item.cost_usd is None else f"{item.cost_usd:.2f}",
            ]
            for item in found
        ]
        print_table(None, ["provider", "machine", "run", "done", "why", "USD"], rows, numeric_from=6)
    else:
        click.echo("Nothing is rented that could be freed.", err=True)
    if has_failed:
        context.exit(1)
