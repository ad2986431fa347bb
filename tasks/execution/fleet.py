"""Trainings on several machines over SSH: each lane has a thread that asks the queue, and a detached job a batch.

A lane has a host of the settings, or a machine that is rented for it and replaced when it is lost (see lanes.py).

What a host brings is gathered in a folder of its own below the run's and moved to its place file by file, the manifest
last, by whoever is first: two hosts that do the same training never write to the same files, and a host that is silent
holds up nobody.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from jade_model.core.job import Job, Training
from jade_model.core.training_files import files_of, is_done
from tasks.artifacts.publisher import Note, say
from tasks.core.errors import RentingCancelled, RunError
from tasks.execution.base import OnEpoch, Outcome, UnitDone, UnitFailed, unheard
from tasks.execution.followed import OWN_FAULTS
from tasks.execution.job_places import place_on
from tasks.execution.jobs import POLL_S
from tasks.execution.lanes import HostLane, Lane, Station
from tasks.execution.placement import Placement
from tasks.execution.queue import Advice, Ended, QueueRules, UnitQueue
from tasks.execution.remote import RemoteTrainingJob
from tasks.hosts.errors import HostError
from tasks.hosts.ssh import open_host
from tasks.provisioning.errors import LedgerError
from tasks.provisioning.registry import open_registry
from tasks.settings.host_entries import Workers
from tasks.settings.load import load_settings

LANES_NAME = "lanes"
STOP_WITHIN_S = 60.0
"""A host that is out of reach is left after so long; what it may still do is said."""
STOP_DOUBTFUL_WITHIN_S = 5.0
"""One that was out of reach when it was asked last, and has begun nothing since."""
PATIENCE_S = 60.0
"""How long a host may be out of reach: its trainings need not wait for it."""
PLACES_ON_GPU = 4
_CALL_S = 60.0


@dataclass
class _Shift:
    """A host at work in its lane.

    Attributes:
        lane: Where.
        station: The host.
        is_ready: Whether it can train, and has our sources.
        num_done: Trainings that it has brought.
        to_tidy: A job whose results are all here, to be removed over there while the next one trains.
        number: Of its batches.
    """

    lane: Lane
    station: Station
    is_ready: bool
    num_done: int = 0
    to_tidy: RemoteTrainingJob | None = None
    number: int = 0

    def tidy_up(self) -> None:
        """Remove what the last job has left over there."""
        job, self.to_tidy = self.to_tidy, None
        if job is not None:
            job.finish()


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
        self._threads: dict[str, threading.Thread] = {}
        self._doubtful: set[str] = set()
        self.on_epoch: OnEpoch = unheard

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
        self._threads = {
            lane.name: threading.Thread(target=self._serve, args=(lane,), daemon=True, name=f"lane-{lane.name}")
            for lane in self._lanes
        }
        try:
            for thread in self._threads.values():
                thread.start()
            yield from self._outcomes()
        finally:
            self._halt()

    def stop(self) -> None:
        """See `Engine`."""
        self._halt()
        # Side by side: each may take as long as a provider needs to end a machine.
        closing = [threading.Thread(target=lane.close, name=f"close-{lane.name}") for lane in self._lanes]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def _halt(self) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        for lane in self._lanes:
            lane.cancel()
        began = self._clock()
        for name, thread in self._threads.items():
            within_s = STOP_DOUBTFUL_WITHIN_S if name in self._doubtful else STOP_WITHIN_S
            thread.join(max(0.0, began + within_s - self._clock()))
            if thread.is_alive():
                self._note(
                    f"{name} does not answer: its job may run on until its time limit; `jade runs` shows it, "
                    "`jade runs stop` stops it"
                )
        self._threads = {}
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
        is_expected, is_over, reason = True, False, "it is done"
        try:
            while True:
                shift = self._open(lane)
                with self._changed:
                    self._queue.num_expected -= 1
                    is_expected = False
                given_up = self._work(shift)
                if given_up is None:
                    break
                reason = given_up
                with self._changed:
                    # Counted first: while another host may come, nothing is given up for want of one.
                    self._queue.num_expected += 1
                    is_expected = True
                    self._queue.leave(lane.name, self._clock(), reason)
                    self._changed.notify_all()
                if not lane.retire(reason, has_worked=shift.num_done > 0) or self._is_done():
                    break
        except RentingCancelled:
            reason = "the run is over"
        except (HostError, RunError, LedgerError) as error:
            reason = str(error)
            self._note(f"{lane.name} does not take part: {error}")
        except Exception as error:  # whatever it is, the run must not wait for this host for ever
            reason = f"{type(error).__name__}: {error}"
            self._note(f"{lane.name} does not take part: {reason}")
        finally:
            with self._changed:
                self._queue.num_expected -= is_expected
                self._queue.leave(lane.name, self._clock(), reason)
                self._changed.notify_all()
                is_over = self._is_done()
            lane.rest(is_over=is_over)

    def _open(self, lane: Lane) -> _Shift:
        station = lane.open()
        places = _places(station, lane.workers)
        with self._changed:
            self._queue.join(lane.name, self._clock(), places=places, usd_per_hour=station.usd_per_hour)
        return _Shift(lane, station, station.is_ready)

    def _is_done(self) -> bool:
        return self._is_stopping or self._queue.num_open == 0

    def _work(self, shift: _Shift) -> str | None:
        """Do what there is for a host; return why it was given up, or None once there is nothing more for it."""
        lane, problem, idle_since = shift.lane, "", 0.0
        while True:
            with self._changed:
                if self._is_stopping:
                    break
                now = self._clock()
                answer = self._queue.take(lane.name, now)
                # Nobody is told: hosts that wait must not wake each other in turns.
                match answer.advice:
                    case Advice.WAIT:
                        self._changed.wait(answer.wait_s)
                        continue
                    case Advice.LEAVE if self._queue.is_quarantined(lane.name):
                        return problem
                    case Advice.LEAVE:
                        idle_since = idle_since or now
                        left_s = idle_since + lane.idle_s - now
                        if left_s > 0 and not self._is_done():
                            self._changed.wait(left_s)
                            continue
                        break
                    case Advice.WORK:
                        idle_since = 0.0
                    case _:
                        assert_never(answer.advice)
            error = self._do(shift, answer.batch)
            if error is not None:
                problem = str(error)
                if lane.is_lost(error):
                    return problem
        shift.tidy_up()
        return None

    def _do(self, shift: _Shift, batch: Sequence[str]) -> Exception | None:
        """Do a batch on a host; return what went wrong with the host, if anything did."""
        lane, station = shift.lane, shift.station
        folder = self._lane_folder(shift, batch)
        job = RemoteTrainingJob(
            folder,
            station.host,
            station.place,
            device=station.device,
            workers=lane.workers,
            note=self._note,
            job=replace(self._job, trainings=tuple(self._units[unit] for unit in batch)),
            is_ready=shift.is_ready,
            patience_s=PATIENCE_S,
            must_leave=station.must_leave,
        )
        job.on_epoch = self.on_epoch
        told = set[str]()
        try:
            job.start()
            self._doubtful.discard(lane.name)
            shift.is_ready = True
            shift.tidy_up()
            while True:
                # Asked before the results are, so that what came last is not passed over.
                is_last, seen = job.ended, job.changes
                self._tell(shift, job, folder, told)
                if is_last or len(told) == len(batch) or self._is_over(batch):
                    break
                if job.is_silent:
                    with self._changed:
                        self._queue.drop(lane.name, self._clock())
                        self._changed.notify_all()
                    lane.look()
                job.wait_for_change(seen)
            if len(told) == len(batch):
                shift.to_tidy = job
            elif job.ended:
                raise job.failure(f"{len(batch) - len(told)} of {len(batch)} trainings")
            elif job.is_silent:
                self._doubtful.add(lane.name)
                job.leave()
                with self._changed:
                    self._queue.lost(lane.name, self._clock(), "it is out of reach")
            else:
                job.stop()
                with self._changed:
                    self._queue.drop(lane.name, self._clock())
        except (HostError, RunError) as error:
            self._doubtful.add(lane.name)
            self._note(f"{lane.name}: {error}")
            self._keep_partial(job, folder, told)
            with self._changed:
                self._queue.lost(lane.name, self._clock(), str(error))
                self._changed.notify_all()
            shift.to_tidy = None
            if lane.is_lost(error):
                job.forget()
            else:
                job.leave()
            return error
        return None

    def _is_over(self, batch: Sequence[str]) -> bool:
        with self._changed:
            return self._is_stopping or not any(self._queue.is_open(unit) for unit in batch)

    def _tell(self, shift: _Shift, job: RemoteTrainingJob, folder: Path, told: set[str]) -> None:
        lane = shift.lane
        for unit, training in ((item.run_key, item) for item in job.job.trainings if item.run_key not in told):
            if unit in job.finished:
                told.add(unit)
                shift.num_done += 1
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

    def _lane_folder(self, shift: _Shift, batch: Sequence[str]) -> Path:
        """Make a folder that looks like the run's to the job of a batch, with what a training has left so far."""
        # Two by turns: the job before this one may still write to its own.
        shift.number += 1
        folder = self._folder / LANES_NAME / shift.lane.name / str(shift.number % 2) / self._folder.name
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
def open_hosts_engine(placement: Placement, folder: Path, job: Job, *, flow_run_id: str = "") -> Iterator[HostsEngine]:
    """Give an engine of hosts that the settings name, and of machines that are rented for it, freed whatever happens.

    Args:
        placement: Which hosts, and what is rented.
        folder: The run's.
        job: What the run trains.
        flow_run_id: The run in Prefect, by which its machines can be found.

    Raises:
        BadRequest: A host is in no settings file.
        BadRequest, ProviderRefused: Nothing can be rented of that provider.
    """
    known = load_settings()
    lanes: list[Lane] = []
    for name in placement.named_hosts:
        entry = known.entry(name)
        lanes.append(
            HostLane(
                name,
                lambda name=name: open_host(known, name),  # type: ignore[misc]
                place_on(entry),
                placement.device or entry.device,
                placement.workers,
            )
        )
    with ExitStack() as stack:
        if placement.provider is not None:
            from tasks.execution.rented_lanes import rented_lanes

            registry = stack.enter_context(closing(open_registry()))
            lanes += rented_lanes(placement, registry, folder, flow_run_id=flow_run_id)
        engine = HostsEngine(folder, job, lanes)
        stack.callback(engine.stop)
        yield engine


def _places(station: Station, workers: Workers) -> int:
    if isinstance(workers, int):
        return workers
    if station.device != "cpu":
        return PLACES_ON_GPU
    cores = station.host.run("# jade: count the cores\ngetconf _NPROCESSORS_ONLN", timeout_s=_CALL_S).text.strip()
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
