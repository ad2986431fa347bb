"""Trainings that earlier runs finished, or began, found again by their run key: on this machine or any other.

What is taken over is only a candidate: the training job verifies it before it skips the training, or goes on from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from jade_model.core.files import sha256_file, write_atomically
from jade_model.core.job import Training
from jade_model.core.training_files import MANIFEST_NAME, TrainingFiles, files_of, is_done
from tasks.artifacts.backend import Record, when_unchanged
from tasks.artifacts.errors import ArtifactCorrupted, ArtifactNotFound, ManifestCorrupted, NameRefused, StoreError
from tasks.artifacts.manifest import Manifest
from tasks.artifacts.repository import ArtifactPlace
from tasks.artifacts.transfer import fetch_file, publish_files
from tasks.core.layout import RunLayout
from tasks.core.names import FileEntry

INDEX_NAME = ".trainings"
"""Index in a folder of runs: one file a run key, which names the training's folder."""

UNFINISHED = ".unfinished"
"""Ends the name of an entry for a training that is not finished."""

CHECKPOINT_EVERY_S = 30.0
"""How often an unfinished training's checkpoint is worth sending to a bucket, at most."""

Note = Callable[[str], None]


def say(message: str) -> None:
    """Tell the person at the terminal, who may have left it; results go to standard output, this does not."""
    # What trains goes on, and what is rented is freed, whoever still listens.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()


@dataclass(frozen=True)
class _Entry:
    """Where a training is published: run, folder in it, and the revision of the run's manifest that has it."""

    run_id: str
    folder: str
    is_complete: bool
    revision: int


class KeptTrainings:
    """Where a place's trainings lie, by run key.

    On this machine small files name the folder of each: among published runs, or among the working copies of a bucket,
    which may hold what could not be published. In a bucket, records do the same for all machines.
    """

    def __init__(self, place: ArtifactPlace) -> None:
        self._place, self._index = place, place.folder / INDEX_NAME
        self._manifests: dict[str, Manifest] = {}
        self.every_s = 0.0 if place.is_local else CHECKPOINT_EVERY_S

    def remember(self, training: Training, layout: RunLayout) -> bool:
        """Publish what a training has left in a run's folder: its newest checkpoint, or all once it is finished.

        Returns:
            Whether it was whole; a training that goes on may replace it under our hands, and the next one comes.
        """
        files = files_of(training, layout.root)
        manifest = _training_manifest(files)
        if manifest.get("run_key") != training.run_key:
            return False
        finished = self._index / training.run_key
        unfinished = finished.with_name(finished.name + UNFINISHED)
        path = finished if manifest.get("complete") else unfinished
        write_atomically(path, f"{layout.run_id}/{training.output_dir}\n")
        if path == finished:
            unfinished.unlink(missing_ok=True)
        return self._place.is_local or self._publish(training, layout, files, manifest)

    def is_finished(self, training: Training) -> bool:
        """Whether some run has finished the training, and its files are published or whole on this machine."""
        found = self._entry(training)
        return bool(found and found.is_complete and self._published(found)) or self._is_finished_here(training)

    def take_over(self, training: Training, layout: RunLayout) -> bool:
        """Bring what is known of a training into a run's folder: the finished one, else its newest checkpoint.

        Returns:
            Whether there was anything of use.
        """
        found = self._entry(training)
        wanted = self._published(found) if found else {}
        if found is None or not wanted or (not found.is_complete and self._is_finished_here(training)):
            is_here = self._copy(training, layout)
            if is_here and not self._place.is_local:
                self.remember(training, layout)  # for the other machines
            return is_here
        files = files_of(training, layout.root)
        try:
            # The manifest last: without it, the rest counts for nothing.
            for name in (name for name in _names(files) if name in wanted):
                fetch_file(self._place.store, found.run_id, wanted[name], files.folder / name)
        except (ArtifactCorrupted, ArtifactNotFound):
            shutil.rmtree(files.folder, ignore_errors=True)
            return False
        return True

    def _is_finished_here(self, training: Training) -> bool:
        source = self._source(training.run_key)
        suffix = files_of(training, self._place.folder).suffix
        return source is not None and is_done(training, TrainingFiles(source, suffix))

    def _copy(self, training: Training, layout: RunLayout) -> bool:
        source = self._source(training.run_key) or self._source(f"{training.run_key}{UNFINISHED}")
        target = layout.root / training.output_dir
        if source is None or source == target:
            return source is not None
        target.mkdir(parents=True, exist_ok=True)
        for name in _names(files_of(training, layout.root)):
            if (source / name).is_file():
                shutil.copy2(source / name, target / name)
        return True

    def _source(self, entry: str) -> Path | None:
        folder = self._place.folder
        try:
            source = (folder / (self._index / entry).read_text("utf-8").strip()).resolve()
        except (OSError, ValueError):
            return None
        return source if source.is_relative_to(folder.resolve()) and (source / MANIFEST_NAME).is_file() else None

    def _publish(self, training: Training, layout: RunLayout, files: TrainingFiles, manifest: dict[str, Any]) -> bool:
        scratch = self._place.folder / ".scratch"  # links do not cross file systems
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch) as name:
            snapshot = Path(name)
            if not _snapshot(files, manifest, snapshot / training.output_dir):
                return False
            is_complete = manifest.get("complete") is True
            paths = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
            gone = [f"{training.output_dir}/{files.resume.name}"] if is_complete else []
            published = publish_files(self._place.store, snapshot, layout.run_id, paths, remove=gone)
        entry = _Entry(layout.run_id, training.output_dir, is_complete, published.revision)

        def write() -> None:
            before = self._place.records.read(_record(training))
            other = _parsed(before)
            if is_complete or not (other and other.is_complete and self._published(other)):
                content = json.dumps(dataclasses.asdict(entry)).encode()
                self._place.records.write(_record(training), content, replaces=before.version if before else None)

        when_unchanged(write)
        return True

    def _entry(self, training: Training) -> _Entry | None:
        return None if self._place.is_local else _parsed(self._place.records.read(_record(training)))

    def _published(self, entry: _Entry) -> dict[str, FileEntry]:
        """Return the published files of a training's folder by name; none if its run, or its manifest, is gone."""
        manifest = self._manifests.get(entry.run_id)
        # One run usually has most of what is asked for in a row.
        if manifest is None or manifest.revision < entry.revision:
            try:
                manifest = self._place.store.manifest(entry.run_id)
            except (ArtifactNotFound, ManifestCorrupted, NameRefused):
                return {}
            self._manifests[entry.run_id] = manifest
        parted = [(*file.path.rpartition("/")[::2], file) for file in manifest.files]
        found = {name: file for folder, name, file in parted if folder == entry.folder}
        return found if MANIFEST_NAME in found else {}


