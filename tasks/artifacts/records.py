"""Small documents beside the runs that several writers agree over: who trains what, and where a training lies.

`Records` is the seam: read one with its version, and replace exactly that version. `LocalRecords` and
`S3Records` implement it. Ages are told by the clock of the store, which all who ask share; theirs may differ.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.artifacts.base import check_path
from tasks.artifacts.errors import RecordChanged, StoreUnavailable
from tasks.artifacts.files import disk_errors, locked, write_durably

MAX_RECORD_BYTES = 64 * 2**10


@dataclass(frozen=True)
class Record:
    """A document as it was read.

    Attributes:
        content: Its bytes.
        version: What `write` takes as `replaces`; means nothing else.
        age_s: Since it was written, by the store's clock.
    """

    content: bytes
    version: str
    age_s: float


class Records(Protocol):
    """Named documents, each replaced in one step. Safe to use from several threads and processes at once."""

    def read(self, name: str) -> Record | None:
        """Return a record, or None where there is none.

        Raises:
            NameRefused: The name is no relative path.
            StoreError: As the store says.
        """
        ...

    def write(self, name: str, content: bytes, *, replaces: str | None) -> str:
        """Write a record if it still is as it was read; return its new version.

        Args:
            name: Parts of letters, digits, dots, dashes and underscores, divided by slashes.
            content: At most MAX_RECORD_BYTES.
            replaces: The version that was read; None where there must be none yet.

        Raises:
            RecordChanged: Somebody else wrote, or removed, it since.
            StoreError: As the store says. Whether it was written is then unknown: read it.
        """
        ...

    def remove(self, name: str, *, version: str | None = None) -> None:
        """Remove a record. Silent if there is none.

        Args:
            name: Which.
            version: Only if it still is this one; None: whatever it holds.

        Raises:
            RecordChanged: Somebody wrote it since.
            StoreError: As the store says.
        """
        ...

    def names(self, folder: str, *, older_than_s: float = -math.inf) -> tuple[str, ...]:
        """Return the records of a folder, those that were written longer ago than that by the store's clock.

        Raises:
            StoreError: As the store says.
        """
        ...


class LocalRecords:
    """Records in a folder's `.store/records`.

    Args:
        root: The folder of a `LocalStore`.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root.absolute() / ".store" / "records"
        self._lock_path = root.absolute() / ".store" / "locks" / ".records"

    def read(self, name: str) -> Record | None:
        """See `Records.read`."""
        path = self._path(name)
        with disk_errors(str(self._folder), f"reading {name}"), self._lock():
            return self._read(path)

    def write(self, name: str, content: bytes, *, replaces: str | None) -> str:
        """See `Records.write`."""
        path = self._path(name)
        check_size(name, content)
        with disk_errors(str(self._folder), f"writing {name}"), self._lock():
            current = self._read(path)
            if (current.version if current else None) != replaces:
                raise RecordChanged(name, str(self._folder))
            write_durably(path, content)
            written = self._read(path)
        if written is None:
            raise StoreUnavailable(str(self._folder), f"writing {name}", "it vanished at once")
        return written.version

    def remove(self, name: str, *, version: str | None = None) -> None:
        """See `Records.remove`."""
        path = self._path(name)
        with disk_errors(str(self._folder), f"removing {name}"), self._lock():
            current = self._read(path)
            if version is not None and current is not None and current.version != version:
                raise RecordChanged(name, str(self._folder))
            path.unlink(missing_ok=True)

    def names(self, folder: str, *, older_than_s: float = -math.inf) -> tuple[str, ...]:
        """See `Records.names`."""
        inside = self._path(folder)
        if not inside.is_dir():
            return ()  # and locking would make one
        with disk_errors(str(self._folder), f"listing {folder}"), self._lock():
            now = self._lock_path.stat().st_mtime
            found = [path for path in sorted(inside.glob("*")) if path.is_file() and not path.name.startswith(".")]
            return tuple(f"{folder}/{path.name}" for path in found if now - path.stat().st_mtime > older_than_s)

    def _path(self, name: str) -> Path:
        check_path(name)
        return self._folder / name

    def _read(self, path: Path) -> Record | None:
        try:
            found = path.stat()
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        # The lock was touched just now: on a network file system, too, both times are of the server's clock.
        age_s = self._lock_path.stat().st_mtime - found.st_mtime
        return Record(content, f"{found.st_mtime_ns}-{found.st_ino}", max(0.0, age_s))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with locked(self._lock_path, str(self._folder)):
            os.utime(self._lock_path)
            yield


def check_size(name: str, content: bytes) -> None:
    """Refuse a record that is too large to be one.

    Raises:
        ValueError: As said.
    """
    if len(content) > MAX_RECORD_BYTES:
        raise ValueError(f"the record {name} is larger than {MAX_RECORD_BYTES} bytes")
