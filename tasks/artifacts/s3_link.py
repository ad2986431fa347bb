"""Requests to an S3 endpoint: each bounded in time, tried again where that can help, its errors put into words."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import boto3
from botocore import exceptions as aws
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.parsers import ResponseParserError

from tasks.artifacts.address import S3Address, S3Settings
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
    UploadLost,
)

T = TypeVar("T")
MAX_PAUSE_S = 20.0

_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.ProfileNotFound,
    aws.TokenRetrievalError,
    aws.SSOError,
)
_DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"}
_FULL = {"XMinioStorageFull", "QuotaExceeded", "StorageFull", "InsufficientCapacity", "InsufficientStorage"}
_PASSING = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "InternalError"}
_BAD_REQUEST_FOR_GOOD = {"InvalidBucketName", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_NOT_S3 = (aws.SSLError, aws.InvalidProxiesConfigError, aws.ParamValidationError, aws.UnknownEndpointError)


class ConditionRefused(StoreError):
    """Something is at that key already (HTTP 412). `S3Store` turns it into what that means."""

    def __init__(self, place: str, doing: str) -> None:
        super().__init__(f"{doing} at {place} was refused: something is there already")


def connect(settings: S3Settings) -> Any:
    """Return a boto3 client for an endpoint; nothing is asked of it yet. Several stores and threads may share it.

    Raises:
        AccessDenied, BadStoreAddress: Profile, region or endpoint are not usable.
    """
    config = Config(
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        # Retries are made here, where their errors have names and a cut download can go on.
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path" if settings.path_style else "auto"},
        # Checksums are given with each upload; trailing ones break many endpoints that are not AWS.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = boto3.Session(profile_name=settings.profile, region_name=settings.region)
        credentials = _credentials_within(settings, session.get_credentials)
        client = session.client("s3", endpoint_url=settings.endpoint_url, config=config)
        # Credentials that expire are fetched anew here, where that is bounded and its errors have a name.
        client.meta.events.register("before-call.s3", lambda **_: _refresh(settings, credentials))
        return client  # noqa: TRY300
    except _NO_CREDENTIALS as error:
        raise AccessDenied(settings.endpoint_url or "AWS", "connecting", str(error)) from error
    except (aws.BotoCoreError, ValueError) as error:
        raise BadStoreAddress(settings.endpoint_url or "s3://", str(error)) from error


def _refresh(settings: S3Settings, credentials: Any) -> None:
    if isinstance(credentials, RefreshableCredentials) and credentials.refresh_needed():
        _credentials_within(settings, credentials.get_frozen_credentials)


def _credentials_within(settings: S3Settings, ask: Callable[[], T]) -> T:
    """Ask for credentials, which may run a program or call a service, and give up after a while."""
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(ask())
        except Exception as error:  # whatever fails here, there are no credentials
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True, name="aws-credentials").start()
    place = settings.endpoint_url or "AWS"
    try:
        return outcome.result(settings.credentials_timeout_s)
    except TimeoutError as error:
        evidence = (
            f"no credentials came within {settings.credentials_timeout_s:g} s: what the AWS configuration names "
            "for them, such as a credential_process, does not answer"
        )
        raise AccessDenied(place, "getting credentials", evidence) from error
    except Exception as error:
        raise AccessDenied(place, "getting credentials", f"{type(error).__name__}: {error}") from error


class S3Link:
    """A bucket at an endpoint.

    Args:
        address: Bucket and prefix.
        settings: Time limits and attempts.
        client: From `connect`.
        sleep: Waits between attempts.
    """

    def __init__(
        self, address: S3Address, settings: S3Settings, client: Any, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.address, self.settings, self._client, self._sleep = address, settings, client, sleep

    @property
    def endpoint(self) -> str:
        """The endpoint's URL as requests go to it."""
        return str(self._client.meta.endpoint_url)

    def call(self, doing: str, method: str, **parameters: Any) -> dict[str, Any]:
        """Make a request of the bucket; try transient errors again.

        Args:
            doing: For messages: what this is part of.
            method: Of the boto3 client.
            parameters: Its keyword arguments, without the bucket.

        Raises:
            StoreError: See `translate`; a transient one says how often and how long it was tried.
        """

        def request() -> dict[str, Any]:
            answer: dict[str, Any] = getattr(self._client, method)(Bucket=self.address.bucket, **parameters)
            return answer

        return self.retry(doing, request)

    def get(self, key: str, **parameters: Any) -> dict[str, Any]:
        """Ask once for an object; errors are boto3's, for `retry` or `translate`."""
        answer: dict[str, Any] = self._client.get_object(Bucket=self.address.bucket, Key=key, **parameters)
        return answer

    def put(self, key: str, **parameters: Any) -> dict[str, Any]:
        """Store an object, once; errors are boto3's, for `retry` or `translate`."""
        answer: dict[str, Any] = self._client.put_object(Bucket=self.address.bucket, Key=key, **parameters)
        return answer

    def abort(self, key: str, upload_id: str, doing: str) -> None:
        """Abort a multipart upload. Silent if it is unknown already."""
        with contextlib.suppress(UploadLost):
            self.call(doing, "abort_multipart_upload", Key=key, UploadId=upload_id)

    def abort_if_possible(self, key: str, upload_id: str) -> None:
        """Abort a multipart upload after an error, which must not be hidden by another; a sweep finds what is left."""
        with contextlib.suppress(aws.BotoCoreError, aws.ClientError):
            self._client.abort_multipart_upload(Bucket=self.address.bucket, Key=key, UploadId=upload_id)

    def now(self, doing: str) -> datetime:
        """Return what time it is by the endpoint's clock."""
        headers = self.call(doing, "head_bucket")["ResponseMetadata"]["HTTPHeaders"]
        try:
            return parsedate_to_datetime(headers["date"])
        except (KeyError, ValueError) as error:
            raise StoreRefused(str(self.address), doing, f"an answer without a usable date: {error}") from error

    def retry(self, doing: str, action: Callable[[], T]) -> T:
        """Call `action`, which must be safe to repeat, until it succeeds, fails for good, or was tried often enough."""
        started = time.monotonic()
        attempt = 1
        while True:
            try:
                return action()
            except (aws.BotoCoreError, aws.ClientError, StoreError) as error:
                found = error if isinstance(error, StoreError) else self.translate(error, doing)
                if not found.is_transient or isinstance(found, UploadLost) or attempt >= self.settings.attempts:
                    if isinstance(found, StoreUnavailable):
                        found = found.after(attempt, time.monotonic() - started)
                    raise found from error
            self.pause(attempt)
            attempt += 1

    def pause(self, attempt: int) -> None:
        """Wait after a failed attempt, longer each time, and never as long as the others that failed with us."""
        longest = min(self.settings.pause_s * 2 ** (attempt - 1), MAX_PAUSE_S)
        self._sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 -- jitter

    def keys(self, doing: str, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield what is listed below a prefix, in the order of the keys: Key, Size, LastModified."""
        more: dict[str, Any] = {}
        while True:
            page = self.call(doing, "list_objects_v2", Prefix=prefix, **more)
            yield from page.get("Contents", [])
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def translate(self, error: Exception, doing: str) -> StoreError:
        """Return what an error of boto3 means."""
        where, place = self.endpoint, f"{self.address} ({self.endpoint})"
        if isinstance(error, aws.ClientError):
            return self._translate_answer(error, place, doing)
        if isinstance(error, _NO_CREDENTIALS):
            return AccessDenied(place, doing, str(error))
        if isinstance(error, (*_NOT_S3, ValueError)):
            return BadStoreAddress(where, str(error))
        if isinstance(error, ResponseParserError):
            return BadStoreAddress(where, f"no S3 answers there: {error}")
        if isinstance(error, aws.ReadTimeoutError):
            return StoreUnavailable(place, doing, f"no byte came for {self.settings.read_timeout_s:g} s")
        # What is left are connections: refused, reset, timed out, cut in mid-answer.
        return StoreUnavailable(place, doing, f"{type(error).__name__}: {error}")

    def _translate_answer(self, error: aws.ClientError, place: str, doing: str) -> StoreError:
        answer: dict[str, Any] = dict(error.response)
        code = str(answer.get("Error", {}).get("Code", ""))
        message = str(answer.get("Error", {}).get("Message", ""))
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        evidence = f"HTTP {status} {code}: {message}".rstrip(": ")
        if code == "NoSuchBucket":
            return NoSuchBucket(self.address.bucket, self.endpoint)
        if code == "NoSuchUpload":
            return UploadLost(place, doing, evidence)
        if status == 404 and code not in {"404", "NoSuchKey"}:
            return BadStoreAddress(place, f"no S3 answers there: {evidence}")
        if status == 404:
            return ArtifactNotFound("such content", place, f"({doing}; {evidence})")
        if status == 412:
            return ConditionRefused(place, doing)
        if code in _DAMAGED:
            return TransferDamaged(place, doing, evidence)
        if code in _FULL or status == 507:
            return StoreFull(place, evidence)
        if status in {401, 403} or code in {"ExpiredToken", "InvalidToken"}:
            return AccessDenied(place, doing, evidence)
        if status == 501:
            return BadStoreAddress(place, f"it cannot do {doing}: {evidence}")
        if status in {301, 307, 308} or code in _BAD_REQUEST_FOR_GOOD:
            return BadStoreAddress(place, f"bucket, region or endpoint do not fit: {evidence}")
        if status >= 500 or status in {408, 409, 429} or code in _PASSING:
            return StoreUnavailable(place, doing, evidence)
        return StoreRefused(place, doing, evidence)