class Mirror:
    """Publishes what a run's trainings leave, the newest of each, off the thread that follows them.

    A training counts only once it is published. A place that does not answer holds up none: what could not be
    published is tried again with the next checkpoint, and in the end with the whole run.

    Args:
        kept: Where to.
        layout: The run.
        note: Told what could not be published yet.
    """

    def __init__(self, kept: KeptTrainings, layout: RunLayout, note: Note = say) -> None:
        self._kept, self._layout, self._note = kept, layout, note
        self._changed, self._is_closing = threading.Condition(), False
        self._waiting: dict[str, tuple[float, Training]] = {}  # by run key: from when on, and what
        self._not_before: dict[str, float] = {}
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"mirror-{layout.run_id}")
        self._thread.start()

    def publish(self, training: Training, *, at_once: bool) -> None:
        """Publish a training's newest checkpoint at once, or once the last publication is old enough."""
        key = training.run_key
        with self._changed:
            due_s, _ = self._waiting.get(key, (self._not_before.get(key, -math.inf), training))
            self._waiting[key] = (-math.inf if at_once else due_s, training)
            self._changed.notify_all()

    def close(self) -> None:
        """Publish what waits, and return when that is done."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while (training := self._next()) is not None:
            try:
                self._kept.remember(training, self._layout)
            except (StoreError, OSError) as error:  # of the place, or of the disk here
                self._note(f"{training.title}: not published yet: {error}")

    def _next(self) -> Training | None:
        """Wait for a training that is due; None once all is done and this is to end."""
        with self._changed:
            while self._waiting or not self._is_closing:
                due_s, key = min(((due_s, key) for key, (due_s, _) in self._waiting.items()), default=(math.inf, ""))
                if key and (self._is_closing or due_s <= monotonic()):
                    self._not_before[key] = monotonic() + self._kept.every_s
                    return self._waiting.pop(key)[1]
                self._changed.wait(due_s - monotonic() if key else None)
        return None


def _record(training: Training) -> str:
    return f"trainings/{training.run_key}"


def _parsed(record: Record | None) -> _Entry | None:
    try:
        found = json.loads(record.content) if record else {}
        return _Entry(str(found["run_id"]), str(found["folder"]), found["is_complete"] is True, int(found["revision"]))
    except (ValueError, TypeError, KeyError):
        return None


def _names(files: TrainingFiles) -> list[str]:
    """Return the files that a training may leave; the manifest last."""
    return [path.name for path in (files.last, files.best, files.resume, files.log, files.history, files.manifest)]


def _training_manifest(files: TrainingFiles) -> dict[str, Any]:
    try:
        found = json.loads(files.manifest.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _snapshot(files: TrainingFiles, manifest: dict[str, Any], target: Path) -> bool:
    """Link what a training's manifest names into a folder that nobody writes to; False if it does not fit together.

    Files of a training are replaced by renaming: a link stays with the content that it was made of.
    """
    target.mkdir(parents=True)
    try:
        for item in manifest["files"]:
            if item["path"] not in _names(files):
                return False
            source, copy = files.folder / item["path"], target / item["path"]
            try:
                os.link(source, copy)
            except OSError:
                shutil.copy2(source, copy)
            if sha256_file(copy) != item["sha256"]:
                return False
    except (KeyError, TypeError, OSError):
        return False
    (target / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    return True
