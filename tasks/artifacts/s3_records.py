"""Records in an S3 bucket, each an object that is replaced only if it still is what was read."""

from __future__ import annotations

import base64
import hashlib
import math
import secrets
import threading
import time
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from tasks.artifacts.address import S3Address, S3Settings
from tasks.artifacts.base import check_path
from tasks.artifacts.errors import (
    ArtifactNotFound,
    BadStoreAddress,
    RecordChanged,
    StoreRefused,
    StoreUnavailable,
    TransferDamaged,
)
from tasks.artifacts.records import MAX_RECORD_BYTES, Record, check_size
from tasks.artifacts.s3_link import ConditionRefused, S3Link, connect

_DIGEST = "jade-sha256"


class S3Records:
    """Records below `<prefix>/records/` of a bucket, written with `If-Match` and `If-None-Match`.

    Args:
        address: Bucket and prefix of an `S3Store`.
        settings: As for that store.
        client: From `connect`; a new one if not given.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        address: S3Address,
        settings: S3Settings,
        *,
        client: Any = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._place = str(address)
        self._prefix = f"{address.prefix}/records/" if address.prefix else "records/"
        self._link = S3Link(address, settings, client or connect(settings), sleep=sleep)
        self._trial = threading.Lock()
        self._wants_quotes: bool | None = None

    def read(self, name: str) -> Record | None:
        """See `Records.read`."""
        check_path(name)
        doing = f"reading the record {name}"

        def request() -> Record:
            answer = self._link.get(self._prefix + name)
            content = answer["Body"].read(MAX_RECORD_BYTES + 1)
            # Our own digest: not every endpoint gives one back, and a cut answer reads like a short one.
            if answer["Metadata"].get(_DIGEST, "") not in {_sha256(content), ""}:
                raise TransferDamaged(self._place, doing, "what came is not what was written")
            now = _date(answer, self._place, doing)
            return Record(content, answer["ETag"], max(0.0, (now - answer["LastModified"]).total_seconds()))

        try:
            found = self._link.retry(doing, request)
        except ArtifactNotFound:
            return None
        check_size(name, found.content)
        return found

    def write(self, name: str, content: bytes, *, replaces: str | None) -> str:
        """See `Records.write`."""
        check_path(name)
        check_size(name, content)
        quotes = self._quotes()
        try:
            return self._put(f"writing the record {name}", name, content, _condition(replaces, quoted=quotes))
        except (ConditionRefused, ArtifactNotFound) as error:
            # The answer to our own first attempt may have been lost.
            found = self.read(name)
            if found is not None and found.content == content:
                return found.version
            if found is not None and found.version == replaces:
                raise StoreUnavailable(
                    self._place, f"writing the record {name}", "it answers 412 although nobody changed the record"
                ) from error
            raise RecordChanged(name, self._place) from error

    def _put(self, doing: str, name: str, content: bytes, condition: dict[str, str]) -> str:
        answer = self._link.call(
            doing,
            "put_object",
            Key=self._prefix + name,
            Body=content,
            Metadata={_DIGEST: _sha256(content)},
            ChecksumSHA256=base64.b64encode(hashlib.sha256(content).digest()).decode(),
            **condition,
        )
        return str(answer["ETag"])

    def _quotes(self) -> bool:
        """Try once what the endpoint makes of conditions; return whether it wants ETags in their quotation marks.

        Raises:
            BadStoreAddress: It passes conditions over: two who write at once would not learn of each other.
        """
        with self._trial:
            if self._wants_quotes is None:
                self._wants_quotes = self._try_conditions()
            return self._wants_quotes

    def _try_conditions(self) -> bool:
        name, doing = f"trial/{secrets.token_hex(8)}", "trying conditional writes"

        def is_refused(condition: dict[str, str]) -> bool:
            try:
                self._put(doing, name, secrets.token_bytes(8), condition)
            except ConditionRefused:
                return True
            return False

        version = self._put(doing, name, b"first", {})
        try:
            if not is_refused(_condition(None)) or not is_refused(_condition('"00000000000000000000000000000000"')):
                raise BadStoreAddress(
                    f"{self._place} ({self._link.endpoint})",
                    "it overwrites an object although If-None-Match or If-Match forbids it, so that runs that are "
                    "published at once would lose files. Use an endpoint with conditional writes",
                )
            for quoted in (True, False):
                if not is_refused(_condition(version, quoted=quoted)):
                    return quoted
            raise BadStoreAddress(
                f"{self._place} ({self._link.endpoint})",
                f"it refuses If-Match with the very ETag that it gave, {version}, with quotation marks and without",
            )
        finally:
            self._link.call(doing, "delete_object", Key=self._prefix + name)

    def remove(self, name: str, *, version: str | None = None) -> None:
        """See `Records.remove`."""
        check_path(name)
        condition = {}
        if version is not None:
            # Looked at first: endpoints that do not know the condition of a deletion, pass it over.
            found = self.read(name)
            if found is None:
                return
            if found.version != version:
                raise RecordChanged(name, self._place)
            condition = _condition(version, quoted=self._quotes())
        try:
            self._link.call(f"removing the record {name}", "delete_object", Key=self._prefix + name, **condition)
        except ConditionRefused as error:
            raise RecordChanged(name, self._place) from error
        except ArtifactNotFound:
            return  # somebody else removed it, or we did and the answer was lost

    def names(self, folder: str, *, older_than_s: float = -math.inf) -> tuple[str, ...]:
        """See `Records.names`."""
        check_path(folder)
        doing = f"listing the records {folder}"
        now = self._link.now(doing)
        return tuple(
            str(item["Key"]).removeprefix(self._prefix)
            for item in self._link.keys(doing, f"{self._prefix}{folder}/")
            if (now - item["LastModified"]).total_seconds() > older_than_s
        )


def _condition(version: str | None, *, quoted: bool = True) -> dict[str, str]:
    if version is None:
        return {"IfNoneMatch": "*"}
    return {"IfMatch": version if quoted else version.strip('"')}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _date(answer: dict[str, Any], place: str, doing: str) -> datetime:
    try:
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError) as error:
        raise StoreRefused(place, doing, f"an answer without a usable date: {error}") from error
