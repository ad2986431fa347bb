"""Calls of AWS: bounded in time, tried again where that is safe, their errors put into words."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore import exceptions as aws
from botocore.config import Config

from tasks.provisioning.provider_calls import CallLimits, always, repeat, where_nothing_happened
from tasks.provisioning.provider_errors import (
    ApiKeyMissing,
    ApiKeyRefused,
    NoCapacity,
    NothingSent,
    ProviderError,
    ProviderUnavailable,
    QuotaReached,
    RateLimited,
    RequestRefused,
)

PROVIDER = "ec2"
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
_NO_CAPACITY = {
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity",
    "InsufficientCapacity",
    "InsufficientFreeAddressesInSubnet",
    "SpotMaxPriceTooLow",
    "Unsupported",
    "UnfulfillableCapacity",
}
_QUOTA = {
    "VcpuLimitExceeded",
    "InstanceLimitExceeded",
    "MaxSpotInstanceCountExceeded",
    "SecurityGroupLimitExceeded",
    "VolumeLimitExceeded",
    "MaxIOPSLimitExceeded",
    "AddressLimitExceeded",
    "NetworkInterfaceLimitExceeded",
}
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
_TOO_MANY = {
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "EC2ThrottledException",
    "TooManyRequestsException",
    "RequestThrottled",
    "BandwidthLimitExceeded",
}
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
# What a machine is given was made right before it.
_JUST_MADE = {"InvalidGroup.NotFound", "InvalidSecurityGroupID.NotFound", "InvalidKeyPair.NotFound"}


class NotThere(ProviderError):
    """AWS does not know it, or does not know it yet: what was made a moment ago may not be seen everywhere."""

    summary = "there is no such thing"


class NotYetThere(NothingSent):
    """What was made a moment ago is not known everywhere at AWS yet; what was asked for has not happened."""

    summary = "not known there yet"


class AlreadyThere(ProviderError):
    """Something of that name, or that rule, is there already."""

    summary = "it is there already"


class TokenSpent(ProviderError):
    """The machine that this request was answered with has ended."""

    summary = "its machine has ended"


@dataclass(frozen=True)
class Ec2Access:
    """How to reach AWS. Credentials come the usual ways of its own tools; none is held here.

    Attributes:
        region: Such as `eu-central-1`; None: as AWS's own settings say.
        profile: Of AWS's own settings; None: the default one.
        endpoint_url: None: AWS.
        limits: Of every call.
    """

    region: str | None = None
    profile: str | None = None
    endpoint_url: str | None = None
    limits: CallLimits = field(default_factory=CallLimits)


@dataclass(frozen=True)
class Ec2Clients:
    """boto3's clients. Several threads and provisioners may share them."""

    ec2: Any = field(repr=False)
    pricing: Any = field(repr=False)


def connect(access: Ec2Access) -> Ec2Clients:
    """Return clients; nothing is asked of AWS yet.

    Raises:
        ApiKeyMissing: The profile is not there.
        RequestRefused: No region is set, or it or the endpoint is not usable.
    """
    log = logging.getLogger("botocore")
    if log.level == logging.NOTSET:
        # At DEBUG it writes whole requests, with the machine's host key in them.
        log.setLevel(logging.INFO)
    limits = access.limits
    config = Config(
        connect_timeout=limits.connect_timeout_s,
        read_timeout=limits.read_timeout_s,
        # Calls are repeated here, where it is known which of them may be.
        retries={"total_max_attempts": 1},
    )
    try:
        session = boto3.Session(profile_name=access.profile, region_name=access.region)
        if session.region_name is None:
            raise RequestRefused(
                PROVIDER, "connect", "no region is set: `region` in [ec2] of jade.toml, or AWS_DEFAULT_REGION"
            )
        return Ec2Clients(
            session.client("ec2", endpoint_url=access.endpoint_url, config=config),
            session.client("pricing", region_name=_PRICING_REGION, endpoint_url=access.endpoint_url, config=config),
        )
    except _NO_CREDENTIALS as error:
        raise ApiKeyMissing(PROVIDER, f"connect ({error})", setting="AWS_PROFILE") from error
    except (aws.BotoCoreError, ValueError) as error:
        raise RequestRefused(PROVIDER, "connect", str(error)) from error


