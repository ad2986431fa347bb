"""What a worker of a Dask cluster does with a training."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from distributed import Variable, get_client, get_worker

from tasks.core.errors import UnitError
from tasks.execution.parcels import Files, Parcel, checkpoint_name, topic_of, train_parcel

TELL_EVERY_S = 1.0
"""Of one training's epochs: some end ten times a second."""
CHECKPOINT_EVERY_S = 30.0
"""How often one training's checkpoint is sent, at most."""

# Shown by workers as their own lines are, and silent where those are.
_log = logging.getLogger("distributed.worker.jade")

# One process trains one model at a time: its random state and its threads are the process's own.
_TRAINING = threading.Lock()


def train_here(parcel: Parcel, arrays: bytes) -> tuple[Files, str, float]:
    """Train a parcel in this worker's process; return the files, where that was, and how long it took.

    Each event goes to the worker's log, and, but for most epochs, through the scheduler to whoever runs the trainings.
    The newest checkpoint is kept by the scheduler until it is replaced, or the training is over.

    Raises:
        UnitError: The training failed.
    """
    worker, job = get_worker(), json.loads(parcel.job)
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
            files = train_parcel(parcel, arrays, Path(worker.local_directory) / "jade", emit)
        except Exception as error:
            # Errors that carry evidence do not all survive the way back as themselves.
            raise UnitError(type(error).__name__, str(error) or type(error).__name__, where) from None
        finally:
            kept.delete()
    return files, where, seconds
