"""A client of an S3 endpoint: bounded in time, tried again where that can help, its errors put into words."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import boto3
from botocore import exceptions as aws
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.parsers import ResponseParserError

from tasks.artifacts.errors import (
    AccessDenied,
    ArtifactNotFound,
    BadStoreAddress,
    NoSuchBucket,
    StoreError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from tasks.core.retry import TookTooLong, within
from tasks.settings.models import S3Settings

T = TypeVar("T")
_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.ProfileNotFound,
    aws.TokenRetrievalError,
    aws.SSOError,
)
_NOT_S3 = (aws.SSLError, aws.InvalidProxiesConfigError, aws.ParamValidationError, aws.UnknownEndpointError)
_FULL = {"XMinioStorageFull", "QuotaExceeded", "StorageFull", "InsufficientCapacity", "InsufficientStorage"}
_PASSING = {
    *("RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "InternalError"),
    # What was sent arrived damaged.
    *("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"),
}
_BAD_REQUEST_FOR_GOOD = {"InvalidBucketName", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


@dataclass(frozen=True)
class S3Address:
    """A bucket and what all keys in it start with.

    Attributes:
        bucket: Its name.
        prefix: Without slashes at its ends; may be empty.
    """

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


class ConditionRefused(StoreRefused):
    """The object is not as the condition wants it (HTTP 412, or 409 where somebody is writing it just now)."""


def connect(settings: S3Settings) -> Any:
    """Return a boto3 client for an endpoint; nothing is asked of it yet. Several stores and threads may share it.

    Raises:
        AccessDenied, BadStoreAddress: Profile, credentials, region or endpoint are not usable.
    """
    config = Config(
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        # Every endpoint checks the signed digest of what it gets; checksums that trail the content break many.
        s3={"addressing_style": "path" if settings.path_style else "auto", "payload_signing_enabled": True},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = boto3.Session(profile_name=settings.profile, region_name=settings.region)
        credentials = _credentials_within(settings, session.get_credentials)
        client = session.client("s3", endpoint_url=settings.endpoint_url, config=config)
    except _NO_CREDENTIALS as error:
        raise AccessDenied(settings.endpoint_url or "AWS", "connecting", str(error)) from error
    except (aws.BotoCoreError, ValueError) as error:
        raise BadStoreAddress(settings.endpoint_url or "s3://", str(error)) from error

    def refresh(**_: Any) -> None:
        if isinstance(credentials, RefreshableCredentials) and credentials.refresh_needed():
            _credentials_within(settings, credentials.get_frozen_credentials)

    # Credentials that expire are fetched anew here, where that is bounded and its errors have a name.
    client.meta.events.register("before-call.s3", refresh)
    return client


def _credentials_within(settings: S3Settings, ask: Callable[[], T]) -> T:
    """Ask for credentials, which may run a program or call a service, and give up after a while."""
    try:
        return within(settings.credentials_timeout_s, ask)
    except TookTooLong as error:
        evidence = (
            f"no credentials came within {settings.credentials_timeout_s:g} s: what the AWS configuration names "
            "for them, such as a credential_process, does not answer"
        )
        raise AccessDenied(settings.endpoint_url or "AWS", "getting credentials", evidence) from error
    except Exception as error:  # whatever fails here, there are no credentials
        evidence = f"{type(error).__name__}: {error}"
        raise AccessDenied(settings.endpoint_url or "AWS", "getting credentials", evidence) from error


@contextlib.contextmanager
def s3_errors(place: str, doing: str, read_timeout_s: float) -> Iterator[None]:
    """Turn boto3's errors within the block into the store's."""
    started = time.monotonic()

    def given_up(reason: str) -> StoreUnavailable:
        told = f"given up after {time.monotonic() - started:.1f} s, last reason: {reason}"
        return StoreUnavailable(place, doing, told)

    try:
        yield
    except aws.ClientError as error:
        raise _of_answer(error, place, doing, given_up) from error
    except _NO_CREDENTIALS as error:
        raise AccessDenied(place, doing, str(error)) from error
    except ResponseParserError as error:
        raise BadStoreAddress(place, f"no S3 answers there: {error}") from error
    except (*_NOT_S3, ValueError) as error:
        raise BadStoreAddress(place, str(error)) from error
    except aws.ReadTimeoutError as error:
        raise given_up(f"no byte came for {read_timeout_s:g} s") from error
    except aws.BotoCoreError as error:
        # What is left are connections: refused, reset, timed out, cut in mid-answer.
        raise given_up(f"{type(error).__name__}: {error}") from error


def _of_answer(
    error: aws.ClientError, place: str, doing: str, given_up: Callable[[str], StoreUnavailable]
) -> StoreError:
    """Return what an error that the server answered with means."""
    told: dict[str, Any] = dict(error.response)
    code, message = (str(told.get("Error", {}).get(name, "")) for name in ("Code", "Message"))
    status = int(told.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    evidence = f"HTTP {status} {code}: {message}".rstrip(": ")
    if code == "NoSuchBucket":
        return NoSuchBucket(place)
    if status == 404 and code not in {"404", "NoSuchKey", "NoSuchUpload"}:
        return BadStoreAddress(place, f"no S3 answers there: {evidence}")
    if status == 404:
        return ArtifactNotFound("such content", place, f"({doing}; {evidence})")
    if status == 412 or code == "ConditionalRequestConflict":
        return ConditionRefused(place, doing, evidence)
    if code in _FULL or status == 507:
        return StoreFull(place, evidence)
    if status in {401, 403} or code in {"ExpiredToken", "InvalidToken"}:
        return AccessDenied(place, doing, evidence)
    if status == 501:
        return BadStoreAddress(place, f"it cannot do {doing}: {evidence}")
    if status in {301, 307, 308} or code in _BAD_REQUEST_FOR_GOOD:
        return BadStoreAddress(place, f"bucket, region or endpoint do not fit: {evidence}")
    if status >= 500 or status in {408, 409, 429} or code in _PASSING:
        return given_up(evidence)
    return StoreRefused(place, doing, evidence)
