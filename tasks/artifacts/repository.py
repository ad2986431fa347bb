"""Where runs are kept: a folder here, or a bucket of which working copies lie here. The one seam over both.

A flow works in the folder that `recorded_run` (tasks/runs/record.py) gives it, wherever the place is; what it reads,
`find_run` and `open_run` bring here, whole and verified. Opening a place asks nothing of it: Prefect tasks take its
address and open it themselves.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from tasks.artifacts.backend import Records
from tasks.artifacts.errors import ArtifactNotFound, BadStoreAddress, StoreError
from tasks.artifacts.leases import load_records, running, sweep
from tasks.artifacts.local import LocalBackend, disk_errors, write_chunks
from tasks.artifacts.manifest import MANIFEST_NAME, is_same, manifest_bytes
from tasks.artifacts.retention import (
    SWEEP_AGE_S,
    PruneDecision,
    PruneOutcome,
    RunFacts,
    gather_facts,
    plan_prune,
    prune,
)
from tasks.artifacts.store import ArtifactStore
from tasks.artifacts.transfer import fetch_file, publish_files, publish_run
from tasks.core.errors import RunNotFound
from tasks.core.layout import RunLayout
from tasks.core.names import is_plain_name
from tasks.settings.load import cache_folder, load_settings
from tasks.settings.models import S3Settings

LATEST = "latest"
REPORT_FILES = ("report/",)
"""What may be written again although a run is complete."""

_IN_BUCKET = re.compile(r"(?P<address>\w+://.+?)/(?P<run>\d{8}T\d{6}Z-[a-z0-9-]+-[0-9a-f]{6})(/(?P<path>.*))?")


@dataclass(frozen=True)
class ArtifactPlace:
    """A place that keeps runs.

    Attributes:
        address: The folder, absolute, or `s3://bucket/prefix`.
        folder: Holds the runs' folders on this machine: the place itself, or the working copies of a bucket.
        store: What is published.
        records: What running flows tell one another.
        is_local: Whether the runs' folders here are the published ones.
    """

    address: str
    folder: Path
    store: ArtifactStore
    records: Records
    is_local: bool

    def layout(self, run_id: str) -> RunLayout:
        """Return where a run lies, or would lie, on this machine."""
        return RunLayout(self.folder / run_id)

    def find_run(self, name: str, *, below: str = "") -> RunLayout:
        """Return the run that is meant, whole and verified on this machine.

        Args:
            name: A run's name, the beginning of one, `latest`, or another pointer.
            below: Of a bucket, fetch only what lies below this path of the run.

        Raises:
            RunNotFound: None or several fit, or nothing lies below the path.
            ArtifactCorrupted, StoreError: What the bucket has is not whole, or it does not answer.
        """
        return self.bring(self.find(name), below=below)

    def bring(self, run_id: str, *, below: str = "") -> RunLayout:
        """Return the run of that very name as `find_run` does; of one that goes on, only add what is missing here."""
        root = self.folder / run_id
        if self.is_local:
            return RunLayout(root.resolve())
        manifest = self.store.manifest(run_id)
        wanted = [file for file in manifest.files if not below or file.path.startswith(below.rstrip("/") + "/")]
        if below and not wanted:
            raise RunNotFound(f"the run {run_id} in {self.address} has nothing below {below!r}")
        for file in wanted:
            path = root / file.path
            if not (is_same(path, file) if manifest.complete else path.is_file()):
                fetch_file(self.store, run_id, file, path)
        if not below and manifest.complete:
            with disk_errors(str(root), f"writing {MANIFEST_NAME}"):
                write_chunks(root / MANIFEST_NAME, [manifest_bytes(manifest)])
        return self.layout(run_id)

    def find(self, name: str) -> str:
        """Return the name of the run that is meant, as in `find_run`; nothing is fetched."""
        pointed = self.store.pointers().get(name)
        if self.is_local:
            runs = sorted(path.parent.name for path in self.folder.glob("*/run.json"))
            if name == LATEST and pointed not in runs:
                pointed = runs[-1] if runs else None
        else:
            runs = list(self.store.runs())
        exact = [run for run in (pointed, name) if run in runs][:1]
        fitting = exact or [run for run in runs if run.startswith(name)]
        if len(fitting) != 1:
            known = ", ".join(runs[-5:]) or "none"
            problem = "no run" if not fitting else f"{len(fitting)} runs"
            hint = ". `jade retrain` makes the first champion" if name == "champion" else ""
            raise RunNotFound(f"{problem} called {name!r} in {self.address}; the newest there: {known}{hint}")
        return fitting[0]

    def is_running(self, run_id: str) -> bool:
        """Whether a flow is at the run now, or a host may still train what it asked for."""
        is_asked_for = any(record.run_id == run_id for record in load_records())
        return is_asked_for or running(self.records, run_id) is not None

    def publish_begin(self, layout: RunLayout) -> None:
        """Let others see that the run goes on. A folder shows that by itself."""
        if not self.is_local:
            publish_files(self.store, layout.root, layout.run_id, [layout.run_json.name])

    def publish_end(self, layout: RunLayout, *, is_complete: bool) -> None:
        """Publish all that the run left; one that ended well is what `latest` stands for, from the very last step on.

        Of a run that failed, a bucket gets what tells why; its checkpoints were published as they appeared. A
        `StoreError` says where the run lies; what was published before stays.
        """
        try:
            if is_complete or self.is_local:
                pointer = LATEST if is_complete else None
                publish_run(self.store, layout.root, layout.run_id, complete=is_complete, pointer=pointer)
            else:
                told = (layout.run_json, layout.failed_json, layout.remote_log)
                publish_files(self.store, layout.root, layout.run_id, [path.name for path in told if path.is_file()])
        except StoreError as error:
            again = "the same command on this machine takes its trainings over"
            error.args = (f"{error} All that the run left lies in {layout.root}; {again}.",)
            raise

    def publish_report(self, layout: RunLayout) -> None:
        """Publish a report that was written again; silent for a run that was never published."""
        try:
            before = self.store.manifest(layout.run_id)
        except ArtifactNotFound:
            return
        found = (path.relative_to(layout.root).as_posix() for path in layout.report.rglob("*") if path.is_file())
        now = [path for path in found if "/." not in path]
        gone = {file.path for file in before.files if file.path.startswith(REPORT_FILES)} - set(now)
        publish_files(self.store, layout.root, layout.run_id, now, remove=gone, may_replace=REPORT_FILES)

    def facts(self) -> tuple[RunFacts, ...]:
        """Return what is known about every run; in a folder, also of those that ended without being published."""
        published = gather_facts(self.store, self.is_running)
        known = {run.run_id for run in published}
        here = (path.parent for path in self.folder.glob("*/run.json") if self.is_local)
        left = [folder for folder in here if folder.name not in known and is_plain_name(folder.name)]
        return published + tuple(map(self._unpublished, sorted(left)))

    def prune(
        self, *, keep_last: int | None, keep_days: float | None, dry_run: bool = False
    ) -> tuple[Sequence[PruneDecision], PruneOutcome]:
        """Delete the runs that no rule keeps, what dead ones left, and working copies; return plan and outcome."""
        plan = plan_prune(self.facts(), keep_last=keep_last, keep_days=keep_days, now=datetime.now(UTC))
        outcome = prune(self.store, plan, self.is_running, dry_run=dry_run)
        if not dry_run:
            for decision in outcome.deleted if not self.is_local else ():
                shutil.rmtree(self.folder / decision.run_id, ignore_errors=True)
            outcome = replace(outcome, swept_leases=sweep(self.records, older_than_s=SWEEP_AGE_S))
        return plan, outcome

    def _unpublished(self, folder: Path) -> RunFacts:
        files = [path.lstat() for path in folder.rglob("*") if not path.is_dir()]
        changed = datetime.fromtimestamp((folder / "run.json").stat().st_mtime, UTC)
        size = sum(item.st_size for item in files)
        return RunFacts(folder.name, changed, size, (), self.is_running(folder.name), files=len(files))


def open_place(address: str | Path | None = None) -> ArtifactPlace:
    """Return a place for runs, a folder or `s3://bucket/prefix`; nothing is asked of it yet.

    Raises:
        BadStoreAddress, SettingsError: It is neither, or the settings, which name it if nothing does, make no sense.
    """
    settings = load_settings()
    text = str(address or settings.artifacts)
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        folder = Path(text).expanduser().resolve()
        backend = LocalBackend(folder)
        return ArtifactPlace(str(folder), folder, ArtifactStore(backend), Records(backend), is_local=True)
    return _bucket_place(text.rstrip("/"), settings.s3, cache_folder())


@lru_cache(maxsize=8)
def _bucket_place(address: str, settings: S3Settings, cache: Path) -> ArtifactPlace:
    # One client for all who ask: making one takes boto3 most of a second.
    from tasks.artifacts.s3 import S3Backend  # boto3 takes half a second to import

    backend = S3Backend(address, settings)
    # Two endpoints may have buckets of one name.
    told = hashlib.sha256(json.dumps([settings.endpoint_url, address]).encode()).hexdigest()[:16]
    return ArtifactPlace(address, cache / "runs" / told, ArtifactStore(backend), Records(backend), is_local=False)


def open_run(name: str, artifacts: str | None) -> tuple[ArtifactPlace, RunLayout]:
    """Return a run that a user names, whole and verified on this machine, and the place that keeps it.

    Args:
        name: A run's folder, `s3://bucket/prefix/RUN`, or what `find_run` takes.
        artifacts: Where it is looked for if the name does not say; None for what the settings say.
    """
    place, run_id = locate_run(name, artifacts)
    return place, place.bring(run_id)


def locate_run(name: str, artifacts: str | None) -> tuple[ArtifactPlace, str]:
    """Return the name of a run that a user names as for `open_run`, and the place that keeps it; nothing is fetched."""
    if "://" in name:
        address, _, run = name.rstrip("/").rpartition("/")
        if not is_plain_name(run) or address.endswith(":/"):
            raise BadStoreAddress(name, "it must end in a run's name")
        place = open_place(address)
    elif (Path(name) / "run.json").is_file():
        folder = Path(name).resolve()
        place, run = open_place(folder.parent), folder.name
    else:
        place, run = open_place(artifacts), name
    return place, place.find(run)


def fetch_path(name: str, artifacts: str | None) -> Path:
    """Return a file or folder of a run that a user names, on this machine.

    Args:
        name: A path here, `s3://bucket/prefix/RUN/path`, or `RUN/path` of a run that `artifacts` keeps.
        artifacts: As in `open_run`.

    Raises:
        RunNotFound: There is no such path, neither here nor among the artifacts.
    """
    here = Path(name).expanduser()
    if "://" not in name and here.exists():
        return here
    run, _, path = name.strip("/").partition("/")
    if "://" in name:
        if (parts := _IN_BUCKET.fullmatch(name)) is None:
            raise RunNotFound(
                f"{name} names no run. Write s3://bucket/prefix/RUN/path with the run's whole name, or RUN/path "
                "together with --artifacts s3://bucket/prefix."
            )
        artifacts, run, path = parts["address"], parts["run"], parts["path"] or ""
    place = open_place(artifacts)
    if not is_plain_name(run):
        raise RunNotFound(f"there is no {name}, and no run's name stands at its beginning")
    if ".." in path.split("/"):
        raise RunNotFound(f"{name} leads out of its run")
    # Ensembles and settings lie beside a checkpoint: of a file, its folder is fetched.
    folder = path.rpartition("/")[0] if Path(path).suffix else path
    try:
        root = place.find_run(run, below=folder).root
    except RunNotFound as error:
        raise RunNotFound(f"there is no {name} here; among the artifacts: {error}") from error
    found = root / path
    if not found.exists():
        raise RunNotFound(f"the run {root.name} in {place.address} has no {path}")
    return found
