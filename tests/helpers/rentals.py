"""A renter over the lender of tests/fakes/machines.py, with nothing trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tasks.hosts.place import RemotePlace
from tasks.provisioning.connect import Lender
from tasks.provisioning.lease import Renter, Served
from tasks.provisioning.ledger import Ledger
from tasks.provisioning.rental_request import RentalRequest
from tasks.provisioning.rented_hosts import open_rented
from tests.fakes.machines import LocalMachines

REQUEST = RentalRequest(gpu=("NVIDIA GeForce RTX 4090", "L4"), max_price=0.8, max_hours=2.0)


def lender_of(machines: LocalMachines, *, python: str = sys.executable, **changes: Any) -> Lender:
    place = RemotePlace(".jade", python, 3600)
    device = changes.pop("device", "cpu")
    settings = {"start_limit_s": 60.0, **changes}
    return Lender(machines, open_rented, lambda instance_id: place, lambda instance_id: device, **settings)


def renter_of(
    ledger: Ledger, machines: LocalMachines, folder: Path, notes: list[str], *, owner: str | None = None, **changes: Any
) -> Renter:
    request = changes.pop("request", REQUEST.model_copy(update={"owner": owner}))
    served = Served("20261124T000000Z-compare-abcdef", "", ("k" * 64,))
    lender = changes.pop("lender", lender_of(machines, python="stub-python", device="cuda"))
    return Renter(ledger, lender, request, served, folder / "keys", notes.append, **changes)
