"""Whole runs into a store and out of it: published last, fetched verified, checked byte by byte."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from tasks.artifacts.base import MANIFEST_NAME, ArtifactStore, Manifest, StoredFile
from tasks.artifacts.errors import (
    AlreadyPublished,
    ArtifactCorrupted,
    ArtifactNotFound,
    FolderTaken,
    ManifestCorrupted,
    NameRefused,
    PreconditionFailed,
)
from tasks.artifacts.files import disk_errors, move, size_and_sha256, write_chunks, write_durably
from tasks.artifacts.local import FETCHING_SUFFIX
from tasks.artifacts.manifest import build_manifest, describe_file, manifest_bytes

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

DEFAULT_WORKERS = 4
COMMIT_ATTEMPTS = 20


@dataclass(frozen=True)
class Problem:
    """One file of a stored run that is not what its manifest says.

    Attributes:
        path: Of the file, or `manifest.json`.
        kind: "missing" or "damaged".
        detail: What was expected, and what was found.
    """

    path: str
    kind: str
    detail: str


def publish_run(
    store: ArtifactStore,
    folder: Path,
    run_id: str,
    *,
    complete: bool = True,
    may_replace: Sequence[str] = (),
    pointer: str | None = None,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> Manifest:
    """Make a store's run exactly what lies in a folder. Doing it again, after a cut or not, does no harm.

    Content goes first, then the manifest in one step, then the pointer: whoever reads meanwhile sees the run as it
    was before, or whole. A damaged manifest in the store is replaced.

    Args:
        store: Where to.
        folder: The run's folder. It may be the run's place in a `LocalStore`: then nothing is copied.
        run_id: The run's name.
        complete: Whether the run has ended well. From then on its files stay as they are.
        may_replace: Files, or folders ending in "/", that may change or vanish although the run is complete.
        pointer: A name that shall stand for this run in the end, such as `latest`.
        workers: Files under way at once.
        progress: Told as files are through.

    Returns:
        The manifest as it stands in the store.

    Raises:
        AlreadyPublished: The run is complete there, and other files than `may_replace` would change or vanish.
        SourceChanged: Somebody writes to the folder.
        StoreError: As the store says.
    """
    with disk_errors(str(folder), "reading the run"):
        files = build_manifest(folder, run_id).files
    manifest = _publish(
        store,
        folder,
        run_id,
        files,
        lambda _: (files, complete),
        may_be_damaged=True,
        may_replace=may_replace,
        workers=workers,
        progress=progress,
    )
    if pointer is not None:
        store.point(pointer, run_id)
    return manifest


def publish_files(
    store: ArtifactStore,
    folder: Path,
    run_id: str,
    paths: Iterable[str],
    *,
    remove: Iterable[str] = (),
    may_replace: Sequence[str] = (),
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> Manifest:
    """Add some files of a folder to a store's run, or replace them; the others stay.

    This is how the checkpoints of a training that goes on are mirrored. Several may do this to one run at once.

    Args:
        store: Where to.
        folder: The run's folder.
        run_id: The run's name; a run that is not there yet begins as incomplete.
        paths: Relative to the folder.
        remove: Files that the run shall no longer have.
        may_replace: See `publish_run`.
        workers: See `publish_run`.
        progress: See `publish_run`.

    Raises:
        ArtifactNotFound: The folder has no such file.
        ManifestCorrupted: Nobody knows what the run consists of; `publish_run` would tell.
        StoreError: As in `publish_run`.
    """
    with disk_errors(str(folder), "reading files"):
        files = tuple(describe_file(folder, path) for path in paths)
    removed = frozenset(remove)
    return _publish(
        store,
        folder,
        run_id,
        files,
        lambda current: _merged(current, files, removed),
        may_be_damaged=False,
        may_replace=may_replace,
        workers=workers,
        progress=progress,
    )


def fetch_run(
    store: ArtifactStore,
    run_id: str,
    folder: Path,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> Manifest:
    """Copy a run out of a store; the folder appears whole and verified, or not at all.

    Silent if the folder is there already and every byte of it is what the manifest says.

    Raises:
        FolderTaken: The folder holds something else.
        ArtifactNotFound, ArtifactCorrupted, ManifestCorrupted: What the store has is not whole.
    """
    manifest = store.manifest(run_id)
    with disk_errors(str(folder.parent), f"fetching {run_id}"):
        if folder.exists():
            if not _is_run(folder, manifest):
                raise FolderTaken(str(folder), run_id)
            return manifest
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{run_id}.{secrets.token_hex(4)}{FETCHING_SUFFIX}")
        try:
            _for_each(
                manifest.files,
                lambda file: fetch_file(store, run_id, file, temporary / file.path),
                workers,
                progress,
            )
            write_durably(temporary / MANIFEST_NAME, manifest_bytes(manifest))
            if folder.exists():
                raise FolderTaken(str(folder), run_id)
            move(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def fetch_file(store: ArtifactStore, run_id: str, file: StoredFile, into: Path) -> None:
    """Copy one file out of a store; it appears verified, or not at all, and replaces what is there.

    Raises:
        ArtifactNotFound, ArtifactCorrupted: What the store has is not whole.
    """
    with disk_errors(str(into.parent), f"fetching {file.path}"):
        try:
            write_chunks(into, store.read(run_id, file))
        except ArtifactCorrupted:
            # Once more, for the damage may have happened on the way.
            write_chunks(into, store.read(run_id, file))


def verify(
    store: ArtifactStore, run_id: str, *, workers: int = DEFAULT_WORKERS, progress: Progress | None = None
) -> tuple[Problem, ...]:
    """Read every byte of a stored run and compare it with the manifest.

    Returns:
        What is missing or damaged, by path; empty if the run is whole.

    Raises:
        ArtifactNotFound: There is no such run.
        StoreUnavailable: The store could not be asked: that says nothing about the run.
    """
    try:
        manifest = store.manifest(run_id)
    except ManifestCorrupted as error:
        return (Problem(MANIFEST_NAME, "damaged", str(error)),)
    problems: list[Problem] = []
    _for_each(manifest.files, lambda file: problems.extend(_check(store, run_id, file)), workers, progress)
    return tuple(sorted(problems, key=lambda problem: problem.path))


def _check(store: ArtifactStore, run_id: str, file: StoredFile) -> list[Problem]:
    for is_last in (False, True):
        try:
            size_and_sha256(store.read(run_id, file))
            break
        except (ArtifactNotFound, NameRefused) as error:
            return [Problem(file.path, "missing", str(error))]
        except ArtifactCorrupted as error:
            if is_last:
                return [Problem(file.path, "damaged", str(error))]
    return []


def _publish(
    store: ArtifactStore,
    folder: Path,
    run_id: str,
    files: tuple[StoredFile, ...],
    wanted: Callable[[Manifest | None], tuple[tuple[StoredFile, ...], bool]],
    *,
    may_be_damaged: bool,
    may_replace: Sequence[str],
    workers: int,
    progress: Progress | None,
) -> Manifest:
    """Put the files, then commit; begin again where somebody else committed meanwhile.

    `wanted` says, from what the run is now, which files it shall have and whether it is complete.
    """
    attempt = 1
    while True:
        current, revision = _current(store, run_id, may_be_damaged=may_be_damaged)
        new_files, complete = wanted(current)
        if current is not None and current.complete:
            _refuse_changes(store, current, new_files, may_replace)
            complete = True
        stored = _for_each(files, lambda file: store.put(run_id, file, folder / file.path), workers, progress)
        manifest = Manifest(run_id, revision + 1, complete, datetime.now(UTC), new_files)
        if current is not None and not any(stored) and _says_the_same(current, manifest):
            return current
        try:
            store.commit(manifest)
        except PreconditionFailed:
            # Whoever was quicker got on, so this comes to an end. Their commit may have taken away what was put here.
            if attempt == COMMIT_ATTEMPTS:
                raise
            attempt += 1
        else:
            return manifest


def _current(store: ArtifactStore, run_id: str, *, may_be_damaged: bool) -> tuple[Manifest | None, int]:
    try:
        manifest = store.manifest(run_id)
    except ArtifactNotFound:
        return None, 0
    except ManifestCorrupted as error:
        if not may_be_damaged:
            raise
        return None, error.revision
    return manifest, manifest.revision


def _merged(
    current: Manifest | None, files: tuple[StoredFile, ...], removed: frozenset[str]
) -> tuple[tuple[StoredFile, ...], bool]:
    by_path = {file.path: file for file in (*(current.files if current else ()), *files)}
    kept = tuple(by_path[path] for path in sorted(by_path) if path not in removed)
    return kept, current is not None and current.complete


def _refuse_changes(
    store: ArtifactStore, current: Manifest, wanted: tuple[StoredFile, ...], may_replace: Sequence[str]
) -> None:
    by_path = {file.path: file for file in wanted}
    changed = tuple(
        file.path for file in current.files if by_path.get(file.path) != file and not _is_below(file.path, may_replace)
    )
    if changed:
        raise AlreadyPublished(current.run_id, store.place, changed)


def _says_the_same(one: Manifest, other: Manifest) -> bool:
    return (one.files, one.complete) == (other.files, other.complete)


def _is_below(path: str, names: Sequence[str]) -> bool:
    return any(path == name or (name.endswith("/") and path.startswith(name)) for name in names)


def _is_run(folder: Path, manifest: Manifest) -> bool:
    try:
        return build_manifest(folder, manifest.run_id).files == manifest.files
    except (ArtifactNotFound, NameRefused):
        return False


def _for_each(
    files: Sequence[StoredFile], action: Callable[[StoredFile], T], workers: int, progress: Progress | None
) -> list[T]:
    """Call the action on all files, a few at once; after the first error begin no more, and raise it."""
    total = sum(file.size for file in files)
    done, lock, stop = 0, threading.Lock(), threading.Event()
    results: list[T] = []

    def run(file: StoredFile) -> None:
        nonlocal done
        if stop.is_set():
            return
        try:
            result = action(file)
        except BaseException:
            stop.set()
            raise
        with lock:
            results.append(result)
            done += file.size
            if progress is not None:
                progress(done, total)

    with ThreadPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(run, file) for file in files]
        try:
            for future in futures:
                future.result()
        finally:
            stop.set()  # an interrupt waits only for what is under way
    return results
