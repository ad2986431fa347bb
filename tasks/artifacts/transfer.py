"""Whole runs into a store and out of it: published last, fetched verified, checked byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from tasks.artifacts import errors
from tasks.artifacts.backend import when_unchanged
from tasks.artifacts.local import disk_errors, write_chunks
from tasks.artifacts.manifest import MANIFEST_NAME, Manifest, describe_file, describe_folder, size_and_sha256
from tasks.artifacts.store import ArtifactStore
from tasks.core.names import FileEntry

T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """A file of a stored run, or `manifest.json`, that is "missing" or "damaged"; and what was found instead."""

    path: str
    kind: str
    detail: str


def publish_run(
    store: ArtifactStore, folder: Path, run_id: str, *, complete: bool = True, pointer: str | None = None
) -> Manifest:
    """Make a store's run exactly what lies in a folder. Doing it again, after a cut or not, does no harm.

    A damaged manifest in the store is replaced.

    Args:
        store: Where to.
        folder: The run's folder. It may be the run's own place in a store on this disk: then nothing is copied.
        run_id: The run's name.
        complete: Whether the run has ended well. From then on its files stay as they are.
        pointer: A name that shall stand for this run in the end, such as `latest`.

    Raises:
        AlreadyPublished: The run is complete there, and files would change or vanish.
        SourceChanged: Somebody writes to the folder.
    """
    with disk_errors(str(folder), "reading the run"):
        files = describe_folder(folder)
    manifest = _publish(store, folder, run_id, files, remove=None, complete=complete)
    if pointer is not None:
        store.point(pointer, run_id)
    return manifest


def publish_files(
    store: ArtifactStore,
    folder: Path,
    run_id: str,
    paths: Iterable[str],
    *,
    remove: Collection[str] = (),
    may_replace: Sequence[str] = (),
) -> Manifest:
    """Add some files of a folder to a store's run, or replace them; the others stay. Several may do so at once.

    A run that is not there yet begins as incomplete.

    Args:
        store: Where to.
        folder: Has the files.
        run_id: The run's name.
        paths: Of the files, in the folder and in the run.
        remove: Files that the run shall not have any more.
        may_replace: Files, or folders ending in "/", that may change or vanish although the run is complete.

    Raises:
        AlreadyPublished: The run is complete there, and other files than `may_replace` would change or vanish.
        ArtifactNotFound: The folder has no such file.
        ManifestCorrupted: Nobody knows what the run consists of; `publish_run` would tell.
    """
    with disk_errors(str(folder), "reading files"):
        files = tuple(describe_file(folder, path) for path in paths)
    return _publish(store, folder, run_id, files, remove=remove, may_replace=may_replace)


def fetch_file(store: ArtifactStore, run_id: str, file: FileEntry, into: Path) -> None:
    """Copy one file out of a store; it appears verified, or not at all, and replaces what is there.

    Raises:
        ArtifactNotFound, ArtifactCorrupted: What the store has is not whole.
    """
    with disk_errors(str(into.parent), f"fetching {file.path}"):
        _twice(lambda: write_chunks(into, store.read(run_id, file)))


def verify(store: ArtifactStore, run_id: str) -> tuple[Problem, ...]:
    """Read every byte of a stored run; return what is not as the manifest says, by path.

    Raises:
        ArtifactNotFound: There is no such run.
        StoreUnavailable: The store could not be asked: that says nothing about the run.
    """
    try:
        manifest = store.manifest(run_id)
    except errors.ManifestCorrupted as error:
        return (Problem(MANIFEST_NAME, "damaged", str(error)),)

    def check(file: FileEntry) -> Problem | None:
        try:
            _twice(lambda: size_and_sha256(store.read(run_id, file)))
        except (errors.ArtifactNotFound, errors.NameRefused) as error:
            return Problem(file.path, "missing", str(error))
        except errors.ArtifactCorrupted as error:
            return Problem(file.path, "damaged", str(error))
        return None

    return tuple(problem for problem in _for_each(manifest.files, check) if problem)


def _twice(read: Callable[[], object]) -> None:
    try:
        read()
    except errors.ArtifactCorrupted:
        read()  # the damage may have happened on the way


def _publish(
    store: ArtifactStore,
    folder: Path,
    run_id: str,
    files: tuple[FileEntry, ...],
    *,
    remove: Collection[str] | None,
    complete: bool = False,
    may_replace: Sequence[str] = (),
) -> Manifest:
    """Put the files, then commit; begin again where somebody else committed meanwhile.

    Of the other files that the run has, those in `remove` go; None: all of them do, whatever they are.
    """

    def may_change(path: str) -> bool:
        return any(path == name or (name.endswith("/") and path.startswith(name)) for name in may_replace)

    def publish() -> Manifest:
        head = store.head(run_id)
        is_lost = head is not None and remove is None and isinstance(head.found, errors.ManifestCorrupted)
        current = None if head is None or is_lost else head.manifest()
        before = current.files if current is not None else ()
        wanted = {file.path: file for file in (*(before if remove is not None else ()), *files)}
        wanted = {path: file for path, file in sorted(wanted.items()) if path not in (remove or ())}
        is_complete = complete or (current is not None and current.complete)
        if current is not None and current.complete:
            changed = [file.path for file in before if wanted.get(file.path) != file and not may_change(file.path)]
            if changed:
                raise errors.AlreadyPublished(run_id, store.place, tuple(changed))
        stored = _for_each(files, lambda file: store.put(run_id, file, folder / file.path))
        manifest = Manifest(
            run_id, (head.revision if head else 0) + 1, is_complete, datetime.now(UTC), tuple(wanted.values())
        )
        if current is not None and not any(stored) and (before, current.complete) == (manifest.files, is_complete):
            return current
        store.commit(manifest, head)
        return manifest

    return when_unchanged(publish)


def _for_each(files: Sequence[FileEntry], action: Callable[[FileEntry], T]) -> list[T]:
    """Call the action on all files, a few at once; an error or an interrupt waits only for what is under way."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(action, files))
