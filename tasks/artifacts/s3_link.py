"""Requests to an S3 endpoint: each bounded in time, tried again where that can help, its errors put into words."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
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
    TransferDamaged,
)
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
_DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"}
_FULL = {"XMinioStorageFull", "QuotaExceeded", "StorageFull", "InsufficientCapacity", "InsufficientStorage"}
_PASSING = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "InternalError"}
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


class ConditionRefused(StoreError):
    """The object is not as the condition wants it (HTTP 412, or 409 where somebody is writing it just now)."""

    takes = ("place", "doing", "evidence")
    text = "{doing} at {place} was refused: {evidence}"


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
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(ask())
        except Exception as error:  # whatever fails here, there are no credentials
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True, name="aws-credentials").start()
    try:
        return outcome.result(settings.credentials_timeout_s)
    except Exception as error:
        evidence = f"{type(error).__name__}: {error}"
        if isinstance(error, TimeoutError) and not outcome.done():
            evidence = (
                f"no credentials came within {settings.credentials_timeout_s:g} s: what the AWS configuration names "
                "for them, such as a credential_process, does not answer"
            )
        raise AccessDenied(settings.endpoint_url or "AWS", "getting credentials", evidence) from error


class S3Link:
    """A bucket at an endpoint.

    Args:
        address: Bucket and prefix.
        settings: Time limits.
        client: From `connect`.
    """

    def __init__(self, address: S3Address, settings: S3Settings, client: Any) -> None:
        self.address, self._settings, self.client = address, settings, client
        self.prefix = f"{address.prefix}/" if address.prefix else ""
        self.place = f"{address} ({client.meta.endpoint_url})"
        self._clock: tuple[float, float] | None = None

    def now(self) -> float:
        """Return the time of the server's last answer, and what has passed since."""
        if self._clock is None:
            self.call("reading the clock", "head_bucket")
        if self._clock is None:
            raise StoreRefused(self.place, "reading the clock", "its answers have no usable date")
        date, heard_at = self._clock
        return date + time.monotonic() - heard_at

    def pages(self, doing: str, method: str, what: str, prefix: str) -> Iterator[Any]:
        """Yield what a paginated request finds below a prefix."""
        pages = iter(
            self.client.get_paginator(method).paginate(Bucket=self.address.bucket, Prefix=self.prefix + prefix)
        )
        while page := self.translated(doing, lambda: next(pages, None)):
            self._hear(page)
            yield from page.get(what, [])

    def call(self, doing: str, method: str, *, Key: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Make a request of the bucket, with a key below the prefix."""
        if Key is not None:
            parameters["Key"] = self.prefix + Key

        def request() -> dict[str, Any]:
            answer: dict[str, Any] = getattr(self.client, method)(Bucket=self.address.bucket, **parameters)
            return answer

        answer = self.translated(doing, request)
        self._hear(answer)
        return answer

    def _hear(self, answer: dict[str, Any]) -> None:
        with contextlib.suppress(KeyError, ValueError):
            date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            self._clock = date.timestamp(), time.monotonic()

    def translated(self, doing: str, action: Callable[[], T]) -> T:
        """Call `action`; raise boto3's errors as the store's."""
        started = time.monotonic()
        try:
            return action()
        except aws.ClientError as error:
            raise self._of_answer(error, doing, started) from error
        except _NO_CREDENTIALS as error:
            raise AccessDenied(self.place, doing, str(error)) from error
        except ResponseParserError as error:
            raise BadStoreAddress(self.place, f"no S3 answers there: {error}") from error
        except (*_NOT_S3, ValueError) as error:
            raise BadStoreAddress(self.place, str(error)) from error
        except aws.BotoCoreError as error:
            # What is left are connections: refused, reset, timed out, cut in mid-answer.
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, aws.ReadTimeoutError):
                reason = f"no byte came for {self._settings.read_timeout_s:g} s"
            raise StoreUnavailable(self.place, doing, _tried(started, reason)) from error

    def _of_answer(self, error: aws.ClientError, doing: str, started: float) -> StoreError:
        """Return what an error that the server answered with means."""
        told: dict[str, Any] = dict(error.response)
        code, message = (str(told.get("Error", {}).get(name, "")) for name in ("Code", "Message"))
        status = int(told.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        evidence = f"HTTP {status} {code}: {message}".rstrip(": ")
        if code == "NoSuchBucket":
            return NoSuchBucket(self.address.bucket, self.client.meta.endpoint_url)
        if status == 404 and code not in {"404", "NoSuchKey", "NoSuchUpload"}:
            return BadStoreAddress(self.place, f"no S3 answers there: {evidence}")
        if status == 404:
            return ArtifactNotFound("such content", self.place, f"({doing}; {evidence})")
        if status == 412 or code == "ConditionalRequestConflict":
            return ConditionRefused(self.place, doing, evidence)
        if code in _DAMAGED:
            return TransferDamaged(self.place, doing, evidence)
        if code in _FULL or status == 507:
            return StoreFull(self.place, evidence)
        if status in {401, 403} or code in {"ExpiredToken", "InvalidToken"}:
            return AccessDenied(self.place, doing, evidence)
        if status == 501:
            return BadStoreAddress(self.place, f"it cannot do {doing}: {evidence}")
        if status in {301, 307, 308} or code in _BAD_REQUEST_FOR_GOOD:
            return BadStoreAddress(self.place, f"bucket, region or endpoint do not fit: {evidence}")
        if status >= 500 or status in {408, 409, 429} or code in _PASSING:
            return StoreUnavailable(self.place, doing, _tried(started, evidence))
        return StoreRefused(self.place, doing, evidence)


def _tried(started: float, reason: str) -> str:
    return f"given up after {time.monotonic() - started:.1f} s, last reason: {reason}"
