"""A training and its results as bytes with digests, for engines that share no file system with us.

What goes out: the job of one training as JSON, the rows, and by digest the arrays that it reads. What comes back: the
training's files, which are taken only if they are those that its manifest names, byte by byte. Nothing is unpickled on
the way that a worker has made of weights: they stay bytes until `load_checkpoint` reads them, which runs no code.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jade_model.core.errors import ConfigError
from jade_model.core.files import write_atomically
from jade_model.core.job import ARM_MODULE, Execution, Job, Training, load_job, save_job
from jade_model.core.job_runner import prepare_process
from jade_model.core.span_heads.own import load_arms
from jade_model.core.training_files import MANIFEST_NAME, files_of
from jade_model.core.worker import run_training
from tasks.execution.bundle import checkpoint_files
from tasks.execution.fetching import manifest_entries, move_training
from tasks.hosts.errors import TransferCorrupted

Files = dict[str, bytes]


@dataclass(frozen=True)
class Parcel:
    """One training as it travels.

    Attributes:
        job: A job of this training alone, as `job.json` has it.
        rows: The file of rows, by its name in the job.
        checkpoint: What it goes on from, by name; empty: it begins.
        device: Where it trains.
        arm_module: Source of the user's own arms; None: all are Jade's.
    """

    job: bytes
    rows: Files
    checkpoint: Files
    device: str
    arm_module: bytes | None = None


def topic_of(run_id: str) -> str:
    """Return under which topic a cluster's workers tell of a run's trainings."""
    return f"jade-{run_id}"


def checkpoint_name(run_id: str, run_key: str) -> str:
    """Return under which name a cluster keeps the newest checkpoint of a training."""
    return f"jade-{run_id}-{run_key}"


def pack(job: Job, training: Training, root: Path, *, device: str) -> Parcel:
    """Return what a worker needs, but the arrays.

    Args:
        job: The run's.
        training: One of its trainings.
        root: The run's folder.
        device: Where it shall train.
    """
    data = tuple(item for item in job.data if item.name == training.dataset)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "job.json"
        save_job(replace(job, data=data, trainings=(training,)), path)
        rows = {training.rows: (root / training.rows).read_bytes()}
        left = checkpoint_files((training,), root).values()
        module = (root / ARM_MODULE).read_bytes() if job.arm_module_sha256 else None
        return Parcel(path.read_bytes(), rows, {item.name: item.read_bytes() for item in left}, device, module)


def train_parcel(
    parcel: Parcel,
    arrays: bytes,
    scratch: Path,
    emit: Callable[[dict[str, Any], Callable[[], Files]], None] = lambda *_: None,
) -> Files:
    """Train what a parcel asks for; return the files that it leaves, the manifest among them.

    Args:
        parcel: From `pack`.
        arrays: The data set's `.npz`.
        scratch: Folder of ours; keeps the arrays for the next training.
        emit: Told of each event, with what reads the files that the training's manifest names then; what it raises ends
            the training.

    Raises:
        JadeError: As `run_training` says.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / "job.json"
    write_atomically(path, parcel.job)
    if parcel.arm_module is not None:
        write_atomically(scratch / ARM_MODULE, parcel.arm_module)
        load_arms(scratch / ARM_MODULE)
    # Reading it refuses every name that leads out of the folder.
    job = load_job(path)
    (training,), (data,) = job.trainings, job.data
    found = hashlib.sha256(arrays).hexdigest()
    if found != data.arrays_sha256:
        raise ConfigError(f"arrays of {data.name}: expected SHA-256 {data.arrays_sha256[:12]}..., got {found[:12]}...")
    if not (scratch / data.arrays).is_file() or (scratch / data.arrays).stat().st_size != len(arrays):
        write_atomically(scratch / data.arrays, arrays)
    write_atomically(scratch / training.rows, parcel.rows[training.rows])
    files = files_of(training, scratch)
    shutil.rmtree(files.folder, ignore_errors=True)
    for name in parcel.checkpoint.keys() & {files.resume.name, files.best.name}:
        write_atomically(files.folder / name, parcel.checkpoint[name])

    def left() -> Files:
        names = [MANIFEST_NAME, *(item["path"] for item in json.loads(files.manifest.read_bytes())["files"])]
        return {name: (files.folder / name).read_bytes() for name in names}

    try:
        execution = Execution(device=parcel.device, resume=True)
        prepare_process(execution)
        for _ in run_training(job, training, scratch, execution, lambda event: emit(event, left)):
            pass
        return left()
    finally:
        shutil.rmtree(files.folder, ignore_errors=True)


def unpack(files: Mapping[str, bytes], training: Training, root: Path, *, is_complete: bool = True) -> bool:
    """Write a training's files into the run's folder, the manifest last, unless what lies there is as far.

    Args:
        files: By name, the manifest among them.
        training: Whose they must be.
        root: The run's folder.
        is_complete: Whether they must be those of the finished training, or of one that goes on.

    Returns:
        Whether they were written.

    Raises:
        TransferCorrupted: They are not what the manifest says, or it is not of this training.
        NameRefused: The manifest names a file that no training leaves, or one that is too large.
    """
    manifest = files.get(MANIFEST_NAME, b"")
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        came = files_of(training, Path(scratch))
        for entry in manifest_entries(manifest, training, came, is_complete=is_complete):
            content = files.get(entry.path, b"")
            found = hashlib.sha256(content).hexdigest()
            if (len(content), found) != (entry.size, entry.sha256):
                raise TransferCorrupted(entry.path, entry.sha256, found)
            write_atomically(came.folder / entry.path, content)
        write_atomically(came.manifest, manifest)
        return move_training(training, Path(scratch), root)
