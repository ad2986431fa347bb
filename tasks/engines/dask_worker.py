"""What a worker of a Dask cluster does with a training."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

from distributed import get_worker

from jade_model.job_runner import Emitter
from tasks.engines.parcels import Files, Parcel, train_parcel
from tasks.errors import UnitError

# One process trains one model at a time: its random state and its threads are the process's own.
_TRAINING = threading.Lock()


def train_here(parcel: Parcel, arrays: bytes) -> tuple[Files, str, float]:
    """Train a parcel in this worker's process; return the files, where that was, and how long it took.

    Each event is a line of the worker's output, as on any host.

    Raises:
        UnitError: The training failed.
    """
    say, seconds = Emitter(as_json=True), 0.0

    def emit(event: dict[str, Any]) -> None:
        nonlocal seconds
        say(event)
        seconds = float(event.get("seconds", seconds))

    where = f"{socket.gethostname()}, process {os.getpid()}"
    with _TRAINING:
        try:
            files = train_parcel(parcel, arrays, Path(get_worker().local_directory) / "jade", emit)
        except Exception as error:
            # Errors that carry evidence do not all survive the way back as themselves.
            raise UnitError(type(error).__name__, str(error) or type(error).__name__, where) from None
    return files, where, seconds
