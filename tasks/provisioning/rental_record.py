"""What was rented for a run, and what it cost: a file in the run's folder, for `run.json`, the report and the UI."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jade_model.core.files import write_atomically
from tasks.operations.events import BUDGET_WARNING, tell

if TYPE_CHECKING:
    from tasks.provisioning.entries import LedgerEntry
    from tasks.provisioning.renter import Renter

RENTAL_NAME = "rental.json"
BUDGET_SHARE = 0.8
"""Of a month's budget: from there on, somebody should know."""


_SAVING = threading.Lock()


def read_rental(folder: Path) -> dict[str, Any] | None:
    """Return what a run has rented; None if nothing, or if it cannot be read."""
    try:
        content = json.loads((folder / RENTAL_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def rental_sentence(rental: dict[str, Any]) -> str:
    """Return in one sentence what a run has rented and what it cost."""
    machines = rental["machines"]
    if not machines:
        return f"No machine of {rental['provider']} could be had."
    hours = sum(machine["hours"] for machine in machines)
    number = "One machine" if len(machines) == 1 else f"{len(machines)} machines"
    return (
        f"{number} of {rental['provider']} for {hours:.2f} h: {rental['cost_usd']:.2f} USD; all runs of this ledger "
        f"have cost {rental['spent_this_month_usd']:.2f} USD this month."
    )


def cost_until(rental: dict[str, Any], now: float) -> float:
    """Return what a run has cost in USD up to a time, in seconds since 1970, while machines of it may still cost."""
    cost = 0.0
    for machine in rental["machines"]:
        cost += machine["cost_usd"]
        if machine["ended_at"] is None:
            hours = (now - datetime.fromisoformat(machine["rented_at"]).timestamp()) / 3600
            cost += max(hours - machine["hours"], 0.0) * machine["price_usd_per_hour"]
    return cost


def rental_rows(rental: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row a machine, then one for each candidate that could not be had or used."""
    rows = [
        {
            "GPU": machine["title"] + (" (spot)" if machine["spot"] else ""),
            "USD/h": machine["price_usd_per_hour"],
            "hours": machine["hours"],
            "USD": machine["cost_usd"],
            "outcome": machine["problem"] or machine["state"],
        }
        for machine in rental["machines"]
    ]
    return rows + [
        {
            "GPU": item["what"],
            "USD/h": item["price_usd_per_hour"],
            "hours": 0,
            "USD": 0,
            "outcome": item["outcome"],
        }
        for item in rental["tried"]
    ]


def save_rental(folder: Path, renters: Sequence[Renter]) -> None:
    """Write what a run has rented so far; an older version is replaced.

    Args:
        folder: The run's.
        renters: All that rent for it: one, or one for each machine that it has at once; of one ledger and request.
    """
    renter = renters[0]
    with _SAVING:
        entries = [renter.ledger.entry(request_id) for each in renters for request_id in each.rented]
        now = renter.ledger.now()
        content = {
            "provider": renter.provider,
            "cost_usd": round(sum(entry.cost_until(now) for entry in entries), 4),
            "machines": [_machine(entry, now) for entry in entries],
            "replaced": sum(max(len(each.rented) - 1, 0) for each in renters),
            "tried": [
                {"what": item.what, "price_usd_per_hour": item.price_usd_per_hour, "outcome": item.outcome}
                for each in renters
                for item in each.tried
            ],
            "limits": {
                "machines_at_once": len(renters),
                "max_price_usd_per_hour": renter.request.max_price,
                "max_hours": renter.request.max_hours,
                "budget_usd_a_month": renter.request.budget,
            },
            "spent_this_month_usd": round(renter.ledger.spent_usd(), 4),
        }
        before = read_rental(folder)
        write_atomically(folder / RENTAL_NAME, json.dumps(content, indent=2) + "\n")
    _warn_of_budget(renter, content, before)


def _warn_of_budget(renter: Renter, now: dict[str, Any], before: dict[str, Any] | None) -> None:
    """Tell, once a run, that most of the month's budget is spent."""
    budget = renter.request.budget
    if budget is None or now["spent_this_month_usd"] < BUDGET_SHARE * budget:
        return
    if before is not None and before["spent_this_month_usd"] >= BUDGET_SHARE * budget:
        return
    spent = now["spent_this_month_usd"]
    message = f"{spent:.2f} of {budget:.2f} USD of the month's budget are spent; what would exceed it is refused."
    tell(BUDGET_WARNING, "budget", renter.provider, message=message, spent_usd=spent, budget_usd=budget)


def _machine(entry: LedgerEntry, now: float) -> dict[str, Any]:
    return {
        "machine_id": entry.instance_id,
        "title": entry.title,
        "spot": entry.spot,
        "price_usd_per_hour": entry.price_usd_per_hour,
        "state": entry.state.value,
        "rented_at": _shown(entry.requested_at),
        "ended_at": None if entry.ended_at is None else _shown(entry.ended_at),
        "hours": round(entry.age_s(now) / 3600, 4),
        "cost_usd": round(entry.cost_until(now), 4),
        "problem": entry.reason or None,
    }


def _shown(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
