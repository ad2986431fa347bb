"""Content to and from a bucket: every byte checked on both sides, cuts mended, broken uploads aborted."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from botocore import exceptions as aws

from tasks.artifacts.address import MOST_PARTS
from tasks.artifacts.base import CHUNK_BYTES, StoredFile
from tasks.artifacts.errors import (
    ArtifactCorrupted,
    ArtifactNotFound,
    SourceChanged,
    StoreError,
    StoreUnavailable,
    TransferDamaged,
    UploadLost,
)
from tasks.artifacts.files import disk_errors
from tasks.artifacts.s3_link import S3Link

Found = Literal["absent", "there", "damaged"]


def find_content(link: S3Link, key: str, file: StoredFile, doing: str) -> Found:
    """Return whether the content is stored, as far as can be told without reading it."""
    try:
        found = link.call(doing, "head_object", Key=key, ChecksumMode="ENABLED")
    except ArtifactNotFound:
        return "absent"
    checksum = found.get("ChecksumSHA256")
    # The checksum of what was sent in parts is one over the parts' checksums: it cannot be compared.
    in_parts = "-" in str(found.get("ETag", "")) or "-" in str(checksum)
    is_same = found["ContentLength"] == file.size and (checksum is None or in_parts or checksum == _base64(file.sha256))
    return "there" if is_same else "damaged"


def upload_content(link: S3Link, key: str, file: StoredFile, source: Path, doing: str, *, replace: bool) -> None:
    """Store a file's content; it is visible in full or not at all.

    Args:
        link: The bucket.
        key: Where; made of the content's digest.
        file: What the content must be.
        source: Where it is read.
        doing: For messages.
        replace: Whether what is there, which is provably not what its key says, gives way. Else there must be nothing.

    Raises:
        ConditionRefused: Something is there.
        SourceChanged: `source` is not what `file` says.
    """
    condition = {} if replace else {"IfNoneMatch": "*"}
    if file.size <= link.settings.part_bytes:
        _upload_whole(link, key, file, source, doing, condition)
    else:
        _upload_in_parts(link, key, file, source, doing, condition)


def read_content(link: S3Link, key: str, file: StoredFile, doing: str) -> Iterator[bytes]:
    """Yield the content; after a cut, ask for the rest alone.

    Raises:
        ArtifactCorrupted: Size or digest are not the file's; after the last byte.
    """
    digest, offset, attempt, started = hashlib.sha256(), 0, 1, time.monotonic()
    while True:
        try:
            for chunk in _stream(link, key, file, offset, doing):
                digest.update(chunk)
                offset += len(chunk)
                yield chunk
            break
        except (aws.BotoCoreError, aws.ClientError, StoreError) as error:
            found = error if isinstance(error, StoreError) else link.translate(error, doing)
            if not found.is_transient or attempt >= link.settings.attempts:
                if isinstance(found, StoreUnavailable):
                    found = found.after(attempt, time.monotonic() - started)
                raise found from error
        link.pause(attempt)
        attempt += 1
    if digest.hexdigest() != file.sha256:
        raise ArtifactCorrupted(f"{link.address}: {file.path}", file.sha256, digest.hexdigest())


def _stream(link: S3Link, key: str, file: StoredFile, offset: int, doing: str) -> Iterator[bytes]:
    settings = link.settings
    limit_s = settings.read_timeout_s + (file.size - offset) / settings.slowest_bytes_per_s
    deadline = time.monotonic() + limit_s
    answer = link.get(key, Range=f"bytes={offset}-") if offset else link.get(key)
    with contextlib.closing(answer["Body"]) as body:
        # A server may answer with everything when asked for the rest.
        first = offset if answer["ResponseMetadata"]["HTTPStatusCode"] == 206 else 0
        position = first
        if first + answer.get("ContentLength", file.size - first) != file.size:
            found = f"{first + answer['ContentLength']} bytes"
            raise ArtifactCorrupted(f"{link.address}: {file.path}", f"{file.size} bytes", found)
        for chunk in body.iter_chunks(CHUNK_BYTES):
            position += len(chunk)
            if position > file.size:
                raise ArtifactCorrupted(f"{link.address}: {file.path}", f"{file.size} bytes", "more")
            if time.monotonic() > deadline:
                reason = f"only {position - first} bytes came in {limit_s:.0f} s"
                raise StoreUnavailable(str(link.address), doing, reason)
            if fresh := chunk[max(0, offset - (position - len(chunk))) :]:
                yield fresh
    if position < file.size:
        raise StoreUnavailable(str(link.address), doing, f"the answer ended after {position} of {file.size} bytes")


def _upload_whole(
    link: S3Link, key: str, file: StoredFile, source: Path, doing: str, condition: dict[str, str]
) -> None:
    with disk_errors(str(source.parent), doing), source.open("rb") as opened:
        data = opened.read(file.size + 1)
    found = hashlib.sha256(data).hexdigest()
    if len(data) != file.size or found != file.sha256:
        raise SourceChanged(file.path, file.sha256, found)

    def request() -> None:
        answer = link.put(key, Body=data, ChecksumSHA256=_base64(file.sha256), **condition)
        _compare_checksum(link, key, answer, _base64(file.sha256), doing)

    link.retry(doing, request)


def _upload_in_parts(
    link: S3Link, key: str, file: StoredFile, source: Path, doing: str, condition: dict[str, str]
) -> None:
    started = link.call(doing, "create_multipart_upload", Key=key, ChecksumAlgorithm="SHA256")
    upload = {"Key": key, "UploadId": started["UploadId"]}
    try:
        parts, checksum = _send_parts(link, upload, file, source, doing)
        answer = link.call(doing, "complete_multipart_upload", **upload, MultipartUpload={"Parts": parts}, **condition)
        _compare_checksum(link, key, answer, checksum, doing)
    except UploadLost:
        # Where the answer to the completion was lost, asking again finds no upload: it is completed.
        if find_content(link, key, file, doing) != "there":
            raise
    except BaseException:
        link.abort_if_possible(key, started["UploadId"])
        raise


def _send_parts(
    link: S3Link, upload: dict[str, str], file: StoredFile, source: Path, doing: str
) -> tuple[list[dict[str, Any]], str]:
    """Send all parts; return what the completion needs, and the checksum that the whole must have."""
    part_bytes = max(link.settings.part_bytes, -(-file.size // MOST_PARTS))
    whole, digests, size = hashlib.sha256(), hashlib.sha256(), 0
    parts: list[dict[str, Any]] = []
    with disk_errors(str(source.parent), doing), source.open("rb") as opened:
        while data := opened.read(part_bytes):
            size += len(data)
            if size > file.size:
                break
            whole.update(data)
            digest = hashlib.sha256(data)
            digests.update(digest.digest())
            part = {"PartNumber": len(parts) + 1, "ChecksumSHA256": _base64(digest.hexdigest())}
            answer = link.call(f"{doing}, part {part['PartNumber']}", "upload_part", **upload, **part, Body=data)
            parts.append({**part, "ETag": answer["ETag"]})
    if whole.hexdigest() != file.sha256:
        raise SourceChanged(file.path, file.sha256, f"{size} bytes, {whole.hexdigest()}")
    return parts, _base64(digests.hexdigest())


def _compare_checksum(link: S3Link, key: str, answer: dict[str, Any], expected: str, doing: str) -> None:
    """Compare the checksum that the store says it computed; remove what it does not fit."""
    found = str(answer.get("ChecksumSHA256") or expected).partition("-")[0]
    if found != expected:
        link.call(doing, "delete_object", Key=key)
        raise TransferDamaged(str(link.address), doing, f"checksum {found} instead of {expected}")


def _base64(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()
