"""What a user may set on whatever rents machines: one home of the fields, for flows, forms and the command line."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tasks.execution.placement import Placement
from tasks.provisioning.provisioner import check_owner
from tasks.provisioning.registry import is_provider, provider_names
from tasks.provisioning.rental_request import RentalRequest
from tasks.settings.host_entries import PROVIDERS, Workers

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

MAX_HOURS = 4.0
ORPHAN_GRACE_MIN = 15.0
RENT_FIELDS = ("gpu", "max_price", "max_hours", "budget", "spot", "orphan_grace", "accept_unreaped", "owner")


def placement_of(fields: Any, workers: Workers) -> Placement:
    """Return the placement that a flow's fields name together.

    Raises:
        ValueError: They make no sense together.
    """
    rental = RentalRequest(**{name: getattr(fields, name) for name in RENT_FIELDS})
    engine = getattr(fields, "engine", "processes")
    host = [fields.host]
    if engine == "dask":
        host = [fields.scheduler or "dask"]
    elif engine == "hosts":
        rented = [f"{fields.provider}:{fields.rent}"] if fields.provider and fields.rent else []
        host = [*fields.hosts, *rented]
    return Placement(host=tuple(host), device=fields.device, workers=workers, rental=rental)
