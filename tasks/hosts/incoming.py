"""A file on its way to this machine: hidden and partial until its size and SHA-256 are the manifest's."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, NoReturn, Self

from tasks.core.files import FileEntry
from tasks.hosts.errors import TransferCorrupted
from tasks.hosts.shell import no_space

_READ_BYTES = 2**21  # all that paramiko buffers: of less, it would move the rest to the front each time
SYNC_BYTES = 2**26
"""So much is brought to the disk while more comes: at the end, all would take a third of the time of its way here."""


def part_name(entry: FileEntry) -> str:
    """Where an unfinished copy lies: beside the file, hidden.

    The digest in the name keeps bytes of different contents apart, here and on a host.
    """
    path = PurePosixPath(entry.path)
    return str(path.with_name(f".{path.name[:60]}.{entry.sha256[:16]}.part"))


class IncomingFile:
    """Takes the bytes of one file; what an earlier, cut transfer left is kept and counted.

    Args:
        entry: What it must become.
        into: The folder that it goes to.

    Attributes:
        num_there: Bytes that are here.
    """

    def __init__(self, entry: FileEntry, into: Path) -> None:
        self.entry = entry
        self.num_there = 0
        self._target = into / entry.path
        self._part = into / part_name(entry)
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None
        self._num_unsynced = 0
        self._syncing: Future[None] | None = None
        self._syncer: ThreadPoolExecutor | None = None

    def is_here(self) -> bool:
        """Whether the file is here already under its name, and whole."""
        if self._target.is_symlink() or not self._target.is_file():
            return False
        if self._target.stat().st_size != self.entry.size:
            return False
        with self._target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.entry.sha256

    def num_resumable(self) -> int:
        """Bytes that an earlier call left; what cannot be a part of this file is removed."""
        if self._part.is_symlink() or (self._part.exists() and self._part.stat().st_size > self.entry.size):
            self._part.unlink()
        return self._part.stat().st_size if self._part.exists() else 0

    def __enter__(self) -> Self:
        self._part.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._part.open("a+b", buffering=0)
        self._file.seek(0)
        while chunk := self._file.read(_READ_BYTES):
            self._digest.update(chunk)
            self.num_there += len(chunk)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._syncer is not None:
            self._syncer.shutdown()
        if self._file is not None:
            self._file.close()

    def receive(self, read: Callable[[int], bytes]) -> bool:
        """Read what is missing, and give the file its name; False if the stream ended before.

        Args:
            read: Gives at most so many bytes; none at the end.

        Raises:
            TransferCorrupted: The digest differs; the part is removed.
            HostUserError: There is no space here.
        """
        while self.num_there < self.entry.size:
            chunk = read(min(_READ_BYTES, self.entry.size - self.num_there))
            if not chunk:
                return False
            self._write(chunk)
        self._publish()
        return True

    def _write(self, data: bytes) -> None:
        assert self._file is not None, "used outside its with block"  # noqa: S101
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError as problem:
            if problem.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise no_space("this machine", f"{self._target}: {problem.strerror}") from problem
            raise
        self._digest.update(data)
        self.num_there += len(data)
        self._num_unsynced += len(data)
        if self._num_unsynced >= SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._raise_if_not_synced()
            self._syncer = self._syncer or ThreadPoolExecutor(1, "sync")
            self._syncing = self._syncer.submit(os.fsync, self._file.fileno())
            self._num_unsynced = 0

    def _raise_if_not_synced(self) -> None:
        # A disk's error is told once: to this, and not again to the fsync at the end.
        if self._syncing is not None:
            self._syncing.result()

    def _publish(self) -> None:
        assert self._file is not None, "used outside its with block"  # noqa: S101
        found = self._digest.hexdigest()
        if found != self.entry.sha256:
            self.discard(self.entry.sha256, found)
        self._raise_if_not_synced()
        os.fsync(self._file.fileno())
        self._part.replace(self._target)
        folder = os.open(self._target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self, expected: str, found: str) -> NoReturn:
        """Remove the part and say what was wrong with it."""
        self._part.unlink(missing_ok=True)
        raise TransferCorrupted(str(self._target), expected, found)
