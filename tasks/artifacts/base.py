"""Where runs are kept, as the rest of the program sees it.

`ArtifactStore` is the seam. `LocalStore` and `S3Store` implement it, one contract suite runs over both
(`tests/fakes/store_contract.py`), and publishing, fetching, verifying and pruning are built on it alone.

Content first, the manifest last: `put` stores bytes that nobody sees yet; `commit` makes a whole manifest visible
in one step, and only if nobody else wrote since. A pointer moves after that, to a run that is there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from tasks.artifacts.errors import NameRefused
from tasks.core.names import name_fault

MANIFEST_NAME = "manifest.json"
CHUNK_BYTES = 2**20
MAX_NAME_BYTES = 900
"""An S3 key has at most 1024, and a prefix goes before."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class StoredFile:
    """One file of a run as its manifest names it.

    Attributes:
        path: Relative to the run, with forward slashes; never leaves its folder (see `check_path`).
        size: Bytes.
        sha256: 64 lower-case hexadecimal digits.
    """

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        check_path(self.path)
        if self.path == MANIFEST_NAME:
            raise NameRefused(self.path, "it is the name of the manifest itself")
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 0:
            raise NameRefused(self.path, f"its size is given as {self.size!r}")
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise NameRefused(self.path, f"its SHA-256 is given as {self.sha256!r}")


@dataclass(frozen=True)
class Manifest:
    """What a run consists of.

    Attributes:
        run_id: The run's name.
        revision: 1 for the first, then one more each time.
        complete: False while the run goes on, or where it ended early.
        published_at: When this revision was made, UTC, whole seconds.
        files: Sorted by path.
    """

    run_id: str
    revision: int
    complete: bool
    published_at: datetime
    files: tuple[StoredFile, ...]

    def __post_init__(self) -> None:
        check_run_id(self.run_id)
        if self.revision < 1:
            raise ValueError(f"a manifest's revision starts at 1, not {self.revision}")
        if self.published_at.tzinfo is None:
            raise ValueError("published_at needs a time zone")
        # One order and one zone: equal content gives equal bytes.
        object.__setattr__(self, "published_at", self.published_at.astimezone(UTC).replace(microsecond=0))
        object.__setattr__(self, "files", tuple(sorted(self.files, key=lambda file: file.path)))
        check_tree([file.path for file in self.files])

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def file(self, path: str) -> StoredFile | None:
        """Return the file of that path, or None."""
        return next((file for file in self.files if file.path == path), None)


class RunFiles(Protocol):
    """The files of runs, and which run consists of which."""

    @property
    def place(self) -> str:
        """How messages call this store: its folder, or `s3://bucket/prefix`."""
        ...

    def put(self, run_id: str, file: StoredFile, source: Path) -> bool:
        """Store a file's content for a run, unless it is there. Nobody sees it before the `commit`.

        Returns:
            Whether anything had to be stored.

        Raises:
            SourceChanged: `source` is not what `file` says.
            StoreFull, AccessDenied, NoSuchBucket: As they say.
            StoreUnavailable, TransferDamaged, UploadLost: Transient; nothing half-written is visible.
        """
        ...

    def commit(self, manifest: Manifest) -> None:
        """Make a manifest the run's, in one step. Silent if exactly it is the run's already.

        Files that the run had before and that the manifest does not name are gone after this.

        Raises:
            PreconditionFailed: Its revision does not follow the run's: somebody else wrote.
            ArtifactNotFound: A file that it names was never put.
        """
        ...

    def manifest(self, run_id: str) -> Manifest:
        """Return the run's newest manifest.

        Raises:
            ArtifactNotFound: No such run.
            ManifestCorrupted: It is not what was written.
        """
        ...

    def read(self, run_id: str, file: StoredFile) -> Iterator[bytes]:
        """Yield a file's content in order. Only when the iteration has ended well were the bytes the right ones.

        A cut is mended on the way, where possible by asking for the rest alone; never are more bytes given than
        the manifest says.

        Raises:
            ArtifactNotFound: The content is not there.
            ArtifactCorrupted: Size or digest differ; after the last byte.
        """
        ...

    def runs(self) -> tuple[str, ...]:
        """Return the names of all runs that have a manifest, sorted."""
        ...


class Pointers(Protocol):
    """Names that stand for runs, such as `latest`."""

    def point(self, name: str, run_id: str) -> None:
        """Let a name stand for a run, in one step; the last writer wins.

        Raises:
            ArtifactNotFound: The run is not there. The pointer stays where it was.
        """
        ...

    def pointers(self) -> dict[str, str]:
        """Return which run each name stands for."""
        ...


class Upkeep(Protocol):
    """What frees space."""

    @property
    def keeps_versions(self) -> bool:
        """Whether a deletion is known to have left an older version behind, so that no space became free."""
        ...

    def delete(self, run_id: str) -> None:
        """Remove a run. Silent if it is already gone. It first stops being listed, then its content goes.

        Raises:
            RunProtected: A pointer stands on it.
        """
        ...

    def sweep(self, *, older_than_s: float, running: Collection[str] = ()) -> int:
        """Remove what dead writers left: unfinished uploads, staged files, content that no manifest names any more.

        Args:
            older_than_s: What is younger stays, since its writer may live. By the store's clock.
            running: Runs that are not touched whatever their age.

        Returns:
            Bytes freed, of what the store tells the size.
        """
        ...


class ArtifactStore(RunFiles, Pointers, Upkeep, Protocol):
    """Everything that a place for runs can do. Safe to use from several threads and processes at once."""


def check_path(path: str) -> None:
    """Refuse a relative file name that could leave its folder, or confuse a terminal, a log or a temporary name.

    Raises:
        NameRefused: It is absolute, has an empty, `.` or `..` part, a backslash or a character that cannot be shown,
            or is too long.
    """
    if fault := name_fault(path, MAX_NAME_BYTES):
        raise NameRefused(*fault)


def check_tree(paths: Sequence[str]) -> None:
    """Refuse a list of checked paths that cannot all be files of one folder.

    Raises:
        NameRefused: One is listed twice, or is both a file and a folder.
    """
    # With "/" sorted before every other character, a folder's first file follows right after a file of its name.
    ordered = sorted(path.replace("/", "\0") for path in paths)
    for before, after in pairwise(ordered):
        if before == after:
            raise NameRefused(after.replace("\0", "/"), "it is listed twice")
        if after.startswith(before + "\0"):
            raise NameRefused(before.replace("\0", "/"), "it is listed as a file and as a folder")


def check_run_id(run_id: str) -> None:
    """Refuse a run's name that is not letters, digits, dots, dashes and underscores, the first a letter or digit.

    Raises:
        NameRefused: As said.
    """
    _check_plain(run_id, "a run's name")


def check_pointer_name(name: str) -> None:
    """Refuse a pointer's name in the same way.

    Raises:
        NameRefused: As said.
    """
    _check_plain(name, "a pointer's name")


def is_run_id(name: str) -> bool:
    """Whether `check_run_id` lets the name pass."""
    return bool(_PLAIN_NAME.fullmatch(name))


def _check_plain(name: str, what: str) -> None:
    if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
        raise NameRefused(
            str(name)[:160],
            f"{what} has 1 to 128 letters, digits, dots, dashes and underscores, the first a letter or digit",
        )
