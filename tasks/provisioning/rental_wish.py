"""What a person wants to rent, and which of the offers are tried in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from tasks.core.errors import BadRequest, GpuUnknown, NothingCheapEnough
from tasks.provisioning.provisioner import Offer

DEFAULT_MAX_HOURS = 4.0
DEFAULT_ORPHAN_GRACE_MIN = 15.0


@dataclass(frozen=True)
class RentalWish:
    """What is to be rented, and within which limits.

    Attributes:
        provider: Of whom.
        gpus: Names of GPUs or machine types, the best first; none: the cheapest that `max_price` admits.
        max_price_usd_per_hour: None: no cap.
        max_hours: For all machines of the run together.
        budget_usd: In a calendar month, over all runs of the ledger; None: no limit.
        spot: Machines that the provider may take away, and no others.
        orphan_grace_s: How long a machine outlives whoever controls it.
        accept_unreaped: Rent even if nobody would free the machine if we died.
        owner: Tag; None is the ledger's own.
    """

    provider: str
    gpus: tuple[str, ...] = ()
    max_price_usd_per_hour: float | None = None
    max_hours: float = DEFAULT_MAX_HOURS
    budget_usd: float | None = None
    spot: bool = False
    orphan_grace_s: float = DEFAULT_ORPHAN_GRACE_MIN * 60
    accept_unreaped: bool = False
    owner: str | None = None


def candidates(offers: Sequence[Offer], wish: RentalWish) -> list[Offer]:
    """Return the offers that are tried, in this order: by the person's preference, then by price.

    Those that the provider says are sold out come last within a name: what it says is often old.

    Raises:
        GpuUnknown: A name is nobody's; the closest are offered.
        NothingCheapEnough: All that fit cost more than the cap.
        BadRequest: Nothing fits otherwise, or neither a name nor a cap was given.
    """
    costs_nothing = all(offer.price_usd_per_hour == 0 for offer in offers)
    if not wish.gpus and wish.max_price_usd_per_hour is None and not costs_nothing:
        raise BadRequest(
            f"say what may be rented of {wish.provider}: --gpu NAME[,NAME...], --max-price USD an hour, or both; "
            f"`jade offers --provider {wish.provider}` lists what there is"
        )
    named = _named(offers, wish)
    fitting = [offer for offer in named if offer.spot == wish.spot]
    if not fitting:
        what = "spot machines" if wish.spot else "machines that are not spot"
        of = f" of {', '.join(wish.gpus)}" if wish.gpus else ""
        raise BadRequest(f"{wish.provider} offers no {what}{of} now; `jade offers` lists what there is")
    cap = wish.max_price_usd_per_hour
    cheap = [offer for offer in fitting if cap is None or offer.price_usd_per_hour <= cap]
    if not cheap:
        cheapest = min(fitting, key=lambda offer: offer.price_usd_per_hour)
        assert cap is not None  # noqa: S101 -- without a cap all are cheap
        raise NothingCheapEnough(wish.provider, cap, cheapest.price_usd_per_hour, cheapest.title)
    return cheap


def _named(offers: Sequence[Offer], wish: RentalWish) -> list[Offer]:
    """The offers in order, before caps."""
    by_price = sorted(offers, key=lambda offer: (offer.available is False, offer.price_usd_per_hour))
    if not wish.gpus:
        return by_price
    found: list[Offer] = []
    for name in wish.gpus:
        fitting = [offer for offer in by_price if _folded(name) in {_folded(offer.kind), _folded(offer.title)}]
        if not fitting:
            raise GpuUnknown(wish.provider, name, _closest(name, offers))
        found += [offer for offer in fitting if offer not in found]
    return found


def _closest(name: str, offers: Sequence[Offer]) -> tuple[str, ...]:
    known = {_folded(text): text for offer in offers for text in (offer.kind, offer.title)}
    inside = [text for folded, text in known.items() if _folded(name) in folded]
    close = [known[folded] for folded in get_close_matches(_folded(name), known, n=3, cutoff=0.5)]
    return tuple(dict.fromkeys([*sorted(inside, key=len), *close]))[:3]


def _folded(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())
