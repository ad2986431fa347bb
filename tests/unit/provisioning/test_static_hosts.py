"""Hosts that are there anyway, behind the seam of those that are rented."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tasks.core.names import HostAddress
from tasks.hosts.errors import HostUnreachable
from tasks.provisioning.errors import NoCapacity
from tasks.provisioning.provisioner import Offer, Timing
from tasks.provisioning.static import StaticHost, StaticProvisioner
from tests.fakes.local_host import LocalHost
from tests.fakes.provisioner_contract import OTHER_OWNER, SeamContract, new_request


class StaticWorld:
    secrets: tuple[str, ...] = ()
    timing = Timing(look_s=0.01)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        hosts = {
            name: StaticHost(
                HostAddress("127.0.0.1", 22), "jade", lambda named=name: LocalHost(folder / named, name=named)
            )
            for name in ("gpu1", "gpu2")
        }
        self.provisioner = StaticProvisioner(hosts)

    def costing(self) -> int:
        return len(list(self.folder.glob("*/jade/lease/holder")))


@pytest.fixture
def world(tmp_path: Path) -> StaticWorld:
    return StaticWorld(tmp_path)


class TestStaticHosts(SeamContract):
    """The contract of all who lend."""


def offer_of(world: StaticWorld, name: str) -> Offer:
    return next(offer for offer in world.provisioner.offers() if offer.kind == name)


def test_a_host_is_lent_to_one_at_a_time_and_the_refusal_says_to_whom(world: StaticWorld) -> None:
    first = new_request(offer_of(world, "gpu1"))
    world.provisioner.create(first)
    with pytest.raises(NoCapacity, match=first.name):
        world.provisioner.create(new_request(offer_of(world, "gpu1")))
    world.provisioner.create(new_request(offer_of(world, "gpu2")))
    assert world.costing() == 2


def test_a_lease_that_ran_out_is_taken_over_and_its_holder_cannot_give_it_back(world: StaticWorld) -> None:
    old = world.provisioner.create(new_request(offer_of(world, "gpu1"), max_age_s=60))
    holder = world.folder / "gpu1" / "jade" / "lease" / "holder"
    holder.write_text(f"{old.name} 1000 1060\n")
    new = world.provisioner.create(new_request(offer_of(world, "gpu1")))
    world.provisioner.terminate(old.instance_id)
    assert holder.read_text().startswith(new.name)


def test_who_gives_a_lease_back_decides_alone_whose_it_is(world: StaticWorld) -> None:
    old = world.provisioner.create(new_request(offer_of(world, "gpu1")))
    jade = world.folder / "gpu1" / "jade"
    guard, holder = jade / "lease.guard", jade / "lease" / "holder"
    guard.mkdir()  # somebody is at it just now
    giving_back = threading.Thread(target=world.provisioner.terminate, args=(old.instance_id,))
    giving_back.start()
    time.sleep(0.5)
    assert holder.read_text().startswith(old.name)
    holder.write_text(holder.read_text().replace(old.name, "jade-other-00000000"))
    guard.rmdir()
    giving_back.join(30)
    assert holder.read_text().startswith("jade-other-00000000")
    assert not guard.exists()


def test_a_host_out_of_reach_is_passed_over(tmp_path: Path) -> None:
    class Away(LocalHost):
        def run(self, *arguments: object, **named: object) -> object:  # type: ignore[override]
            raise HostUnreachable("gpu1", 1.0, 1, "no route")

    hosts = {"gpu1": StaticHost(HostAddress("192.0.2.1"), "jade", lambda: Away(tmp_path, name="gpu1"))}
    assert StaticProvisioner(hosts).list(OTHER_OWNER) == []
