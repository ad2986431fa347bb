"""Trainings that earlier runs finished, or began, found again by their run key: on this machine or any other.

What is taken over is only a candidate: the training job verifies it before it skips the training, or goes on from it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jade_model.core.files import sha256_file, write_atomically
from jade_model.core.job import Training
from jade_model.core.training_files import MANIFEST_NAME, TrainingFiles, files_of, is_done
from tasks.artifacts.errors import (
    ArtifactCorrupted,
    ArtifactNotFound,
    ManifestCorrupted,
    NameRefused,
    PreconditionFailed,
)
from tasks.artifacts.manifest import Manifest, StoredFile
from tasks.artifacts.records import Record
from tasks.artifacts.repository import ArtifactPlace
from tasks.artifacts.transfer import fetch_file, publish_files
from tasks.core.layout import RunLayout

INDEX_NAME = ".trainings"
"""Index in an artifacts folder: one file a run key."""

UNFINISHED = ".unfinished"
"""Ends the name of an entry for a training that is not finished."""

_ATTEMPTS = 20


class KeptTrainings(Protocol):
    """Where trainings lie, by run key."""

    @property
    def every_s(self) -> float:
        """How often an unfinished training's checkpoint is worth publishing at most."""
        ...

    def remember(self, training: Training, layout: RunLayout) -> bool:
        """Publish what a training has left in a run's folder: its newest checkpoint, or all once it is finished.

        Returns:
            Whether it was whole; a training that goes on may replace it under our hands, and the next one comes.

        Raises:
            StoreError: As the store says.
        """
        ...

    def is_finished(self, training: Training) -> bool:
        """Whether some run has finished the training and its files are published.

        Raises:
            StoreError: As the store says.
        """
        ...

    def take_over(self, training: Training, layout: RunLayout) -> bool:
        """Bring what is published of a training into a run's folder: the finished one, else its newest checkpoint.

        Returns:
            Whether there was anything of use.

        Raises:
            StoreError: As the store says.
        """
        ...


def kept_trainings(place: ArtifactPlace) -> KeptTrainings:
    """Return the index of a place."""
    return FolderIndex(place.folder) if place.is_local else BucketIndex(place)


class FolderIndex:
    """Small files in an artifacts folder that name the folder of each training; its files are published where they lie.

    Args:
        folder: The artifacts folder.
    """

    every_s = 0.0

    def __init__(self, folder: Path) -> None:
        self._folder, self._index = folder, folder / INDEX_NAME

    def remember(self, training: Training, layout: RunLayout) -> bool:
        """See `KeptTrainings.remember`."""
        manifest = _training_manifest(files_of(training, layout.root))
        if manifest.get("run_key") != training.run_key:
            return False
        unfinished = self._index / f"{training.run_key}{UNFINISHED}"
        path = self._index / training.run_key if manifest.get("complete") else unfinished
        self._index.mkdir(parents=True, exist_ok=True)
        write_atomically(path, f"{layout.run_id}/{training.output_dir}\n")
        if manifest.get("complete"):
            unfinished.unlink(missing_ok=True)
        return True

    def is_finished(self, training: Training) -> bool:
        """See `KeptTrainings.is_finished`."""
        source = self._source(self._index / training.run_key)
        suffix = files_of(training, self._folder).suffix
        return source is not None and is_done(training, TrainingFiles(source, suffix))

    def take_over(self, training: Training, layout: RunLayout) -> bool:
        """See `KeptTrainings.take_over`."""
        for name in (training.run_key, f"{training.run_key}{UNFINISHED}"):
            source = self._source(self._index / name)
            if source is None:
                continue
            target = layout.root / training.output_dir
            if source == target:
                return True
            target.mkdir(parents=True, exist_ok=True)
            for file_name in _names(files_of(training, layout.root)):
                if (source / file_name).is_file():
                    shutil.copy2(source / file_name, target / file_name)
            return True
        return False

    def _source(self, entry: Path) -> Path | None:
        try:
            source = (self._folder / entry.read_text("utf-8").strip()).resolve()
        except (OSError, ValueError):
            return None
        is_ours = source.is_relative_to(self._folder.resolve())
        return source if is_ours and (source / MANIFEST_NAME).is_file() else None


