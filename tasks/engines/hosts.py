"""Trainings on several machines over SSH: each host has a thread that asks the queue, and a detached job a batch.

What a host brings is gathered in a folder of its own below the run's and moved to its place file by file, the manifest
last, by whoever is first: two hosts that do the same training never write to the same files, and a host that is silent
holds up nobody.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from jade_model.job import Job, Training
from jade_model.training_files import files_of, is_done
from tasks.bundle import RemotePlace
from tasks.engines.base import EngineSettings, Outcome, UnitDone, UnitFailed
from tasks.engines.followed import OWN_FAULTS
from tasks.engines.queue import Advice, Ended, QueueRules, UnitQueue
from tasks.errors import RunError
from tasks.host_access import open_host
from tasks.host_entries import Workers
from tasks.hosts.base import Host
from tasks.hosts.errors import HostError
from tasks.job_places import place_on
from tasks.jobs import POLL_S
from tasks.mirroring import Note, say
from tasks.remote_jobs import RemoteTrainingJob
from tasks.settings import load_settings

LANES_NAME = "lanes"
STOP_WITHIN_S = 60.0
"""A host that is out of reach is left after so long; what it may still do is said."""
PLACES_ON_GPU = 4
_CALL_S = 60.0


@dataclass(frozen=True)
class Lane:
    """One host of the engine.

    Attributes:
        name: Of the host.
        connect: Gives a connection that the lane closes.
        place: How the host is used.
        device: Where it trains there.
        workers: Trainings at once; None: as many as the host does by itself.
    """

    name: str
    connect: Callable[[], Host]
    place: RemotePlace
    device: str
    workers: Workers


class HostsEngine:
    """See `Engine`.

    Args:
        folder: The run's.
        job: What the run trains.
        lanes: The hosts.
        rules: Of the queue.
        note: Told what a person should know.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        folder: Path,
        job: Job,
        lanes: Sequence[Lane],
        *,
        rules: QueueRules | None = None,
        note: Note = say,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._job, self._lanes = folder, job, tuple(lanes)
        self._rules, self._note, self._clock = rules, note, clock
        self._changed = threading.Condition()
        self._queue = UnitQueue([], rules)
        self._units: Mapping[str, Training] = {}
        self._is_stopping = False
        self._threads: list[threading.Thread] = []

    def run(self, trainings: Sequence[Training]) -> Iterator[Outcome]:
        """See `Engine`."""
        pending: dict[str, Training] = {}
        for training in trainings:
            if is_done(training, files_of(training, self._folder)):
                yield UnitDone(training.run_key, "this machine", 0.0)
            else:
                pending[training.run_key] = training
        if not pending:
            return
        self._units, self._queue = pending, UnitQueue(pending, self._rules)
        self._queue.num_expected = len(self._lanes)
        self._is_stopping = False
        self._threads = [
            threading.Thread(target=self._serve, args=(lane,), daemon=True, name=f"lane-{lane.name}")
            for lane in self._lanes
        ]
        try:
            for thread in self._threads:
                thread.start()
            yield from self._outcomes()
        finally:
            self.stop()

    def stop(self) -> None:
        """See `Engine`."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        deadline = self._clock() + STOP_WITHIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock()))
            if thread.is_alive():
                self._note(
                    f"{thread.name.removeprefix('lane-')} does not answer: its job may run on until its time limit; "
                    "`jade runs` shows it, `jade runs stop` stops it"
                )
        self._threads = []
        shutil.rmtree(self._folder / LANES_NAME, ignore_errors=True)

    def _outcomes(self) -> Iterator[Outcome]:
        while True:
            with self._changed:
                ended, is_last = self._queue.drain(), self._queue.num_open == 0
                if not ended and not is_last:
                    self._changed.wait(POLL_S)
                    continue
            for item in ended:
                yield _outcome(item)
            if is_last:
                return

    def _serve(self, lane: Lane) -> None:
        reason, has_joined = "it is done", False
        host = lane.connect()
        try:
            places = _places(host, lane)
            with self._changed:
                self._queue.num_expected -= 1
                self._queue.join(lane.name, self._clock(), places=places)
                has_joined = True
            self._work(lane, host)
        except (HostError, RunError) as error:
            reason = str(error)
            self._note(f"{lane.name} does not take part: {error}")
        except Exception as error:  # whatever it is, the run must not wait for this host for ever
            reason = f"{type(error).__name__}: {error}"
            self._note(f"{lane.name} does not take part: {reason}")
        finally:
            with self._changed:
                self._queue.num_expected -= not has_joined
                self._queue.leave(lane.name, self._clock(), reason)
                self._changed.notify_all()
            host.close()

    def _work(self, lane: Lane, host: Host) -> None:
        is_ready = False
        while True:
            with self._changed:
                if self._is_stopping:
                    return
                answer = self._queue.take(lane.name, self._clock())
                self._changed.notify_all()
                if answer.advice is Advice.WAIT:
                    self._changed.wait(answer.wait_s)
                    continue
            match answer.advice:
                case Advice.WORK:
                    is_ready = self._do(lane, host, answer.batch, is_ready=is_ready) or is_ready
                case Advice.LEAVE:
                    return
                case _:
                    assert_never(answer.advice)

    def _do(self, lane: Lane, host: Host, batch: Sequence[str], *, is_ready: bool) -> bool:
        """Do a batch on a host; return whether the host could begin it."""
        folder = self._lane_folder(lane, batch)
        job = RemoteTrainingJob(
            folder,
            host,
            lane.place,
            device=lane.device,
            workers=lane.workers,
            note=self._note,
            job=replace(self._job, trainings=tuple(self._units[unit] for unit in batch)),
            is_ready=is_ready,
        )
        has_begun, told = False, set[str]()
        try:
            job.start()
            has_begun = True
            while True:
                # Asked before the results are, so that what came last is not passed over.
                is_last = job.ended
                self._tell(lane, job, folder, told)
                if is_last or self._is_over(lane):
                    break
                job.wait_for_change(POLL_S)
            if not job.ended:
                job.stop()
                with self._changed:
                    self._queue.drop(lane.name, self._clock())
            elif len(told) < len(batch):
                raise job.failure(f"{len(batch) - len(told)} of {len(batch)} trainings")
            else:
                job.finish()
        except (HostError, RunError) as error:
            self._note(f"{lane.name}: {error}")
            self._keep_partial(job, folder, told)
            with self._changed:
                self._queue.lost(lane.name, self._clock(), str(error))
                self._changed.notify_all()
            job.leave()
        return has_begun

    def _is_over(self, lane: Lane) -> bool:
        with self._changed:
            return self._is_stopping or self._queue.is_moot(lane.name)

    def _tell(self, lane: Lane, job: RemoteTrainingJob, folder: Path, told: set[str]) -> None:
        for unit, training in ((item.run_key, item) for item in job.job.trainings if item.run_key not in told):
            if unit in job.finished:
                told.add(unit)
                with self._changed:
                    self._move(training, folder)
                    files_of(training, self._folder).resume.unlink(missing_ok=True)
                    self._queue.finished(lane.name, unit, self._clock(), seconds=job.finished[unit])
                    self._changed.notify_all()
            elif training.output_dir in job.failed:
                told.add(unit)
                kind, reason = job.failed[training.output_dir]
                with self._changed:
                    self._queue.failed(lane.name, unit, self._clock(), reason, is_own_fault=kind in OWN_FAULTS)
                    self._changed.notify_all()

    def _lane_folder(self, lane: Lane, batch: Sequence[str]) -> Path:
        """Make a folder that looks like the run's to the job of a batch, with what a training has left so far."""
        folder = self._folder / LANES_NAME / lane.name / self._folder.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in {Path(item.arrays).parts[0] for item in self._job.data} | {
            Path(self._units[unit].rows).parts[0] for unit in batch
        }:
            (folder / name).symlink_to(self._folder / name, target_is_directory=True)
        with self._changed:
            for unit in batch:
                training = self._units[unit]
                left = files_of(training, self._folder)
                if left.resume.is_file():
                    _copy_files(left.folder, files_of(training, folder).folder)
        return folder

    def _move(self, training: Training, folder: Path) -> None:
        """Bring a training's files from a lane's folder to the run's, unless it is done there. The lock is held."""
        manifest, target = files_of(training, folder).manifest, files_of(training, self._folder)
        source = manifest.parent
        if is_done(training, target) or not source.is_dir():
            return
        target.folder.mkdir(parents=True, exist_ok=True)
        # An arm's folder holds one training's files and the folders of others.
        files = sorted((path for path in source.iterdir() if path.is_file()), key=lambda path: path == manifest)
        for path in files:
            path.replace(target.folder / path.name)

    def _keep_partial(self, job: RemoteTrainingJob, folder: Path, told: set[str]) -> None:
        """Keep the checkpoints that came from a host before it was lost, for whoever goes on from them."""
        with self._changed:
            for training in job.job.trainings:
                if training.run_key not in told and files_of(training, folder).resume.is_file():
                    self._move(training, folder)


