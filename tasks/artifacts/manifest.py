"""The manifest of a run: made from a folder, written as JSON, read back with distrust."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.artifacts.base import MANIFEST_NAME, Manifest, StoredFile, is_run_id
from tasks.artifacts.errors import ArtifactCorrupted, ArtifactNotFound, ManifestCorrupted, NameRefused, SourceChanged
from tasks.artifacts.files import file_chunks, size_and_sha256

SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 64 * 2**20


def build_manifest(
    folder: Path, run_id: str, *, revision: int = 1, complete: bool = True, published_at: datetime | None = None
) -> Manifest:
    """Return the manifest of what lies in a run's folder: path, size and SHA-256 of every file.

    Files and folders whose name starts with a dot are left out: temporary ones are called so. So is the folder's own
    `manifest.json`.

    Args:
        folder: The run's folder.
        run_id: The run's name.
        revision: The manifest's number.
        complete: Whether the run has ended well.
        published_at: Now, if not given.

    Raises:
        ArtifactNotFound: The folder is not there, or nothing is in it.
        NameRefused: It holds a link, a socket or the like, or a name that not every store can keep.
        SourceChanged: A file vanished on the way.
    """
    files = tuple(describe_file(folder, path) for path in sorted(_walk(folder, folder)))
    if not files:
        raise ArtifactNotFound(f"file of the run {run_id}", str(folder), "An empty run is not published.")
    return Manifest(run_id, revision, complete, published_at or datetime.now(UTC), files)


def describe_file(folder: Path, path: str) -> StoredFile:
    """Return size and digest of one file of a folder.

    Raises:
        NameRefused: The name is not allowed, or names a link or no plain file.
        ArtifactNotFound: There is no such file.
        SourceChanged: It vanished, or became something else, while it was read.
    """
    StoredFile(path, 0, "0" * 64)  # a name that is refused is not looked at
    try:
        if not stat.S_ISREG((folder / path).lstat().st_mode):
            raise NameRefused(path, "it is a link or no plain file")
    except FileNotFoundError as error:
        raise ArtifactNotFound(f"file {path}", str(folder)) from error
    try:
        return StoredFile(path, *size_and_sha256(file_chunks(folder / path)))
    except FileNotFoundError as error:
        raise SourceChanged(path, "a file", "nothing") from error


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the manifest as JSON that people can read; equal manifests give equal bytes."""
    body = _body(manifest)
    return (json.dumps({**body, "sha256": _digest(body)}, indent=2) + "\n").encode()


def parse_manifest(data: bytes, path: str, *, run_id: str, revision: int = 0) -> Manifest:
    """Return the manifest that the bytes hold.

    Args:
        data: Whatever was found.
        path: Where, for messages.
        run_id: Whose manifest it must be.
        revision: Which one its place says it is; 0 if its place does not tell.

    Raises:
        ManifestCorrupted: It is not JSON, lacks something, names a file that is refused, belongs to another run, or
            does not fit its own digest.
    """
    try:
        found: dict[str, Any] = json.loads(data)
        digest = found.pop("sha256")
        if found["schema_version"] != SCHEMA_VERSION:
            raise ManifestCorrupted(path, f"schema version {found['schema_version']!r} is unknown", revision)
        manifest = Manifest(
            found["run_id"],
            found["revision"],
            found["complete"] is True,
            datetime.fromisoformat(found["published_at"]),
            tuple(StoredFile(item["path"], item["size"], item["sha256"]) for item in found["files"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, NameRefused) as error:
        raise ManifestCorrupted(path, f"{type(error).__name__}: {error}", revision) from error
    if digest != _digest(found):
        raise ManifestCorrupted(path, "its content does not fit the digest that it carries", revision)
    if manifest.run_id != run_id:
        raise ManifestCorrupted(path, f"it belongs to the run {manifest.run_id}", revision)
    if revision and manifest.revision != revision:
        raise ManifestCorrupted(path, f"it says revision {manifest.revision}, its name {revision}", revision)
    return manifest


def pointer_bytes(run_id: str) -> bytes:
    """Return what a pointer to a run holds."""
    return f"{run_id}\n".encode()


def parse_pointer(data: bytes, name: str) -> str:
    """Return the run that a pointer stands for.

    Raises:
        ArtifactCorrupted: It holds no run's name.
    """
    found = data[:256].decode("utf-8", "replace").strip()
    if not is_run_id(found):
        raise ArtifactCorrupted(f"the pointer {name}", "a run's name", repr(found))
    return found


def _body(manifest: Manifest) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": manifest.run_id,
        "revision": manifest.revision,
        "complete": manifest.complete,
        "published_at": manifest.published_at.isoformat(),
        "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files],
    }


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
