"""A training's results from a host: what its manifest names and nothing else, each byte checked."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jade_model.core.files import write_atomically
from jade_model.core.job import Training
from jade_model.core.training_files import MANIFEST_NAME, TrainingFiles, files_of, is_done
from tasks.core.names import FileEntry
from tasks.hosts.errors import NameRefused, RemoteFileMissing, TransferCorrupted
from tasks.hosts.host import Host

JOB_NAME = "job.json"
MAX_JOB_BYTES = 64 * 2**20
MAX_MANIFEST_BYTES = 2**20
MAX_FILE_BYTES = 2**30
_CALL_S = 60.0
_FETCH_S = 3600.0


def fetch_training(host: Host, remote_run: str, training: Training, into: Path) -> None:
    """Bring a finished training's files here; the manifest comes last.

    Nothing that the host says chooses a place: only the files that a training leaves are taken, into the folder that
    the job here names.

    Args:
        host: Where it was trained.
        remote_run: The run's folder there.
        training: Which.
        into: A folder that stands for the run's, which nobody else writes to; see `move_training`.

    Raises:
        TransferCorrupted: What came is not what the manifest says, or the manifest not of this training.
        NameRefused: The manifest names another file, or one that is too large.
        HostError: As `Host.get` says.
    """
    files = files_of(training, into)
    _fetch(host, remote_run, training, files, is_complete=True)
    if not is_done(training, files):
        raise TransferCorrupted(str(files.folder), "a finished training", "files that are not those of its manifest")


def fetch_checkpoint(host: Host, remote_run: str, training: Training, into: Path) -> bool:
    """Bring an unfinished training's newest checkpoint here, to go on from if the host is lost.

    Returns:
        Whether it came whole; a training that goes on meanwhile may replace it under our hands, and the next one comes.

    Raises:
        HostError: As `Host.get` says.
    """
    try:
        _fetch(host, remote_run, training, files_of(training, into), is_complete=False)
    except (TransferCorrupted, RemoteFileMissing):
        shutil.rmtree(files_of(training, into).folder, ignore_errors=True)
        return False
    return True


def move_training(training: Training, source: Path, root: Path) -> bool:
    """Move what came of a training into the run's folder, unless what lies there is as far; one thread at a time.

    Args:
        training: Which.
        source: The folder that stood for the run's.
        root: The run's folder.

    Returns:
        Whether it was moved.
    """
    came, target = files_of(training, source), files_of(training, root)
    is_complete = is_done(training, came)
    if is_done(training, target) or (not is_complete and local_epoch(source, training) <= local_epoch(root, training)):
        return False
    target.folder.mkdir(parents=True, exist_ok=True)
    # An arm's folder holds one training's files and the folders of others. The manifest last.
    came_here = [path for path in came.folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    for path in sorted(came_here, key=lambda path: path == came.manifest):
        path.replace(target.folder / path.name)
    if is_complete:
        target.resume.unlink(missing_ok=True)
    return True


def _fetch(host: Host, remote_run: str, training: Training, files: TrainingFiles, *, is_complete: bool) -> None:
    remote = f"{remote_run}/{training.output_dir}"
    content = _read(host, f"{remote}/{MANIFEST_NAME}", MAX_MANIFEST_BYTES)
    entries = manifest_entries(content, training, files, is_complete=is_complete)
    host.get(entries, remote, files.folder, timeout_s=_FETCH_S)
    write_atomically(files.manifest, content)


def manifest_entries(
    content: bytes, training: Training, files: TrainingFiles, *, is_complete: bool = True
) -> tuple[FileEntry, ...]:
    """Read a training's manifest as a host sent it.

    Args:
        content: The file's bytes.
        training: Whose it must be.
        files: Where the training's files lie here.
        is_complete: Whether it must be that of the finished training, or of one that goes on.

    Raises:
        TransferCorrupted: It is none, is of another training, or of one that is not as far as it must be.
        NameRefused: It names a file that no training leaves, or one that is too large.
    """
    try:
        manifest: Any = json.loads(content)
        is_right = manifest["run_key"] == training.run_key and manifest["complete"] is is_complete
        entries = tuple(FileEntry(item["path"], item["size"], item["sha256"]) for item in manifest["files"])
    except ValidationError as error:
        first = error.errors()[0]
        raise NameRefused(str(first["input"])[:160], f"a training's manifest names it: {first['msg']}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TransferCorrupted(MANIFEST_NAME, "a training's manifest", repr(content[:80])) from error
    if not is_right:
        raise TransferCorrupted(
            MANIFEST_NAME, f"that of the training {training.run_key[:12]}", "that of another, or of another state"
        )
    required = (files.last, files.log, files.history) if is_complete else (files.resume,)
    allowed = {path.name for path in (*required, files.best)}
    for entry in entries:
        if entry.path not in allowed:
            raise NameRefused(entry.path, f"{training.title} leaves only {', '.join(sorted(allowed))}")
        if entry.size > MAX_FILE_BYTES:
            raise NameRefused(entry.path, f"its size is given as {entry.size}; {MAX_FILE_BYTES} bytes are allowed")
    if missing := {path.name for path in required} - {entry.path for entry in entries}:
        raise TransferCorrupted(MANIFEST_NAME, f"all of {', '.join(sorted(missing))}", "a manifest without")
    return entries


def remove_folder(host: Host, folder: str) -> None:
    """Remove a folder of ours on a host. Silent if it is gone.

    Raises:
        HostError: It could not be removed.
    """
    host.run(f"# jade: remove {shlex.quote(folder)}\nrm -rf -- {shlex.quote(folder)}", timeout_s=_CALL_S)


def remote_trainings(host: Host, remote_run: str) -> set[tuple[str, str]]:
    """Return run key and folder of all that a run's folder on a host is to train; none if it says nothing of use.

    Raises:
        HostError: The host could not be asked.
    """
    content = _read(host, f"{remote_run}/{JOB_NAME}", MAX_JOB_BYTES, check=False)
    try:
        return {(str(item["run_key"]), str(item["output_dir"])) for item in json.loads(content)["trainings"]}
    except (ValueError, KeyError, TypeError):
        return set()


def remote_epoch(host: Host, remote_run: str, training: Training) -> int:
    """Return how far an unfinished training's newest checkpoint on a host is; 0 without one of this run key.

    Raises:
        HostError: The host could not be asked.
    """
    path = f"{remote_run}/{training.output_dir}/{MANIFEST_NAME}"
    return _epoch_of(_read(host, path, MAX_MANIFEST_BYTES, check=False), training)


def local_epoch(root: Path, training: Training) -> int:
    """Return the same of the checkpoint in the run's folder here."""
    manifest = files_of(training, root).manifest
    return _epoch_of(manifest.read_bytes(), training) if manifest.is_file() else 0


def _read(host: Host, path: str, max_bytes: int, *, check: bool = True) -> bytes:
    script = f"# jade: read {shlex.quote(path)}\nhead -c {max_bytes} < {shlex.quote(path)}"
    return host.run(script, timeout_s=_CALL_S, check=check).stdout


def _epoch_of(content: bytes, training: Training) -> int:
    try:
        manifest = json.loads(content)
        return int(manifest["epoch"]) if manifest["run_key"] == training.run_key else 0
    except (ValueError, KeyError, TypeError):
        return 0