class BucketIndex:
    """Records in a bucket that name run and folder of each training; its files are published with the run.

    Args:
        place: Whose.
    """

    every_s = 30.0

    def __init__(self, place: ArtifactPlace) -> None:
        self._place = place
        # Trainings of this machine whose publication failed are found in their working copies.
        self._copies = FolderIndex(place.folder)
        self._manifests: dict[str, Manifest] = {}

    def remember(self, training: Training, layout: RunLayout) -> bool:
        """See `KeptTrainings.remember`."""
        if not self._copies.remember(training, layout):
            return False
        files = files_of(training, layout.root)
        with tempfile.TemporaryDirectory(dir=_scratch(self._place.folder)) as scratch:
            snapshot = Path(scratch)
            manifest = _snapshot(training, files, snapshot)
            if manifest is None:
                return False
            is_complete = manifest["complete"] is True
            paths = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
            gone = [f"{training.output_dir}/{files.resume.name}"] if is_complete else []
            published = publish_files(self._place.store, snapshot, layout.run_id, paths, remove=gone)
        self._point(training, _Entry(layout.run_id, training.output_dir, is_complete, published.revision))
        return True

    def is_finished(self, training: Training) -> bool:
        """See `KeptTrainings.is_finished`."""
        found = _entry(self._place.records.read(_record(training)))
        is_published = bool(found and found.is_complete and self._published(found))
        return is_published or self._copies.is_finished(training)

    def take_over(self, training: Training, layout: RunLayout) -> bool:
        """See `KeptTrainings.take_over`."""
        found = _entry(self._place.records.read(_record(training)))
        if not (found and found.is_complete and self._published(found)):
            is_here = self._copies.is_finished(training) or found is None
            if is_here and self._copies.take_over(training, layout):
                self.remember(training, layout)
                return True
        if found is None:
            return False
        files = files_of(training, layout.root)
        names = set(_names(files))
        wanted = {name: file for name, file in self._published(found).items() if name in names}
        try:
            # The manifest last: without it, the rest counts for nothing.
            for name in sorted(wanted, key=lambda name: name == MANIFEST_NAME):
                fetch_file(self._place.store, found.run_id, wanted[name], files.folder / name)
        except (ArtifactCorrupted, ArtifactNotFound):
            shutil.rmtree(files.folder, ignore_errors=True)
            return False
        return bool(wanted)

    def _published(self, entry: _Entry) -> dict[str, StoredFile]:
        """Return the published files of a training's folder by name; none if its run, or its manifest, is gone."""
        manifest = self._manifests.get(entry.run_id)
        # One run usually has most of what is asked for in a row.
        if manifest is None or manifest.revision < entry.revision:
            try:
                manifest = self._place.store.manifest(entry.run_id)
            except (ArtifactNotFound, ManifestCorrupted, NameRefused):
                return {}
            self._manifests[entry.run_id] = manifest
        found = {
            file.path.rpartition("/")[2]: file
            for file in manifest.files
            if file.path.rpartition("/")[0] == entry.folder
        }
        return found if MANIFEST_NAME in found else {}

    def _point(self, training: Training, entry: _Entry) -> None:
        for _ in range(_ATTEMPTS):
            before = self._place.records.read(_record(training))
            other = _entry(before)
            if other and other.is_complete and not entry.is_complete and self._published(other):
                return
            try:
                self._place.records.write(
                    _record(training),
                    json.dumps(dataclasses.asdict(entry)).encode(),
                    replaces=before.version if before is not None else None,
                )
            except PreconditionFailed:
                continue
            return
        raise PreconditionFailed(_record(training), self._place.address)


@dataclass(frozen=True)
class _Entry:
    """Where a training is published: run, folder in it, and the revision of the run's manifest that has it."""

    run_id: str
    folder: str
    is_complete: bool
    revision: int


def _record(training: Training) -> str:
    return f"trainings/{training.run_key}"


def _entry(record: Record | None) -> _Entry | None:
    """Read a record of the index; None if there is none, or it is not one."""
    if record is None:
        return None
    try:
        found = json.loads(record.content)
        return _Entry(str(found["run_id"]), str(found["folder"]), found["is_complete"] is True, int(found["revision"]))
    except (ValueError, TypeError, KeyError):
        return None


def _names(files: TrainingFiles) -> tuple[str, ...]:
    """Return the files that a training may leave; the manifest last."""
    found = (files.last, files.best, files.resume, files.log, files.history, files.manifest)
    return tuple(path.name for path in found)


def _training_manifest(files: TrainingFiles) -> dict[str, Any]:
    try:
        found = json.loads(files.manifest.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _snapshot(training: Training, files: TrainingFiles, root: Path) -> dict[str, Any] | None:
    """Link what a training's manifest names into a folder that nobody writes to; None if they do not belong together.

    Files of a training are replaced by renaming: a link stays with the content that it was made of.
    """
    target = root / training.output_dir
    target.mkdir(parents=True)
    manifest = _training_manifest(files)
    try:
        if manifest["run_key"] != training.run_key:
            return None
        for item in manifest["files"]:
            if item["path"] not in _names(files):
                return None
            copy = target / item["path"]
            _link(files.folder / item["path"], copy)
            if sha256_file(copy) != item["sha256"]:
                return None
    except (KeyError, TypeError, OSError):
        return None
    (target / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    return manifest


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _scratch(folder: Path) -> Path:
    """Return a folder on the file system of the working copies: links do not cross file systems."""
    scratch = folder / ".scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch
