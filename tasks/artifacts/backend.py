"""What a store is built on: objects under keys, in a folder or in a bucket.

`Backend` is the seam. `LocalBackend` and `S3Backend` implement it; manifests, pointers, records and retention are
written once above it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from tasks.artifacts.errors import StoreError, TransferDamaged
from tasks.artifacts.manifest import size_and_sha256
from tasks.core.files import FileEntry

T = TypeVar("T")


@dataclass(frozen=True)
class Keys:
    """Where things lie in a store. A `*` stands for one part of a key, `**` at the end for all below.

    Attributes:
        manifest: Of a run; with `{revision}` where each revision stays under a key of its own.
        content: Of a file, by its path in the run or by its digest.
        pointers: What the keys of pointers begin with.
        records: What the keys of records begin with.
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
    """An object as it is listed.

    Attributes:
        key: Its key.
        size: Bytes.
        modified_s: When it was written, in seconds by the store's clock (`Backend.now`).
    """

    key: str
    size: int
    modified_s: float


@dataclass(frozen=True)
class Answer:
    """An object as it is read.

    Attributes:
        version: What `put_if` takes; means nothing else.
        size: Bytes of the whole object.
        modified_s: As in `Item`.
        chunks: Its content from where it was asked for. A cut raises `StoreUnavailable`, or reads like an end.
        sha256: What the writer says of the content; empty if that is not known.
    """

    version: str
    size: int
    modified_s: float
    chunks: Iterator[bytes]
    sha256: str = ""


class Backend(Protocol):
    """Objects under keys. Safe to use from several threads and processes at once."""

    place: str
    """How messages call it: its folder, or `s3://bucket/prefix` with its endpoint."""
    keys: Keys
    keeps_versions: bool
    """Whether a deletion is known to have left an older version behind, so that no space became free."""

    def get(self, key: str, offset: int = 0) -> Answer:
        """Return an object.

        Raises:
            ArtifactNotFound: There is none.
            NameRefused: The key leads out of the store.
            StoreError: As the store says, here or while the content is read.
        """
        ...

    def put(self, key: str, file: FileEntry, source: Path) -> bool:
        """Store a file's content, visible in full or not at all.

        Returns:
            False if it was there already.

        Raises:
            SourceChanged: `source` is not what `file` says.
            StoreFull, AccessDenied, NoSuchBucket: As they say.
            StoreUnavailable, TransferDamaged: Transient; nothing half-written is visible.
        """
        ...

    def put_if(self, key: str, data: bytes, version: str | None) -> str:
        """Write a small object if it still is as it was read; return its new version.

        Args:
            key: Its key.
            data: All of it.
            version: That was read; None where there must be none yet.

        Raises:
            PreconditionFailed: Somebody else wrote, or removed, it since.
            BadStoreAddress: The store cannot tell.
            StoreError: As the store says. Whether it was written is then unknown: read it.
        """
        ...

    def list(self, pattern: str) -> list[Item]:
        """Return the objects whose keys fit, sorted by key. See `Keys` for `*` and `**`."""
        ...

    def delete(self, keys: Collection[str], *, version: str | None = None) -> None:
        """Remove objects, and all below a key that ends in `/`. Silent about those that are gone.

        Args:
            keys: Which.
            version: Of a single one, only if it still is this one.

        Raises:
            PreconditionFailed: Somebody wrote it since.
        """
        ...

    def now(self) -> float:
        """Return the time in seconds by the store's clock, which all who ask share; theirs may differ."""
        ...

    def sweep(self, *, older_than_s: float, running: Collection[str]) -> int:
        """Remove unfinished writes of dead writers; return how many bytes went, as far as the store tells.

        Args:
            older_than_s: What is younger stays, since its writer may live.
            running: Runs that are not touched whatever their age.
        """
        ...


def read_small(backend: Backend, key: str, max_bytes: int, *, attempts: int = 4) -> tuple[bytes, Answer]:
    """Return a small object whole, at most one byte more than the limit, and how it was read.

    Raises:
        ArtifactNotFound: There is none.
        TransferDamaged: What came is not what was written, again and again.
    """

    def read() -> tuple[bytes, Answer]:
        answer, content = backend.get(key), b""
        for chunk in answer.chunks:
            content += chunk
            if len(content) > max_bytes:
                return content[: max_bytes + 1], answer
        # Not every store gives a digest back, and a cut answer may read like a short one.
        if len(content) != answer.size or answer.sha256 not in {"", size_and_sha256([content])[1]}:
            raise TransferDamaged(backend.place, f"reading {key}", "what came is not what was written")
        return content, answer

    return retried(read, attempts=attempts)


def retried(action: Callable[[], T], *, attempts: int, pause_s: float = 0.2) -> T:
    """Call `action` until it succeeds, fails for good, or was tried often enough."""
    for attempt in range(1, attempts):
        try:
            return action()
        except StoreError as error:
            if not error.is_transient:
                raise
        time.sleep(pause_s * attempt)
    return action()
