"""A run's folder: opened with its identity, closed with its outcome, read again by its name."""

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

from jade_model.files import write_atomically
from jade_model.job import code_digest
from tasks.errors import RunNotFound
from tasks.layout import RunLayout
from tasks.settings import available_cores

RUN_SCHEMA_VERSION = 1
_VERSIONED = ("torch", "numpy", "pandas", "pyarrow", "prefect", "matplotlib", "pytorch-crf")


@dataclass
class Run:
    """One run while it goes on.

    Attributes:
        layout: Its folder.
        record: What `run.json` holds; `save` writes it.
    """

    layout: RunLayout
    record: dict[str, Any] = field(default_factory=dict)

    def save(self) -> None:
        """Write `run.json`."""
        write_atomically(self.layout.run_json, json.dumps(self.record, indent=2) + "\n")

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
def recorded_run(artifacts: Path, flow: str, parameters: dict[str, Any]) -> Iterator[Run]:
    """Make a run's folder, and record how the block ended.

    A block that raises, or is interrupted, leaves `FAILED.json` with the place and the reason, and `run.json` says so.

    Args:
        artifacts: Where runs are kept.
        flow: The flow's name, part of the run's.
        parameters: As JSON values, without secrets.
    """
    layout = RunLayout(artifacts.resolve() / new_run_id(flow))
    layout.root.mkdir(parents=True)
    started = time.monotonic()
    run = Run(layout, _identity(layout.run_id, flow, parameters))
    run.save()
    try:
        yield run
    except BaseException as error:
        run.record |= {"state": "failed"}
        write_atomically(layout.failed_json, json.dumps(_failure(error), indent=2) + "\n")
        raise
    else:
        run.record |= {"state": "completed"}
    finally:
        run.record["finished_at"] = _now()
        run.record.setdefault("seconds", {})["total"] = round(time.monotonic() - started, 3)
        run.save()


def find_run(name: str, artifacts: Path) -> RunLayout:
    """Return the run that is meant: a folder, a run's name under `artifacts`, the beginning of one, or `latest`.

    Raises:
        RunNotFound: None or several fit.
    """
    as_path = Path(name)
    if (as_path / "run.json").is_file():
        return RunLayout(as_path.resolve())
    runs = sorted(path.parent for path in artifacts.glob("*/run.json"))
    if name == "latest":
        fitting = runs[-1:]
    else:
        fitting = [run for run in runs if run.name == name] or [run for run in runs if run.name.startswith(name)]
    if len(fitting) != 1:
        known = ", ".join(run.name for run in runs[-5:]) or "none"
        problem = "no run" if not fitting else f"{len(fitting)} runs"
        raise RunNotFound(f"{problem} called {name!r} in {artifacts}; the newest there: {known}")
    return RunLayout(fitting[0].resolve())


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


def _identity(run_id: str, flow: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema_version": RUN_SCHEMA_VERSION,
        "run_id": run_id,
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
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """Return the commit that the code stands at, where it stands in a git checkout."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

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
    ours = [frame for frame in frames if Path(frame.filename).parts[-2:-1] in {("tasks",), ("flows",), ("jade_model",)}]
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
