"""Calls of AWS: bounded in time, tried again by its own library, its errors in our words; and what machines cost."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore import exceptions as aws
from botocore.config import Config

from tasks.provisioning.errors import (
    KEY_REFUSED,
    ApiKeyMissing,
    NoCapacity,
    NotFound,
    NothingDone,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)
from tasks.provisioning.provisioner import CallLimits, Offer

PROVIDER = "ec2"
_log = logging.getLogger(__name__)
_PRICING_REGION = "us-east-1"

_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.ProfileNotFound,
    aws.TokenRetrievalError,
    aws.UnauthorizedSSOTokenError,
)
_NOT_CONNECTED = (aws.EndpointConnectionError, aws.ConnectTimeoutError, aws.ProxyConnectionError)

# From the EC2 API reference, "Error codes".
_NO_CAPACITY = re.compile("Insufficient.*|SpotMaxPriceTooLow|Unsupported|UnfulfillableCapacity")
_KEY = {
    "AuthFailure",
    "UnauthorizedOperation",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "IncompleteSignature",
    "MissingAuthenticationToken",
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "OptInRequired",
    "Blocked",
    "PendingVerification",
    "AccessDenied",
    "AccessDeniedException",
}
_TOO_MANY = re.compile("RequestLimitExceeded|.*Thrott.*|TooManyRequestsException|BandwidthLimitExceeded")
_PASSING = {
    "InternalError",
    "InternalFailure",
    "InternalErrorException",
    "ServiceUnavailable",
    "Unavailable",
    "RequestTimeout",
    # A security group, as long as a machine that ends still holds on to it.
    "DependencyViolation",
    "InvalidGroup.InUse",
}
# What a machine is given was made right before it, and is not known everywhere at once.
_JUST_MADE = {"InvalidGroup.NotFound", "InvalidSecurityGroupID.NotFound", "InvalidKeyPair.NotFound"}


@dataclass(frozen=True)
class Ec2Settings:
    """How to reach AWS, and what a machine shall be. Credentials come the usual ways of its own tools.

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
        key_pair: Name of one that is admitted, too; None: our own key alone, which is in the user data.
        security_groups: Ids of ones that are there; empty: one is made for each machine, and removed.
        admit: The address that a group made here admits; None: the one by which AWS sees this machine.
        prices: USD an hour on demand, by machine type; goes before AWS's price list.
        offers_spot: Whether spot machines are offered.
        region: Such as `eu-central-1`; None: as AWS's own settings say.
        profile: Of AWS's own settings; None: the default one.
        endpoint_url: None: AWS.
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
    region: str | None = None
    profile: str | None = None
    endpoint_url: str | None = None


