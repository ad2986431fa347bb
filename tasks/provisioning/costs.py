"""One rental as the ledger holds it, and what rentals cost: by time, since nobody sends a bill by the minute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from tasks.core.names import HostAddress
from tasks.provisioning.ledger_states import LeaseState

HOUR_S = 3600.0


@dataclass(frozen=True)
class LedgerEntry:
    """A row of the ledger. Times are seconds since 1970.

    Attributes:
        request_id: As in `InstanceRequest`.
        owner: Tag of whoever pays.
        provider: Who lends it.
        name: Of the machine.
        state: Where it stands.
        kind: As in `Offer`; likewise title, region, spot.
        price_usd_per_hour: As offered, then as the provider tells.
        max_age_s: After this long it must end.
        orphan_grace_s: How long it outlives whoever controls it.
        run_id: The run that it serves; flow_run_id: that run in Prefect, or empty.
        run_keys: Of the trainings there.
        claim: Of the process that controls it; empty if it let go.
        instance_id: The provider's identifier; None before one is known. Likewise its address.
        fingerprint: Of the host key that counts; None before one is pinned.
        intended_at: When it was written down; acquired_at: when the provider had made it.
        seen_at: Last sign of life of whoever claims it.
        ended_at: When it was known to cost no more.
        cost_usd: Up to the last time that anybody counted.
        problem: What went wrong, for people.
    """

    request_id: str
    owner: str
    provider: str
    name: str
    state: LeaseState
    kind: str
    title: str
    region: str
    spot: bool
    price_usd_per_hour: float
    max_age_s: float
    orphan_grace_s: float
    run_id: str
    flow_run_id: str
    run_keys: frozenset[str]
    claim: str
    instance_id: str | None
    host: str | None
    port: int | None
    user: str | None
    fingerprint: str | None
    intended_at: float
    acquired_at: float | None
    seen_at: float
    ended_at: float | None
    cost_usd: float
    problem: str

    @property
    def address(self) -> HostAddress | None:
        """Where its SSH server was last known to be."""
        if self.host is None or self.port is None or self.user is None:
            return None
        return HostAddress(self.host, self.port, self.user)

    @property
    def is_costing(self) -> bool:
        """Whether a machine is, or may be, there and costs."""
        return self.state.may_cost

    def age_s(self, now: float) -> float:
        """How long it has been, or was, there."""
        return max((self.ended_at if self.ended_at is not None else now) - self.intended_at, 0.0)

    def cost_until(self, now: float) -> float:
        """What it has cost in USD up to a time: from the intent on, as the provider may have counted from there."""
        return self.cost_between(self.intended_at, now)

    def cost_between(self, start: float, end: float) -> float:
        """What it has cost in USD within a stretch of time."""
        if self.state in {LeaseState.REFUSED, LeaseState.VANISHED}:
            return 0.0
        until = min(end, self.ended_at) if self.ended_at is not None else end
        return max(until - max(start, self.intended_at), 0.0) / HOUR_S * self.price_usd_per_hour


def month_of(now: float) -> tuple[float, float]:
    """Return where a time's calendar month begins and ends, UTC."""
    start = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return start.timestamp(), end.timestamp()


def spent_usd(rentals: Iterable[LedgerEntry], within: tuple[float, float], now: float) -> float:
    """Return what rentals have cost within a stretch of time, up to now."""
    start, end = within
    return sum(rental.cost_between(start, min(end, now)) for rental in rentals)


def promised_usd(rentals: Iterable[LedgerEntry], now: float) -> float:
    """Return what rentals that are not over may still cost."""
    return sum(
        max(rental.intended_at + rental.max_age_s - now, 0.0) / HOUR_S * rental.price_usd_per_hour
        for rental in rentals
        if rental.is_costing
    )
