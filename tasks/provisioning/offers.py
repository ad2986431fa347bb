"""What a person asks to rent, and which of the offers are tried in which order."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from tasks.core.errors import BadRequest
from tasks.provisioning.provisioner import Offer, check_owner


class RentalRequest(BaseModel):
    """What may be rented, and within which limits; of whom, `Placement.host` says.

    The times are what people write: hours of use, minutes of grace.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpu: tuple[str, ...] = Field(
        default=(),
        title="GPU",
        description="Names of GPUs or machine types, the best first; empty: the cheapest under the highest price.",
        max_length=50,
    )
    max_price: Annotated[float, Field(gt=0)] | None = Field(
        default=None, title="Highest price", description="Of a machine, in USD an hour."
    )
    max_hours: float = Field(
        default=4.0, gt=0, le=24 * 14, title="Rented hours", description="After which a rented machine ends."
    )
    budget: Annotated[float, Field(gt=0)] | None = Field(
        default=None, title="Monthly budget", description="In USD a calendar month, over all runs of the ledger."
    )
    spot: bool = Field(
        default=False,
        title="Spot",
        description="Machines that the provider may take away, and no others: the run goes on elsewhere.",
    )
    orphan_grace: float = Field(
        default=15.0,
        ge=1,
        le=24 * 60,
        title="Orphan grace",
        description="Minutes that a rented machine outlives whoever controls it; the same command attaches to it.",
    )
    accept_unreaped: bool = Field(
        default=False,
        title="Accept unreaped",
        description="Rent even if nobody would free the machine if this process died.",
    )
    owner: Annotated[str, AfterValidator(check_owner)] | None = Field(
        default=None, title="Owner", description="Tag that rented machines carry; empty: the ledger's own."
    )

    @field_validator("gpu", mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        """Names have blanks inside, and stand apart or with commas between them."""
        if isinstance(given, str):
            given = (given,)
        if isinstance(given, list | tuple) and all(isinstance(item, str) for item in given):
            return tuple(name.strip() for item in given for name in item.split(",") if name.strip())
        return given


def candidates(provider: str, offers: Sequence[Offer], request: RentalRequest) -> list[Offer]:
    """Return the offers that are tried, in this order: by the person's preference, then by price.

    Those that the provider says are sold out come last within a name: what it says is often old.

    Raises:
        BadRequest: A name is nobody's (the closest are offered), all that fit cost more than the cap, nothing fits
            otherwise, or neither a name nor a cap was given.
    """
    costs_nothing = all(offer.price_usd_per_hour == 0 for offer in offers)
    if not request.gpu and request.max_price is None and not costs_nothing:
        raise BadRequest(
            f"say what may be rented of {provider}: --gpu NAME[,NAME...], --max-price USD an hour, or both; "
            f"`jade offers --provider {provider}` lists what there is"
        )
    named = _named(provider, offers, request)
    fitting = [offer for offer in named if offer.spot == request.spot]
    if not fitting:
        what = "spot machines" if request.spot else "machines that are not spot"
        of = f" of {', '.join(request.gpu)}" if request.gpu else ""
        raise BadRequest(f"{provider} offers no {what}{of} now; `jade offers` lists what there is")
    cap = request.max_price
    cheap = [offer for offer in fitting if cap is None or offer.price_usd_per_hour <= cap]
    if not cheap:
        cheapest = min(fitting, key=lambda offer: offer.price_usd_per_hour)
        assert cap is not None  # noqa: S101 -- without a cap all are cheap
        price = cheapest.price_usd_per_hour
        raise BadRequest(
            f"{provider}: nothing that fits costs at most {cap:g} USD/h; the cheapest is {cheapest.title} at "
            f"{price:g} USD/h. Raise --max-price, or name another --gpu.",
            cheapest_usd_per_hour=price,
        )
    return cheap


def _named(provider: str, offers: Sequence[Offer], request: RentalRequest) -> list[Offer]:
    """The offers in order, before caps."""
    by_price = sorted(offers, key=lambda offer: (offer.available is False, offer.price_usd_per_hour))
    if not request.gpu:
        return by_price
    found: list[Offer] = []
    for name in request.gpu:
        fitting = [offer for offer in by_price if _folded(name) in {_folded(offer.kind), _folded(offer.title)}]
        if not fitting:
            close = _closest(name, offers)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise BadRequest(
                f"{provider} has no GPU called {name!r}.{hint} `jade offers --provider {provider}` lists all.",
                name=name,
                close=list(close),
            )
        found += [offer for offer in fitting if offer not in found]
    return found


def _closest(name: str, offers: Sequence[Offer]) -> tuple[str, ...]:
    known = {_folded(text): text for offer in offers for text in (offer.kind, offer.title)}
    inside = [text for folded, text in known.items() if _folded(name) in folded]
    close = [known[folded] for folded in get_close_matches(_folded(name), known, n=3, cutoff=0.5)]
    return tuple(dict.fromkeys([*sorted(inside, key=len), *close]))[:3]


def _folded(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())
