"""Every machine of an owner, as the ledger and the providers tell of it together."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.hosts.errors import HostError
from tasks.provisioning.entries import HOUR_S, LedgerEntry, month_of
from tasks.provisioning.errors import ApiKeyMissing
from tasks.provisioning.provisioner import Instance
from tasks.provisioning.registry import Registry, owner_tag


@dataclass(frozen=True)
class RentedEntry:
    """One machine, or request for one.

    Attributes:
        provider: Whose.
        instance_id: The provider's identifier; empty if none is known.
        request_id: The ledger's; empty if it does not know the machine.
        title: Of the GPU.
        state: The ledger's, or the provider's where the ledger knows nothing.
        hours: Its age; None if nobody tells.
        price_usd_per_hour: What it costs.
        cost_usd: So far; None if nobody tells.
        run_id: The run that it serves.
        note: What does not agree, or went wrong.
    """

    provider: str
    instance_id: str
    request_id: str
    title: str
    state: str
    hours: float | None
    price_usd_per_hour: float
    cost_usd: float | None
    run_id: str
    note: str = ""


def list_rented(
    registry: Registry, owner: str | None, *, wants_all: bool = False
) -> tuple[list[RentedEntry], dict[str, str]]:
    """Return an owner's machines, and why providers that have some could not be asked.

    Args:
        registry: Ledger and providers.
        owner: Tag; None is the ledger's own.
        wants_all: Also what has ended this month.

    Raises:
        BadRequest: It is no owner's tag.
    """
    ledger = registry.ledger
    tag = owner_tag(owner) or ledger.owner
    there, missing = registry.provisioners()
    shown: dict[str, list[Instance]] = {}
    problems: dict[str, str] = {}
    for name, provisioner in there.items():
        try:
            shown[name] = list(provisioner.list(tag))
        except ApiKeyMissing as error:
            missing[name] = error
        except HostError as error:
            problems[name] = str(error)
    rows = ledger.entries(owner=tag)
    open_at = {row.provider for row in rows if not row.state.is_over}
    problems |= {name: str(error) for name, error in missing.items() if name in open_at}
    month, _ = month_of(ledger.now())
    entries = [
        _entry(row, shown.get(row.provider), ledger.now())
        for row in rows
        if not row.state.is_over or (wants_all and (row.ended_at or 0.0) >= month)
    ]
    known = {row.name for row in rows if not row.state.is_over}
    entries += [
        _unknown(machine, ledger.now())
        for machines in shown.values()
        for machine in machines
        if machine.name not in known
    ]
    return entries, problems


def _entry(row: LedgerEntry, machines: list[Instance] | None, now: float) -> RentedEntry:
    machine = next((item for item in machines or () if item.name == row.name), None)
    note = row.reason
    if not row.state.is_over and machines is not None and machine is None:
        note = f"{note}; the provider does not show it".lstrip("; ")
    return RentedEntry(
        row.provider,
        row.instance_id or (machine.instance_id if machine else ""),
        row.request_id,
        row.title + (" (spot)" if row.spot else ""),
        row.state.value,
        round(row.age_s(now) / HOUR_S, 4),
        row.price_usd_per_hour,
        round(row.cost_until(now), 4),
        row.run_id,
        note,
    )


def _unknown(machine: Instance, now: float) -> RentedEntry:
    hours = None if machine.started_at is None else max(now - machine.started_at.timestamp(), 0.0) / HOUR_S
    return RentedEntry(
        machine.provider,
        machine.instance_id,
        "",
        "",
        machine.state.value,
        None if hours is None else round(hours, 4),
        machine.price_usd_per_hour,
        None if hours is None else round(hours * machine.price_usd_per_hour, 4),
        "",
        "the ledger holds it for ended, or does not know it: `jade reap` frees it",
    )
