"""What commands that may rent share: names of GPUs on the command line, and the plan without the renting."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import Any

import click
from pydantic import BaseModel, ValidationError

from flows.commands.common import FunctionT, print_json, print_table
from flows.parameters.rental import (
    MAX_HOURS,
    ORPHAN_GRACE_MIN,
    AcceptUnreaped,
    Budget,
    Gpus,
    MaxHours,
    MaxPrice,
    OrphanGrace,
    Owner,
    Spot,
)
from tasks.core.errors import BadRequest
from tasks.execution.placement import Placement
from tasks.provisioning.rental_request import RentalRequest


def split_names(given: Iterable[str]) -> list[str]:
    """Return names that were given apart or with commas between them; they have blanks inside."""
    return [name.strip() for value in given for name in value.split(",") if name.strip()]


def tell_rental_plan(placement: Placement, *, as_json: bool) -> None:
    """Print which machines would be tried in which order, and what each could cost. Rents nothing.

    Raises:
        BadRequest: The host rents nothing; or as `Renter.quotes`.
    """
    from tasks.provisioning.lease import Served
    from tasks.provisioning.registry import open_registry, provider_names

    request = placement.rental
    if placement.provider is None:
        raise BadRequest(f"--dry-run is about renting: --host must be one of {', '.join(provider_names())}")
    with closing(open_registry()) as lending:
        renter = lending.renter(
            placement.provider, request, Served("dry-run", "", ()), note=lambda line: click.echo(line, err=True)
        )
        planned = renter.quotes()
        spent = lending.ledger.spent_usd()
    if as_json:
        shown = [
            {
                "kind": offer.kind,
                "title": offer.title,
                "price_usd_per_hour": offer.price_usd_per_hour,
                "hours": round(hours, 4),
                "max_cost_usd": round(offer.price_usd_per_hour * hours, 4),
                "available": offer.available,
            }
            for offer, hours in planned
        ]
        print_json({"candidates": shown, "max_hours": request.max_hours, "spent_this_month_usd": round(spent, 4)})
        return
    rows = [
        [
            str(number),
            offer.title,
            f"{offer.price_usd_per_hour:.3f}",
            f"{hours:.2g}" if hours else "over the budget",
            f"{offer.price_usd_per_hour * hours:.2f}",
            {True: "yes", False: "sold out", None: "unknown"}[offer.available],
        ]
        for number, (offer, hours) in enumerate(planned, 1)
    ]
    columns = ["", "would try", "USD/h", "hours at most", "USD at most", "to be had"]
    print_table(None, columns, rows, numeric_from=2)
    left = "" if request.budget is None else f" of {request.budget:.2f}"
    click.echo(f"Nothing was rented. This month's runs have cost {spent:.2f}{left} USD.", err=True)


class _RentFields(BaseModel):
    """What a command without a model of its own checks its flags with."""

    gpu: Gpus = []
    max_price: MaxPrice = None
    max_hours: MaxHours = MAX_HOURS
    budget: Budget = None
    spot: Spot = False
    orphan_grace: OrphanGrace = ORPHAN_GRACE_MIN
    accept_unreaped: AcceptUnreaped = False
    owner: Owner = None


def rent_options(command: FunctionT) -> FunctionT:
    """Give a command the flags that renting has."""
    command = click.option("--dry-run", is_flag=True, help="Only tell what would be rented, and what it could cost.")(
        command
    )
    for name, field in reversed(_RentFields.model_fields.items()):
        flag = f"--{name.replace('_', '-')}"
        if field.annotation is bool:
            command = click.option(flag, name, is_flag=True, default=None, help=field.description)(command)
        else:
            command = click.option(flag, name, multiple=name == "gpu", metavar=name.upper(), help=field.description)(
                command
            )
    return command


def rental_request_of(flags: dict[str, Any]) -> RentalRequest:
    """Return what a command's flags ask for.

    Raises:
        UsageError: A value makes no sense.
    """
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    if "gpu" in given:
        given["gpu"] = split_names(given["gpu"])
    try:
        return RentalRequest(**_RentFields.model_validate(given).model_dump())
    except ValidationError as error:
        first = error.errors()[0]
        flag = f"--{str(first['loc'][0]).replace('_', '-')}"
        said = first["msg"].removeprefix("Value error, ")
        raise click.UsageError(f"{flag}: {said} (given: {first['input']!r})") from error
