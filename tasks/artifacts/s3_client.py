"""boto3 set up for endpoints of many makers, and its errors said as the store's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import boto3
from botocore import exceptions as aws
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.parsers import ResponseParserError

from tasks.artifacts import errors
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
_NOT_S3 = (aws.SSLError, aws.InvalidProxiesConfigError, aws.ParamValidationError, aws.UnknownEndpointError, ValueError)
_FULL = {"XMinioStorageFull", "QuotaExceeded", "StorageFull", "InsufficientCapacity", "InsufficientStorage"}
_PASSING = {
    *("RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "InternalError"),
    # What was sent arrived damaged.
    *("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"),
}
_BAD_REQUEST_FOR_GOOD = {"InvalidBucketName", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


class ConditionRefused(errors.StoreRefused):
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
    endpoint = settings.endpoint_url
    try:
        session = boto3.Session(profile_name=settings.profile, region_name=settings.region)
        credentials = _credentials_within(settings, session.get_credentials)
        client = session.client("s3", endpoint_url=endpoint, config=config)
    except _NO_CREDENTIALS as error:
        raise errors.AccessDenied(endpoint or "AWS", "connecting", str(error)) from error
    except (aws.BotoCoreError, ValueError) as error:
        raise errors.BadStoreAddress(endpoint or "s3://", str(error)) from error

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
    except Exception as error:  # whatever fails here, there are no credentials
        evidence = f"{type(error).__name__}: {error}"
        if isinstance(error, TookTooLong):
            evidence = (
                f"no credentials came within {settings.credentials_timeout_s:g} s: what the AWS configuration names "
                "for them, such as a credential_process, does not answer"
            )
        raise errors.AccessDenied(settings.endpoint_url or "AWS", "getting credentials", evidence) from error


@contextlib.contextmanager
def s3_errors(place: str, doing: str, read_timeout_s: float) -> Iterator[None]:
    """Turn boto3's errors within the block into the store's."""
    started = time.monotonic()
    try:
        yield
    except aws.ClientError as error:
        raise _of_answer(error, place, doing, started) from error
    except _NO_CREDENTIALS as error:
        raise errors.AccessDenied(place, doing, str(error)) from error
    except ResponseParserError as error:
        raise errors.BadStoreAddress(place, f"no S3 answers there: {error}") from error
    except _NOT_S3 as error:
        raise errors.BadStoreAddress(place, str(error)) from error
    except aws.BotoCoreError as error:
        # What is left are connections: refused, reset, timed out, cut in mid-answer.
        is_silent = isinstance(error, aws.ReadTimeoutError)
        reason = f"no byte came for {read_timeout_s:g} s" if is_silent else f"{type(error).__name__}: {error}"
        raise _given_up(place, doing, started, reason) from error


def _of_answer(error: aws.ClientError, place: str, doing: str, started: float) -> errors.StoreError:
    """Return what an error that the server answered with means."""
    told: dict[str, Any] = dict(error.response)
    code, message = (str(told.get("Error", {}).get(name, "")) for name in ("Code", "Message"))
    status = int(told.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    evidence = f"HTTP {status} {code}: {message}".rstrip(": ")
    if code == "NoSuchBucket":
        return errors.NoSuchBucket(place)
    if status == 404 and code not in {"404", "NoSuchKey", "NoSuchUpload"}:
        return errors.BadStoreAddress(place, f"no S3 answers there: {evidence}")
    if status == 404:
        return errors.ArtifactNotFound("such content", place, f"({doing}; {evidence})")
    if status == 412 or code == "ConditionalRequestConflict":
        return ConditionRefused(place, doing, evidence)
    if code in _FULL or status == 507:
        return errors.StoreFull(place, evidence)
    if status in {401, 403} or code in {"ExpiredToken", "InvalidToken"}:
        return errors.AccessDenied(place, doing, evidence)
    if status == 501:
        return errors.BadStoreAddress(place, f"it cannot do {doing}: {evidence}")
    if status in {301, 307, 308} or code in _BAD_REQUEST_FOR_GOOD:
        return errors.BadStoreAddress(place, f"bucket, region or endpoint do not fit: {evidence}")
    if status >= 500 or status in {408, 409, 429} or code in _PASSING:
        return _given_up(place, doing, started, evidence)
    return errors.StoreRefused(place, doing, evidence)


def _given_up(place: str, doing: str, started: float, reason: str) -> errors.StoreUnavailable:
    told = f"given up after {time.monotonic() - started:.1f} s, last reason: {reason}"
    return errors.StoreUnavailable(place, doing, told)
