"""What a worker of a Dask cluster does with a training."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import threading
from pathlib import Path
from time import monotonic
from typing import Any

from distributed import get_worker

from tasks.core.errors import UnitError
from tasks.execution.parcels import Files, Parcel, topic_of, train_parcel

TELL_EVERY_S = 1.0
"""Of one training's epochs: some end ten times a second."""

# Shown by workers as their own lines are, and silent where those are.
_log = logging.getLogger("distributed.worker.jade")

# One process trains one model at a time: its random state and its threads are the process's own.
_TRAINING = threading.Lock()


def train_here(parcel: Parcel, arrays: bytes) -> tuple[Files, str, float]:
    """Train a parcel in this worker's process; return the files, where that was, and how long it took.

    Each event goes to the worker's log; of epochs, whoever runs the sweep hears through the scheduler.

    Raises:
        UnitError: The training failed.
    """
    worker, topic = get_worker(), topic_of(json.loads(parcel.job)["run_id"])
    seconds, told_at = 0.0, -math.inf

    def emit(event: dict[str, Any]) -> None:
        nonlocal seconds, told_at
        # Not on standard output: a cluster on this machine shares it with the command that started it.
        _log.info("%s", json.dumps(event))
        seconds = float(event.get("seconds", seconds))
        if event["event"] == "epoch" and (monotonic() - told_at >= TELL_EVERY_S or event["epoch"] == event["epochs"]):
            told_at = monotonic()
            worker.log_event(topic, event)

    where = f"{socket.gethostname()}, process {os.getpid()}"
    with _TRAINING:
        try:
            files = train_parcel(parcel, arrays, Path(worker.local_directory) / "jade", emit)
        except Exception as error:
            # Errors that carry evidence do not all survive the way back as themselves.
            raise UnitError(type(error).__name__, str(error) or type(error).__name__, where) from None
    return files, where, seconds
