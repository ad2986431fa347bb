"""The manifest of a run: made from a folder, written as JSON, read back with distrust."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, ConfigDict, PositiveInt, TypeAdapter
from pydantic.dataclasses import dataclass

from tasks.artifacts.errors import ArtifactNotFound, ManifestCorrupted, NameRefused, SourceChanged
from tasks.core.names import MAX_NAME_BYTES, FileEntry, is_plain_name, name_fault

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 64 * 2**20
CHUNK_BYTES = 2**20


def check_path(path: str) -> None:
    """Raise `NameRefused` for a file name that could leave its folder, or confuse a terminal, a log or a shell."""
    if fault := name_fault(path, MAX_NAME_BYTES):
        raise NameRefused(*fault)


def check_plain(name: str) -> str:
    """Return a run's or a pointer's name, or raise `NameRefused` if it is not plain."""
    if not is_plain_name(name):
        rule = "a run or a pointer is called by 1 to 128 letters, digits, dots, dashes and underscores"
        raise NameRefused(str(name)[:160], f"{rule}, the first a letter or digit")
    return name


def check_tree(paths: Sequence[str]) -> None:
    """Raise `NameRefused` if one path is listed twice, is a file and a folder, or is called as the manifest is."""
    folders = {parent.as_posix() for path in paths for parent in PurePosixPath(path).parents}
    seen = {MANIFEST_NAME: "it is the name of the manifest itself"}
    for path in paths:
        if path in folders or path in seen:
            raise NameRefused(path, seen.get(path, "it is listed as a file and as a folder"))
        seen[path] = "it is listed twice"


def _in_order(files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
    check_tree([file.path for file in files])
    return tuple(sorted(files, key=lambda file: file.path))


# One order and one zone: equal content gives equal bytes.
Files = Annotated[tuple[FileEntry, ...], AfterValidator(_in_order)]
WholeSeconds = Annotated[AwareDatetime, AfterValidator(lambda at: at.astimezone(UTC).replace(microsecond=0))]


@dataclass(frozen=True, config=ConfigDict(strict=True))
class Manifest:
    """What a run consists of.

    Attributes:
        revision: 1 for the first, then one more each time.
        complete: False while the run goes on, or where it ended early.
        published_at: When this revision was made, UTC, whole seconds.
        files: Sorted by path.
    """

    run_id: Annotated[str, AfterValidator(check_plain)]
    revision: PositiveInt
    complete: bool
    published_at: WholeSeconds
    files: Files

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def file(self, path: str) -> FileEntry | None:
        """Return the file of that path, or None."""
        return next((file for file in self.files if file.path == path), None)


_ADAPTER = TypeAdapter(Manifest)


def describe_folder(folder: Path) -> tuple[FileEntry, ...]:
    """Return path, size and SHA-256 of every file in a run's folder, as its manifest lists them.

    Files and folders whose name starts with a dot are left out: temporary ones are called so. So is the folder's own
    `manifest.json`.

    Raises:
        ArtifactNotFound: The folder is not there, or nothing is in it.
        NameRefused: It holds a link, a socket or the like, or a name that not every store can keep.
        SourceChanged: A file vanished on the way.
    """
    files = tuple(describe_file(folder, path) for path in sorted(_walk(folder, folder)))
    if not files:
        raise ArtifactNotFound(f"file of the run {folder.name}", str(folder), "An empty run is not published.")
    return files


def describe_file(folder: Path, path: str) -> FileEntry:
    """Return size and digest of one file of a folder; errors as of `describe_folder`."""
    check_path(path)
    try:
        if not stat.S_ISREG((folder / path).lstat().st_mode):
            raise NameRefused(path, "it is a link or no plain file")
    except FileNotFoundError as error:
        raise ArtifactNotFound(f"file {path}", str(folder)) from error
    try:
        return FileEntry(path, *size_and_sha256(file_chunks(folder / path)))
    except FileNotFoundError as error:
        raise SourceChanged(path, "a file", "nothing") from error


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the manifest as JSON that people can read; equal manifests give equal bytes."""
    body = {"schema_version": SCHEMA_VERSION, **_ADAPTER.dump_python(manifest)}
    body["published_at"] = manifest.published_at.isoformat()
    return (json.dumps({**body, "sha256": _digest(body)}, indent=2) + "\n").encode()


def parse_manifest(data: bytes, path: str, *, run_id: str, revision: int | None = None) -> Manifest:
    """Return the manifest that the bytes found at a path hold: of that run, and of that revision if its place tells.

    Raises:
        ManifestCorrupted: It does not fit its own digest, names a file that is refused, or is another one or none.
    """
    try:
        found: dict[str, Any] = json.loads(data)
        digest = found.pop("sha256")
        manifest = _ADAPTER.validate_json(data)
        faults = {
            f"schema version {found['schema_version']!r} is unknown": found["schema_version"] != SCHEMA_VERSION,
            "its content does not fit the digest that it carries": digest != _digest(found),
            f"it belongs to the run {manifest.run_id}": manifest.run_id != run_id,
            f"it says revision {manifest.revision}, its name {revision}": revision not in {None, manifest.revision},
        }
    except (ValueError, KeyError, TypeError, AttributeError, NameRefused) as error:
        raise ManifestCorrupted(path, f"{type(error).__name__}: {error}") from error
    if reasons := [fault for fault, is_so in faults.items() if is_so]:
        raise ManifestCorrupted(path, reasons[0])
    return manifest


def file_chunks(path: Path, offset: int = 0) -> Iterator[bytes]:
    """Yield the content of a plain file, from an offset on; a link raises `ELOOP`."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def size_and_sha256(chunks: Iterable[bytes]) -> tuple[int, str]:
    """Return how many bytes a stream has, and their digest."""
    size, digest = 0, hashlib.sha256()
    for chunk in chunks:
        size += len(chunk)
        digest.update(chunk)
    return size, digest.hexdigest()


def check_source(file: FileEntry, size: int, sha256: str) -> None:
    """Raise `SourceChanged` if what was read of a file is not what was said of it."""
    if (size, sha256) != (file.size, file.sha256):
        raise SourceChanged(file.path, f"{file.size} bytes, {file.sha256}", f"{size} bytes, {sha256}")


def is_same(path: Path, file: FileEntry) -> bool:
    """Whether a plain file lies at a path and every byte of it is as said."""
    try:
        return path.lstat().st_size == file.size and size_and_sha256(file_chunks(path)) == (file.size, file.sha256)
    except OSError:
        return False


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _walk(folder: Path, root: Path) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactNotFound(f"folder {folder}", "this machine") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = Path(entry.path).relative_to(root).as_posix()
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), root)
        elif path != MANIFEST_NAME:
            yield path
