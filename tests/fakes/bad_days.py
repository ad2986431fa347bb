"""Random bad days of a provider, and a renter that lives through them as carelessly as the seam allows."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tasks.provisioning.errors import (
    NoCapacity,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)
from tasks.provisioning.provisioner import InstanceRequest, InstanceState, Offer
from tests.fakes.ec2_server import Fault as Ec2Fault
from tests.fakes.ec2_world import Ec2World
from tests.fakes.provisioner_contract import (
    OTHER_OWNER,
    OWNER,
    World,
    created,
    ended,
    new_request,
    ours,
    texts_of,
)
from tests.fakes.runpod_server import Fault as RunPodFault
from tests.fakes.runpod_world import RunPodWorld


@dataclass
class Told:
    """What became of a schedule."""

    requests: list[InstanceRequest] = field(default_factory=list)
    acquired: set[str] = field(default_factory=set)
    errors: list[ProviderError] = field(default_factory=list)


def live_through(world: World, offers: list[Offer], draw: random.Random) -> Told:
    """Ask, ask again, look, release, or forget all of it, at random; only what the seam names may be raised."""
    told = Told()
    for _ in range(draw.randint(1, 3)):
        request = new_request(draw.choice(offers), owner=draw.choice([OWNER, OTHER_OWNER]))
        told.requests.append(request)
        for _ in range(draw.randint(1, 3)):
            try:
                machine = created(world, request)
            except (NoCapacity, ProviderUnavailable) as error:
                told.errors.append(error)
                continue
            except ProviderRefused as error:
                # Its machine has ended: EC2 makes no other one for the same request.
                if error.status != "IdempotentInstanceTerminated" or request.request_id not in told.acquired:
                    raise
                continue
            told.acquired.add(request.request_id)
            try:
                _use(world, machine.instance_id, request.owner, draw)
            except ProviderUnavailable as error:
                told.errors.append(error)
    return told


def _use(world: World, instance_id: str, owner: str, draw: random.Random) -> None:
    for _ in range(draw.randint(0, 3)):
        match draw.choice(["find", "list", "release"]):
            case "find":
                world.provisioner.describe(instance_id)
            case "list":
                world.provisioner.list(owner)
            case _:
                ended(world, instance_id)


def check_after(world: World, told: Told) -> None:
    """Once the provider is well again: each request is one machine, all can be freed, nothing secret was told."""
    provisioner = world.provisioner
    for request in told.requests:
        if any(machine.name == request.name for machine in provisioner.list(request.owner)):
            # Twins that came of a lost reply and a late list are ended when it is asked for again.
            again = created(world, request)
            same = [each for each in provisioner.list(request.owner) if each.name == request.name]
            assert [each.instance_id for each in same] == [again.instance_id]
    for owner in (OWNER, OTHER_OWNER):
        for instance_id in ours(world, owner):
            ended(world, instance_id)
            assert provisioner.describe(instance_id).state is InstanceState.GONE
    assert world.costing() == 0
    for error in told.errors:
        shown = texts_of(error)
        assert not any(secret in shown for secret in world.secrets)
        assert not any(request.host_private_key.splitlines()[1] in shown for request in told.requests)


def spoil_runpod(world: RunPodWorld, draw: random.Random) -> None:
    """Draw a bad day for RunPod."""
    server = world.server
    for _ in range(draw.randint(0, 6)):
        fault = RunPodFault(
            draw.choice(["answer", "answer", "lose request", "lose answer", "garbage"]),  # type: ignore[arg-type]
            draw.choice(["GET", "POST", "POST", "DELETE"]),
            times=draw.randint(1, 6),
            skip=draw.randint(0, 4),
            status=draw.choice([408, 429, 500, 502, 503, 504]),
            headers=draw.choice([{}, {"Retry-After": "0"}, {"Retry-After": "3600"}, {"Retry-After": "soon"}]),
            body=draw.choice([b"", b"<html>", b"[]", b'{"pods": 7}', b'{"id": ""}']),
        )
        server.faults.append(fault)
    server.list_lag = draw.choice([0, 0, 1, 4, 12])
    server.copies = draw.choice([1, 1, 1, 2])
    server.looks_to_vanish = draw.choice([0, 0, 2, 8])
    server.start_as = draw.choice([[], [], ["ERROR"], ["EXITED"]])
    if draw.random() < 0.2:
        server.sold_out.add("NVIDIA L4")


def heal_runpod(world: RunPodWorld) -> None:
    """All is well again, and all lists are up to date."""
    server = world.server
    server.faults.clear()
    server.list_lag = server.looks_to_vanish = 0
    server.copies = 1
    for pod in server.costing:
        pod.hidden_lists = 0
        if pod.is_deleted:
            pod.looks_to_vanish = 0


def spoil_ec2(world: Ec2World, draw: random.Random) -> None:
    """Draw a bad day for EC2."""
    server = world.server
    actions = ["RunInstances", "RunInstances", "DescribeInstances", "TerminateInstances", "CreateSecurityGroup"]
    actions += ["DeleteSecurityGroup", "AuthorizeSecurityGroupIngress", "DescribeVpcs"]
    for _ in range(draw.randint(0, 6)):
        code, status = draw.choice([("InternalError", 500), ("RequestLimitExceeded", 503), ("Unavailable", 503)])
        kind = draw.choice(["answer", "answer", "lose request", "lose answer"])
        fault = Ec2Fault(
            kind,  # type: ignore[arg-type]
            draw.choice(actions),
            times=draw.randint(1, 6),
            status=status,
            code=code,
            skip=draw.randint(0, 3),
        )
        server.faults.append(fault)
    server.bad.hidden_looks = draw.choice([0, 0, 2, 5])
    server.bad.looks_to_end = draw.choice([0, 0, 2, 8])
    server.bad.holds_groups = draw.choice([0, 0, 2])
    server.bad.takes_tokens = draw.random() < 0.7
    if draw.random() < 0.2:
        server.bad.sold_out.add("g5.xlarge")


def heal_ec2(world: Ec2World) -> None:
    """All is well again, and everybody at AWS knows everything."""
    server = world.server
    server.faults.clear()
    server.bad.hidden_looks = server.bad.looks_to_end = server.bad.holds_groups = 0
    for instance in server.instances.values():
        instance.hidden = instance.looks_to_end = instance.holds_groups = 0
