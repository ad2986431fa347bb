"""One machine, or request for one, as the ledger holds it: where it stands, where it can go from there, what it costs.

    requested ── provisioning ── ready ── busy ── terminating ── terminated
        │             └────────────┴────────┴──────────┴──────────────┘
        └── failed

Written before anything is done that could cost: whoever dies between two lines leaves a state that says what may be
there. What has ended can only come back as `terminating`: a provider that shows a machine again is believed.
Costs are by time, since nobody sends a bill by the minute.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import psutil
import sqlalchemy as sa

from tasks.core.names import HostAddress
from tasks.core.processes import boot_id, start_ticks
from tasks.provisioning.errors import BudgetSpent

HOUR_S = 3600.0
MIN_HOURS = 0.1
"""A budget that leaves less than this of a machine is spent: nothing could be trained."""


class LeaseState(StrEnum):
    """What the ledger says of one request for a machine."""

    REQUESTED = "requested"
    """The provider is about to be asked, or was: a machine may have been made."""
    PROVISIONING = "provisioning"
    """A machine is ours and costs; its identifier is known."""
    READY = "ready"
    """Its host key is pinned, it passed the preflight, and its dead-man switch runs."""
    BUSY = "busy"
    """Our job may run there."""
    TERMINATING = "terminating"
    """Its end was, or is about to be, asked for."""
    TERMINATED = "terminated"
    """The provider has shown that it costs no more, whoever ended it."""
    FAILED = "failed"
    """No machine was made: refused, or asked for and never seen."""

    @classmethod
    def _missing_(cls, value: object) -> LeaseState | None:
        return _EARLIER.get(str(value))

    @property
    def is_over(self) -> bool:
        """Whether nothing is left that could cost."""
        return self in {LeaseState.TERMINATED, LeaseState.FAILED}


_EARLIER = {
    "intended": LeaseState.REQUESTED,
    "acquired": LeaseState.PROVISIONING,
    "reached": LeaseState.PROVISIONING,
    "training": LeaseState.BUSY,
    "collected": LeaseState.BUSY,
    "releasing": LeaseState.TERMINATING,
    "released": LeaseState.TERMINATED,
    "gone": LeaseState.TERMINATED,
    "refused": LeaseState.FAILED,
    "vanished": LeaseState.FAILED,
}
"""What ledgers of version 1 say."""

_HAD = (LeaseState.PROVISIONING, LeaseState.READY, LeaseState.BUSY)
TRANSITIONS: frozenset[tuple[LeaseState, LeaseState]] = frozenset(
    {
        (LeaseState.REQUESTED, LeaseState.PROVISIONING),
        (LeaseState.REQUESTED, LeaseState.FAILED),
        (LeaseState.REQUESTED, LeaseState.TERMINATING),
        (LeaseState.PROVISIONING, LeaseState.READY),
        (LeaseState.READY, LeaseState.BUSY),
        *((state, LeaseState.TERMINATING) for state in (*_HAD, LeaseState.TERMINATED, LeaseState.FAILED)),
        *((state, LeaseState.TERMINATED) for state in (*_HAD, LeaseState.TERMINATING)),
    }
)
"""Every step that a request can take; the first, into `requested`, is its birth."""


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
        requested_at: When it was written down; created_at: when the provider had made it.
        seen_at: Last sign of life of whoever claims it.
        ended_at: When it was known to cost no more.
        cost_usd: Up to the last time that anybody counted.
        reason: Why it ended, or what went wrong, for people.
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
    requested_at: float
    created_at: float | None
    seen_at: float
    ended_at: float | None
    cost_usd: float
    reason: str

    @property
    def address(self) -> HostAddress | None:
        """Where its SSH server was last known to be."""
        if self.host is None or self.port is None or self.user is None:
            return None
        return HostAddress(self.host, self.port, self.user)

    @property
    def host_name(self) -> str:
        """What messages and records call the machine."""
        return f"{self.provider}-{self.instance_id or self.request_id}"

    @property
    def machine(self) -> str:
        """The provider's identifier of a machine that there is."""
        if self.instance_id is None:
            raise ValueError(f"request {self.request_id} has no machine: look for it by its name first")
        return self.instance_id

    def age_s(self, now: float) -> float:
        """How long it has been, or was, there."""
        return max((self.ended_at if self.ended_at is not None else now) - self.requested_at, 0.0)

    def cost_until(self, now: float) -> float:
        """What it has cost in USD up to a time: from the request on, as the provider may have counted from there."""
        return self.cost_between(self.requested_at, now)

    def cost_between(self, start: float, end: float) -> float:
        """What it has cost in USD within a stretch of time."""
        if self.state is LeaseState.FAILED:
            return 0.0
        until = min(end, self.ended_at) if self.ended_at is not None else end
        return max(until - max(start, self.requested_at), 0.0) / HOUR_S * self.price_usd_per_hour


