"""A rental from intent to release, of each service: its fake, with a real SSH server in each machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tasks.hosts.host import RemotePlace
from tasks.provisioning import deadman
from tasks.provisioning.connect import Provider
from tasks.provisioning.entries import LeaseState
from tasks.provisioning.keys import open_rented
from tasks.provisioning.ledger import Ledger
from tasks.provisioning.offers import RentalRequest
from tasks.provisioning.provisioner import InstanceState, Provisioner, Timing
from tasks.provisioning.renter import Renter
from tests.fakes.ec2_world import ec2_world
from tests.fakes.runpod_world import runpod_world
from tests.fakes.sshd import SSHD
from tests.helpers.rentals import renter_of
from tests.helpers.rented_access import end_from_within

pytestmark = [
    pytest.mark.system,
    pytest.mark.xdist_group("ec2"),
    pytest.mark.skipif(SSHD is None, reason="no sshd here"),
]


def check_a_rental(provisioner: Provisioner, request: RentalRequest, ledger: Ledger, folder: Path) -> None:
    place = RemotePlace(".jade", sys.executable, 3600)
    lender = Provider(provisioner, open_rented, lambda _: place, Timing(start_limit_s=120.0, look_s=0.1))
    notes: list[str] = []
    renter: Renter = renter_of(ledger, None, folder, notes, request=request, lender=lender)  # type: ignore[arg-type]
    rented = renter.rent()
    assert rented.entry.state is LeaseState.READY
    assert deadman.beat(rented, rented.place.folder, rented.entry.request_id) is deadman.Switch.ARMED
    assert rented.entry.fingerprint != renter.keys(rented.entry).first_fingerprint
    # What the switch would run when nobody looks after the machine any more.
    end_from_within(rented, provisioner)
    rented.close()
    assert renter.release(rented.entry, "done")
    assert provisioner.describe(rented.entry.machine).state is InstanceState.GONE
    assert provisioner.list(ledger.owner) == []


def test_a_pod_of_runpod(ledger: Ledger, tmp_path: Path) -> None:
    request = RentalRequest(gpu=("L4",), max_hours=1.0, accept_unreaped=True)
    with runpod_world(tmp_path / "pods", release_s=60.0) as world:
        world.server.looks_to_address, world.server.sshd_delay_s = 2, 0.5
        check_a_rental(world.provisioner, request, ledger, tmp_path)
        assert (world.costing(), world.server.violations) == (0, [])
        assert world.others_untouched()


@pytest.mark.parametrize("spot", [False, True])
def test_a_machine_of_ec2(ledger: Ledger, tmp_path: Path, *, spot: bool) -> None:
    request = RentalRequest(gpu=("NVIDIA T4",), max_hours=1.0, spot=spot)
    with ec2_world(tmp_path / "machines", release_s=60.0) as world:
        check_a_rental(world.provisioner, request, ledger, tmp_path)
        assert (world.costing(), world.groups()) == (0, [])
        assert world.others_untouched()
