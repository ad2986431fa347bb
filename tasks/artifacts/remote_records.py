"""Which runs a host may still be training: one small file a job in the user's state folder.

Written before a job is started, removed once its results are here: whoever dies in between leaves the record, never the
other way round.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from jade_model.core.files import write_atomically
from tasks.settings.load import state_folder


@dataclass(frozen=True)
class RemoteRun:
    """A job that was, or was about to be, started on a host.

    Attributes:
        host: Name of the host.
        key: Of the job there.
        run_id: The run that asked last.
        folder: That run's folder here.
        trainings: How many the job does.
        started_at: When that run asked, UTC.
    """

    host: str
    key: str
    run_id: str
    folder: str
    trainings: int
    started_at: str


def save_record(record: RemoteRun) -> None:
    """Write a record; an older one of the same job is replaced."""
    write_atomically(_path(record.host, record.key), json.dumps(dataclasses.asdict(record), indent=2) + "\n")


def remove_record(host: str, key: str) -> None:
    """Remove a record. Silent if there is none."""
    _path(host, key).unlink(missing_ok=True)


def load_records() -> list[RemoteRun]:
    """Return all records, oldest first; what is none is passed over."""
    found = []
    for path in sorted((state_folder() / "runs").glob("*.json")):
        try:
            found.append(RemoteRun(**json.loads(path.read_text("utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(found, key=lambda record: record.started_at)


def _path(host: str, key: str) -> Path:
    return state_folder() / "runs" / f"{host}.{key}.json"
