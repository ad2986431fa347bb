"""Runs in an S3 bucket: content under its digest, and a manifest that says which content is which file.

```
<prefix>/blobs/<run>/<SHA-256>             content of the run's files
<prefix>/manifests/<run>/<revision>.json   the newest revision says what the run is
<prefix>/pointers/<name>                   the run that a name stands for
```

Nothing is ever overwritten: content is named by its digest, a manifest by its revision, and both are written only
where nothing is (`If-None-Match: *`); only pointers move. Content lies below its run, not in one pool, so that
deleting one run can never take what another has just begun to use.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tasks.artifacts.address import S3Address, S3Settings
from tasks.artifacts.base import Manifest, StoredFile, check_pointer_name, check_run_id, is_run_id
from tasks.artifacts.errors import (
    ArtifactNotFound,
    ManifestCorrupted,
    PreconditionFailed,
    RunProtected,
    StoreUnavailable,
)
from tasks.artifacts.manifest import MAX_MANIFEST_BYTES, manifest_bytes, parse_manifest, parse_pointer, pointer_bytes
from tasks.artifacts.s3_content import find_content, read_content, upload_content
from tasks.artifacts.s3_link import ConditionRefused, S3Link, connect


class S3Store:
    """An `ArtifactStore` in a bucket.

    Args:
        address: Bucket and prefix.
        settings: Endpoint, time limits and attempts.
        client: From `connect` with the same settings; a new one if not given.
        sleep: Waits between attempts.

    Raises:
        AccessDenied, BadStoreAddress: Profile, region or endpoint are not usable. The bucket is not asked yet.
    """

    def __init__(
        self,
        address: S3Address,
        settings: S3Settings,
        *,
        client: Any = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address = address
        self.keeps_versions = False
        """Whether a deletion left an older version behind, as the endpoint said."""
        self._link = S3Link(address, settings, client or connect(settings), sleep=sleep)

    @property
    def place(self) -> str:
        """`s3://bucket/prefix`."""
        return str(self.address)

    def put(self, run_id: str, file: StoredFile, source: Path) -> bool:
        """See `RunFiles.put`."""
        key = self._blob_key(run_id, file)
        doing = f"storing {file.path} of {run_id}"
        found = find_content(self._link, key, file, doing)
        if found == "there":
            return False
        try:
            upload_content(self._link, key, file, source, doing, replace=found == "damaged")
        except ConditionRefused as error:
            # Another writer was quicker, or the answer to our own first attempt was lost.
            if find_content(self._link, key, file, doing) != "there":
                raise StoreUnavailable(self.place, doing, "other content appeared there meanwhile") from error
            return False
        return True

    def commit(self, manifest: Manifest) -> None:
        """See `RunFiles.commit`."""
        run_id = manifest.run_id
        doing = f"publishing {run_id}"
        newest = self._newest_revision(run_id)
        if manifest.revision != newest + 1:
            self._accept_only(manifest, newest)
            return
        self._require_content(manifest, doing)
        try:
            self._link.call(
                doing,
                "put_object",
                Key=self._manifest_key(run_id, manifest.revision),
                Body=manifest_bytes(manifest),
                ContentType="application/json",
                IfNoneMatch="*",
            )
        except ConditionRefused:
            self._accept_only(manifest, self._newest_revision(run_id))

    def manifest(self, run_id: str) -> Manifest:
        """See `RunFiles.manifest`."""
        revision = self._newest_revision(run_id)
        if not revision:
            raise ArtifactNotFound(f"run {run_id}", self.place, "`jade artifacts list` shows what is published.")
        key = self._manifest_key(run_id, revision)
        data = self._small_object(key, f"reading the manifest of {run_id}", MAX_MANIFEST_BYTES)
        if len(data) > MAX_MANIFEST_BYTES:
            raise ManifestCorrupted(key, f"it is larger than {MAX_MANIFEST_BYTES} bytes", revision)
        return parse_manifest(data, f"s3://{self.address.bucket}/{key}", run_id=run_id, revision=revision)

    def read(self, run_id: str, file: StoredFile) -> Iterator[bytes]:
        """See `RunFiles.read`."""
        return read_content(self._link, self._blob_key(run_id, file), file, f"reading {file.path} of {run_id}")

    def runs(self) -> tuple[str, ...]:
        """See `RunFiles.runs`."""
        return tuple(sorted(self._revisions("listing runs", self._key("manifests/"))))

    def point(self, name: str, run_id: str) -> None:
        """See `Pointers.point`."""
        check_pointer_name(name)
        if not self._newest_revision(run_id):
            raise ArtifactNotFound(f"run {run_id}", self.place, f"{name} stays where it was.")
        self._link.call(f"pointing {name}", "put_object", Key=self._key(f"pointers/{name}"), Body=pointer_bytes(run_id))

    def pointers(self) -> dict[str, str]:
        """See `Pointers.pointers`."""
        doing, prefix = "reading the pointers", self._key("pointers/")
        found = {}
        for item in self._link.keys(doing, prefix):
            name = item["Key"].removeprefix(prefix)
            found[name] = parse_pointer(self._small_object(item["Key"], doing, 256), name)
        return found

    def delete(self, run_id: str) -> None:
        """See `Upkeep.delete`."""
        check_run_id(run_id)
        doing = f"deleting {run_id}"
        names = tuple(name for name, target in self.pointers().items() if target == run_id)
        if names:
            raise RunProtected(run_id, self.place, names)
        # The oldest revision first: whenever this is cut off, the run is there in its newest form, or not at all.
        for item in list(self._link.keys(doing, self._key(f"manifests/{run_id}/"))):
            self._delete_keys(doing, [item["Key"]])
        self._delete_keys(doing, [item["Key"] for item in self._link.keys(doing, self._key(f"blobs/{run_id}/"))])

    def sweep(self, *, older_than_s: float, running: Collection[str] = ()) -> int:
        """See `Upkeep.sweep`."""
        doing = "sweeping"
        prefix = self._key("blobs/")
        # Content is listed before the manifests are: what is committed in between is seen as in use.
        blobs = [
            (item, *item["Key"].removeprefix(prefix).partition("/")[::2]) for item in self._link.keys(doing, prefix)
        ]
        before = self._link.now(doing) - timedelta(seconds=older_than_s)
        in_use, superseded = self._in_use(doing, before)
        old = [
            item
            for item, run_id, digest in blobs
            if item["LastModified"] < before and digest not in in_use.get(run_id, set()) and run_id not in running
        ]
        left = old + [item for run_id, items in superseded.items() if run_id not in running for item in items]
        self._delete_keys(doing, [item["Key"] for item in left])
        self._abort_uploads(doing, prefix, before, running)
        return sum(item["Size"] for item in left)

    def _in_use(self, doing: str, before: datetime) -> tuple[dict[str, Collection[str]], dict[str, list[Any]]]:
        """Return the digests that each run's newest manifest names, and the older manifests that are old enough."""
        in_use: dict[str, Collection[str]] = {}
        superseded = {}
        for run_id, items in self._revisions(doing, self._key("manifests/")).items():
            try:
                in_use[run_id] = {file.sha256 for file in self.manifest(run_id).files}
                superseded[run_id] = [item for item in items[:-1] if item["LastModified"] < before]
            except ManifestCorrupted:
                in_use[run_id] = _Everything()  # nobody knows what belongs to it
        return in_use, superseded

    def _abort_uploads(self, doing: str, prefix: str, before: datetime, running: Collection[str]) -> None:
        more: dict[str, Any] = {}
        while True:
            page = self._link.call(doing, "list_multipart_uploads", Prefix=prefix, **more)
            for upload in page.get("Uploads", []):
                run_id = upload["Key"].removeprefix(prefix).partition("/")[0]
                if upload["Initiated"] < before and run_id not in running:
                    self._link.abort(upload["Key"], upload["UploadId"], doing)
            if not page.get("IsTruncated"):
                return
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _accept_only(self, manifest: Manifest, newest: int) -> None:
        """Accept that exactly this manifest is the newest already; refuse any other."""
        if newest != manifest.revision or self.manifest(manifest.run_id) != manifest:
            raise PreconditionFailed(manifest.run_id, self.place, manifest.revision - 1, newest)

    def _require_content(self, manifest: Manifest, doing: str) -> None:
        prefix = self._key(f"blobs/{manifest.run_id}/")
        sizes = {item["Key"].removeprefix(prefix): item["Size"] for item in self._link.keys(doing, prefix)}
        for file in manifest.files:
            if sizes.get(file.sha256) != file.size:
                what = f"content for {file.path} of the run {manifest.run_id}"
                raise ArtifactNotFound(what, self.place, "It was never put.")

    def _newest_revision(self, run_id: str) -> int:
        check_run_id(run_id)
        prefix = self._key(f"manifests/{run_id}/")
        revisions = self._revisions(f"looking up {run_id}", prefix).get(run_id)
        return _revision(revisions[-1]["Key"]) if revisions else 0

    def _revisions(self, doing: str, prefix: str) -> dict[str, list[dict[str, Any]]]:
        """Return each run's manifests as listed, oldest first."""
        found: dict[str, list[dict[str, Any]]] = {}
        for item in self._link.keys(doing, prefix):
            run_id, name = item["Key"].rsplit("/", 2)[-2:]
            if is_run_id(run_id) and name.removesuffix(".json").isdigit():
                found.setdefault(run_id, []).append(item)
        return found

    def _small_object(self, key: str, doing: str, limit_bytes: int) -> bytes:
        """Return an object's content, at most one byte more than the limit."""

        def request() -> bytes:
            answer = self._link.get(key)
            content: bytes = answer["Body"].read(limit_bytes + 1)
            # A cut answer reads like a short one.
            if len(content) < min(answer["ContentLength"], limit_bytes + 1):
                raise StoreUnavailable(self.place, doing, "the answer was cut off")
            return content

        return self._link.retry(doing, request)

    def _delete_keys(self, doing: str, keys: Iterable[str]) -> None:
        def delete(key: str) -> None:
            with contextlib.suppress(ArtifactNotFound):
                answer = self._link.call(doing, "delete_object", Key=key)
                if answer.get("DeleteMarker") or answer.get("VersionId"):
                    self.keeps_versions = True

        # One by one: of many at once (DeleteObjects), endpoints want different checksums.
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(delete, keys))

    def _key(self, rest: str) -> str:
        return f"{self.address.prefix}/{rest}" if self.address.prefix else rest

    def _blob_key(self, run_id: str, file: StoredFile) -> str:
        check_run_id(run_id)
        return self._key(f"blobs/{run_id}/{file.sha256}")

    def _manifest_key(self, run_id: str, revision: int) -> str:
        return self._key(f"manifests/{run_id}/{revision:08d}.json")


class _Everything(Collection[str]):
    """Has whatever is asked for."""

    def __contains__(self, item: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _revision(key: str) -> int:
    return int(key.rpartition("/")[2].removesuffix(".json"))
