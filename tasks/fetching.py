"""A training's results from a host: what its manifest names and nothing else, each byte checked."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from jade_model.files import write_atomically
from jade_model.job import Training
from jade_model.worker import MANIFEST_NAME, TrainingFiles, files_of, is_done
from tasks.hosts.base import FileEntry, Host
from tasks.hosts.errors import NameRefused, TransferCorrupted

MAX_MANIFEST_BYTES = 2**20
MAX_FILE_BYTES = 2**30
_CALL_S = 60.0
_FETCH_S = 3600.0


def fetch_training(host: Host, remote_run: str, training: Training, root: Path) -> None:
    """Bring a finished training's files into the run's folder here; the manifest comes last.

    Nothing that the host says chooses a place: only the files that a training leaves are taken, into the folder that
    the job here names.

    Args:
        host: Where it was trained.
        remote_run: The run's folder there.
        training: Which.
        root: The run's folder here.

    Raises:
        TransferCorrupted: What came is not what the manifest says, or the manifest not of this training.
        NameRefused: The manifest names another file, or one that is too large.
        HostError: As `Host.get` says.
    """
    files = files_of(training, root)
    remote = f"{remote_run}/{training.output_dir}"
    path = f"{remote}/{MANIFEST_NAME}"
    script = f"# jade: read {shlex.quote(path)}\nhead -c {MAX_MANIFEST_BYTES} < {shlex.quote(path)}"
    content = host.run(script, timeout_s=_CALL_S).stdout
    host.get(manifest_entries(content, training, files), remote, files.folder, timeout_s=_FETCH_S)
    write_atomically(files.manifest, content)
    if not is_done(training, files):
        raise TransferCorrupted(str(files.folder), "a finished training", "files that are not those of its manifest")


def manifest_entries(content: bytes, training: Training, files: TrainingFiles) -> tuple[FileEntry, ...]:
    """Read a training's manifest as a host sent it.

    Raises:
        TransferCorrupted: It is none, is of another training, or of an unfinished one.
        NameRefused: It names a file that no training leaves, or one that is too large.
    """
    try:
        manifest: Any = json.loads(content)
        is_right = manifest["run_key"] == training.run_key and manifest["complete"] is True
        entries = tuple(FileEntry(item["path"], item["size"], item["sha256"]) for item in manifest["files"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TransferCorrupted(MANIFEST_NAME, "a training's manifest", repr(content[:80])) from error
    if not is_right:
        raise TransferCorrupted(
            MANIFEST_NAME, f"the finished training {training.run_key[:12]}", "the manifest of another, or unfinished"
        )
    allowed = {path.name for path in (files.last, files.best, files.log, files.history)}
    for entry in entries:
        if entry.path not in allowed:
            raise NameRefused(entry.path, f"{training.title} leaves only {', '.join(sorted(allowed))}")
        if entry.size > MAX_FILE_BYTES:
            raise NameRefused(entry.path, f"its size is given as {entry.size}; {MAX_FILE_BYTES} bytes are allowed")
    if missing := {path.name for path in (files.last, files.log, files.history)} - {entry.path for entry in entries}:
        raise TransferCorrupted(MANIFEST_NAME, f"all of {', '.join(sorted(missing))}", "a manifest without")
    return entries


def remove_folder(host: Host, folder: str) -> None:
    """Remove a folder of ours on a host. Silent if it is gone.

    Raises:
        HostError: It could not be removed.
    """
    host.run(f"# jade: remove {shlex.quote(folder)}\nrm -rf -- {shlex.quote(folder)}", timeout_s=_CALL_S)


def has_folder(host: Host, folder: str) -> bool:
    """Whether a folder is there.

    Raises:
        HostError: The host could not be asked.
    """
    return host.run(f"test -d {shlex.quote(folder)}", timeout_s=_CALL_S, check=False).exit_status == 0
