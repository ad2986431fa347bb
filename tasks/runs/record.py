"""A run's folder: opened with its identity, closed with its outcome, published where it is kept."""

from __future__ import annotations

import json
import os
import platform
import secrets
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from jade_model.core.files import write_atomically
from jade_model.core.job import code_digest
from tasks.artifacts.errors import StoreError
from tasks.artifacts.leases import Heartbeat
from tasks.artifacts.repository import ArtifactPlace, open_place
from tasks.artifacts.training_cache import say
from tasks.core.errors import RunNotFound
from tasks.core.layout import RunLayout
from tasks.core.processes import PROCESS_STARTED
from tasks.provisioning.rental_record import read_rental
from tasks.runs.live_tracking import Tracking
from tasks.runs.log import logged_to
from tasks.runs.tracking import tracks
from tasks.settings.environment import available_cores
from tasks.settings.models import LOCAL

RUN_SCHEMA_VERSION = 1
_VERSIONED = ("torch", "numpy", "pandas", "pyarrow", "prefect", "matplotlib")


@dataclass
class Run:
    """One run while it goes on.

    Attributes:
        layout: Its folder.
        place: What keeps it.
        heartbeat: Says that it goes on.
        record: What `run.json` holds; `save` writes it.
        started: When it began, by `time.monotonic`.
        trained: From when to when trainings ran, likewise; None where none did yet.
        tracking: Tells MLflow of the run; None if nobody wants that.
    """

    layout: RunLayout
    place: ArtifactPlace
    heartbeat: Heartbeat
    record: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    trained: tuple[float, float] | None = None
    tracking: Tracking | None = None

    def save(self) -> None:
        """Write `run.json`."""
        if (rental := read_rental(self.layout.root)) is not None:
            self.record["rental"] = rental
        write_atomically(self.layout.run_json, json.dumps(self.record, indent=2) + "\n")

    def end(self, state: str) -> None:
        """Write how, `completed` or `failed`, and when the run ended."""
        self.record |= {"state": state, "finished_at": _now()}
        self.record.setdefault("seconds", {})["total"] = round(time.monotonic() - self.started, 3)
        if (rental := read_rental(self.layout.root)) is not None:
            self.record["rental"] = rental
        self.note_overhead()
        self.save()

    def note_overhead(self) -> None:
        """Put into the record what the run took beside training, up to now: seconds by what took them."""
        if self.trained is None:
            return
        began, ended = self.trained
        self.record["overhead"] = {
            "start of the process and of Prefect": round(self.started - PROCESS_STARTED, 3),
            "until the first epoch": round(began - self.started, 3),
            "since the last epoch": round(time.monotonic() - ended, 3),
        }

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to the record, under the phase's name."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = self.record.setdefault("seconds", {})
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - started, 3)


def new_run_id(flow: str, *, now: datetime | None = None) -> str:
    """Return `<UTC date and time>-<flow>-<6 hex digits>`."""
    moment = now or datetime.now(UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{flow}-{secrets.token_hex(3)}"


@contextmanager
def recorded_run(
    place: ArtifactPlace | Path, flow: str, parameters: dict[str, Any], *, host: str = LOCAL
) -> Iterator[Run]:
    """Make a run's folder, say that the run goes on, record how the block ended, and publish what it left.

    A block that raises, or is interrupted, leaves `FAILED.json` with the place and the reason, and `run.json` says so.

    Args:
        place: What keeps the run, or its folder.
        flow: The flow's name, part of the run's.
        parameters: As JSON values, without secrets.
        host: Where it trains, for others who wait for it.

    Raises:
        StoreError: The run could not be begun, or not be published; then it counts as failed.
        BadRequest: MLflow is to be told of the run, as `track` among the parameters or the settings say, and is not
            installed.
    """
    is_tracked = tracks(parameters.get("track"))
    place = open_place(place) if isinstance(place, Path) else place
    layout = place.layout(new_run_id(flow))
    run = Run(layout, place, Heartbeat(place.records, layout.run_id, host=host), _identity(layout, flow, parameters))
    run.record["artifacts"] = place.address
    # First of all, for it fails where the place cannot be written to: then nothing is left behind.
    run.heartbeat.start()
    try:
        layout.root.mkdir(parents=True)
        run.save()
        place.publish_begin(layout)
        run.tracking = Tracking(layout, place.address, say) if is_tracked else None
        with logged_to(layout.root, layout.run_id):
            yield run
        run.end("completed")
        place.publish_end(layout, is_complete=True)
    except BaseException as error:
        write_atomically(layout.failed_json, json.dumps(_failure(error), indent=2) + "\n")
        run.end("failed")
        _publish_failure(place, layout)
        raise
    finally:
        run.heartbeat.stop()
        if run.tracking is not None:
            run.tracking.close()


def read_run_record(layout: RunLayout) -> dict[str, Any]:
    """Return what `run.json` says.

    Raises:
        RunNotFound: It is missing or not JSON.
    """
    try:
        record: dict[str, Any] = json.loads(layout.run_json.read_text())
    except (OSError, ValueError) as error:
        raise RunNotFound(f"{layout.run_json}: {error}") from error
    return record


def _publish_failure(place: ArtifactPlace, layout: RunLayout) -> None:
    """Publish what a failed run left, if possible: the failure itself is what its owner must hear of."""
    try:
        place.publish_end(layout, is_complete=False)
    except StoreError as error:
        sys.stderr.write(f"note: what {layout.run_id} left could not be published: {error}\n")


def _identity(layout: RunLayout, flow: str, parameters: dict[str, Any]) -> dict[str, Any]:
    from prefect.runtime import flow_run  # takes a second to import, which commands that read records do without

    return {
        "schema_version": RUN_SCHEMA_VERSION,
        "run_id": layout.run_id,
        "flow": flow,
        "state": "running",
        "started_at": _now(),
        "parameters": parameters,
        "code": {"version": _version("jade-expansions"), "digest": code_digest(), **_commit()},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _VERSIONED}},
        "host": {
            "system": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            "cores": available_cores(),
        },
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "flow_run_id": flow_run.id,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """Return the commit that the code stands at, where it stands in a git checkout."""

    def git(*arguments: str) -> str:
        here = Path(__file__).resolve().parents[1]
        # A service runs what another user has installed, which git does not look into unless told that this is meant.
        command = ["git", "-c", f"safe.directory={here.parent}", *arguments]
        return subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "modified": None}


def _failure(error: BaseException) -> dict[str, Any]:
    # The block's own frames: that of recorded_run, which it passes through, says nothing.
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    here = Path(__file__).resolve().parents[2]
    packages = [here / name for name in ("tasks", "flows", "jade_model")]
    ours = [frame for frame in frames if any(Path(frame.filename).is_relative_to(package) for package in packages)]
    last = next(reversed(ours or frames), None)
    return {
        "error": type(error).__name__,
        "message": str(error) or "interrupted",
        "where": f"{Path(last.filename).name}:{last.lineno} in {last.name}" if last else None,
        "at": _now(),
        "traceback": traceback.format_exception(error)[-20:],
        "process": os.getpid(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
