"""A store in an S3 bucket: each request bounded in time, tried again where that can help, its errors put into words."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import math
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore import exceptions as aws
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.parsers import ResponseParserError
from s3transfer.manager import TransferConfig, TransferManager

from tasks.artifacts.backend import BUCKET_KEYS, Answer, Item, read_small, retried
from tasks.artifacts.errors import (
    AccessDenied,
    ArtifactNotFound,
    BadStoreAddress,
    NoSuchBucket,
    PreconditionFailed,
    SourceChanged,
    StoreError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
    TransferDamaged,
)
from tasks.artifacts.local import disk_errors
from tasks.artifacts.manifest import CHUNK_BYTES, MAX_MANIFEST_BYTES, StoredFile, check_path
from tasks.settings.artifacts import S3Settings

T = TypeVar("T")
MOST_PARTS = 10_000
_DIGEST = "jade-sha256"
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


class _ConditionRefused(StoreError):
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


class S3Backend:
    """A `Backend` in a bucket.

    Args:
        address: Bucket and prefix.
        settings: Endpoint, time limits and attempts.
        client: From `connect` with the same settings; a new one if not given.
    """

    keys = BUCKET_KEYS

    def __init__(self, address: S3Address, settings: S3Settings, client: Any = None) -> None:
        self.address, self._settings, self._client = address, settings, client or connect(settings)
        self._prefix = f"{address.prefix}/" if address.prefix else ""
        self.place = f"{address} ({self._client.meta.endpoint_url})"
        self.keeps_versions = False
        self._clock: tuple[float, float] | None = None
        self._trial = threading.Lock()
        self._wants_quotes: bool | None = None

    def get(self, key: str, offset: int = 0) -> Answer:
        """Ask for an object; its content is read as it is taken."""
        check_path(key)
        doing = f"reading {key}"
        answer = self._call(doing, "get_object", Key=key, **({"Range": f"bytes={offset}-"} if offset else {}))
        # A server may answer with everything when asked for the rest.
        start = offset if answer["ResponseMetadata"]["HTTPStatusCode"] == 206 else 0
        size = start + answer["ContentLength"]
        chunks = self._chunks(answer["Body"], size - start, offset - start, doing)
        told = answer["Metadata"].get(_DIGEST, "")
        return Answer(answer["ETag"], size, answer["LastModified"].timestamp(), chunks, told)

    def put(self, key: str, file: StoredFile, source: Path) -> bool:
        """Upload a file's content, checked on both sides, unless it is there."""
        check_path(key)
        doing = f"storing {file.path} as {key}"
        if self._holds(key, file, doing):
            return False
        upload = self._upload_whole if file.size <= self._settings.part_bytes else self._upload_in_parts
        retried(lambda: upload(key, file, source, doing), attempts=2)
        return True

    def put_if(self, key: str, data: bytes, version: str | None) -> str:
        """Write with `If-None-Match` or `If-Match`, after the server has shown that it knows them."""
        check_path(key)
        with self._trial:
            if self._wants_quotes is None:
                self._wants_quotes = self._try_conditions()
        doing = f"writing {key}"
        condition = _condition(version, quoted=self._wants_quotes)
        try:
            return retried(lambda: self._put(doing, key, data, condition), attempts=2)
        except (_ConditionRefused, ArtifactNotFound) as error:
            # The answer to our own first attempt may have been lost.
            try:
                found, answer = read_small(self, key, MAX_MANIFEST_BYTES)
            except ArtifactNotFound:
                raise PreconditionFailed(key, self.place) from error
            if found == data:
                return answer.version
            if answer.version == version:
                reason = "it answers 412 although nobody changed the object"
                raise StoreUnavailable(self.place, doing, reason) from error
            raise PreconditionFailed(key, self.place) from error

    def list(self, pattern: str) -> list[Item]:
        """Page through what begins as the pattern does."""
        prefix = pattern.partition("*")[0]
        found = [
            Item(item["Key"].removeprefix(self._prefix), item["Size"], item["LastModified"].timestamp())
            for item in self._pages(f"listing {pattern}", "list_objects_v2", "Contents", prefix)
        ]
        return sorted((item for item in found if _fits(item.key, pattern)), key=lambda item: item.key)

    def delete(self, keys: Collection[str], *, version: str | None = None) -> None:
        """Delete objects one by one: of many at once (DeleteObjects), endpoints want different checksums."""
        below = [item.key for key in keys if key.endswith("/") for item in self.list(f"{key}**")]
        wanted = [key for key in keys if not key.endswith("/")] + below
        condition = {}
        if version is not None:
            # Looked at first: endpoints that do not know the condition of a deletion, pass it over.
            try:
                if self._call("looking", "head_object", Key=wanted[0])["ETag"] != version:
                    raise PreconditionFailed(wanted[0], self.place)
            except ArtifactNotFound:
                return
            condition = _condition(version, quoted=self._wants_quotes is not False)

        def delete(key: str) -> None:
            try:
                answer = self._call(f"deleting {key}", "delete_object", Key=key, **condition)
            except _ConditionRefused as error:
                raise PreconditionFailed(key, self.place) from error
            except ArtifactNotFound:
                return  # somebody else removed it, or we did and the answer was lost
            if answer.get("DeleteMarker") or answer.get("VersionId"):
                self.keeps_versions = True

        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(delete, wanted))

    def now(self) -> float:
        """Return the time of the server's last answer, and what has passed since."""
        if self._clock is None:
            self._call("reading the clock", "head_bucket")
        if self._clock is None:
            raise StoreRefused(self.place, "reading the clock", "its answers have no usable date")
        date, heard_at = self._clock
        return date + time.monotonic() - heard_at

    def sweep(self, *, older_than_s: float, running: Collection[str]) -> int:
        """Abort multipart uploads of dead writers; the endpoint does not tell their size."""
        prefix = self.keys.content.partition("{")[0]
        before = self.now() - older_than_s
        for upload in self._pages("listing uploads", "list_multipart_uploads", "Uploads", prefix):
            run_id = upload["Key"].removeprefix(self._prefix + prefix).partition("/")[0]
            if upload["Initiated"].timestamp() < before and run_id not in running:
                with contextlib.suppress(ArtifactNotFound):
                    key = upload["Key"].removeprefix(self._prefix)
                    self._call("aborting an upload", "abort_multipart_upload", Key=key, UploadId=upload["UploadId"])
        return 0

    def _holds(self, key: str, file: StoredFile, doing: str) -> bool:
        """Whether the content is stored, as far as can be told without reading it."""
        try:
            found = self._call(doing, "head_object", Key=key, ChecksumMode="ENABLED")
        except ArtifactNotFound:
            return False
        checksum = found.get("ChecksumSHA256")
        # The checksum of what was sent in parts is one over the parts' checksums: it cannot be compared.
        in_parts = "-" in str(found.get("ETag", "")) or "-" in str(checksum)
        return found["ContentLength"] == file.size and (
            checksum is None or in_parts or checksum == _base64(file.sha256)
        )

    def _upload_whole(self, key: str, file: StoredFile, source: Path, doing: str) -> None:
        with disk_errors(str(source.parent), doing), source.open("rb") as opened:
            data = _Checked(opened, file).read(-1)
        answer = self._call(doing, "put_object", Key=key, Body=data, ChecksumSHA256=_base64(file.sha256))
        if answer.get("ChecksumSHA256") not in {None, _base64(file.sha256)}:
            self.delete([key])
            raise TransferDamaged(self.place, doing, f"checksum {answer['ChecksumSHA256']}")

    def _upload_in_parts(self, key: str, file: StoredFile, source: Path, doing: str) -> None:
        part_bytes = max(self._settings.part_bytes, math.ceil(file.size / MOST_PARTS))
        config = TransferConfig(
            part_bytes,
            part_bytes,
            max_request_concurrency=4,
            max_submission_concurrency=1,
            max_in_memory_upload_chunks=4,
        )

        def upload() -> None:
            with source.open("rb") as opened, TransferManager(self._client, config) as manager:
                checked: Any = _Checked(opened, file)
                manager.upload(checked, self.address.bucket, self._prefix + key).result()

        try:
            with disk_errors(str(source.parent), doing):
                self._translated(doing, upload)
        except ArtifactNotFound:
            # Where the answer to the completion was lost, asking again finds no upload: it is completed.
            if not self._holds(key, file, doing):
                raise TransferDamaged(self.place, doing, "the endpoint lost the upload") from None

    def _put(self, doing: str, key: str, data: bytes, condition: dict[str, str]) -> str:
        digest = hashlib.sha256(data).hexdigest()
        answer = self._call(
            doing,
            "put_object",
            Key=key,
            Body=data,
            Metadata={_DIGEST: digest},
            ChecksumSHA256=_base64(digest),
            **condition,
        )
        return str(answer["ETag"])

    def _try_conditions(self) -> bool:
        """Try what the server makes of conditions; return whether it wants ETags in their quotation marks.

        Raises:
            BadStoreAddress: It passes conditions over: two who write at once would not learn of each other.
        """
        key, doing = f"{self.keys.records}trial/{secrets.token_hex(8)}", "trying conditional writes"

        def is_refused(condition: dict[str, str]) -> bool:
            try:
                self._put(doing, key, secrets.token_bytes(8), condition)
            except _ConditionRefused:
                return True
            return False

        version = self._put(doing, key, b"first", {})
        try:
            if not is_refused(_condition(None)) or not is_refused(_condition('"00000000000000000000000000000000"')):
                raise BadStoreAddress(
                    self.place,
                    "it overwrites an object although If-None-Match or If-Match forbids it, so that runs that are "
                    "published at once would lose files. Use an endpoint with conditional writes",
                )
            for quoted in (True, False):
                if not is_refused(_condition(version, quoted=quoted)):
                    return quoted
            raise BadStoreAddress(
                self.place,
                f"it refuses If-Match with the very ETag that it gave, {version}, with quotation marks and without",
            )
        finally:
            self._call(doing, "delete_object", Key=key)

    def _chunks(self, body: Any, size: int, skip: int, doing: str) -> Iterator[bytes]:
        """Yield an answer's content but for its first bytes; give up a server that is far too slow."""
        limit_s = self._settings.read_timeout_s + size / self._settings.slowest_bytes_per_s
        deadline, position = time.monotonic() + limit_s, 0
        pieces = body.iter_chunks(CHUNK_BYTES)
        with contextlib.closing(body):
            while piece := self._translated(doing, lambda: next(pieces, b"")):
                position += len(piece)
                if time.monotonic() > deadline:
                    reason = f"only {position} bytes came in {limit_s:.0f} s"
                    raise StoreUnavailable(self.place, doing, reason)
                if fresh := piece[max(0, skip - (position - len(piece))) :]:
                    yield fresh

    def _pages(self, doing: str, method: str, what: str, prefix: str) -> Iterator[Any]:
        pages = iter(
            self._client.get_paginator(method).paginate(Bucket=self.address.bucket, Prefix=self._prefix + prefix)
        )
        while page := self._translated(doing, lambda: next(pages, None)):
            self._hear(page)
            yield from page.get(what, [])

    def _call(self, doing: str, method: str, *, Key: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Make a request of the bucket, with a key below the prefix."""
        if Key is not None:
            parameters["Key"] = self._prefix + Key

        def request() -> dict[str, Any]:
            answer: dict[str, Any] = getattr(self._client, method)(Bucket=self.address.bucket, **parameters)
            return answer

        answer = self._translated(doing, request)
        self._hear(answer)
        return answer

    def _hear(self, answer: dict[str, Any]) -> None:
        with contextlib.suppress(KeyError, ValueError):
            date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            self._clock = date.timestamp(), time.monotonic()

    def _translated(self, doing: str, action: Callable[[], T]) -> T:
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
            return NoSuchBucket(self.address.bucket, self._client.meta.endpoint_url)
        if status == 404 and code not in {"404", "NoSuchKey", "NoSuchUpload"}:
            return BadStoreAddress(self.place, f"no S3 answers there: {evidence}")
        if status == 404:
            return ArtifactNotFound("such content", self.place, f"({doing}; {evidence})")
        if status == 412 or code == "ConditionalRequestConflict":
            return _ConditionRefused(self.place, doing, evidence)
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


class _Checked:
    """A file as it is uploaded; it raises before its last bytes go if they are not the file's."""

    def __init__(self, opened: Any, file: StoredFile) -> None:
        self._opened, self._file = opened, file
        self._digest, self._position = hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises:
            SourceChanged: The whole is not what was said.
        """
        left = self._file.size - self._position
        data: bytes = self._opened.read(left + 1 if size < 0 else min(size, left + 1))
        self._digest.update(data)
        self._position += len(data)
        is_over = self._position > self._file.size or (not data and left > 0)
        is_wrong = self._position == self._file.size and self._digest.hexdigest() != self._file.sha256
        if is_over or is_wrong or (size < 0 and self._position < self._file.size):
            found = f"{self._position} bytes, {self._digest.hexdigest()}"
            raise SourceChanged(self._file.path, self._file.sha256, found)
        return data


def _condition(version: str | None, *, quoted: bool = True) -> dict[str, str]:
    if version is None:
        return {"IfNoneMatch": "*"}
    return {"IfMatch": version if quoted else version.strip('"')}


def _fits(key: str, pattern: str) -> bool:
    parts, wanted = key.split("/"), pattern.split("/")
    if wanted[-1] == "**":
        parts, wanted = parts[: len(wanted) - 1], wanted[:-1]
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _tried(started: float, reason: str) -> str:
    return f"given up after {time.monotonic() - started:.1f} s, last reason: {reason}"


def _base64(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()
