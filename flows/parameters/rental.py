"""What a user may set on whatever rents machines: one home of the fields, for flows, forms and the command line."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tasks.provisioning.provisioner import check_owner
from tasks.provisioning.registry import is_provider, provider_names
from tasks.provisioning.rental_wish import DEFAULT_MAX_HOURS, DEFAULT_ORPHAN_GRACE_MIN, RentalWish
from tasks.settings.host_entries import PROVIDERS

_WHERE = " Only where machines are rented."


def _known_provider(name: str | None) -> str | None:
    if name and not is_provider(name):
        raise ValueError(f"must be one of {', '.join(provider_names())}")
    return name or None


Rent = Annotated[
    int,
    Field(ge=0, le=256, title="Rent", description="Machines that engine `hosts` rents beside its hosts, at most."),
]
Provider = Annotated[
    str | None,
    AfterValidator(_known_provider),
    Field(title="Provider", description=f"Who rents them out: {', '.join(PROVIDERS)}."),
]

Gpus = Annotated[
    list[str],
    Field(
        title="GPU",
        description="Names of GPUs or machine types, the best first; empty: the cheapest." + _WHERE,
        max_length=50,
    ),
]
MaxPrice = Annotated[
    Annotated[float, Field(gt=0)] | None,
    Field(title="Highest price", description="Of a machine, in USD an hour." + _WHERE),
]
MaxHours = Annotated[
    float, Field(gt=0, le=24 * 14, title="Rented hours", description="After which a rented machine ends." + _WHERE)
]
Budget = Annotated[
    Annotated[float, Field(gt=0)] | None,
    Field(title="Monthly budget", description="In USD a calendar month, over all runs of the ledger." + _WHERE),
]
Spot = Annotated[
    bool,
    Field(title="Spot", description="Machines that the provider may take away: the run goes on elsewhere." + _WHERE),
]
OrphanGrace = Annotated[
    float,
    Field(
        ge=1,
        le=24 * 60,
        title="Orphan grace",
        description="Minutes that a rented machine outlives whoever controls it; the same command attaches to it."
        + _WHERE,
    ),
]
AcceptUnreaped = Annotated[
    bool,
    Field(
        title="Accept unreaped",
        description="Rent even if nobody would free the machine if this process died." + _WHERE,
    ),
]
Owner = Annotated[
    Annotated[str, AfterValidator(check_owner)] | None,
    Field(title="Owner", description="Tag that rented machines carry; empty: the ledger's own." + _WHERE),
]

MAX_HOURS = DEFAULT_MAX_HOURS
ORPHAN_GRACE_MIN = DEFAULT_ORPHAN_GRACE_MIN
RENT_FIELDS = ("gpu", "max_price", "max_hours", "budget", "spot", "orphan_grace", "accept_unreaped", "owner")


def rental_wish(host: str, fields: dict[str, Any]) -> RentalWish:
    """Return what is to be rented of a provider.

    Args:
        host: The provider's name.
        fields: Values of `RENT_FIELDS`; others are passed over.
    """
    return RentalWish(
        host,
        tuple(fields["gpu"]),
        max_price_usd_per_hour=fields["max_price"],
        max_hours=fields["max_hours"],
        budget_usd=fields["budget"],
        spot=fields["spot"],
        orphan_grace_s=fields["orphan_grace"] * 60,
        accept_unreaped=fields["accept_unreaped"],
        owner=fields["owner"],
    )
