"""Runs in a store: content first, the manifest last and in one step, then the pointer. Written once over both backends.

Whoever reads while somebody publishes sees the run as it was before, or whole.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tasks.artifacts import errors
from tasks.artifacts.backend import Backend, Item, Record, Records, read_small, when_unchanged
from tasks.artifacts.manifest import MAX_MANIFEST_BYTES, Manifest, check_plain, manifest_bytes, parse_manifest
from tasks.core.names import FileEntry, is_plain_name

READ_ATTEMPTS = 5
"""For a file's content; each goes on where the one before was cut off."""


@dataclass(frozen=True)
class Head:
    """The newest manifest of a run as it lies in the store: where, its revision (0: not known), and what it says."""

    key: str
    record: Record
    revision: int
    found: Manifest | errors.ManifestCorrupted

    def manifest(self) -> Manifest:
        """Return the manifest, or raise that it is not what was written."""
        if isinstance(self.found, errors.ManifestCorrupted):
            raise self.found
        return self.found


class ArtifactStore:
    """The published runs of a place, and the names that stand for them. Every call may raise a `StoreError`."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.place, self._keys = backend, backend.place, backend.keys
        self._pointers = Records(backend, self._keys.pointers)

    def put(self, run_id: str, file: FileEntry, source: Path) -> bool:
        """Store a file's content for a run, which it is no part of before the `commit`, as `Backend.put` does."""
        return self.backend.put(self._content_key(run_id, file), file, source)

    def commit(self, manifest: Manifest, replaces: Head | None) -> None:
        """Make a manifest the run's, in one step, instead of what `head` gave. Silent if it is that already.

        Raises:
            PreconditionFailed: Somebody else wrote since.
            ArtifactNotFound: A file that it names was never put.
        """
        run_id = manifest.run_id
        found = {item.key: item.size for item in self.backend.list(self._contents(run_id))}
        for file in manifest.files:
            if found.get(self._content_key(run_id, file)) != file.size:
                what = f"content for {file.path} of the run {run_id}"
                raise errors.ArtifactNotFound(what, self.place, "It was never put.")
        key = self._keys.manifest.format(run=run_id, revision=manifest.revision)
        version = replaces.record.version if replaces and replaces.key == key else None
        try:
            self.backend.put_if(key, manifest_bytes(manifest), version)
        except errors.PreconditionFailed as error:
            told = f"It happened while revision {manifest.revision} was written."
            raise errors.PreconditionFailed(f"the run {run_id}", self.place, told) from error

    def manifest(self, run_id: str) -> Manifest:
        """Return the run's newest manifest, or raise `ArtifactNotFound` or `ManifestCorrupted`."""
        if (head := self.head(run_id)) is None:
            raise errors.ArtifactNotFound(f"run {run_id}", self.place, "`jade artifacts list` shows what is published.")
        return head.manifest()

    def head(self, run_id: str) -> Head | None:
        """Return the run's newest manifest, damaged or not; None where there is none."""
        check_plain(run_id)
        listed = self._manifests(run_id)
        key = listed[-1][1].key if listed else ""
        record = read_small(self.backend, key, MAX_MANIFEST_BYTES) if listed else None
        if record is None:
            return None  # it may have been deleted meanwhile
        told = self._revision(key)
        try:
            found = parse_manifest(record.content, f"{self.place}: {key}", run_id=run_id, revision=told)
        except errors.ManifestCorrupted as error:
            return Head(key, record, told or 0, error)
        return Head(key, record, found.revision, found)

    def read(self, run_id: str, file: FileEntry) -> Iterator[bytes]:
        """Yield a file's content in order. Only when the iteration has ended well were the bytes the right ones.

        A cut is mended on the way by asking for the rest alone; never are more bytes given than the manifest says.

        Raises:
            ArtifactNotFound: The content is not there.
            ArtifactCorrupted: Size or digest differ; after the last byte.
        """
        key, where = self._content_key(run_id, file), f"{self.place}: {file.path} of {run_id}"
        digest, position = hashlib.sha256(), 0
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                found, chunks = self.backend.get(key, position)
                if found.size != file.size:
                    raise errors.ArtifactCorrupted(where, f"{file.size} bytes", f"{found.size} bytes")
                for chunk in chunks:
                    position += len(chunk)
                    if position > file.size:
                        raise errors.ArtifactCorrupted(where, f"{file.size} bytes", "more")
                    digest.update(chunk)
                    yield chunk
                if position == file.size:
                    break
                reason = f"the answer ended after {position} of {file.size} bytes"
                raise errors.StoreUnavailable(self.place, f"reading {file.path} of {run_id}", reason)
            except errors.StoreError as error:
                if not error.is_transient or attempt == READ_ATTEMPTS:
                    raise
            time.sleep(0.1 * attempt)
        if digest.hexdigest() != file.sha256:
            raise errors.ArtifactCorrupted(where, file.sha256, digest.hexdigest())

    def runs(self) -> tuple[str, ...]:
        """Return the names of all runs that have a manifest, sorted."""
        return tuple(sorted({run_id for run_id, _ in self._manifests("*")}))

    def point(self, name: str, run_id: str) -> None:
        """Let a name stand for a run, in one step; the last writer wins.

        Raises:
            ArtifactNotFound: The run is not there. The pointer stays where it was.
        """
        check_plain(run_id)
        check_plain(name)
        before: Record | None = None

        def write() -> str:
            nonlocal before
            before = self._pointers.read(name)
            return self._pointers.write(name, f"{run_id}\n".encode(), replaces=before.version if before else None)

        if self._manifests(run_id):
            written = when_unchanged(write)
            if self._manifests(run_id):
                return
            # A run that was deleted meanwhile (see `delete`) is pointed to by nothing.
            if before is None:
                self._pointers.remove(name, version=written)
            else:
                self._pointers.write(name, before.content, replaces=written)
        raise errors.ArtifactNotFound(f"run {run_id}", self.place, f"{name} stays where it was.")

    def pointers(self) -> dict[str, str]:
        """Return which run each name stands for; one that holds no run's name raises `ArtifactCorrupted`."""
        found = {}
        for name in self._pointers.names():
            if (record := self._pointers.read(name)) is None:
                continue
            found[name] = record.content.decode("utf-8", "replace").strip()
            if not is_plain_name(found[name]):
                raise errors.ArtifactCorrupted(f"the pointer {name} in {self.place}", "a run's name", repr(found[name]))
        return found

    def delete(self, run_id: str) -> None:
        """Remove a run: it first stops being listed, then its content goes. Silent if it is already gone.

        Raises:
            RunProtected: A pointer stands on it.
        """
        check_plain(run_id)
        self._refuse_if_pointed_to(run_id)
        head = self.head(run_id)
        # The oldest revision first: whenever this is cut off, the run is there in its newest form, or not at all.
        for _, item in self._manifests(run_id):
            self.backend.delete([item.key])
        try:
            self._refuse_if_pointed_to(run_id)
        except errors.RunProtected:
            if head is not None:  # somebody let a name stand for it meanwhile
                self.backend.put_if(head.key, head.record.content, None)
            raise
        self.backend.delete([self._contents(run_id).rstrip("*")])

    def sweep(self, *, older_than_s: float, running: Collection[str] = ()) -> int:
        """Remove what dead writers left: unfinished writes, content and manifests that newer ones superseded.

        What is younger, by the store's clock, stays, since its writer may live; so does all of running runs.

        Returns:
            Bytes freed, of what the store tells the size.
        """
        freed = self.backend.sweep(older_than_s=older_than_s, running=running)
        if not self._keys.are_revisions_kept:
            return freed
        # Content is listed before the manifests are: what is committed in between is seen as in use.
        contents = self.backend.list(self._contents("*"))
        before = self.backend.now() - older_than_s
        used, spared, left = set(), set(running), list[Item]()
        for run_id, group in groupby(self._manifests("*"), key=lambda found: found[0]):
            head = self.head(run_id)
            if head is None or isinstance(head.found, errors.ManifestCorrupted):
                spared.add(run_id)  # nobody knows what belongs to it, or somebody deletes it just now
            else:
                used |= {self._content_key(run_id, file) for file in head.found.files}
                left += [item for _, item in list(group)[:-1] if run_id not in running]
        left += [item for item in contents if item.key not in used and item.key.split("/")[-2] not in spared]
        left = [item for item in left if item.modified_s < before]
        self.backend.delete([item.key for item in left])
        return freed + sum(item.size for item in left)

    def _content_key(self, run_id: str, file: FileEntry) -> str:
        return self._keys.content.format(run=check_plain(run_id), path=file.path, sha256=file.sha256)

    def _contents(self, run_id: str) -> str:
        return self._keys.content.format(run=run_id, path="**", sha256="*")

    def _manifests(self, run_id: str) -> list[tuple[str, Item]]:
        """Return runs and their manifests as listed, of each run the oldest first."""
        template = self._keys.manifest.replace("{revision:08d}", "*")
        at = template.split("/").index("{run}")
        found = [(item.key.split("/")[at], item) for item in self.backend.list(template.format(run=run_id))]
        return [(run, item) for run, item in found if is_plain_name(run) and self._revision(item.key) != 0]

    def _revision(self, key: str) -> int | None:
        """Return the revision that a manifest's key names; None if keys name none, 0 if this one is no manifest's."""
        if not self._keys.are_revisions_kept:
            return None
        number = key.rpartition("/")[2].removesuffix(".json")
        return int(number) if number.isdigit() else 0

    def _refuse_if_pointed_to(self, run_id: str) -> None:
        if names := [name for name, target in self.pointers().items() if target == run_id]:
            raise errors.RunProtected(run_id, self.place, ", ".join(names))
