"""EC2, against moto's server and, before it, what moto doesn't do."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from unittest import mock

import pytest
from botocore import exceptions as aws
from botocore.exceptions import ClientError

from tasks.provisioning.ec2 import Ec2Provisioner
from tasks.provisioning.ec2_api import Ec2Api, Ec2Settings, translate
from tasks.provisioning.ec2_network import public_address
from tasks.provisioning.errors import (
    ApiKeyMissing,
    NoCapacity,
    NotFound,
    NothingDone,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)
from tasks.provisioning.provisioner import InstanceState, Offer, Timing
from tests.fakes.ec2_server import Fault
from tests.fakes.ec2_world import CREDENTIALS, QUICK, SECRET_KEY, Ec2World, ec2_world
from tests.fakes.provisioner_contract import ServiceContract, created, ended, new_request, ours, texts_of


@pytest.fixture
def world() -> Iterator[Ec2World]:
    with ec2_world() as world:
        yield world
        assert world.others_untouched()


class TestContract(ServiceContract):
    @pytest.fixture
    def world(self) -> Iterator[Ec2World]:
        with ec2_world() as world:
            yield world


ON_DEMAND = Offer("ec2", "g5.xlarge", "NVIDIA A10G", 22.4, 1.006, region="us-east-1")
SPOT = Offer("ec2", "g5.xlarge", "NVIDIA A10G", 22.4, 0.31, region="us-east-1b", spot=True)


# -- offers


def test_offers_are_on_demand_by_the_price_list_and_spot_by_zone(world: Ec2World) -> None:
    offers = world.provisioner.offers()
    on_demand = {offer.kind: (offer.title, offer.price_usd_per_hour) for offer in offers if not offer.spot}
    assert on_demand["g5.xlarge"] == ("NVIDIA A10G", 1.006)
    assert on_demand["g6.xlarge"] == ("NVIDIA L4", 0.8048)
    zones = {offer.region for offer in offers if offer.spot and offer.kind == "g5.xlarge"}
    assert {"us-east-1a", "us-east-1b"} <= zones
    assert {offer.gpu_memory_gib for offer in offers if offer.kind == "g4dn.xlarge"} == {16}


def test_a_machine_without_a_known_price_is_no_offer(world: Ec2World, caplog: pytest.LogCaptureFixture) -> None:
    del world.server.prices["g5.xlarge"]
    offers = world.connect(offers_spot=False).offers()
    assert {offer.kind for offer in offers} == {"g4dn.xlarge", "g6.xlarge"}
    assert "g5.xlarge is no offer" in caplog.text


def test_a_table_goes_before_the_price_list(world: Ec2World) -> None:
    world.server.faults.append(Fault("answer", "GetProducts", 99, 400, "AccessDeniedException", "not authorized"))
    offers = world.connect(offers_spot=False, prices={"g5.xlarge": 0.77}).offers()
    assert [(offer.kind, offer.price_usd_per_hour) for offer in offers] == [("g5.xlarge", 0.77)]


def test_without_any_price_it_is_said_what_to_do(world: Ec2World) -> None:
    world.server.prices.clear()
    with pytest.raises(ProviderRefused, match=r"pricing:GetProducts.*prices in the settings"):
        world.connect(offers_spot=False).offers()
    with pytest.raises(ProviderRefused, match=r"has none of x9\.huge"):
        world.connect(instance_types=("x9.huge",)).offers()


# -- what is asked for


def test_a_machine_is_asked_for_that_ends_with_its_shutdown(world: Ec2World) -> None:
    request = new_request(ON_DEMAND)
    machine = created(world, request)
    (told,) = [each for each in world.server.parameters if each["ClientToken"] == request.request_id]
    assert told["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert told["MetadataOptions.HttpTokens"] == "required"
    assert told["InstanceType"] == "g5.xlarge"
    assert "InstanceMarketOptions.MarketType" not in told
    assert machine.price_usd_per_hour == 1.006
    described = world.ec2.describe_instances(InstanceIds=[machine.instance_id])["Reservations"][0]["Instances"][0]
    tags = {tag["Key"]: tag["Value"] for tag in described["Tags"]}
    assert (tags["Name"], tags["jade:owner"]) == (request.name, request.owner)


def test_a_spot_machine_is_asked_for_once_in_the_zone_of_its_price(world: Ec2World) -> None:
    created(world, new_request(SPOT))
    told = world.server.parameters[-1]
    assert told["InstanceMarketOptions.MarketType"] == "spot"
    assert told["InstanceMarketOptions.SpotOptions.SpotInstanceType"] == "one-time"
    assert told["InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior"] == "terminate"
    assert told["Placement.AvailabilityZone"] == "us-east-1b"


def test_user_data_hold_one_host_key_and_our_public_key(world: Ec2World) -> None:
    request = new_request(ON_DEMAND)
    machine = created(world, request)
    first, _, rest = world.server.instances[machine.instance_id].user_data.partition("\n")
    config = json.loads(rest)
    assert first == "#cloud-config"
    assert config["ssh_keys"]["ed25519_private"] == request.host_private_key
    assert config["ssh_authorized_keys"] == [request.public_key]


def test_only_our_address_is_admitted_and_only_to_ssh(world: Ec2World) -> None:
    request = new_request(ON_DEMAND)
    created(world, request)
    groups = world.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [request.name]}])
    (rule,) = groups["SecurityGroups"][0]["IpPermissions"]
    assert [each["CidrIp"] for each in rule["IpRanges"]] == ["127.0.0.1/32"]
    assert (rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) == (world.server.ssh_port,) * 2 + ("tcp",)


def test_of_twins_that_a_forgotten_token_and_a_late_list_made_one_is_ended(world: Ec2World) -> None:
    world.server.bad.takes_tokens, world.server.bad.hidden_looks = False, 9
    request = new_request(ON_DEMAND)
    for _ in range(2):
        created(world, request)
    assert world.costing() == 2
    for instance in world.server.instances.values():
        instance.hidden = 0
    kept = created(world, request)
    assert ours(world) == [kept.instance_id]
    assert world.costing() == 1


def test_who_travels_is_admitted_again(world: Ec2World) -> None:
    request = new_request(ON_DEMAND)
    machine = created(world, request)
    world.connect(admit="2001:db8::7").admit(machine.instance_id)
    groups = world.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [request.name]}])
    rules = groups["SecurityGroups"][0]["IpPermissions"]
    assert "2001:db8::7/128" in [each["CidrIpv6"] for rule in rules for each in rule["Ipv6Ranges"]]


def test_our_address_is_asked_for(world: Ec2World) -> None:
    assert public_address(f"{world.server.url}/address", QUICK) == "127.0.0.1"
    with pytest.raises(ProviderUnavailable, match="ask http"):
        public_address(f"{world.server.url}/of/nobody", QUICK)


def test_given_groups_and_keys_are_used_and_left_alone(world: Ec2World) -> None:
    vpc = world.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = world.ec2.create_security_group(GroupName="theirs", Description="d", VpcId=vpc)["GroupId"]
    world.ec2.create_key_pair(KeyName="theirs")
    provisioner = world.connect(security_groups=(group,), key_pair="theirs")
    machine = created(world, new_request(ON_DEMAND), provisioner)
    assert (world.groups(), world.key_pairs()) == ([], ["theirs"])
    ended(world, machine.instance_id, provisioner)
    assert world.key_pairs() == ["theirs"]
    world.ec2.delete_security_group(GroupId=group)


def test_a_launch_template_can_say_the_rest(world: Ec2World) -> None:
    data = {"ImageId": "ami-87654321", "InstanceType": "t3.micro"}
    made = world.ec2.create_launch_template(LaunchTemplateName="ours", LaunchTemplateData=data)
    template = made["LaunchTemplate"]["LaunchTemplateId"]
    created(world, new_request(ON_DEMAND), world.connect(launch_template=template, image=None))
    told = world.server.parameters[-1]
    assert told["LaunchTemplate.LaunchTemplateId"] == template
    assert "ImageId" not in told
    world.ec2.delete_launch_template(LaunchTemplateId=template)


def test_without_image_and_template_it_is_the_newest_with_torch(world: Ec2World) -> None:
    created(world, new_request(ON_DEMAND), world.connect(image=None))
    assert "gpu-pytorch" in world.server.parameters[-1]["ImageId"]


def test_disk_and_subnet_are_settings(world: Ec2World) -> None:
    subnet = world.ec2.describe_subnets()["Subnets"][0]
    provisioner = world.connect(disk_gb=120, subnet=subnet["SubnetId"])
    assert {offer.region for offer in provisioner.offers() if offer.spot} == {subnet["AvailabilityZone"]}
    created(world, new_request(SPOT), provisioner)
    told = world.server.parameters[-1]
    assert told["BlockDeviceMapping.1.Ebs.VolumeSize"] == "120"
    assert told["SubnetId"] == subnet["SubnetId"]
    assert "Placement.AvailabilityZone" not in told


# -- lost replies, late news


def test_news_that_spread_late_are_waited_for(world: Ec2World) -> None:
    world.server.bad.hidden_looks = 3
    provisioner = world.connect(settle_s=60.0)
    world.lose_answer_to_create()
    machine = created(world, new_request(ON_DEMAND), provisioner)
    assert world.costing() == 1
    world.server.instances[machine.instance_id].hidden = 3
    assert provisioner.describe(machine.instance_id).state is not InstanceState.GONE


def test_a_machine_that_is_not_known_yet_is_released_all_the_same(world: Ec2World) -> None:
    provisioner = world.connect(settle_s=60.0)
    machine = created(world, new_request(ON_DEMAND), provisioner)
    world.server.instances[machine.instance_id].hidden = 3
    ended(world, machine.instance_id, provisioner)
    assert world.costing() == 0


def test_a_token_whose_machine_has_ended_makes_no_second_one(world: Ec2World) -> None:
    request = new_request(ON_DEMAND)
    machine = created(world, request)
    ended(world, machine.instance_id)
    with pytest.raises(ProviderRefused, match="IdempotentInstanceTerminated"):
        created(world, request)
    assert world.costing() == 0


def test_without_tokens_tags_alone_hold_a_request_to_one_machine(world: Ec2World) -> None:
    world.server.bad.takes_tokens = False
    request = new_request(ON_DEMAND)
    world.lose_answer_to_create()
    machine = created(world, request)
    assert created(world, request).instance_id == machine.instance_id
    assert world.costing() == 1


# -- refusals


def test_a_quota_is_told_and_nothing_is_left_behind(world: Ec2World) -> None:
    world.server.bad.over_quota = True
    with pytest.raises(ProviderRefused, match=r"VcpuLimitExceeded.*current limit of 0"):
        created(world, new_request(ON_DEMAND))
    assert (world.groups(), world.costing()) == ([], 0)


def test_no_capacity_leaves_nothing_behind(world: Ec2World) -> None:
    world.sell_out("g5.xlarge")
    with pytest.raises(NoCapacity, match="InsufficientInstanceCapacity"):
        created(world, new_request(ON_DEMAND))
    assert world.groups() == []


def test_throttling_waits(world: Ec2World) -> None:
    world.server.faults.append(Fault("answer", "RunInstances", 2, 503, "RequestLimitExceeded", "slow down"))
    created(world, new_request(ON_DEMAND))
    assert world.costing() == 1


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("InsufficientInstanceCapacity", 500, NoCapacity),
        ("SpotMaxPriceTooLow", 400, NoCapacity),
        ("Unsupported", 400, NoCapacity),
        ("VcpuLimitExceeded", 400, ProviderRefused),
        ("MaxSpotInstanceCountExceeded", 400, ProviderRefused),
        ("UnauthorizedOperation", 403, ProviderRefused),
        ("AuthFailure", 401, ProviderRefused),
        ("ExpiredToken", 400, ProviderRefused),
        ("RequestLimitExceeded", 503, NothingDone),
        ("InternalError", 500, ProviderUnavailable),
        ("SomethingNew", 503, ProviderUnavailable),
        ("InvalidAMIID.NotFound", 400, NotFound),
        ("InvalidParameterValue", 400, ProviderRefused),
        ("IdempotentParameterMismatch", 400, ProviderRefused),
    ],
)
def test_an_error_code_has_a_meaning(code: str, status: int, kind: type[ProviderError]) -> None:
    answer = {"Error": {"Code": code, "Message": "so it is"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = translate(ClientError(answer, "RunInstances"), "start")  # type: ignore[arg-type]
    assert type(error) is kind
    assert f"({code}) so it is" in str(error)


def test_an_image_that_is_not_there_is_refused(world: Ec2World) -> None:
    world.server.faults.append(Fault("answer", "RunInstances", 1, 400, "InvalidAMIID.NotFound", "no such image"))
    with pytest.raises(ProviderRefused, match="no such image"):
        created(world, new_request(ON_DEMAND))
    assert world.groups() == []


def test_a_group_that_is_not_known_everywhere_yet_is_waited_for(world: Ec2World) -> None:
    world.server.faults.append(Fault("answer", "RunInstances", 2, 400, "InvalidGroup.NotFound", "does not exist"))
    created(world, new_request(ON_DEMAND))
    assert world.costing() == 1


def test_no_connection_is_nothing_sent() -> None:
    error = translate(aws.EndpointConnectionError(endpoint_url="https://ec2.example"), "start")
    assert type(error) is NothingDone


def test_no_credentials_say_where_they_are_looked_for(world: Ec2World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    access = Ec2Settings(region="us-east-1", endpoint_url=world.server.url)
    with pytest.raises(ApiKeyMissing, match="AWS_PROFILE or AWS_ACCESS_KEY_ID"):
        Ec2Provisioner(Ec2Api(access, QUICK)).offers()


def test_no_region_and_no_profile_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProviderRefused, match="no region is set"):
        Ec2Api(Ec2Settings())
    with pytest.raises(ApiKeyMissing, match="nobody"):
        Ec2Api(Ec2Settings(region="us-east-1", profile="nobody"))


# -- the end


def test_the_group_goes_once_the_machine_lets_go_of_it(world: Ec2World) -> None:
    world.server.bad.looks_to_end, world.server.bad.holds_groups = 3, 3
    machine = created(world, new_request(ON_DEMAND))
    assert len(world.groups()) == 1
    ended(world, machine.instance_id)
    assert (world.costing(), world.groups()) == (0, [])


def test_a_group_that_stays_is_told_and_removed_by_a_later_release(
    world: Ec2World, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [time.time()]
    provisioner = world.connect(release_s=0.1, now=lambda: clock[0])
    world.server.bad.holds_groups = 10**6
    ended(world, created(world, new_request(ON_DEMAND), provisioner).instance_id, provisioner)
    assert "left behind for now" in caplog.text
    assert len(world.groups()) == 1
    world.server.bad.holds_groups = 0
    for instance in world.server.instances.values():
        instance.holds_groups = 0
    clock[0] += 2 * 3600
    ended(world, created(world, new_request(ON_DEMAND), provisioner).instance_id, provisioner)
    assert world.groups() == []


def test_what_belongs_to_a_live_machine_is_not_swept(world: Ec2World) -> None:
    live = created(world, new_request(ON_DEMAND))
    later = world.connect(now=lambda: time.time() + 7200)
    ended(world, created(world, new_request(ON_DEMAND), later).instance_id, later)
    assert ours(world) == [live.instance_id]
    assert len(world.groups()) == 1


def test_what_is_not_ours_is_not_released(world: Ec2World) -> None:
    (other, *_) = world._others
    with pytest.raises(ProviderRefused, match="does not carry our tags"):
        ended(world, other)
    assert world.server.count("TerminateInstances") == 0


def test_a_spot_machine_that_is_taken_away_is_gone(world: Ec2World) -> None:
    machine = created(world, new_request(SPOT))
    world.server.take_away(machine.instance_id)
    assert world.provisioner.describe(machine.instance_id).state is InstanceState.GONE


# -- secrets


def test_not_even_debugging_writes_the_host_key_to_the_log(world: Ec2World, caplog: pytest.LogCaptureFixture) -> None:
    with mock.patch.dict(os.environ, CREDENTIALS):
        api = Ec2Api(Ec2Settings(region="us-east-1", endpoint_url=world.server.url), QUICK)
    caplog.set_level(logging.DEBUG)
    request = new_request(ON_DEMAND)
    provisioner = Ec2Provisioner(api, Ec2Settings(image="ami-12345678", admit="127.0.0.1"), timing=Timing(look_s=0.01))
    ended(world, created(world, request, provisioner).instance_id, provisioner)
    for secret in (request.host_private_key.splitlines()[1], SECRET_KEY):
        assert secret not in caplog.text


def test_an_error_does_not_hold_the_host_key(world: Ec2World) -> None:
    request = new_request(ON_DEMAND)
    world.server.faults.append(Fault("answer", "RunInstances", 1, 400, "InvalidUserData.Malformed", "bad data"))
    with pytest.raises(ProviderRefused) as caught:
        created(world, request)
    assert request.host_private_key.splitlines()[1] not in texts_of(caught.value)
