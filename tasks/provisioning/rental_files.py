"""What was rented for a run, read from the file in its folder, and put into words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RENTAL_NAME = "rental.json"


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
