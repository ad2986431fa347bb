"""Every machine of an owner, as the ledger and the providers tell of it together."""

from __future__ import annotations

from typing import Any

from tasks.hosts.errors import HostError
from tasks.provisioning.entries import HOUR_S, LedgerEntry, month_of
from tasks.provisioning.errors import ApiKeyMissing
from tasks.provisioning.provisioner import Instance
from tasks.provisioning.registry import Registry


def list_rented(
    registry: Registry, owner: str | None, *, wants_all: bool = False
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return an owner's machines, and why providers that have some could not be asked.

    Of each machine, or request for one: `provider`, `machine_id` (the provider's), `request_id` (the ledger's), `title`
    of the GPU, `state` (the ledger's, or the provider's where the ledger knows nothing), `hours` of age,
    `price_usd_per_hour`, `cost_usd` so far, the run that it serves (`run_id`), and a `note` on what does not agree or
    went wrong. What nobody knows is None.

    Args:
        registry: Ledger and providers.
        owner: Tag; None is the ledger's own.
        wants_all: Also what has ended this month.

    Raises:
        BadRequest: It is no owner's tag.
    """
    ledger = registry.ledger
    tag, now = registry.owner_tag(owner), ledger.now()
    there, missing = registry.provisioners()
    shown: dict[str, dict[str, Instance]] = {}
    problems: dict[str, str] = {}
    for name, provisioner in there.items():
        try:
            shown[name] = {instance.name: instance for instance in provisioner.list(tag)}
        except ApiKeyMissing as error:
            missing[name] = error
        except HostError as error:
            problems[name] = str(error)
    entries = ledger.entries(owner=tag)
    still_open = [entry for entry in entries if not entry.state.is_over]
    problems |= {name: str(error) for name, error in missing.items() if name in {each.provider for each in still_open}}
    month, _ = month_of(now)
    listed = [
        _known(entry, shown.get(entry.provider), now)
        for entry in entries
        if not entry.state.is_over or (wants_all and (entry.ended_at or 0.0) >= month)
    ]
    known = {entry.name for entry in still_open}
    return listed + [
        _unknown(instance, now)
        for instances in shown.values()
        for instance in instances.values()
        if instance.name not in known
    ], problems


def _known(entry: LedgerEntry, shown: dict[str, Instance] | None, now: float) -> dict[str, Any]:
    instance, note = (shown or {}).get(entry.name), entry.reason
    if not entry.state.is_over and shown is not None and instance is None:
        note = f"{note}; the provider does not show it".lstrip("; ")
    return {
        "provider": entry.provider,
        "machine_id": entry.instance_id or (instance.instance_id if instance else None),
        "request_id": entry.request_id,
        "title": entry.title + (" (spot)" if entry.spot else ""),
        "state": entry.state.value,
        "hours": round(entry.age_s(now) / HOUR_S, 4),
        "price_usd_per_hour": entry.price_usd_per_hour,
        "cost_usd": round(entry.cost_until(now), 4),
        "run_id": entry.run_id or None,
        "note": note or None,
    }


def _unknown(instance: Instance, now: float) -> dict[str, Any]:
    hours = None if instance.started_at is None else max(now - instance.started_at.timestamp(), 0.0) / HOUR_S
    return {
        "provider": instance.provider,
        "machine_id": instance.instance_id,
        "request_id": None,
        "title": "",
        "state": instance.state.value,
        "hours": None if hours is None else round(hours, 4),
        "price_usd_per_hour": instance.price_usd_per_hour,
        "cost_usd": None if hours is None else round(hours * instance.price_usd_per_hour, 4),
        "run_id": None,
        "note": "the ledger holds it for ended, or does not know it: `jade reap` frees it",
    }
