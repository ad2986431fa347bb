"""Files that are on disk in full or not at all, and errors of the disk as errors of the store."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.artifacts.base import CHUNK_BYTES
from tasks.artifacts.errors import AccessDenied, NameRefused, StoreFull, StoreRefused, StoreUnavailable

LOCK_TIMEOUT_S = 60.0
_LOCK_POLL_S = 0.02

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE}


@contextmanager
def disk_errors(place: str, doing: str) -> Iterator[None]:
    """Turn the disk's errors within the block into the store's."""
    try:
        yield
    except OSError as error:
        evidence = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        if error.errno == errno.ELOOP:
            raise NameRefused(str(error.filename), "it is a link") from error
        if error.errno in _FULL:
            raise StoreFull(place, evidence) from error
        if error.errno in _REFUSED:
            raise AccessDenied(place, doing, evidence) from error
        if error.errno in _PASSING:
            raise StoreUnavailable(place, doing, evidence) from error
        raise StoreRefused(place, doing, evidence) from error


@contextmanager
def locked(path: Path, place: str) -> Iterator[None]:
    """Hold a lock file for the time of the block; the system lets go of it if this process dies.

    Raises:
        StoreUnavailable: Another process has held it for LOCK_TIMEOUT_S.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    reason = f"another process has held {path} for {LOCK_TIMEOUT_S:g} s"
                    raise StoreUnavailable(place, f"locking {path.name}", reason) from error
                time.sleep(_LOCK_POLL_S)
        yield


@contextmanager
def durable_path(path: Path) -> Iterator[Path]:
    """Give a hidden temporary path beside `path`; what was written there becomes `path` when the block ends well.

    If the block raises, the temporary file is removed and `path` stays as it was.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield temporary
        sync(temporary)
        move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_durably(path: Path, data: bytes) -> None:
    """Write a whole file in one step that survives a power cut."""
    with durable_path(path) as temporary:
        temporary.write_bytes(data)


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a stream as a whole file in one step; if the stream raises, there is no file."""
    with durable_path(path) as temporary, temporary.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)


def move(source: Path, target: Path) -> None:
    """Rename within a file system so that the new name survives a power cut; an older target is replaced."""
    make_folder(target.parent)
    source.replace(target)
    sync(target.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it so that they survive a power cut."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_chunks(path: Path) -> Iterator[bytes]:
    """Yield the content of a plain file; links are not followed.

    Raises:
        OSError: It is missing, a link (`ELOOP`), or cannot be read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def size_and_sha256(chunks: Iterable[bytes]) -> tuple[int, str]:
    """Return how many bytes a stream has, and their digest."""
    size, digest = 0, hashlib.sha256()
    for chunk in chunks:
        size += len(chunk)
        digest.update(chunk)
    return size, digest.hexdigest()
