"""Renting, over a lender whose machines are real SSH servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.hosts import deadman
from tasks.hosts.ledger import Ledger
from tasks.hosts.ledger_states import RentalState
from tasks.reaping import Deed, Reaper
from tests.fakes.machines import LocalMachines, lent_machines
from tests.fakes.sshd import SSHD
from tests.helpers.rentals import renter_of

pytestmark = [pytest.mark.system, pytest.mark.skipif(SSHD is None, reason="no sshd here")]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[LocalMachines]:
    with lent_machines(tmp_path / "provider") as lender:
        yield lender


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.in_file(tmp_path / "state" / "ledger.db")
    yield opened
    opened.close()


def test_a_machine_is_rented_looked_over_used_and_freed(
    machines: LocalMachines, ledger: Ledger, tmp_path: Path
) -> None:
    notes: list[str] = []
    renter = renter_of(ledger, machines, tmp_path, notes)
    rented = renter.rent()
    assert rented.rental.state is RentalState.READY
    assert rented.host.run("echo $HOME", timeout_s=10).text.strip().startswith(str(tmp_path))
    assert deadman.beat(rented.host, rented.place.folder, rented.rental.request_id) is deadman.Switch.ARMED
    # The key that went in with the request is not the one that counts.
    assert rented.rental.fingerprint != renter.keys(rented.rental).first_fingerprint
    rented.host.close()
    assert renter.release(rented.rental, "done")
    assert machines.all() == []
    assert [step.new for step in ledger.history(rented.rental.request_id)] == [
        RentalState.INTENDED,
        RentalState.ACQUIRED,
        RentalState.REACHED,
        RentalState.READY,
        RentalState.RELEASING,
        RentalState.RELEASED,
    ]
    assert not renter.keys(rented.rental).exist()
    assert any("0.69 USD/h" in note for note in notes)


def test_the_reaper_frees_what_a_dead_renter_left_and_nothing_else(
    machines: LocalMachines, ledger: Ledger, tmp_path: Path
) -> None:
    rented = renter_of(ledger, machines, tmp_path, []).rent()
    other = renter_of(ledger, machines, tmp_path, [], owner="someoneelse").rent()
    reaper = Reaper(ledger, {"fake": machines}, tmp_path / "keys", ledger.owner)
    assert [item.deed for item in reaper.reap()] == [Deed.LEFT]
    ledger.let_go(rented.rental.request_id, rented.rental.claim)
    assert [item.deed for item in reaper.reap()] == [Deed.FREED]
    assert [item.machine_id for item in machines.all()] == [other.rental.machine_id]
    rented.host.close()
    other.host.close()