def month_of(now: float) -> tuple[float, float]:
    """Return where a time's calendar month begins and ends, UTC."""
    start = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return start.timestamp(), end.timestamp()


def spent_usd(entries: Iterable[LedgerEntry], now: float) -> float:
    """Return what has been spent in this calendar month, UTC."""
    start, _ = month_of(now)
    return sum(entry.cost_between(start, now) for entry in entries)


def promised_usd(entries: Iterable[LedgerEntry], now: float) -> float:
    """Return what machines that may be there may still cost."""
    return sum(
        max(entry.requested_at + entry.max_age_s - now, 0.0) / HOUR_S * entry.price_usd_per_hour
        for entry in entries
        if not entry.state.is_over
    )


def hours_within(
    budget_usd: float | None, price: float, max_hours: float, entries: Sequence[LedgerEntry], now: float
) -> float:
    """Return for how long a machine may be rented now: what is left of a month's budget may shorten it.

    Raises:
        BudgetSpent: Too little is left for `MIN_HOURS`.
    """
    if budget_usd is None or price <= 0:
        return max_hours
    spent, promised = spent_usd(entries, now), promised_usd(entries, now)
    hours = min(max_hours, (budget_usd - spent - promised) / price)
    if hours < min(MIN_HOURS, max_hours):
        raise BudgetSpent(budget_usd, price, spent, promised)
    return hours


CLAIM_S = 120.0
"""A claim that was silent for longer counts no more: its process is dead, or cut off from the ledger."""
TOUCH_EVERY_S = 20.0


def new_claim() -> str:
    """Return what this process is told by: machine, process, its birth, and something random."""
    return f"{socket.gethostname()[:64]}/{os.getpid()}/{_birth(os.getpid())}/{secrets.token_hex(4)}"


def is_certainly_dead(claim: str) -> bool:
    """Whether a claim's process ran on this machine and is no more. False if that cannot be told from here."""
    parts = claim.split("/")
    if len(parts) != 4 or parts[0] != socket.gethostname()[:64] or not parts[1].isdigit():
        return False
    return _birth(int(parts[1])) != parts[2]


def _birth(process_id: int) -> str:
    """Boot and start time of a process, so that a process id that was given out anew is told apart; empty if none."""
    if boot := boot_id():
        ticks = start_ticks(process_id)
        return f"{boot[:8]}.{ticks}" if ticks else ""
    return "there" if psutil.pid_exists(process_id) else ""


metadata = sa.MetaData()

ledger = sa.Table(
    "jade_ledger",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("owner", sa.String(40), nullable=False),
    sa.Column("made_at", sa.Double, nullable=False),
)
"""One row: who this ledger is. It is locked while money is promised. Times are seconds since 1970, UTC."""

_EARLIER_NAMES = {
    "instance_id": "machine_id",
    "requested_at": "intended_at",
    "created_at": "acquired_at",
    "reason": "problem",
}
_TYPES: dict[str, type[sa.types.TypeEngine[Any]]] = {"bool": sa.Boolean, "float": sa.Double, "int": sa.Integer}
rentals = sa.Table(
    "jade_rentals",
    metadata,
    *(
        sa.Column(
            _EARLIER_NAMES.get(item.name, item.name),
            _TYPES.get(str(item.type).removesuffix(" | None"), sa.Text),
            key=item.name,
            primary_key=item.name == "request_id",
            nullable=str(item.type).endswith(" | None"),
            index=item.name in {"owner", "state", "run_id"},
        )
        for item in fields(LedgerEntry)
    ),
)
"""One row a `LedgerEntry`; columns have the names that version 1 gave them."""

events = sa.Table(
    "jade_rental_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("request_id", sa.String(32), sa.ForeignKey("jade_rentals.request_id"), nullable=False, index=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("old", sa.String(16), nullable=False),
    sa.Column("new", sa.String(16), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)

reapers = sa.Table(
    "jade_reapers",
    metadata,
    sa.Column("owner", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("seen_at", sa.Double, nullable=False),
)
