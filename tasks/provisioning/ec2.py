"""GPUs by the hour from AWS EC2.

A request's id is the `ClientToken` of its machine, and one of its tags. Machines are made so that a shutdown from
inside terminates them, which makes their dead-man switch certain. Whoever may describe instances of the account can
read what a machine was told at its first start: the host key in there vouches for the first connection alone, and is
replaced over that one.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Any

import paramiko

from tasks.core.names import HostAddress
from tasks.provisioning.ec2_api import PROVIDER, Ec2Api, Ec2Settings, tolerating
from tasks.provisioning.ec2_network import (
    OWNER_TAG,
    REQUEST_TAG,
    Network,
    tag_filters,
    tags_of,
    tags_told,
)
from tasks.provisioning.errors import NoCapacity, ProviderError, ProviderRefused
from tasks.provisioning.provisioner import (
    Instance,
    InstanceRequest,
    InstanceScripts,
    InstanceState,
    Offer,
    Timing,
    gone,
    instance_name,
)

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

_AS_ROOT = 'as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }\n'

END = _AS_ROOT + "as_root shutdown -h now"
"""The machine is made so that a shutdown from inside terminates it, and so ends its cost."""

RENEW_HOST_KEY = (
    _AS_ROOT
    + r"""set -eu
as_root sh -c '
set -eu
key=$(sshd -T 2>/dev/null | sed -n "s/^hostkey //p" | grep ed25519 | head -n 1)
pid_file=$(sshd -T 2>/dev/null | sed -n "s/^pidfile //p")
rm -f "$key.new" "$key.new.pub"
ssh-keygen -q -t ed25519 -N "" -C "" -f "$key.new"
mv -f "$key.new" "$key"
mv -f "$key.new.pub" "$key.pub"
kill -HUP "$(cat "$pid_file")"
cat "$key.pub"
'"""
)
"""Makes a new host key and prints its public line."""

NOTICE = r"""base=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}
token=$(curl -s -f -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$base/latest/api/token") || exit 0
printf 'X-aws-ec2-metadata-token: %s' "$token" |
  curl -s -f -m 2 -H @- "$base/latest/meta-data/spot/instance-action" | tr -d '\n' || :
"""
"""Prints what AWS announces about a spot machine, such as `{"action": "terminate", "time": "..."}`; else nothing."""

_END_AT_AGE = """#!/bin/sh
left_s=$(({ends_at} - $(date +%s)))
if [ "$left_s" -gt 0 ]; then shutdown -h "+$(((left_s + 59) / 60))"; else shutdown -h now; fi
"""


