"""What a store is built on: objects under keys, in a folder or in a bucket; and the small documents among them.

`Backend` is the seam. `LocalBackend` and `S3Backend` implement it; records, manifests, pointers and retention are
written once above it. All of it is safe to use from several threads and processes at once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from tasks.artifacts.errors import ArtifactCorrupted, ArtifactNotFound, PreconditionFailed, StoreUnavailable
from tasks.artifacts.manifest import check_path, size_and_sha256
from tasks.core.names import FileEntry
from tasks.core.retry import retry_transient

T = TypeVar("T")
MAX_RECORD_BYTES = 64 * 2**10
MOST_ATTEMPTS = 50


@dataclass(frozen=True)
class Keys:
    """Where things lie in a store. A `*` stands for one part of a key, `**` at the end for all below.

    Attributes:
        manifest: Of a run; with `{revision}` where each revision stays under a key of its own.
        content: Of a file, by its path in the run or by its digest.
        pointers: What the keys of pointers begin with; `records` likewise.
    """

    manifest: str
    content: str
    pointers: str
    records: str

    @property
    def are_revisions_kept(self) -> bool:
        """Whether manifest and content are never overwritten, so that a sweep must take what is superseded."""
        return "{revision" in self.manifest


FOLDER_KEYS = Keys("{run}/manifest.json", "{run}/{path}", ".store/pointers/", ".store/records/")
"""A readable tree: each run's files under their own names."""

BUCKET_KEYS = Keys("manifests/{run}/{revision:08d}.json", "blobs/{run}/{sha256}", "pointers/", "records/")
"""Content lies below its run, not in one pool: deleting one run can never take what another has just begun to use."""


@dataclass(frozen=True)
class Item:
    """An object as it is listed or read.

    Attributes:
        key: Its key.
        size: Bytes of the whole object.
        modified_s: When it was written, by the store's clock (`Backend.now`).
        version: What `put_if` takes, and means nothing else; empty where it is only listed, as is the next.
        sha256: What the writer says of the content; empty if that is not known.
    """

    key: str
    size: int
    modified_s: float
    version: str = ""
    sha256: str = ""


class Backend(Protocol):
    """Objects under keys. Every call may raise a `StoreError`, as the store says, and `NameRefused` for a key."""

    place: str
    """How messages call it: its folder, or `s3://bucket/prefix` with its endpoint."""
    keys: Keys
    keeps_versions: bool
    """Whether a deletion is known to have left an older version behind, so that no space became free."""

    def get(self, key: str, offset: int = 0) -> tuple[Item, Iterator[bytes]]:
        """Return an object and its content from the offset on, or raise `ArtifactNotFound`.

        A cut of the content raises `StoreUnavailable`, or reads like an end.
        """
        ...

    def put(self, key: str, file: FileEntry, source: Path) -> bool:
        """Store a file's content, visible in full or not at all; return False if it was there already.

        Raises:
            SourceChanged: `source` is not what `file` says.
        """
        ...

    def put_if(self, key: str, data: bytes, version: str | None) -> str:
        """Write a small object if it still is as it was read, None: not there; return its new version.

        Raises:
            PreconditionFailed: Somebody else wrote, or removed, it since.
            BadStoreAddress: The store cannot tell.
            StoreUnavailable: Whether it was written is unknown: read it.
        """
        ...

    def list(self, pattern: str) -> list[Item]:
        """Return the objects whose keys fit, sorted by key. See `Keys` for `*` and `**`."""
        ...

    def delete(self, keys: Collection[str], *, version: str | None = None) -> None:
        """Remove objects, and all below a key that ends in `/`. Silent about those that are gone.

        Raises:
            PreconditionFailed: Only the given version of a single one was to go, and somebody wrote it since.
        """
        ...

    def now(self) -> float:
        """Return the time in seconds by the store's clock, which all who ask share; theirs may differ."""
        ...

    def sweep(self, *, older_than_s: float, running: Collection[str]) -> int:
        """Remove old unfinished writes, but those of running runs; return how many bytes went, as far as is told."""
        ...


@dataclass(frozen=True)
class Record:
    """A small document as it was read; version and time as in `Item`."""

    content: bytes
    version: str
    modified_s: float


def read_small(backend: Backend, key: str, max_bytes: int) -> Record | None:
    """Return a small object whole, at most one byte more than the limit; None where there is none.

    Raises:
        StoreUnavailable: What came is not what was written, again and again.
    """

    def read() -> Record:
        found, chunks = backend.get(key)
        content = b""
        for chunk in chunks:
            content += chunk
            if len(content) > max_bytes:
                return Record(content[: max_bytes + 1], found.version, found.modified_s)
        # Not every store gives a digest back, and a cut answer may read like a short one.
        if len(content) != found.size or found.sha256 not in {"", size_and_sha256([content])[1]}:
            raise StoreUnavailable(backend.place, f"reading {key}", "what came is not what was written")
        return Record(content, found.version, found.modified_s)

    try:
        return retry_transient(read, attempts=4, pause_s=0.2)
    except ArtifactNotFound:
        return None


def when_unchanged(write: Callable[[], T]) -> T:
    """Call what reads, decides and writes, again where somebody else wrote in between: whoever was quicker got on.

    Raises:
        PreconditionFailed: Again and again.
    """
    for _ in range(MOST_ATTEMPTS - 1):
        with contextlib.suppress(PreconditionFailed):
            return write()
    return write()


class Records:
    """Small documents that several writers agree over: who trains what, where a training lies, what a name stands for.

    Args:
        backend: Of the place.
        prefix: What their keys begin with; None for `Keys.records`.
    """

    def __init__(self, backend: Backend, prefix: str | None = None) -> None:
        self._backend, self._prefix = backend, prefix or backend.keys.records

    def read(self, name: str) -> Record | None:
        """Return a record, or None where there is none.

        Raises:
            NameRefused: The name is no relative path.
            ArtifactCorrupted: It is larger than any that is written.
        """
        found = read_small(self._backend, self._key(name), MAX_RECORD_BYTES)
        if found is not None and len(found.content) > MAX_RECORD_BYTES:
            raise ArtifactCorrupted(f"{name} in {self._backend.place}", f"at most {MAX_RECORD_BYTES} bytes", "more")
        return found

    def age_s(self, record: Record) -> float:
        """Return how long ago it was written, by the clock of the store."""
        return max(0.0, self._backend.now() - record.modified_s)

    def write(self, name: str, content: bytes, *, replaces: str | None) -> str:
        """Write a record of at most MAX_RECORD_BYTES as `Backend.put_if` does; return its new version."""
        if len(content) > MAX_RECORD_BYTES:
            raise ValueError(f"the record {name} is larger than {MAX_RECORD_BYTES} bytes")
        return self._backend.put_if(self._key(name), content, replaces)

    def remove(self, name: str, *, version: str | None = None) -> None:
        """Remove a record as `Backend.delete` does."""
        self._backend.delete([self._key(name)], version=version)

    def names(self, folder: str = "", *, older_than_s: float = -math.inf) -> tuple[str, ...]:
        """Return the records of a folder, those that were written longer ago than that by the store's clock."""
        found = self._backend.list(self._key(f"{folder}/*" if folder else "*"))
        # Who only reads a folder must not touch anything in it, as asking for the time does.
        now = self._backend.now() if found and older_than_s > -math.inf else 0.0
        return tuple(item.key.removeprefix(self._prefix) for item in found if now - item.modified_s > older_than_s)

    def _key(self, name: str) -> str:
        check_path(name)
        return self._prefix + name
