"""Runs on a disk: each a readable tree with its `manifest.json`.

```
<root>/<run>/...                       the files of a run under their own names
<root>/<run>/manifest.json             path, size and SHA-256 of each; moved last
<root>/.store/pointers/<name>          the run that a name stands for
<root>/.store/staged/<run>/<digest>    content that was put and not yet committed
<root>/.store/staged/<run>/next.json   a commit under way; if it was cut off, whoever comes next ends it
<root>/.store/locks/<run>              held for the time of a commit; the system lets go of it if its owner dies
<root>/.store/trash/                   runs on their way out
```
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.artifacts.base import (
    MANIFEST_NAME,
    Manifest,
    StoredFile,
    check_pointer_name,
    check_run_id,
    is_run_id,
)
from tasks.artifacts.errors import (
    ArtifactCorrupted,
    ArtifactNotFound,
    ManifestCorrupted,
    NameRefused,
    PreconditionFailed,
    RunProtected,
    SourceChanged,
)
from tasks.artifacts.files import (
    disk_errors,
    durable_path,
    file_chunks,
    locked,
    move,
    size_and_sha256,
    sync,
    write_durably,
)
from tasks.artifacts.manifest import MAX_MANIFEST_BYTES, manifest_bytes, parse_manifest, parse_pointer, pointer_bytes

FETCHING_SUFFIX = ".fetching"


class LocalStore:
    """An `ArtifactStore` in a folder.

    A run that lies in the folder already is published in place: nothing is copied.

    Args:
        root: The folder; made when something is stored.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.keeps_versions = False
        self._own = self.root / ".store"

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    def put(self, run_id: str, file: StoredFile, source: Path) -> bool:
        """See `RunFiles.put`."""
        target = self._target(run_id, file.path)
        with disk_errors(self.place, f"storing {file.path}"):
            if _holds(target, file):
                return False
            staged = self._staged(run_id, file)
            if _holds(staged, file):
                os.utime(staged)  # a sweep shall take it for young
                return False
            with durable_path(staged) as temporary:
                with temporary.open("xb") as copy:
                    copy.writelines(file_chunks(source))
                size, digest = size_and_sha256(file_chunks(temporary))
                if (size, digest) != (file.size, file.sha256):
                    raise SourceChanged(file.path, file.sha256, digest)
        return True

    def commit(self, manifest: Manifest) -> None:
        """See `RunFiles.commit`."""
        run_id = manifest.run_id
        with disk_errors(self.place, f"publishing {run_id}"), self._lock(run_id):
            self._finish_commit(run_id)
            current = self._current(run_id)
            if current == manifest:
                return
            found = current.revision if current else 0
            # After a damaged manifest, its number is unknown: whoever publishes the run anew may go on with any.
            if manifest.revision != found + 1 and not (current is None and self._manifest_path(run_id).exists()):
                raise PreconditionFailed(run_id, self.place, manifest.revision - 1, found)
            for file in manifest.files:
                self._require_content(run_id, file)
            write_durably(self._next_path(run_id), manifest_bytes(manifest))
            self._finish_commit(run_id)

    def manifest(self, run_id: str) -> Manifest:
        """See `RunFiles.manifest`."""
        check_run_id(run_id)
        with disk_errors(self.place, f"reading the manifest of {run_id}"):
            if self._next_path(run_id).exists():
                with self._lock(run_id):
                    self._finish_commit(run_id)
            path = self._manifest_path(run_id)
            data = _small_file(path, run_id, self.place)
        return parse_manifest(data, str(path), run_id=run_id)

    def read(self, run_id: str, file: StoredFile) -> Iterator[bytes]:
        """See `RunFiles.read`."""
        target = self._target(run_id, file.path)
        size, digest = 0, hashlib.sha256()
        with disk_errors(self.place, f"reading {file.path}"):
            try:
                for chunk in file_chunks(target):
                    size += len(chunk)
                    if size > file.size:
                        break
                    digest.update(chunk)
                    yield chunk
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise ArtifactNotFound(f"file {file.path} of the run {run_id}", self.place) from error
        if size != file.size:
            raise ArtifactCorrupted(str(target), f"{file.size} bytes", f"{'more' if size > file.size else size} bytes")
        if digest.hexdigest() != file.sha256:
            raise ArtifactCorrupted(str(target), file.sha256, digest.hexdigest())

    def runs(self) -> tuple[str, ...]:
        """See `RunFiles.runs`."""
        with disk_errors(self.place, "listing runs"):
            found = {path.parent.name for path in self.root.glob(f"*/{MANIFEST_NAME}")}
            found |= {path.parent.name for path in (self._own / "staged").glob("*/next.json")}
        return tuple(sorted(name for name in found if is_run_id(name)))

    def point(self, name: str, run_id: str) -> None:
        """See `Pointers.point`."""
        check_pointer_name(name)
        with disk_errors(self.place, f"pointing {name}"), self._lock(run_id):
            self._finish_commit(run_id)
            if not self._manifest_path(run_id).exists():
                raise ArtifactNotFound(f"run {run_id}", self.place, f"{name} stays where it was.")
            write_durably(self._own / "pointers" / name, pointer_bytes(run_id))

    def pointers(self) -> dict[str, str]:
        """See `Pointers.pointers`."""
        found = {}
        with disk_errors(self.place, "reading the pointers"):
            for path in sorted((self._own / "pointers").glob("[!.]*")):
                found[path.name] = parse_pointer(path.read_bytes(), path.name)
        return found

    def delete(self, run_id: str) -> None:
        """See `Upkeep.delete`."""
        with disk_errors(self.place, f"deleting {run_id}"), self._lock(run_id):
            names = tuple(name for name, target in self.pointers().items() if target == run_id)
            if names:
                raise RunProtected(run_id, self.place, names)
            self._trash(self._own / "staged" / run_id)
            self._trash(self.root / run_id)

    def sweep(self, *, older_than_s: float, running: Collection[str] = ()) -> int:
        """See `Upkeep.sweep`."""
        freed = 0
        with disk_errors(self.place, "sweeping"):
            spared = set(running) | self._finish_commits()
            left = [
                *(self._own / "trash").glob("*"),
                *(path for path in (self._own / "staged").glob("*/*") if path.parent.name not in spared),
                *(self._own / "pointers").glob(".*"),
                *self.root.glob(f".*{FETCHING_SUFFIX}"),
            ]
            for path in left:
                if _is_older(path, older_than_s):
                    freed += _size(path)
                    self._trash(path)
        return freed

    def _manifest_path(self, run_id: str) -> Path:
        return self.root / run_id / MANIFEST_NAME

    def _next_path(self, run_id: str) -> Path:
        return self._own / "staged" / run_id / "next.json"

    def _staged(self, run_id: str, file: StoredFile) -> Path:
        # By path and digest: two files of equal content must not become one on disk, for one may be written to later.
        name = hashlib.sha256(f"{file.path}\0{file.sha256}".encode()).hexdigest()
        return self._own / "staged" / run_id / name

    def _target(self, run_id: str, path: str) -> Path:
        check_run_id(run_id)
        target = self.root / run_id / path
        # The names are checked; a link within the tree could still lead out of it.
        if not target.parent.resolve().is_relative_to((self.root / run_id).resolve()):
            raise NameRefused(path, f"a link leads it out of {self.root / run_id}")
        return target

    def _current(self, run_id: str) -> Manifest | None:
        path = self._manifest_path(run_id)
        try:
            return parse_manifest(path.read_bytes(), str(path), run_id=run_id)
        except (FileNotFoundError, ManifestCorrupted):
            return None

    def _require_content(self, run_id: str, file: StoredFile) -> None:
        for path in (self._staged(run_id, file), self._target(run_id, file.path)):
            if path.is_file() and path.stat().st_size == file.size:
                return
        raise ArtifactNotFound(f"content for {file.path} of the run {run_id}", self.place, "It was never put.")

    def _finish_commit(self, run_id: str) -> None:
        """Bring a commit that was decided to its end. Needs the lock; can be cut off and done again at any point."""
        next_path = self._next_path(run_id)
        if not next_path.exists():
            return
        manifest = parse_manifest(next_path.read_bytes(), str(next_path), run_id=run_id)
        before = self._current(run_id)
        for file in manifest.files:
            staged = self._staged(run_id, file)
            if staged.exists():
                move(staged, self._target(run_id, file.path))
        kept = {file.path for file in manifest.files}
        for file in before.files if before else ():
            if file.path not in kept:
                self._target(run_id, file.path).unlink(missing_ok=True)
        move(next_path, self._manifest_path(run_id))
        sync(self.root)

    def _finish_commits(self) -> set[str]:
        """End commits that were cut off: they need what is staged, however old. Return the runs where that failed."""
        failed = set()
        for path in list((self._own / "staged").glob("*/next.json")):
            run_id = path.parent.name
            try:
                with self._lock(run_id):
                    self._finish_commit(run_id)
            except ManifestCorrupted:
                failed.add(run_id)
        return failed

    @contextmanager
    def _lock(self, run_id: str) -> Iterator[None]:
        check_run_id(run_id)
        with locked(self._own / "locks" / run_id, self.place):
            yield

    def _trash(self, path: Path) -> None:
        """Remove a file or folder; its name is free at once, however long the rest takes."""
        trash = self._own / "trash" / f"{path.name}-{secrets.token_hex(4)}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(trash)
        except FileNotFoundError:
            return
        sync(path.parent)
        if trash.is_symlink() or not trash.is_dir():
            trash.unlink()
            return
        shutil.rmtree(trash, ignore_errors=True)  # a sweep may be at it too
        if trash.exists():
            shutil.rmtree(trash)


def _holds(path: Path, file: StoredFile) -> bool:
    try:
        if path.lstat().st_size != file.size:
            return False
        return size_and_sha256(file_chunks(path)) == (file.size, file.sha256)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False


def _small_file(path: Path, run_id: str, place: str) -> bytes:
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ManifestCorrupted(str(path), f"it is larger than {MAX_MANIFEST_BYTES} bytes")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "`jade artifacts list` shows what is published."
        raise ArtifactNotFound(f"run {run_id}", place, hint) from error


def _is_older(path: Path, age_s: float) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > age_s
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(item.lstat().st_size for item in path.rglob("*") if not item.is_dir())