class Ec2Api:
    """AWS, as far as it is needed here. Several threads and provisioners may share one; nothing is asked of AWS yet.

    Args:
        settings: Region, profile, address.
        limits: Of every call.

    Raises:
        ApiKeyMissing: The profile is not there.
        ProviderRefused: No region is set, or it or the endpoint is not usable.
    """

    def __init__(self, settings: Ec2Settings, limits: CallLimits | None = None) -> None:
        log = logging.getLogger("botocore")
        if log.level == logging.NOTSET:
            # At DEBUG it writes whole requests, with the machine's host key in them.
            log.setLevel(logging.INFO)
        self.limits = limits = limits or CallLimits()

        def config(attempts: int) -> Config:
            return Config(
                connect_timeout=limits.connect_timeout_s,
                read_timeout=limits.read_timeout_s,
                retries={"mode": "standard", "total_max_attempts": attempts},
            )

        try:
            session = boto3.Session(profile_name=settings.profile, region_name=settings.region)
            if session.region_name is None:
                raise ProviderRefused(
                    PROVIDER, "connect", "no region is set: `region` in [ec2] of jade.toml, or AWS_DEFAULT_REGION"
                )
            self.region = session.region_name
            url = settings.endpoint_url
            self.ec2: Any = session.client("ec2", endpoint_url=url, config=config(limits.attempts))
            # What makes a machine is asked once: one that may have been heard is looked for first.
            self._once: Any = session.client("ec2", endpoint_url=url, config=config(1))
            self._pricing: Any = session.client(
                "pricing", region_name=_PRICING_REGION, endpoint_url=url, config=config(limits.attempts)
            )
        except _NO_CREDENTIALS as error:
            raise ApiKeyMissing(PROVIDER, f"connect ({error})", setting="AWS_PROFILE") from error
        except (aws.BotoCoreError, ValueError) as error:
            raise ProviderRefused(PROVIDER, "connect", str(error)) from error

    def call(self, doing: str, method: str, **parameters: Any) -> dict[str, Any]:
        """Make a call that looks, or does what cannot be done twice: it is repeated after transient errors.

        Raises:
            NotFound, ProviderRefused, ProviderUnavailable: As they say.
        """
        with _translated(doing):
            answer: dict[str, Any] = getattr(self.ec2, method)(**parameters)
        return answer

    def run_instance(self, doing: str, **parameters: Any) -> dict[str, Any]:
        """Ask for one machine, once.

        Raises:
            NoCapacity, ProviderRefused, NothingDone: No machine was made.
            ProviderUnavailable: Whether one was made is not known.
        """
        try:
            with _translated(doing):
                made: dict[str, Any] = self._once.run_instances(**parameters)["Instances"][0]
        except NotFound as error:
            if error.status in _JUST_MADE:
                raise NothingDone(PROVIDER, doing, error.detail, status=error.status) from error
            raise ProviderRefused(PROVIDER, doing, error.detail, status=error.status) from error
        return made

    def pages(self, doing: str, method: str, key: str, **parameters: Any) -> list[dict[str, Any]]:
        """Return what is listed, however many pages it takes; errors as `call`."""
        with _translated(doing):
            return [item for page in self.ec2.get_paginator(method).paginate(**parameters) for item in page[key]]

    def subnet(self, subnet: str) -> dict[str, Any]:
        """Return a subnet as AWS describes it; errors as `call`."""
        described: dict[str, Any] = self.call(f"look at subnet {subnet}", "describe_subnets", SubnetIds=[subnet])
        found: dict[str, Any] = described["Subnets"][0]
        return found

    def offers(self, settings: Ec2Settings) -> list[Offer]:
        """Return the offers for the wanted types, the cheapest first. A machine whose price is not known is none.

        Raises:
            ProviderRefused: No price of any of them can be had.
            ProviderUnavailable: Transient.
        """
        kinds, zone = settings.instance_types, None
        if settings.subnet is not None:
            zone = str(self.subnet(settings.subnet)["AvailabilityZone"])
        filters = [{"Name": "instance-type", "Values": list(kinds)}]
        types = self.pages("list machine types", "describe_instance_types", "InstanceTypes", Filters=filters)
        offers = list(self._on_demand(types, settings.prices))
        if settings.offers_spot and types:
            offers += self._spot(types, zone)
        if not offers:
            raise ProviderRefused(
                PROVIDER,
                "list offers",
                f"{self.region} has none of {', '.join(kinds)}, or no price of them is known. "
                "Allow pricing:GetProducts, or give prices in the settings",
            )
        return sorted(offers, key=lambda offer: offer.price_usd_per_hour)

    def _on_demand(self, types: Iterable[dict[str, Any]], prices: Mapping[str, float]) -> Iterator[Offer]:
        """By the table given, else by AWS's price list."""
        for described in types:
            kind = str(described["InstanceType"])
            try:
                price = prices[kind] if kind in prices else self._listed_price(kind)
            except ProviderRefused as error:
                _log.warning("ec2: %s is no offer: its price cannot be looked up: %s", kind, error)
                continue
            if price is None:
                _log.warning("ec2: %s is no offer: the price list of %s does not have it", kind, self.region)
                continue
            yield _offer(described, price, region=self.region)

    def _spot(self, types: Iterable[dict[str, Any]], zone: str | None) -> Iterator[Offer]:
        """By what was last paid, one for each zone."""
        by_kind = {str(described["InstanceType"]): described for described in types}
        paid = self.pages(
            "list spot prices",
            "describe_spot_price_history",
            "SpotPriceHistory",
            InstanceTypes=list(by_kind),
            ProductDescriptions=["Linux/UNIX"],
            # Asked from now on, AWS tells the price that holds now.
            StartTime=datetime.now(UTC),
        )
        newest = {
            (str(price["InstanceType"]), str(price["AvailabilityZone"])): float(price["SpotPrice"])
            for price in sorted(paid, key=lambda price: price["Timestamp"])
        }
        for (kind, where), price in newest.items():
            if kind in by_kind and zone in {None, where} and price > 0:
                yield _offer(by_kind[kind], price, region=where, spot=True)

    def _listed_price(self, kind: str) -> float | None:
        """USD an hour on demand, with Linux and nothing else; the highest should there be several."""
        wanted = {
            "instanceType": kind,
            "regionCode": self.region,
            "operatingSystem": "Linux",
            "preInstalledSw": "NA",
            "tenancy": "Shared",
            "capacitystatus": "Used",
        }
        filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
        with _translated(f"look up the price of {kind}"):
            answer = self._pricing.get_products(ServiceCode="AmazonEC2", Filters=filters)
        return max(
            (price for product in answer.get("PriceList", []) for price in _hourly_prices(product)), default=None
        )


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except (aws.BotoCoreError, aws.ClientError) as error:
        raise translate(error, doing) from error


