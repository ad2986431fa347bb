"""Random bad days of providers: whatever happened, once they are well again nothing of ours is left to pay for."""

from __future__ import annotations

import random

import pytest

from tasks.provisioning.provisioner import Offer
from tests.fakes.bad_days import check_after, heal_ec2, heal_runpod, live_through, spoil_ec2, spoil_runpod
from tests.fakes.ec2_world import ec2_world
from tests.fakes.runpod_world import runpod_world

pytestmark = pytest.mark.soak
EC2_OFFERS = [
    Offer("ec2", "g5.xlarge", "NVIDIA A10G", 22.4, 1.006, region="us-east-1"),
    Offer("ec2", "g4dn.xlarge", "NVIDIA T4", 16.0, 0.31, region="us-east-1b", spot=True),
]


@pytest.mark.parametrize("seed", range(500))
def test_runpod_leaves_nothing(seed: int) -> None:
    draw = random.Random(seed)
    with runpod_world(settle_s=0.05, release_s=0.05) as world:
        offers = [offer for offer in world.provisioner.offers() if offer.available]
        spoil_runpod(world, draw)
        told = live_through(world, offers, draw)
        heal_runpod(world)
        check_after(world, told)
        assert world.others_untouched()
        assert world.server.violations == []


@pytest.mark.parametrize("seed", range(100))
def test_ec2_leaves_nothing(seed: int) -> None:
    draw = random.Random(seed)
    with ec2_world(settle_s=0.05, release_s=0.05) as world:
        spoil_ec2(world, draw)
        told = live_through(world, EC2_OFFERS, draw)
        heal_ec2(world)
        check_after(world, told)
        assert world.others_untouched()
