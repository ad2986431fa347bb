"""A store on a disk: a readable tree with each run's files under their own names, and what is ours in `.store`."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.artifacts import errors
from tasks.artifacts.backend import FOLDER_KEYS, Item
from tasks.artifacts.manifest import check_path, check_source, file_chunks, is_same, size_and_sha256
from tasks.core.names import FileEntry

LOCK_TIMEOUT_S = 60.0
_KINDS: dict[type[errors.StoreError], set[int]] = {
    errors.AccessDenied: {errno.EACCES, errno.EPERM, errno.EROFS},
    errors.StoreUnavailable: {
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE)
    },
}


class LocalBackend:
    """A `Backend` in a folder, made when something is stored. What lies there under its own name is never copied."""

    keys = FOLDER_KEYS
    keeps_versions = False

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.place = str(self.root)
        self._trash_folder = self.root / ".store" / "trash"
        self._lock_path = self.root / ".store" / "locks" / ".records"

    def get(self, key: str, offset: int = 0) -> tuple[Item, Iterator[bytes]]:
        """Open a file; links are not followed."""
        path, doing = self._path(key), f"reading {key}"
        with disk_errors(self.place, doing):
            try:
                found = path.lstat()
            except (FileNotFoundError, NotADirectoryError) as error:
                raise errors.ArtifactNotFound(key, self.place) from error
        if stat.S_ISLNK(found.st_mode):
            raise errors.NameRefused(key, "it is a link")
        if stat.S_ISDIR(found.st_mode):
            raise errors.ArtifactNotFound(key, self.place)

        def chunks() -> Iterator[bytes]:
            with disk_errors(self.place, doing):
                yield from file_chunks(path, offset)

        return Item(key, found.st_size, found.st_mtime, _version(found)), chunks()

    def put(self, key: str, file: FileEntry, source: Path) -> bool:
        """Copy a file in, unless it lies there."""
        path = self._path(key)
        with disk_errors(self.place, f"storing {key}"):
            if is_same(path, file):
                return False
            with durable_path(path) as temporary:
                with temporary.open("xb") as copy:
                    copy.writelines(file_chunks(source))
                check_source(file, *size_and_sha256(file_chunks(temporary)))
        return True

    def put_if(self, key: str, data: bytes, version: str | None) -> str:
        """Compare and write under a lock, which the system lets go of if its owner dies."""
        path = self._path(key)
        with disk_errors(self.place, f"writing {key}"), self._locked():
            if (_version(path.lstat()) if path.exists() else None) != version:
                raise errors.PreconditionFailed(key, self.place)
            write_chunks(path, [data])
            return _version(path.lstat())

    def list(self, pattern: str) -> list[Item]:
        """Walk the folder; temporary files are left out."""
        found = []
        with disk_errors(self.place, f"listing {pattern}"):
            for path in self.root.glob(pattern + "/*" if pattern.endswith("**") else pattern):
                if path.name.startswith(".") and path.name.endswith(".part"):
                    continue
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    if not stat.S_ISDIR(status.st_mode):
                        found.append(Item(path.relative_to(self.root).as_posix(), status.st_size, status.st_mtime))
        return sorted(found, key=lambda item: item.key)

    def delete(self, keys: Collection[str], *, version: str | None = None) -> None:
        """Unlink files; a folder's name is free at once, however long the rest takes."""
        with disk_errors(self.place, "deleting"):
            for key in keys:
                path = self._path(key.rstrip("/"))
                if key.endswith("/"):
                    self._remove(path)
                elif version is None:
                    path.unlink(missing_ok=True)
                else:
                    with self._locked(), suppress(FileNotFoundError):
                        if _version(path.lstat()) != version:
                            raise errors.PreconditionFailed(key, self.place)
                        path.unlink()

    def now(self) -> float:
        """Touch a file and look: on a network file system, too, that is the server's clock."""
        with disk_errors(self.place, "reading the clock"):
            self._lock_path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_path.touch()
            return self._lock_path.stat().st_mtime

    def sweep(self, *, older_than_s: float, running: Collection[str]) -> int:  # noqa: ARG002 -- the seam has it
        """Remove temporary files, and what is left of deleted runs."""
        freed = 0
        with disk_errors(self.place, "sweeping"):
            for path in [*self._trash_folder.glob("*"), *self.root.rglob(".*.part")]:
                with suppress(FileNotFoundError):
                    if time.time() - path.lstat().st_mtime > older_than_s:
                        freed += sum(item.lstat().st_size for item in (path, *path.rglob("*")) if not item.is_dir())
                        self._remove(path)
        return freed

    def _path(self, key: str) -> Path:
        check_path(key)
        path, first = self.root / key, self.root / key.split("/", maxsplit=1)[0]
        # The names are checked; a link within the tree could still lead out of it.
        if path != first and not path.parent.resolve().is_relative_to(first.resolve()):
            raise errors.NameRefused(key, f"a link leads it out of {first}")
        return path

    def _remove(self, path: Path) -> None:
        trash = self._trash_folder / f"{path.name}-{secrets.token_hex(4)}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.rename(trash)
            _sync(path.parent)
        if trash.is_dir() and not trash.is_symlink():
            shutil.rmtree(trash, ignore_errors=True)  # a sweep may be at it too
        else:
            trash.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._lock_path, timeout=LOCK_TIMEOUT_S, poll_interval=0.02):
                yield
        except Timeout as error:
            reason = f"another process has held {self._lock_path} for {LOCK_TIMEOUT_S:g} s"
            raise errors.StoreUnavailable(self.place, "locking", reason) from error


@contextmanager
def disk_errors(place: str, doing: str) -> Iterator[None]:
    """Turn the disk's errors within the block into the store's."""
    try:
        yield
    except OSError as error:
        evidence = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        if error.errno == errno.ELOOP:
            raise errors.NameRefused(str(error.filename), "it is a link") from error
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise errors.StoreFull(place, evidence) from error
        kind = next((kind for kind, numbers in _KINDS.items() if error.errno in numbers), errors.StoreRefused)
        raise kind(place, doing, evidence) from error


@contextmanager
def durable_path(path: Path) -> Iterator[Path]:
    """Give a hidden temporary path beside `path`; what was written there becomes `path` when the block ends well.

    That survives a power cut. If the block raises, the temporary file is removed and `path` stays as it was.
    """
    _make_folder(path.parent)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a stream as a whole file in one step; if the stream raises, the file stays as it was."""
    with durable_path(path) as temporary, temporary.open("xb") as file:
        file.writelines(chunks)


def _version(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}-{status.st_ino}"


def _make_folder(path: Path) -> None:
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
