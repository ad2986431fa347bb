"""What was rented for a run, and what it cost: a file in the run's folder, for `run.json`, the report and the UI."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jade_model.core.files import write_atomically
from tasks.operations.events import BUDGET_WARNING, tell
from tasks.provisioning.costs import LedgerEntry
from tasks.provisioning.lease import Renter
from tasks.provisioning.rental_files import RENTAL_NAME, read_rental

BUDGET_SHARE = 0.8
"""Of a month's budget: from there on, somebody should know."""


_SAVING = threading.Lock()


def save_rental(folder: Path, renters: Sequence[Renter]) -> None:
    """Write what a run has rented so far; an older version is replaced.

    Args:
        folder: The run's.
        renters: All that rent for it: one, or one for each machine that it has at once; of one ledger and request.
    """
    renter = renters[0]
    with _SAVING:
        rentals = [renter.ledger.rental(request_id) for each in renters for request_id in each.rented]
        now = renter.ledger.now()
        content = {
            "provider": renter.provider,
            "cost_usd": round(sum(rental.cost_until(now) for rental in rentals), 4),
            "machines": [_machine(rental, now) for rental in rentals],
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


def _machine(rental: LedgerEntry, now: float) -> dict[str, Any]:
    return {
        "machine_id": rental.instance_id,
        "title": rental.title,
        "spot": rental.spot,
        "price_usd_per_hour": rental.price_usd_per_hour,
        "state": rental.state.value,
        "rented_at": _shown(rental.intended_at),
        "ended_at": None if rental.ended_at is None else _shown(rental.ended_at),
        "hours": round(rental.age_s(now) / 3600, 4),
        "cost_usd": round(rental.cost_until(now), 4),
        "problem": rental.problem or None,
    }


def _shown(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
