"""`jade offers`, `rented` and `reap`: what can be rented, what is, and its end."""

from __future__ import annotations

import dataclasses
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from flows.commands.common import json_option, print_json, print_table

if TYPE_CHECKING:
    from tasks.provisioning.provisioner import Offer


@click.command("offers")
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="Only of this one; may be repeated.")
@click.option("--gpu", metavar="WORDS", help="Only those whose name has these words.")
@click.option("--max-price", type=click.FloatRange(0), metavar="USD", help="Only those that cost at most this an hour.")
@click.option("--spot", is_flag=True, help="Only those that the provider may take away.")
@json_option
@click.pass_context
def offers(
    context: click.Context,
    *,
    providers: tuple[str, ...],
    gpu: str | None,
    max_price: float | None,
    spot: bool,
    as_json: bool,
) -> None:
    """List what can be rented now, the cheapest first. Rents nothing.

    Exit code 1 if a provider that was asked for by name, or all of them, did not answer.
    """
    from tasks.hosts.errors import HostError
    from tasks.provisioning.registry import open_registry
    from tasks.settings.models import PROVIDERS

    found: list[Offer] = []
    problems: dict[str, str] = {}
    with closing(open_registry()) as registry:
        for name in providers or PROVIDERS:
            try:
                found += registry.provider(name).provisioner.offers()
            except HostError as error:
                if len(providers) == 1:
                    raise
                problems[name] = str(error)
    fitting = [
        offer
        for offer in sorted(found, key=lambda offer: (offer.price_usd_per_hour, offer.title))
        if (gpu is None or all(word in f"{offer.kind} {offer.title}".lower() for word in gpu.lower().split()))
        and (max_price is None or offer.price_usd_per_hour <= max_price)
        and (offer.spot or not spot)
    ]
    if as_json:
        print_json({"offers": [dataclasses.asdict(offer) for offer in fitting], "problems": problems})
    else:
        rows = [
            [
                offer.provider,
                offer.kind,
                offer.title,
                "" if offer.gpu_memory_gib is None else f"{offer.gpu_memory_gib:g}",
                f"{offer.price_usd_per_hour:.3f}",
                offer.region,
                "spot" if offer.spot else "",
                {True: "yes", False: "sold out", None: "unknown"}[offer.available],
            ]
            for offer in fitting
        ]
        columns = ["provider", "--gpu", "name", "GiB", "USD/h", "region", "", "to be had"]
        if rows:
            print_table(None, columns, rows, numeric_from=8)
        else:
            click.echo(f"None of {len(found)} offers fits." if found else "Nothing is offered.", err=True)
        for problem in problems.values():
            click.echo(problem, err=True)
    if problems and (providers or not found):
        context.exit(1)


@click.command("rented")
@click.option("--owner", metavar="TAG", help="Whose machines; the ledger's own if not given.")
@click.option("--all", "wants_all", is_flag=True, help="Also what has ended this month.")
@json_option
@click.pass_context
def rented(context: click.Context, *, owner: str | None, wants_all: bool, as_json: bool) -> None:
    """List the rented machines of an owner, anywhere: age, cost so far, the run that each serves.

    Ledger and providers are both asked; what only one of them knows is said. Exit code 1 if a provider with machines of
    ours did not answer.
    """
    from tasks.provisioning.registry import open_registry

    with closing(open_registry()) as registry:
        entries, problems = registry.rented(owner, wants_all=wants_all)
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
def reap(
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
