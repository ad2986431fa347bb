"""EC2 machines with a real sshd: what our user data do in them, from the first connection to the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.hosts.errors import HostKeyMismatch
from tasks.provisioning.provisioner import InstanceState, Offer
from tests.fakes.ec2_world import Ec2World, ec2_world
from tests.fakes.provisioner_contract import ended
from tests.helpers.rented_access import Rented, end_from_within, fingerprint_of_line

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("ec2")]
ON_DEMAND = Offer("ec2", "g5.xlarge", "NVIDIA A10G", 22.4, 1.006, region="us-east-1")
SPOT = Offer("ec2", "g5.xlarge", "NVIDIA A10G", 22.4, 0.31, region="us-east-1b", spot=True)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Ec2World]:
    with ec2_world(tmp_path / "machines", release_s=60.0) as world:
        yield world
        assert world.others_untouched()


def test_the_first_connection_is_verified_and_the_key_is_then_replaced(world: Ec2World, tmp_path: Path) -> None:
    rented = Rented(world.provisioner, ON_DEMAND, tmp_path / "ours")
    host = rented.host()
    line = host.run(world.provisioner.scripts.renew_host_key, timeout_s=60).text.splitlines()[-1]
    assert host.run("echo still open", timeout_s=60).text == "still open\n"
    host.close()
    renewed = rented.host(fingerprint_of_line(line))
    assert renewed.run("echo here", timeout_s=60).text == "here\n"
    renewed.close()
    with pytest.raises(HostKeyMismatch):
        rented.host().run("true", timeout_s=60)


def test_the_end_script_terminates_the_machine(world: Ec2World, tmp_path: Path) -> None:
    rented = Rented(world.provisioner, ON_DEMAND, tmp_path / "ours")
    host = rented.host()
    host.run("setsid sleep 600 >/dev/null 2>&1 </dev/null &", timeout_s=60)
    end_from_within(host, world.provisioner)
    rented.wait_for(InstanceState.GONE)
    host.close()
    assert world.costing() == 0
    assert world.provisioner.scripts.end_is_certain


def test_a_machine_ends_itself_at_its_age(world: Ec2World, tmp_path: Path) -> None:
    world.server.minute_s = 3
    rented = Rented(world.provisioner, ON_DEMAND, tmp_path / "ours", max_age_s=50)
    rented.wait_for(InstanceState.GONE)
    assert world.costing() == 0
    assert "TerminateInstances" not in world.server.actions


def test_a_spot_machine_hears_of_its_end(world: Ec2World, tmp_path: Path) -> None:
    rented = Rented(world.provisioner, SPOT, tmp_path / "ours")
    host = rented.host()
    notice = world.provisioner.scripts.notice
    assert host.run(notice, timeout_s=60).text == ""
    world.server.announce(rented.instance_id)
    assert '"action": "terminate"' in host.run(notice, timeout_s=60).text
    world.server.take_away(rented.instance_id)
    rented.wait_for(InstanceState.GONE)
    host.close()
    ended(world, rented.instance_id)
    assert world.groups() == []
