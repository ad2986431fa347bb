"""`jade offers`."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from typing import TYPE_CHECKING

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
def command(
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
    from tasks.provisioning.registry import open_registry, provider_names

    found: list[Offer] = []
    problems: dict[str, str] = {}
    with closing(open_registry()) as registry:
        for name in providers or provider_names():
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
