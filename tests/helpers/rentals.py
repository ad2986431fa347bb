"""A renter over the lender of tests/fakes/machines.py, with nothing trained."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.hosts.host import RemotePlace
from tasks.provisioning.connect import Provider
from tasks.provisioning.entries import new_claim
from tasks.provisioning.keys import open_rented
from tasks.provisioning.ledger import Ledger, Purpose
from tasks.provisioning.offers import RentalRequest
from tasks.provisioning.provisioner import Timing
from tasks.provisioning.renter import Renter
from tests.fakes.machines import LocalMachines

REQUEST = RentalRequest(gpu=("NVIDIA GeForce RTX 4090", "L4"), max_price=0.8, max_hours=2.0)


TIMING = Timing(start_limit_s=60.0, settle_s=20.0, release_s=60.0)


def provider_of(
    machines: LocalMachines, *, python: str = sys.executable, device: str = "cpu", timing: Timing = TIMING
) -> Provider:
    place = RemotePlace(".jade", python, 3600, device=device)
    return Provider(machines, open_rented, lambda instance_id: place, timing)


def renter_of(
    ledger: Ledger,
    machines: LocalMachines,
    folder: Path,
    notes: list[str],
    *,
    owner: str | None = None,
    request: RentalRequest | None = None,
    lender: Provider | None = None,
) -> Renter:
    return Renter(
        ledger,
        lender or provider_of(machines, python="stub-python", device="cuda"),
        folder / "keys",
        new_claim(),
        notes.append,
        request=request or REQUEST.model_copy(update={"owner": owner}),
        purpose=Purpose("20261124T000000Z-compare-abcdef", "", ("k" * 64,)),
    )
