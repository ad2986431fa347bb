"""EC2's provisioner with the fake service behind it, as the contract suite wants it."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from botocore.retries import standard

from tasks.provisioning.ec2 import Ec2Provisioner
from tasks.provisioning.ec2_api import Ec2Api, Ec2Settings
from tasks.provisioning.provisioner import CallLimits, Timing
from tests.fakes.ec2_server import Ec2Server, Fault, ec2_server

SECRET_KEY = "planted/secret/access/key/0123456789abcd"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}
QUICK = CallLimits(pause_s=0.004, longest_wait_s=2.0)


class _Quick(standard.ExponentialBackoff):  # type: ignore[misc]
    """botocore waits for half a second and more."""

    def delay_amount(self, context: Any) -> float:
        return 0.004


@functools.cache
def shared_api(url: str) -> Ec2Api:
    """Making clients takes boto3 most of a second; theirs is a budget of retries that all tests together exceed."""
    with (
        mock.patch.dict(os.environ, CREDENTIALS),
        mock.patch.object(standard, "ExponentialBackoff", _Quick),
        mock.patch.object(standard.quota, "RetryQuota", functools.partial(standard.quota.RetryQuota, 10**9)),
    ):
        return Ec2Api(Ec2Settings(region="us-east-1", endpoint_url=url), QUICK)


class Ec2World:
    """The pauses are those of a test; nothing else is special."""

    def __init__(self, server: Ec2Server, **settings: Any) -> None:
        self.server, self.secrets = server, (SECRET_KEY,)
        self.api = shared_api(server.url)
        self.ec2 = self.api.ec2
        self.timing = Timing(settings.get("settle_s", 60.0), settings.get("release_s", 60.0), look_s=0.01)
        self.provisioner = self.connect(**settings)
        self._others = {self.add_other(Name="training"), self.add_other(**{"jade:request": "0" * 32})}

    def connect(self, *, now: Callable[[], float] = time.time, **settings: Any) -> Ec2Provisioner:
        quick: dict[str, Any] = {
            "instance_types": ("g4dn.xlarge", "g5.xlarge", "g6.xlarge"),
            "image": "ami-12345678",
            "user": getpass.getuser(),
            "ssh_port": self.server.ssh_port,
            "admit": "127.0.0.1",
        }
        quick |= settings
        # Of the provisioner alone: what waits for it is patient.
        waits = {"settle_s": 0.3, "release_s": 60.0, "look_s": 0.01}
        timing = Timing(**{name: quick.pop(name, wait) for name, wait in waits.items()})
        return Ec2Provisioner(self.api, Ec2Settings(**quick), timing=timing, now=now)

    def add_other(self, **tags: str) -> str:
        """An instance of somebody else."""
        told = [{"Key": key, "Value": value} for key, value in tags.items()]
        made = self.ec2.run_instances(
            ImageId="ami-12345678",
            InstanceType="t3.micro",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": told}],
        )
        return str(made["Instances"][0]["InstanceId"])

    def costing(self) -> int:
        return len(self.server.costing)

    def groups(self) -> list[str]:
        """Security groups that were made for machines."""
        groups = self.ec2.describe_security_groups()["SecurityGroups"]
        return [group["GroupName"] for group in groups if group["GroupName"].startswith("jade-")]

    def key_pairs(self) -> list[str]:
        return [pair["KeyName"] for pair in self.ec2.describe_key_pairs()["KeyPairs"]]

    def lose_answer_to_create(self) -> None:
        self.server.faults.append(Fault("lose answer", "RunInstances"))

    def lose_create(self) -> None:
        self.server.faults.append(Fault("lose request", "RunInstances"))

    def sell_out(self, kind: str) -> None:
        self.server.bad.sold_out.add(kind)

    def refuse_key(self) -> None:
        self.server.faults.append(Fault("answer", "*", 10**6, 401, "AuthFailure", "not able to validate"))

    def go_down(self) -> None:
        self.server.faults.append(Fault("answer", "*", 10**6, 503, "Unavailable", "The server is overloaded"))

    def come_back(self) -> None:
        self.server.faults.clear()

    def stumble(self, times: int) -> None:
        self.server.faults.append(Fault("answer", "DescribeInstances", times, 503, "RequestLimitExceeded"))

    def delay_end(self) -> None:
        self.server.bad.looks_to_end = 10**6

    def hurry_end(self) -> None:
        self.server.bad.looks_to_end = 0
        for instance in self.server.costing:
            instance.looks_to_end = 0

    def others_untouched(self) -> bool:
        there = {each.id for each in self.server.instances.values() if each.foreign and not each.has_ended}
        return not self.server.touched_others and there == self._others

    def clean_up(self) -> None:
        """Leave nothing to the next test: moto is one for all."""
        self.server.faults.clear()
        ids = [each.id for each in self.server.instances.values() if not each.has_ended]
        if ids:
            self.server.bad.looks_to_end = 0
            for instance_id in ids:
                self.ec2.terminate_instances(InstanceIds=[instance_id])
        self.server.bad.holds_groups = 0
        for instance in self.server.instances.values():
            instance.holds_groups = 0
        for group in self.ec2.describe_security_groups()["SecurityGroups"]:
            if group["GroupName"].startswith("jade-"):
                self.ec2.delete_security_group(GroupId=group["GroupId"])
        for name in self.key_pairs():
            self.ec2.delete_key_pair(KeyName=name)


@contextlib.contextmanager
def ec2_world(machines: Path | None = None, **settings: Any) -> Iterator[Ec2World]:
    server = ec2_server()
    server.reset()
    server.machines = machines
    world = Ec2World(server, **settings)
    try:
        yield world
    finally:
        world.clean_up()
        server.reset()