class Ec2Api:
    """AWS, as far as it is needed here.

    Args:
        clients: From `connect`.
        limits: Of every call.
        sleep: Waits between attempts.
    """

    def __init__(self, clients: Ec2Clients, limits: CallLimits, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._clients, self._limits, self._sleep = clients, limits, sleep

    @property
    def region(self) -> str:
        """Where machines are."""
        return str(self._clients.ec2.meta.region_name)

    def call(self, doing: str, method: str, **parameters: Any) -> dict[str, Any]:
        """Make a call that may be repeated: it looks, or does what cannot be done twice.

        Raises:
            NotThere, AlreadyThere, ApiKeyMissing, ApiKeyRefused, RequestRefused, ProviderUnavailable: As they say.
        """
        return repeat(lambda: self._once(self._clients.ec2, doing, method, parameters), self._limits, sleep=self._sleep)

    def create(self, doing: str, method: str, **parameters: Any) -> dict[str, Any]:
        """Make a call that makes something: one that may have been heard, not one more.

        Raises:
            NoCapacity, ProviderRefused, TokenSpent: Nothing was made.
            NothingSent, RateLimited: Nothing was made.
            ProviderUnavailable: Whether something was made is not known.
        """

        def create() -> dict[str, Any]:
            try:
                return self._once(self._clients.ec2, doing, method, parameters)
            except NotThere as error:
                kind = NotYetThere if error.status in _JUST_MADE else RequestRefused
                raise kind(PROVIDER, doing, error.detail, status=error.status) from error

        return repeat(create, self._limits, may_repeat=where_nothing_happened, sleep=self._sleep)

    def pages(self, doing: str, method: str, key: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield what is listed, however many pages it takes; errors as `call`."""
        more: dict[str, Any] = {}
        while True:
            page = self.call(doing, method, **parameters, **more)
            yield from page.get(key, [])
            if not page.get("NextToken"):
                return
            more = {"NextToken": page["NextToken"]}

    def products(self, doing: str, **parameters: Any) -> list[str]:
        """Return what the price list says, as JSON texts; errors as `call`."""
        answer = repeat(
            lambda: self._once(self._clients.pricing, doing, "get_products", parameters),
            self._limits,
            may_repeat=always,
            sleep=self._sleep,
        )
        return [str(product) for product in answer.get("PriceList", [])]

    @staticmethod
    def _once(client: Any, doing: str, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(client, method)(**parameters)
        except (aws.BotoCoreError, aws.ClientError) as error:
            raise translate(error, doing) from error
        return answer


def translate(error: Exception, doing: str) -> ProviderError:
    """Return what an error of boto3 means."""
    if isinstance(error, aws.ClientError):
        return _translate_answer(error, doing)
    if isinstance(error, _NO_CREDENTIALS):
        return ApiKeyMissing(PROVIDER, f"{doing} ({error})", setting="AWS_PROFILE or AWS_ACCESS_KEY_ID")
    if isinstance(error, _NOT_CONNECTED):
        return NothingSent(PROVIDER, doing, f"{type(error).__name__}: {error}")
    if isinstance(error, aws.ParamValidationError | aws.UnknownEndpointError | aws.SSLError):
        return RequestRefused(PROVIDER, doing, str(error))
    return ProviderUnavailable(PROVIDER, doing, f"{type(error).__name__}: {error}")


def _translate_answer(error: aws.ClientError, doing: str) -> ProviderError:
    answer: dict[str, Any] = dict(error.response)
    code = str(answer.get("Error", {}).get("Code", ""))
    detail = " ".join(str(answer.get("Error", {}).get("Message", "")).split())
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    kind: type[ProviderError] = RequestRefused
    if code in _NO_CAPACITY:
        kind = NoCapacity
    elif code in _QUOTA:
        kind = QuotaReached
    elif code in _KEY:
        kind = ApiKeyRefused
    elif code in _TOO_MANY or status == 429:
        kind = RateLimited
    elif code == "IdempotentInstanceTerminated":
        kind = TokenSpent
    elif code.endswith(".NotFound"):
        kind = NotThere
    elif code.endswith(".Duplicate"):
        kind = AlreadyThere
    elif code in _PASSING or status >= 500:
        kind = ProviderUnavailable
    return kind(PROVIDER, doing, detail, status=code or status)
