"""What a worker of a Dask cluster does with a training."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from distributed import Variable, get_client, get_worker

from jade_model.core.errors import ConfigError
from jade_model.core.files import write_atomically
from jade_model.core.job import ARM_MODULE, Execution, load_job
from jade_model.core.job_runner import prepare_process
from jade_model.core.span_heads.own import load_arms
from jade_model.core.training_files import MANIFEST_NAME, files_of
from jade_model.core.worker import run_training
from tasks.core.errors import UnitError
from tasks.execution.dask import Files, checkpoint_name, topic_of

TELL_EVERY_S = 1.0
"""Of one training's epochs: some end ten times a second."""
CHECKPOINT_EVERY_S = 30.0
"""How often one training's checkpoint is sent, at most."""

# Shown by workers as their own lines are, and silent where those are.
_log = logging.getLogger("distributed.worker.jade")

# One process trains one model at a time: its random state and its threads are the process's own.
_TRAINING = threading.Lock()


def train_here(sent: Files, arrays: bytes, *, device: str) -> tuple[Files, str, float]:
    """Train in this worker's process; return the files, where that was, and how long it took. As `train_files`.

    Each event goes to the worker's log, and, but for most epochs, through the scheduler to whoever runs the trainings.
    The newest checkpoint is kept by the scheduler until it is replaced, or the training is over.

    Raises:
        UnitError: The training failed.
    """
    worker, job = get_worker(), json.loads(sent["job.json"])
    where = f"{socket.gethostname()}, process {os.getpid()}"
    topic = topic_of(job["run_id"])
    name = checkpoint_name(job["run_id"], job["trainings"][0]["run_key"])
    kept: Any = Variable(name, client=get_client())  # type: ignore[no-untyped-call]
    seconds, told_at, sent_at = 0.0, -math.inf, -math.inf

    def emit(event: dict[str, Any], files: Callable[[], Files]) -> None:
        nonlocal seconds, told_at, sent_at
        # Not on standard output: a cluster on this machine shares it with the command that started it.
        _log.info("%s", json.dumps(event))
        seconds = float(event.get("seconds", seconds))
        if event["event"] == "epoch":
            if monotonic() - told_at < TELL_EVERY_S and event["epoch"] != event["epochs"]:
                return
            told_at = monotonic()
        elif event["event"] == "checkpoint":
            if monotonic() - sent_at < CHECKPOINT_EVERY_S:
                return
            sent_at = monotonic()
            kept.set(files())
        worker.log_event(topic, event)

    with _TRAINING:
        try:
            files = train_files(sent, arrays, Path(worker.local_directory) / "jade", emit, device=device)
        except Exception as error:
            # Errors that carry evidence do not all survive the way back as themselves.
            raise UnitError(type(error).__name__, str(error) or type(error).__name__, where) from None
        finally:
            kept.delete()
    return files, where, seconds


def train_files(
    sent: Files,
    arrays: bytes,
    scratch: Path,
    emit: Callable[[dict[str, Any], Callable[[], Files]], None] = lambda *_: None,
    *,
    device: str,
) -> Files:
    """Train what `pack` sent; return the files that the training leaves, the manifest among them.

    Args:
        sent: The training's job and what else it reads, by name.
        arrays: The data set's `.npz`.
        scratch: Folder of ours; keeps the arrays for the next training.
        emit: Told of each event, with what reads the files that the training's manifest names then; what it raises ends
            the training.
        device: Where it trains.

    Raises:
        JadeError: As `run_training` says.
    """
    write_atomically(scratch / "job.json", sent["job.json"])
    if ARM_MODULE in sent:
        write_atomically(scratch / ARM_MODULE, sent[ARM_MODULE])
        load_arms(scratch / ARM_MODULE)
    # Reading it refuses every name that leads out of the folder.
    job = load_job(scratch / "job.json")
    (training,), (data,) = job.trainings, job.data
    found = hashlib.sha256(arrays).hexdigest()
    if found != data.arrays_sha256:
        raise ConfigError(f"arrays of {data.name}: expected SHA-256 {data.arrays_sha256[:12]}..., got {found[:12]}...")
    if not (scratch / data.arrays).is_file() or (scratch / data.arrays).stat().st_size != len(arrays):
        write_atomically(scratch / data.arrays, arrays)
    files = files_of(training, scratch)
    shutil.rmtree(files.folder, ignore_errors=True)
    for path in (scratch / training.rows, files.resume, files.best):
        if (content := sent.get(path.relative_to(scratch).as_posix())) is not None:
            write_atomically(path, content)

    def left() -> Files:
        names = [MANIFEST_NAME, *(item["path"] for item in json.loads(files.manifest.read_bytes())["files"])]
        return {name: (files.folder / name).read_bytes() for name in names}

    try:
        execution = Execution(device=device, resume=True)
        prepare_process(execution)
        for _ in run_training(job, training, scratch, execution, lambda event: emit(event, left)):
            pass
        return left()
    finally:
        shutil.rmtree(files.folder, ignore_errors=True)
