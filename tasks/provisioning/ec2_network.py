"""Who may reach an EC2 machine: a security group for it alone, made before it and removed after it.

It carries the tags of the machine, so that what a killed process left behind is found by the next release.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from collections.abc import Collection
from typing import Any

import httpx

from tasks.core.retry import retry_transient
from tasks.provisioning.ec2_api import PROVIDER, Ec2Api, Ec2Settings, tolerating
from tasks.provisioning.errors import ProviderError, ProviderRefused, ProviderUnavailable
from tasks.provisioning.provisioner import CallLimits, InstanceRequest

_log = logging.getLogger(__name__)
OWNER_TAG, REQUEST_TAG, MADE_TAG = "jade:owner", "jade:request", "jade:made"
CHECK_URL = "https://checkip.amazonaws.com"
_LEFT_BEHIND_S = 3600.0

Tags = list[dict[str, str]]


def public_address(url: str = CHECK_URL, limits: CallLimits | None = None) -> str:
    """Return the address by which the internet knows this machine.

    Raises:
        ProviderUnavailable: Nobody told, or what was told is no address. Transient.
    """
    limits = limits or CallLimits()

    def ask() -> str:
        try:
            answer = httpx.get(url, timeout=httpx.Timeout(limits.read_timeout_s, connect=limits.connect_timeout_s))
            answer.raise_for_status()
            return str(ipaddress.ip_address(answer.text.strip()[:100]))
        except (httpx.HTTPError, ValueError) as error:
            detail = f"{type(error).__name__}: {error}"
            raise ProviderUnavailable(PROVIDER, f"ask {url} for our address", detail) from error

    return retry_transient(ask, attempts=limits.attempts, limit_s=limits.call_timeout_s, pause_s=limits.pause_s)


def tags_of(owner: str, request_id: str, name: str, now: float) -> Tags:
    """What all that belongs to a request is tagged with."""
    told = {"Name": name, OWNER_TAG: owner, REQUEST_TAG: request_id, MADE_TAG: str(int(now))}
    return [{"Key": key, "Value": value} for key, value in told.items()]


def tags_told(described: Any) -> dict[str, str]:
    """The tags of anything that AWS describes."""
    return {tag["Key"]: tag["Value"] for tag in described.get("Tags", [])}


def tag_filters(owner: str, request_id: str | None = None) -> list[dict[str, Any]]:
    """What finds all of an owner, or of a request."""
    wanted = {OWNER_TAG: owner} | ({} if request_id is None else {REQUEST_TAG: request_id})
    return [{"Name": f"tag:{key}", "Values": [value]} for key, value in wanted.items()]


class Network:
    """Makes and removes what admits us.

    Args:
        api: AWS.
        settings: Where machines are made, and how they are reached.
    """

    def __init__(self, api: Ec2Api, settings: Ec2Settings) -> None:
        self._api, self._settings = api, settings

    def make_group(self, request: InstanceRequest, tags: Tags) -> str:
        """Return the id of a security group that admits our address to SSH, and nothing else; safe to repeat."""
        doing = f"make security group {request.name}"
        network, group_id = self._network(), ""
        with tolerating(".Duplicate"):
            made = self._api.call(
                doing,
                "create_security_group",
                GroupName=request.name,
                Description="SSH from the machine that rented it",
                VpcId=network,
                TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
            )
            group_id = str(made["GroupId"])
        if not group_id:
            filters = [{"Name": "group-name", "Values": [request.name]}, {"Name": "vpc-id", "Values": [network]}]
            groups = self._groups(filters)
            if not groups:
                raise ProviderUnavailable(PROVIDER, doing, "it is there, and yet it is not listed")
            group_id = str(groups[0]["GroupId"])
        self._admit(group_id)
        return group_id

    def admit(self, owner: str, request_id: str) -> None:
        """Let our present address in to what was made for a request; no other group is touched."""
        for group in self._groups(tag_filters(owner, request_id)):
            self._admit(str(group["GroupId"]))

    def remove(self, owner: str, request_id: str, *, limit_s: float, pause_s: float) -> None:
        """Remove what was made for a request. Costs nothing, so that what cannot be removed is only told.

        Args:
            owner: Of the request.
            request_id: Which.
            limit_s: How long to try: a group is held until the machine's network interface is gone.
            pause_s: Before the second attempt; doubled each time.
        """

        def remove() -> None:
            for group in self._groups(tag_filters(owner, request_id)):
                self._remove_one(group)

        try:
            retry_transient(remove, attempts=None, limit_s=limit_s, pause_s=pause_s, longest_pause_s=10)
        except ProviderError as error:
            _log.warning("ec2: left behind for now, it costs nothing: %s", error)

    def remove_left_behind(self, owner: str, live: Collection[str], now: float) -> None:
        """Remove what was made for an owner, but not for machines of these names, an hour after it was made."""
        for group in self._groups(tag_filters(owner)):
            told = tags_told(group)
            made = told.get(MADE_TAG, "")
            if told.get("Name") not in live and made.isdecimal() and now - int(made) > _LEFT_BEHIND_S:
                with contextlib.suppress(ProviderUnavailable):
                    self._remove_one(group)

    def _admit(self, group_id: str) -> None:
        # Looked up for each machine anew, for laptops travel.
        address = ipaddress.ip_address(self._settings.admit or public_address(limits=self._api.limits))
        whole = f"{address}/{address.max_prefixlen}"
        what: dict[str, Any] = {"IpRanges": [{"CidrIp": whole}]}
        if address.version == 6:
            what = {"Ipv6Ranges": [{"CidrIpv6": whole}]}
        port = self._settings.ssh_port
        rule = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **what}
        with tolerating(".Duplicate"):
            self._api.call(
                f"admit {whole} to {group_id}",
                "authorize_security_group_ingress",
                GroupId=group_id,
                IpPermissions=[rule],
            )

    def _groups(self, filters: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self._api.pages("list groups", "describe_security_groups", "SecurityGroups", Filters=filters)

    def _remove_one(self, described: dict[str, Any]) -> None:
        group = described["GroupId"]
        with tolerating(".NotFound"):
            self._api.call(f"delete security group {group}", "delete_security_group", GroupId=group)

    def _network(self) -> str:
        if self._settings.subnet is not None:
            return str(self._api.subnet(self._settings.subnet)["VpcId"])
        doing = "look for the default network"
        filters = [{"Name": "is-default", "Values": ["true"]}]
        networks = self._api.call(doing, "describe_vpcs", Filters=filters)["Vpcs"]
        if not networks:
            raise ProviderRefused(PROVIDER, doing, f"{self._api.region} has none: name a subnet in the settings")
        return str(networks[0]["VpcId"])
