"""Names of machines: owner and request are told from a name alone, and no name is another owner's; whose they are."""

from __future__ import annotations

import time
import uuid
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.core.errors import RunError
from tasks.core.names import HostAddress
from tasks.provisioning.connect import Provider
from tasks.provisioning.entries import LeaseState, LedgerEntry
from tasks.provisioning.keys import open_rented
from tasks.provisioning.lease import release
from tasks.provisioning.ledger import Ledger, Purpose
from tasks.provisioning.offers import RentalRequest
from tasks.provisioning.provisioner import (
    Instance,
    InstanceRequest,
    InstanceScripts,
    InstanceState,
    Offer,
    Timing,
    check_owner,
    gone,
    instance_name,
    owner_and_request,
)
from tests.helpers.rentals import renter_of


def test_a_name_tells_owner_and_request() -> None:
    owner = check_owner(str(uuid.uuid4()))
    assert owner_and_request(instance_name(owner, "0123456789abcdef")) == (owner, "0123456789abcdef")


@pytest.mark.parametrize("name", ["jade-abcd", "jade-abcd-xyz", "my-jade-abcd-01234567", "jade-ab-cd-01234567", ""])
def test_names_of_others_tell_nothing(name: str) -> None:
    assert owner_and_request(name) is None


@pytest.mark.parametrize("owner", ["", "abc", "a b c d", "../../etc", "x" * 41])
def test_what_is_no_tag_is_refused(owner: str) -> None:
    with pytest.raises(ValueError, match="an owner is"):
        check_owner(owner)


def test_no_name_is_made_of_a_tag_with_a_dash() -> None:
    with pytest.raises(ValueError, match="make no name"):
        instance_name("ab-cd", "0123456789abcdef")


@pytest.mark.parametrize("is_ended", [True, False])
def test_a_machine_that_its_owner_ends_while_its_claim_is_waited_for_is_left_to_it(
    is_ended: bool, tmp_path: Path
) -> None:
    fake: Any = SimpleNamespace(provider="fake")
    with closing(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        later = renter_of(ledger, fake, tmp_path, [], lender=Provider(fake, open_rented, lambda _: fake))
        owner = "elsewhere/1/then/0"
        entry = ledger.request(
            Offer("fake", "k", "K", 1, 1.0), later.purpose, claim=owner, max_hours=1, orphan_grace_s=900
        )
        machine = Instance("fake", "m1", entry.name, entry.owner, InstanceState.RUNNING, None, 1.0, None)
        ledger.advance(entry.request_id, LeaseState.PROVISIONING, instance=machine)
        ledger.advance(entry.request_id, LeaseState.READY)
        later.keys(entry).make()

        def meanwhile(_: float) -> None:
            ledger.touch(entry.request_id, owner)
            if is_ended:
                ledger.advance(entry.request_id, LeaseState.TERMINATING, reason="Ctrl-C")

        later.sleep = meanwhile
        if is_ended:
            assert later.attach() is None
        else:
            with pytest.raises(RunError, match="is alive and trains just this"):
                later.attach()
        assert ledger.entry(entry.request_id).claim == owner


def test_a_machine_whose_preflight_takes_long_is_claimed_all_the_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = Offer("fake", "K", "K", 1, 0.5)
    seen: list[float] = []

    def create(request: InstanceRequest) -> Instance:
        address = HostAddress("127.0.0.1")
        return Instance("fake", "m", request.name, request.owner, InstanceState.RUNNING, address, 0.5, None)

    with closing(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        made: list[Instance] = []
        fake: Any = SimpleNamespace(
            provider="fake",
            scripts=InstanceScripts(end="", end_is_certain=True),
            offers=lambda: [offer],
            list=lambda owner: [],
            create=lambda request: made.append(create(request)) or made[0],
            describe=lambda instance_id: made[0],
        )
        host: Any = SimpleNamespace(name="m", run=lambda *_, **__: None, close=lambda: None)
        place: Any = SimpleNamespace(folder=".jade")
        lender = Provider(fake, lambda *_, **__: host, lambda _: place, has_own_keys=True)
        renter = renter_of(ledger, fake, tmp_path, [], lender=lender, request=RentalRequest(gpu=("K",)))

        def look_over(*_: object) -> None:
            for _ in range(2):
                seen.append(ledger.entries()[0].seen_at)
                time.sleep(0.5)
            seen.append(ledger.entries()[0].seen_at)

        monkeypatch.setattr("tasks.provisioning.connect.check_ready", look_over)
        monkeypatch.setattr("tasks.provisioning.connect.TOUCH_EVERY_S", 0.05)
        lease = renter.rent()
        assert seen[0] < seen[1] < seen[2]
        time.sleep(0.2)
        # From then on the lease's own heartbeat says it.
        assert ledger.entry(lease.entry.request_id).seen_at <= seen[2] + 0.2


def test_two_who_end_a_machine_at_the_same_time_both_see_it_ended(tmp_path: Path) -> None:
    class Raced(Ledger):
        """Somebody else takes a step right after we have looked."""

        others: tuple[LeaseState, ...] = ()

        def entry(self, request_id: str) -> LedgerEntry:
            found = super().entry(request_id)
            for state in self.others[:1]:
                self.others = self.others[1:]
                self.advance(request_id, state)
            return found

    with closing(Raced(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        entry = ledger.request(
            Offer("fake", "k", "K", 1, 1.0), Purpose("run"), claim="me", max_hours=1, orphan_grace_s=900
        )
        machine = Instance("fake", "m1", entry.name, entry.owner, InstanceState.RUNNING, None, 1.0, None)
        ledger.advance(entry.request_id, LeaseState.PROVISIONING, instance=machine)

        def terminate(instance_id: str) -> Instance:
            ledger.advance(entry.request_id, LeaseState.TERMINATED)
            return gone("fake", instance_id)

        fake: Any = SimpleNamespace(provider="fake", terminate=terminate)
        ledger.others = (LeaseState.TERMINATING,)
        assert release(ledger, fake, entry, "the run is over", Timing()).state is LeaseState.TERMINATED
