"""A store in an S3 bucket: content checked on both sides, small objects written only as they were read."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import math
import random
import re
import secrets
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from s3transfer.manager import TransferConfig, TransferManager

from tasks.artifacts import errors
from tasks.artifacts.backend import BUCKET_KEYS, Item, read_small
from tasks.artifacts.local import disk_errors
from tasks.artifacts.manifest import CHUNK_BYTES, MAX_MANIFEST_BYTES, check_path, check_source
from tasks.artifacts.s3_client import ConditionRefused, connect, s3_errors
from tasks.core.names import FileEntry
from tasks.core.retry import retry_transient
from tasks.settings.models import S3Settings

MOST_PARTS = 10_000
LOCK_TIMEOUT_S = 60.0
LOCK_STALE_S = 900.0
"""All requests of a living writer have ended, or were given up, long before."""

_DIGEST = "jade-sha256"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class S3Backend:
    """A `Backend` in a bucket.

    Args:
        address: `s3://bucket/prefix`.
        settings: Endpoint, time limits and attempts.
        client: From `connect` with the same settings; a new one if not given.
    """

    keys = BUCKET_KEYS

    def __init__(self, address: str, settings: S3Settings, client: Any = None) -> None:
        self._bucket, self._prefix = _bucket_and_prefix(address)
        self._settings, self._client = settings, client or connect(settings)
        self.place = f"{address} ({self._client.meta.endpoint_url})"
        self.keeps_versions = False
        self._clock: tuple[float, float] | None = None
        self._trial = threading.Lock()
        self._etags: Literal["quoted", "bare", "unknown"] | None = None

    def get(self, key: str, offset: int = 0) -> tuple[Item, Iterator[bytes]]:
        """Ask for an object; its content is read as it is taken."""
        doing = f"reading {key}"
        answer = self._call(doing, "get_object", key, **({"Range": f"bytes={offset}-"} if offset else {}))
        # A server may answer with everything when asked for the rest.
        start = offset if answer["ResponseMetadata"]["HTTPStatusCode"] == 206 else 0
        size = start + answer["ContentLength"]
        chunks = self._chunks(answer["Body"], size - start, offset - start, doing)
        told = answer["Metadata"].get(_DIGEST, "")
        return Item(key, size, answer["LastModified"].timestamp(), answer["ETag"], told), chunks

    def put(self, key: str, file: FileEntry, source: Path) -> bool:
        """Upload a file's content, checked on both sides, unless it is there."""
        doing = f"storing {file.path} as {key}"
        if self._holds(key, file, doing):
            return False
        upload = self._upload_whole if file.size <= self._settings.part_bytes else self._upload_in_parts
        retry_transient(lambda: upload(key, file, source, doing), attempts=2, pause_s=0.2)
        return True

    def put_if(self, key: str, data: bytes, version: str | None) -> str:
        """Write with `If-None-Match` or `If-Match`, after the server has shown that it knows them."""
        with self._trial:
            self._etags = self._etags or self._try_conditions()
        doing = f"writing {key}"
        if version is not None and self._etags == "unknown":
            return self._replace_locked(doing, key, data, version)
        condition = _condition(version, quoted=self._etags == "quoted")
        try:
            return retry_transient(lambda: self._put(doing, key, data, condition), attempts=2, pause_s=0.2)
        except (ConditionRefused, errors.ArtifactNotFound) as error:
            # The answer to our own first attempt may have been lost.
            found = read_small(self, key, MAX_MANIFEST_BYTES)
            if found is not None and found.content == data:
                return found.version
            if found is not None and found.version == version:
                reason = "it answers 412 although nobody changed the object"
                raise errors.StoreUnavailable(self.place, doing, reason) from error
            raise errors.PreconditionFailed(key, self.place) from error

    def list(self, pattern: str) -> list[Item]:
        """Page through what begins as the pattern does."""
        prefix = pattern.partition("*")[0]
        found = [
            Item(item["Key"].removeprefix(self._prefix), item["Size"], item["LastModified"].timestamp())
            for item in self._listed(f"listing {pattern}", "list_objects_v2", "Contents", prefix)
        ]
        return sorted((item for item in found if _fits(item.key, pattern)), key=lambda item: item.key)

    def delete(self, keys: Collection[str], *, version: str | None = None) -> None:
        """Delete objects one by one: of many at once (DeleteObjects), endpoints want different checksums."""
        below = [item.key for key in keys if key.endswith("/") for item in self.list(f"{key}**")]
        wanted = [key for key in keys if not key.endswith("/")] + below

        def delete(key: str) -> None:
            try:
                # Looked at first: endpoints that do not know the condition of a deletion pass it over.
                if version is not None and self._call("looking", "head_object", key)["ETag"] != version:
                    raise errors.PreconditionFailed(key, self.place)
                condition = {} if version is None else _condition(version, quoted=self._etags != "bare")
                answer = self._call(f"deleting {key}", "delete_object", key, **condition)
            except ConditionRefused as error:
                raise errors.PreconditionFailed(key, self.place) from error
            except errors.ArtifactNotFound:
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
            raise errors.StoreRefused(self.place, "reading the clock", "its answers have no usable date")
        date, heard_at = self._clock
        return date + time.monotonic() - heard_at

    def sweep(self, *, older_than_s: float, running: Collection[str]) -> int:
        """Abort multipart uploads that nobody will end; the endpoint does not tell their size.

        Dead writers leave them, and living ones that began another since the answer to the first beginning was lost.
        """
        prefix = self.keys.content.partition("{")[0]
        before = self.now() - older_than_s
        for upload in self._listed("listing uploads", "list_multipart_uploads", "Uploads", prefix):
            key = upload["Key"].removeprefix(self._prefix)
            if upload["Initiated"].timestamp() < before and key.split("/")[1] not in running:
                with contextlib.suppress(errors.ArtifactNotFound):
                    self._call("aborting an upload", "abort_multipart_upload", key, UploadId=upload["UploadId"])
        return 0

    def _holds(self, key: str, file: FileEntry, doing: str) -> bool:
        """Whether the content is stored, as far as can be told without reading it."""
        try:
            found = self._call(doing, "head_object", key, ChecksumMode="ENABLED")
        except errors.ArtifactNotFound:
            return False
        checksum = found.get("ChecksumSHA256")
        # The checksum of what was sent in parts is one over the parts' checksums: it cannot be compared.
        in_parts = "-" in str(found.get("ETag", "")) or "-" in str(checksum)
        is_known_to_differ = not in_parts and checksum not in {None, _base64(file.sha256)}
        return found["ContentLength"] == file.size and not is_known_to_differ

    def _upload_whole(self, key: str, file: FileEntry, source: Path, doing: str) -> None:
        with disk_errors(str(source.parent), doing), source.open("rb") as opened:
            data = _Checked(opened, file).read()
        answer = self._call(doing, "put_object", key, Body=data, ChecksumSHA256=_base64(file.sha256))
        if answer.get("ChecksumSHA256") not in {None, _base64(file.sha256)}:
            self.delete([key])
            raise errors.StoreUnavailable(self.place, doing, f"it tells the checksum {answer['ChecksumSHA256']}")

    def _upload_in_parts(self, key: str, file: FileEntry, source: Path, doing: str) -> None:
        part_bytes = max(self._settings.part_bytes, math.ceil(file.size / MOST_PARTS))
        config = TransferConfig(part_bytes, part_bytes, 4, max_submission_concurrency=1, max_in_memory_upload_chunks=4)
        try:
            with disk_errors(str(source.parent), doing), self._errors(doing), source.open("rb") as opened:
                checked: Any = _Checked(opened, file)
                with TransferManager(self._client, config) as manager:
                    manager.upload(checked, self._bucket, self._prefix + key).result()
        except errors.ArtifactNotFound:
            # Where the answer to the completion was lost, asking again finds no upload: it is completed.
            if not self._holds(key, file, doing):
                raise errors.StoreUnavailable(self.place, doing, "the endpoint lost the upload") from None

    def _put(self, doing: str, key: str, data: bytes, condition: dict[str, str]) -> str:
        """Write a small object with its digest; return its ETag."""
        digest = hashlib.sha256(data).hexdigest()
        told: dict[str, Any] = {"Metadata": {_DIGEST: digest}, "ChecksumSHA256": _base64(digest)}
        return str(self._call(doing, "put_object", key, Body=data, **told, **condition)["ETag"])

    def _is_refused(self, doing: str, key: str, condition: dict[str, str]) -> bool:
        """Try to write something random under a condition; return whether that forbade it."""
        try:
            self._put(doing, key, secrets.token_bytes(8), condition)
        except ConditionRefused:
            return True
        return False

    def _replace_locked(self, doing: str, key: str, data: bytes, version: str) -> str:
        """Replace an object where the server knows no `If-Match`: under a lock, an object that only one can make."""
        lock = f"{self.keys.records}locks/{hashlib.sha256(key.encode()).hexdigest()}"
        until = time.monotonic() + LOCK_TIMEOUT_S
        while self._is_refused(doing, lock, _condition(None)):
            with contextlib.suppress(errors.ArtifactNotFound):
                held_since = self._call(doing, "head_object", lock)["LastModified"].timestamp()
                if self.now() - held_since > LOCK_STALE_S:
                    self.delete([lock])
            if time.monotonic() > until:
                reason = f"somebody else has been writing it for {LOCK_TIMEOUT_S:g} s"
                raise errors.StoreUnavailable(self.place, doing, reason)
            time.sleep(0.05 + 0.1 * random.random())  # noqa: S311 -- jitter
        try:
            if self._call(doing, "head_object", key)["ETag"] != version:
                raise errors.PreconditionFailed(key, self.place)
            return self._put(doing, key, data, {})
        except errors.ArtifactNotFound as error:
            raise errors.PreconditionFailed(key, self.place) from error
        finally:
            self.delete([lock])

    def _try_conditions(self) -> Literal["quoted", "bare", "unknown"]:
        """Try what the server makes of conditions; return how it wants ETags in `If-Match`, if it knows that at all.

        Raises:
            BadStoreAddress: It passes conditions over: two who write at once would not learn of each other.
        """
        key, doing = f"{self.keys.records}trial/{secrets.token_hex(8)}", "trying conditional writes"
        version = self._put(doing, key, b"first", {})
        try:
            is_ignored = not self._is_refused(doing, key, _condition(None))
            try:
                is_ignored = is_ignored or not self._is_refused(doing, key, _condition(f'"{"0" * 32}"'))
            except errors.BadStoreAddress:  # it says that it does not know If-Match
                return "unknown"
            if is_ignored:
                raise errors.BadStoreAddress(
                    self.place,
                    "it overwrites an object although If-None-Match or If-Match forbids it, so that runs that are "
                    "published at once would lose files. Use an endpoint with conditional writes",
                )
            if not self._is_refused(doing, key, _condition(version)):
                return "quoted"
            if not self._is_refused(doing, key, _condition(version, quoted=False)):
                return "bare"
            raise errors.BadStoreAddress(
                self.place,
                f"it refuses If-Match with the very ETag that it gave, {version}, with quotation marks and without",
            )
        finally:
            self._call(doing, "delete_object", key)

    def _chunks(self, body: Any, size: int, skip: int, doing: str) -> Iterator[bytes]:
        """Yield an answer's content but for its first bytes; give up a server that is far too slow."""
        limit_s = self._settings.read_timeout_s + size / self._settings.slowest_bytes_per_s
        deadline, position = time.monotonic() + limit_s, 0
        with contextlib.closing(body), self._errors(doing):
            for piece in body.iter_chunks(CHUNK_BYTES):
                position += len(piece)
                if time.monotonic() > deadline:
                    raise errors.StoreUnavailable(self.place, doing, f"only {position} bytes came in {limit_s:.0f} s")
                if fresh := piece[max(0, skip - (position - len(piece))) :]:
                    yield fresh

    def _errors(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return s3_errors(self.place, doing, self._settings.read_timeout_s)

    def _listed(self, doing: str, method: str, what: str, prefix: str) -> Sequence[Any]:
        """Return what a paginated request finds below a prefix."""
        paginator = self._client.get_paginator(method)
        with self._errors(doing):
            pages = [*paginator.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)]
        self._hear(pages[-1])
        return [item for page in pages for item in page.get(what, [])]

    def _call(self, doing: str, method: str, key: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Make a request of the bucket, with a key below the prefix."""
        if key is not None:
            check_path(key)
            parameters["Key"] = self._prefix + key
        with self._errors(doing):
            answer: dict[str, Any] = getattr(self._client, method)(Bucket=self._bucket, **parameters)
        self._hear(answer)
        return answer

    def _hear(self, answer: dict[str, Any]) -> None:
        with contextlib.suppress(KeyError, ValueError):
            date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            self._clock = date.timestamp(), time.monotonic()


class _Checked:
    """A file as it is uploaded; it raises `SourceChanged` before its last bytes go if they are not the file's."""

    def __init__(self, opened: Any, file: FileEntry) -> None:
        self._opened, self._file = opened, file
        self._digest, self._position = hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._opened.read(size)
        self._digest.update(data)
        self._position += len(data)
        if self._position >= self._file.size or not data or size < 0:
            check_source(self._file, self._position, self._digest.hexdigest())
        return data


def _bucket_and_prefix(address: str) -> tuple[str, str]:
    scheme, _, rest = address.partition(":")
    bucket, _, prefix = rest.removeprefix("//").partition("/")
    if scheme != "s3":
        raise errors.BadStoreAddress(address, f"{scheme}:// is not supported")
    if not _BUCKET.fullmatch(bucket):
        rule = "3 to 63 lower-case letters, digits, dashes"
        raise errors.BadStoreAddress(address, f"{bucket!r} is not a bucket's name ({rule})")
    try:
        if prefix:
            check_path(prefix)
    except errors.NameRefused as error:
        raise errors.BadStoreAddress(address, f"its prefix is refused: {error}") from error
    return bucket, f"{prefix}/" if prefix else ""


def _condition(version: str | None, *, quoted: bool = True) -> dict[str, str]:
    if version is None:
        return {"IfNoneMatch": "*"}
    return {"IfMatch": version if quoted else version.strip('"')}


def _fits(key: str, pattern: str) -> bool:
    parts, wanted = key.split("/"), pattern.split("/")
    if wanted[-1] == "**":
        parts, wanted = parts[: len(wanted) - 1], wanted[:-1]
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _base64(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()
