"""Small documents beside the runs that several writers agree over: who trains what, and where a training lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tasks.artifacts.backend import Backend, read_small
from tasks.artifacts.errors import ArtifactNotFound
from tasks.artifacts.manifest import check_path

MAX_RECORD_BYTES = 64 * 2**10


@dataclass(frozen=True)
class Record:
    """A document as it was read.

    Attributes:
        content: Its bytes.
        version: What `Records.write` takes as `replaces`; means nothing else.
        age_s: Since it was written, by the clock of the store, which all who ask share; theirs may differ.
    """

    content: bytes
    version: str
    age_s: float


class Records:
    """Named documents, each replaced in one step. Safe to use from several threads and processes at once.

    Args:
        backend: Of the place.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend, self._prefix = backend, backend.keys.records

    def read(self, name: str) -> Record | None:
        """Return a record, or None where there is none.

        Raises:
            NameRefused: The name is no relative path.
            StoreError: As the store says.
        """
        check_path(name)
        try:
            content, answer = read_small(self._backend, self._prefix + name, MAX_RECORD_BYTES)
        except ArtifactNotFound:
            return None
        _check_size(name, content)
        return Record(content, answer.version, max(0.0, self._backend.now() - answer.modified_s))

    def write(self, name: str, content: bytes, *, replaces: str | None) -> str:
        """Write a record if it still is as it was read; return its new version.

        Args:
            name: Parts of letters, digits, dots, dashes and underscores, divided by slashes.
            content: At most MAX_RECORD_BYTES.
            replaces: The version that was read; None where there must be none yet.

        Raises:
            PreconditionFailed: Somebody else wrote, or removed, it since.
            StoreError: As the store says. Whether it was written is then unknown: read it.
        """
        check_path(name)
        _check_size(name, content)
        return self._backend.put_if(self._prefix + name, content, replaces)

    def remove(self, name: str, *, version: str | None = None) -> None:
        """Remove a record, with a version only if it still is this one. Silent if there is none.

        Raises:
            PreconditionFailed: Somebody wrote it since.
            StoreError: As the store says.
        """
        check_path(name)
        self._backend.delete([self._prefix + name], version=version)

    def names(self, folder: str, *, older_than_s: float = -math.inf) -> tuple[str, ...]:
        """Return the records of a folder, those that were written longer ago than that by the store's clock.

        Raises:
            StoreError: As the store says.
        """
        check_path(folder)
        found = self._backend.list(f"{self._prefix}{folder}/*")
        now = self._backend.now() if found else 0.0
        return tuple(item.key.removeprefix(self._prefix) for item in found if now - item.modified_s > older_than_s)


def _check_size(name: str, content: bytes) -> None:
    if len(content) > MAX_RECORD_BYTES:
        raise ValueError(f"the record {name} is larger than {MAX_RECORD_BYTES} bytes")