@contextlib.contextmanager
def tolerating(ending: str) -> Iterator[None]:
    """Do not mind an error of AWS whose code ends so, such as `.NotFound` or `.Duplicate`."""
    try:
        yield
    except ProviderError as error:
        if not error.status.endswith(ending):
            raise


def translate(error: Exception, doing: str) -> ProviderError:
    """Return what an error of boto3 means."""
    if isinstance(error, aws.ClientError):
        return _translate_answer(error, doing)
    if isinstance(error, _NO_CREDENTIALS):
        return ApiKeyMissing(PROVIDER, f"{doing} ({error})", setting="AWS_PROFILE or AWS_ACCESS_KEY_ID")
    if isinstance(error, _NOT_CONNECTED):
        return NothingDone(PROVIDER, doing, f"{type(error).__name__}: {error}")
    if isinstance(error, aws.ParamValidationError | aws.UnknownEndpointError | aws.SSLError):
        return ProviderRefused(PROVIDER, doing, str(error))
    return ProviderUnavailable(PROVIDER, doing, f"{type(error).__name__}: {error}")


def _translate_answer(error: aws.ClientError, doing: str) -> ProviderError:
    answer: dict[str, Any] = dict(error.response)
    code = str(answer.get("Error", {}).get("Code", ""))
    detail = " ".join(str(answer.get("Error", {}).get("Message", "")).split())
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    shown = code or status
    if _NO_CAPACITY.fullmatch(code):
        return NoCapacity(PROVIDER, doing, detail, status=shown)
    if code.endswith(("LimitExceeded", "CountExceeded")) and not _TOO_MANY.fullmatch(code):
        summary = "the account's quota is reached"
        advice = ". Free machines (`jade rented`), or ask the provider for a higher limit."
        return ProviderRefused(PROVIDER, doing, detail, status=shown, summary=summary, advice=advice)
    if code in _KEY:
        return ProviderRefused(PROVIDER, doing, detail, status=shown, **KEY_REFUSED)
    if _TOO_MANY.fullmatch(code) or status == 429:
        return NothingDone(PROVIDER, doing, detail, status=shown, summary="too many calls")
    if code.endswith(".NotFound"):
        return NotFound(PROVIDER, doing, detail, status=shown)
    if code in _PASSING or status >= 500:
        return ProviderUnavailable(PROVIDER, doing, detail, status=shown)
    return ProviderRefused(PROVIDER, doing, detail, status=shown)


def _offer(described: Mapping[str, Any], price: float, *, region: str, spot: bool = False) -> Offer:
    gpus = described.get("GpuInfo", {}).get("Gpus", [])
    title, memory_gib = str(described["InstanceType"]), None
    if gpus:
        gpu = gpus[0]
        count = int(gpu.get("Count", 1))
        title = f"{f'{count}x ' if count > 1 else ''}{gpu['Manufacturer']} {gpu['Name']}"
        memory_gib = gpu["MemoryInfo"]["SizeInMiB"] / 1024
    return Offer(PROVIDER, str(described["InstanceType"]), title, memory_gib, price, region=region, spot=spot)


def _hourly_prices(product: str) -> Iterator[float]:
    try:
        terms = json.loads(product)["terms"].get("OnDemand", {})
        dimensions = [each for term in terms.values() for each in term["priceDimensions"].values()]
        prices = [float(each["pricePerUnit"]["USD"]) for each in dimensions if each["unit"] == "Hrs"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("ec2: an entry of the price list makes no sense (%s: %s)", type(error).__name__, error)
        return
    yield from (price for price in prices if price > 0)