class Ec2Provisioner:
    """EC2 as a `Provisioner`.

    Args:
        api: AWS.
        settings: What machines shall be.
        timing: How long AWS may take to know what was just made, and to let go of a machine's security group.
        now: Seconds since 1970: what a machine's age is counted from.
    """

    def __init__(
        self,
        api: Ec2Api,
        settings: Ec2Settings | None = None,
        *,
        timing: Timing | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._api, self._settings, self._timing = api, settings or Ec2Settings(), timing or Timing()
        self._now = now
        self._network = Network(api, self._settings)

    provider = PROVIDER
    scripts = InstanceScripts(END, end_is_certain=True, renew_host_key=RENEW_HOST_KEY, notice=NOTICE)

    def offers(self) -> Sequence[Offer]:
        """Return what can be had. A spot machine has an offer for each zone, which is its region; disk is extra."""
        return self._api.offers(self._settings)

    def create(self, request: InstanceRequest) -> Instance:
        """Ask for one machine; what was made to admit us is removed again if there is none."""
        doing = f"start a {request.offer.kind}"
        try:
            return self._instance(self._api.run_instance(doing, **self._wanted(request)))
        except (NoCapacity, ProviderRefused):
            self._network.remove(request.owner, request.request_id, limit_s=0.0, pause_s=self._timing.look_s)
            raise

    def describe(self, instance_id: str) -> Instance:
        """Return how a machine stands. AWS may not know yet what it has just made: it is asked again before."""
        described = self._describe(instance_id)
        return gone(PROVIDER, instance_id) if described is None else self._instance(described)

    def list(self, owner: str) -> Sequence[Instance]:
        """Return the owner's machines."""
        filters = [*tag_filters(owner), {"Name": "instance-state-name", "Values": _NOT_GONE}]
        reservations = self._api.pages("list machines", "describe_instances", "Reservations", Filters=filters)
        return [self._instance(described) for each in reservations for described in each["Instances"]]

    def terminate(self, instance_id: str) -> Instance:
        """Ask for the end of a machine; of one that has ended, the security group is removed."""
        described = self._describe(instance_id)
        if described is None:
            return gone(PROVIDER, instance_id)
        instance = self._instance(described)
        if not instance.owner:
            raise ProviderRefused(PROVIDER, f"end machine {instance_id}", "it does not carry our tags")
        if instance.state is InstanceState.GONE:
            self._clean_up(described)
            return instance
        if spot_request := described.get("SpotInstanceRequestId"):
            # One that is still open could be answered with another machine.
            with tolerating(".NotFound"):
                doing = f"cancel {spot_request}"
                self._api.call(doing, "cancel_spot_instance_requests", SpotInstanceRequestIds=[spot_request])
        with tolerating(".NotFound"):
            self._api.call(f"terminate {instance_id}", "terminate_instances", InstanceIds=[instance_id])
        return instance

    def admit(self, instance_id: str) -> None:
        """Let our present address in to a machine whose security group was made here; no other group is touched."""
        described = self._describe(instance_id)
        if described is not None:
            tags = tags_told(described)
            self._network.admit(tags.get(OWNER_TAG, ""), tags.get(REQUEST_TAG, ""))

    def _wanted(self, request: InstanceRequest) -> dict[str, Any]:
        """What is asked for; makes what admits us first."""
        settings, offer = self._settings, request.offer
        now = self._now()
        tags = tags_of(request.owner, request.request_id, request.name, now)
        started = user_data(
            host_private_key=request.host_private_key,
            public_key=request.public_key,
            ends_at=now + request.max_age_s,
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
            "SecurityGroupIds": list(settings.security_groups) or [self._network.make_group(request, tags)],
        }
        if settings.key_pair is not None:
            wanted["KeyName"] = settings.key_pair
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

    def _describe(self, instance_id: str) -> dict[str, Any] | None:
        """Return what AWS tells of a machine; None if it denied knowing it for as long as it may be mistaken."""
        deadline = time.monotonic() + self._timing.settle_s
        while True:
            with tolerating(".NotFound"):
                told = self._api.call(f"look at {instance_id}", "describe_instances", InstanceIds=[instance_id])
                for reservation in told["Reservations"]:
                    for described in reservation["Instances"]:
                        found: dict[str, Any] = described
                        return found
            if time.monotonic() > deadline:
                return None
            time.sleep(self._timing.look_s)

    def _clean_up(self, described: Mapping[str, Any]) -> None:
        """Remove what admitted us to a machine that has ended, and what earlier ones left; nothing of it costs."""
        tags, timing = tags_told(described), self._timing
        owner = tags[OWNER_TAG]
        self._network.remove(owner, tags.get(REQUEST_TAG, ""), limit_s=timing.release_s, pause_s=timing.look_s)
        with contextlib.suppress(ProviderError):
            live = {instance.name for instance in self.list(owner)}
            self._network.remove_left_behind(owner, live, self._now())

    def _instance(self, described: Mapping[str, Any]) -> Instance:
        settings, tags = self._settings, tags_told(described)
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


def user_data(*, host_private_key: str, public_key: str, ends_at: float) -> str:
    """Return the cloud-config of a machine.

    Args:
        host_private_key: OpenSSH private key (Ed25519); the only one that the SSH server shows.
        public_key: Line of `authorized_keys` that admits us.
        ends_at: When it shuts itself down, at every start anew; seconds since 1970.
    """
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(host_private_key))
    config = {
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": host_private_key,
            "ed25519_public": f"{key.get_name()} {key.get_base64()}",
        },
        "ssh_authorized_keys": [public_key.strip()],
        "write_files": [
            {
                "path": "/var/lib/cloud/scripts/per-boot/jade-end-at-age",
                "permissions": "0755",
                "content": _END_AT_AGE.format(ends_at=int(ends_at)),
            }
        ],
    }
    # JSON is YAML, and leaves no questions of quoting.
    return "#cloud-config\n" + json.dumps(config, indent=1)
