"""GPUs by the hour from AWS EC2.

`ClientToken` makes creation idempotent there. All the same a request is looked for by its tags before it is sent, and
after a lost reply: a token is forgotten some time after its machine has ended. Machines are made so that a shutdown
from inside terminates them, which makes their dead-man switch certain.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

from tasks.core.names import HostAddress
from tasks.provisioning.ec2_api import PROVIDER, Ec2Access, Ec2Api, Ec2Clients, NotThere, TokenSpent, connect
from tasks.provisioning.ec2_door import OWNER_TAG, REQUEST_TAG, Door, public_address, tag_filters, tags_of
from tasks.provisioning.ec2_offers import list_offers
from tasks.provisioning.ec2_start import END, NOTICE, RENEW_HOST_KEY, user_data
from tasks.provisioning.provider_calls import looks
from tasks.provisioning.provider_errors import (
    NoCapacity,
    NothingSent,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
    TerminationUnproven,
)
from tasks.provisioning.provisioner import (
    Instance,
    InstanceRequest,
    InstanceScripts,
    InstanceState,
    Offer,
    instance_name,
    owner_and_request,
)

_log = logging.getLogger(__name__)
PRICE_TAG = "jade:price"
DEFAULT_IMAGE = (
    "resolve:ssm:/aws/service/deeplearning/ami/x86_64/oss-nvidia-driver-gpu-pytorch-2.7-ubuntu-22.04/latest/ami-id"
)
DEFAULT_PYTHON = "/opt/pytorch/bin/python"
"""The one with torch in that image."""

_STATES = {
    "pending": InstanceState.STARTING,
    "running": InstanceState.RUNNING,
    "shutting-down": InstanceState.STOPPED,
    "stopping": InstanceState.STOPPED,
    "stopped": InstanceState.STOPPED,
    "terminated": InstanceState.GONE,
}
_NOT_GONE = [state for state, meaning in _STATES.items() if meaning is not InstanceState.GONE]
_TAGGED = ("instance", "volume", "network-interface")


@dataclass(frozen=True)
class Ec2Settings:
    """What a machine shall be, and how long to wait for AWS.

    Attributes:
        instance_types: Instance types that are offered.
        image: AMI id, or `resolve:ssm:PARAMETER`; None: the launch template's, and without one `DEFAULT_IMAGE`.
        launch_template: Id of one of the account (`lt-...`); what is said here goes before what it says.
        launch_template_version: Its number, `$Latest` or `$Default`.
        user: Account of the image.
        ssh_port: Where the image's SSH server listens.
        disk_gb: Root volume; None: as the image has it.
        root_device: Name of that volume.
        subnet: Where; None: the default network of the region.
        has_private_address: Whether machines are reached by their private address, through a VPN.
        key_pair: Name of one that is there; None: one is made for each machine, and removed.
        security_groups: Ids of ones that are there; empty: one is made for each machine, and removed.
        admit: The address that a group made here admits; None: the one by which AWS sees this machine.
        prices: USD an hour on demand, by machine type; goes before AWS's price list.
        offers_spot: Whether spot machines are offered.
        settle_s: How long AWS may take until everybody there knows what was just made.
        release_s: How long to wait for the proof of an end, and then for what admitted us to be removable.
        look_s: Pause between two looks at first; doubled each time.
    """

    instance_types: tuple[str, ...] = ("g4dn.xlarge", "g5.xlarge", "g6.xlarge", "g6e.xlarge")
    image: str | None = None
    launch_template: str | None = None
    launch_template_version: str = "$Default"
    user: str = "ubuntu"
    ssh_port: int = 22
    disk_gb: int | None = None
    root_device: str = "/dev/sda1"
    subnet: str | None = None
    has_private_address: bool = False
    key_pair: str | None = None
    security_groups: tuple[str, ...] = ()
    admit: str | None = None
    prices: Mapping[str, float] = field(default_factory=dict)
    offers_spot: bool = True
    settle_s: float = 20.0
    release_s: float = 300.0
    look_s: float = 2.0


class Ec2Provisioner:
    """See `Provisioner`.

    Args:
        access: Region, profile, limits of single calls.
        settings: What machines shall be.
        clients: From `connect`, to share them; None makes some.
        now: Seconds since 1970: what a machine's age is counted from.
        sleep: Waits.

    Raises:
        ApiKeyMissing, RequestRefused: See `connect`.
    """

    def __init__(
        self,
        access: Ec2Access,
        settings: Ec2Settings | None = None,
        *,
        clients: Ec2Clients | None = None,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings or Ec2Settings()
        self._api = Ec2Api(clients or connect(access), access.limits, sleep=sleep)
        self._now, self._sleep = now, sleep
        admitted = self._settings.admit
        self._door = Door(
            self._api,
            (lambda: admitted) if admitted is not None else lambda: public_address(limits=access.limits),
            port=self._settings.ssh_port,
            subnet=self._settings.subnet,
            sleep=sleep,
        )

    @property
    def provider(self) -> str:
        """See `Provisioner`."""
        return PROVIDER

    @property
    def scripts(self) -> InstanceScripts:
        """See `Provisioner`."""
        return InstanceScripts(END, end_is_certain=True, renew_host_key=RENEW_HOST_KEY, notice=NOTICE)

    def offers(self) -> Sequence[Offer]:
        """See `Provisioner`. A spot machine has an offer for each zone, which is its region; disk is not in prices."""
        settings = self._settings
        zone = None
        if settings.subnet is not None:
            zone = str(self._subnet()["AvailabilityZone"])
        return list_offers(
            self._api, settings.instance_types, prices=settings.prices, zone=zone, offers_spot=settings.offers_spot
        )

    def create(self, request: InstanceRequest) -> Instance:
        """See `Provisioner`. What was made to admit us is removed again if there is no machine."""
        doing = f"start a {request.offer.kind}"
        if owner_and_request(request.name) != (request.owner, request.request_id):
            raise RequestRefused(PROVIDER, doing, f"the name {request.name!r} does not tell owner and request")
        if (found := self._of_request(request)) is not None:
            return found
        try:
            return self._start(request, self._wanted(request, doing), doing)
        except (NoCapacity, ProviderRefused):
            self._door.remove(request.owner, request.request_id, 0.0, self._settings.look_s)
            raise

    def describe(self, instance_id: str) -> Instance:
        """See `Provisioner`. AWS may not know yet what it has just made: it is asked again before it is believed."""
        described = self._describe(instance_id)
        if described is None:
            return Instance(PROVIDER, instance_id, "", "", InstanceState.GONE, None, 0.0, None, "AWS denies knowing it")
        return self._machine(described)

    def list(self, owner: str) -> Sequence[Instance]:
        """See `Provisioner`."""
        filters = [*tag_filters(owner), {"Name": "instance-state-name", "Values": _NOT_GONE}]
        return [self._machine(described) for described in self._described(filters)]

    def terminate(self, instance_id: str) -> None:
        """See `Provisioner`. Then removes the key pair and the security group that were made for it.

        Raises:
            TerminationUnproven: It is not terminated in time. Transient.
            ApiKeyRefused: The credentials may not terminate it.
            RequestRefused: It is not one of ours; nothing was sent that could end it.
        """
        described: dict[str, Any] | None = None
        problem = ""
        for _ in looks(self._settings.release_s, self._settings.look_s, self._sleep):
            try:
                described = self._describe(instance_id)
                if described is None:
                    return
                machine = self._machine(described)
                if not machine.owner:
                    raise RequestRefused(PROVIDER, f"release {instance_id}", "it does not carry our tags")
                if machine.state is InstanceState.GONE:
                    self._clean_up(described)
                    return
                problem = f"AWS still shows it as {machine.detail}"
                self._end(instance_id, described)
            except ProviderUnavailable as error:
                problem = str(error)
        raise TerminationUnproven(PROVIDER, instance_id, problem)

    def admit(self, instance_id: str) -> None:
        """Let our present address in to a machine whose security group was made here; no other group is touched."""
        described = self._describe(instance_id)
        made = set()
        if described is not None:
            tags = _tags(described)
            filters = tag_filters(tags.get(OWNER_TAG, ""), tags.get(REQUEST_TAG, ""))
            groups = self._api.pages("list groups", "describe_security_groups", "SecurityGroups", Filters=filters)
            made = {str(group["GroupId"]) for group in groups}
        for group_id in sorted(made):
            self._door.admit(group_id)

    def _start(self, request: InstanceRequest, wanted: Mapping[str, Any], doing: str) -> Instance:
        try:
            return self._machine(self._api.create(doing, "run_instances", **wanted)["Instances"][0])
        except (NothingSent, RateLimited):
            raise
        except TokenSpent as spent:
            if (found := self._of_request(request)) is not None:
                return found
            raise RequestRefused(PROVIDER, doing, spent.detail, status=spent.status) from spent
        except ProviderUnavailable as error:
            return self._recover(request, error)

    def _wanted(self, request: InstanceRequest, doing: str) -> dict[str, Any]:
        """What is asked for; makes the door first."""
        settings, offer = self._settings, request.offer
        now = self._now()
        tags = tags_of(request.owner, request.request_id, request.name, now)
        started = user_data(
            host_private_key=request.host_private_key,
            public_key=request.public_key,
            ends_at=now + request.max_age_s,
            environment=request.environment,
            doing=doing,
        )
        tags_of_machine = [*tags, {"Key": PRICE_TAG, "Value": f"{offer.price_usd_per_hour:g}"}]
        tagged = [*_TAGGED, "spot-instances-request"] if offer.spot else _TAGGED
        wanted: dict[str, Any] = {
            "InstanceType": offer.kind,
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": request.request_id,
            "UserData": started,
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
            "TagSpecifications": [{"ResourceType": kind, "Tags": tags_of_machine} for kind in tagged],
            "KeyName": settings.key_pair or self._door.make_key_pair(request, tags),
            "SecurityGroupIds": list(settings.security_groups) or [self._door.make_group(request, tags)],
        }
        if settings.launch_template is not None:
            version = settings.launch_template_version
            wanted["LaunchTemplate"] = {"LaunchTemplateId": settings.launch_template, "Version": version}
        if settings.image is not None or settings.launch_template is None:
            wanted["ImageId"] = settings.image or DEFAULT_IMAGE
        if settings.disk_gb is not None:
            volume = {"VolumeSize": settings.disk_gb, "VolumeType": "gp3", "DeleteOnTermination": True}
            wanted["BlockDeviceMappings"] = [{"DeviceName": settings.root_device, "Ebs": volume}]
        if settings.subnet is not None:
            wanted["SubnetId"] = settings.subnet
        if offer.spot:
            once = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            wanted["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": once}
            if settings.subnet is None and offer.region:
                # The price is that of one zone.
                wanted["Placement"] = {"AvailabilityZone": offer.region}
        return wanted

    def _of_request(self, request: InstanceRequest) -> Instance | None:
        """Return the machine of a request, one that has not ended if there is one; None if there is none.

        Should there be several, as after a token that AWS had forgotten, the younger ones are ended.
        """
        found = [*self._described(tag_filters(request.owner, request.request_id))]
        found.sort(key=lambda told: (self._machine(told).state is InstanceState.GONE, str(told.get("LaunchTime", ""))))
        for twin in found[1:]:
            if self._machine(twin).state is InstanceState.GONE:
                continue
            _log.warning("ec2: %s is a twin of %s and is ended", twin["InstanceId"], found[0]["InstanceId"])
            # If this fails, the next look sees it again, as does the reaper. What admits us stays: the other needs it.
            with contextlib.suppress(ProviderUnavailable):
                self._end(str(twin["InstanceId"]), twin)
        return self._machine(found[0]) if found else None

    def _recover(self, request: InstanceRequest, lost: ProviderUnavailable) -> Instance:
        for _ in looks(self._settings.settle_s, self._settings.look_s, self._sleep):
            with contextlib.suppress(ProviderUnavailable):
                if (found := self._of_request(request)) is not None:
                    return found
        detail = f"{lost.detail}; no machine called {request.name} was seen within {self._settings.settle_s:g} s"
        raise ProviderUnavailable(PROVIDER, lost.doing, detail, status=lost.status) from lost

    def _described(self, filters: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        pages = self._api.pages("list machines", "describe_instances", "Reservations", Filters=filters)
        return [described for reservation in pages for described in reservation["Instances"]]

    def _describe(self, instance_id: str) -> dict[str, Any] | None:
        """Return what AWS tells of a machine; None if it denied knowing it for as long as it may be mistaken."""
        for _ in looks(self._settings.settle_s, self._settings.look_s, self._sleep):
            with contextlib.suppress(NotThere):
                told = self._api.call(f"look at {instance_id}", "describe_instances", InstanceIds=[instance_id])
                for reservation in told["Reservations"]:
                    for described in reservation["Instances"]:
                        found: dict[str, Any] = described
                        return found
        return None

    def _end(self, instance_id: str, described: Mapping[str, Any]) -> None:
        spot_request = described.get("SpotInstanceRequestId")
        if spot_request:
            # One that is still open could be answered with another machine.
            with contextlib.suppress(NotThere):
                doing = f"cancel {spot_request}"
                self._api.call(doing, "cancel_spot_instance_requests", SpotInstanceRequestIds=[spot_request])
        with contextlib.suppress(NotThere):
            self._api.call(f"terminate {instance_id}", "terminate_instances", InstanceIds=[instance_id])

    def _clean_up(self, described: Mapping[str, Any]) -> None:
        """Remove what admitted us to a machine that has ended, and what earlier ones left; nothing of it costs."""
        tags = _tags(described)
        owner, settings = tags[OWNER_TAG], self._settings
        self._door.remove(owner, tags.get(REQUEST_TAG, ""), settings.release_s, settings.look_s)
        with contextlib.suppress(ProviderError):
            filters = [*tag_filters(owner), {"Name": "instance-state-name", "Values": _NOT_GONE}]
            live = [_tags(other).get(REQUEST_TAG, "") for other in self._described(filters)]
            self._door.remove_left_behind(owner, live, self._now())

    def _machine(self, described: Mapping[str, Any]) -> Instance:
        settings, tags = self._settings, _tags(described)
        owner, request_id = tags.get(OWNER_TAG, ""), tags.get(REQUEST_TAG, "")
        try:
            name = instance_name(owner, request_id)
        except ValueError:
            name, owner = tags.get("Name", ""), ""
        state = str(described["State"]["Name"])
        host = described.get("PrivateIpAddress" if settings.has_private_address else "PublicIpAddress")
        started = described.get("LaunchTime")
        where = described.get("Placement", {}).get("AvailabilityZone", "")
        reason = described.get("StateReason", {}).get("Message", "")
        try:
            price = float(tags.get(PRICE_TAG, ""))
        except ValueError:
            price = 0.0
        return Instance(
            provider=PROVIDER,
            instance_id=str(described["InstanceId"]),
            name=name,
            owner=owner,
            state=_STATES.get(state, InstanceState.STARTING),
            address=HostAddress(host, settings.ssh_port, settings.user) if host else None,
            price_usd_per_hour=price,
            started_at=started.astimezone(UTC) if started else None,
            detail=f"{state} in {where}" + (f": {reason}" if reason else ""),
        )

    def _subnet(self) -> dict[str, Any]:
        subnet = self._settings.subnet
        found: dict[str, Any] = self._api.call(f"look at subnet {subnet}", "describe_subnets", SubnetIds=[subnet])[
            "Subnets"
        ][0]
        return found


def _tags(described: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in described.get("Tags", [])}