@contextmanager
def open_hosts_engine(settings: EngineSettings, folder: Path, job: Job) -> Iterator[HostsEngine]:
    """Give an engine of hosts that the settings name; it is stopped afterwards.

    Raises:
        HostUnknown: A host is in no settings file.
    """
    known = load_settings()
    lanes = []
    for name in settings.hosts:
        entry = known.entry(name)
        lanes.append(
            Lane(
                name,
                lambda name=name: open_host(known, name),  # type: ignore[misc]
                place_on(entry),
                settings.device or entry.device,
                settings.workers,
            )
        )
    engine = HostsEngine(folder, job, lanes)
    try:
        yield engine
    finally:
        engine.stop()


def _places(host: Host, lane: Lane) -> int:
    if isinstance(lane.workers, int):
        return lane.workers
    if lane.device != "cpu":
        return PLACES_ON_GPU
    cores = host.run("# jade: count the cores\ngetconf _NPROCESSORS_ONLN", timeout_s=_CALL_S).text.strip()
    return int(cores) if cores.isdigit() else 1


def _copy_files(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copy2(path, target / path.name)


def _outcome(item: Ended) -> Outcome:
    if item.reason is None:
        return UnitDone(item.unit, item.host, item.seconds)
    return UnitFailed(item.unit, item.host, item.reason, is_own_fault=item.is_own_fault, attempts=item.attempts)
