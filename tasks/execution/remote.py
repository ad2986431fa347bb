"""A detached job on another host: sent or found there, followed to its end, its results brought back as they come.

The job does not need us: whoever follows it may die, and who does the same trainings next finds it by their run keys.
"""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from jade_model.core.job import Job, Training
from tasks.artifacts.leases import RemoteRun, remove_record, save_record
from tasks.artifacts.training_cache import Note
from tasks.core.errors import TrainingFailed
from tasks.core.retry import retry_transient
from tasks.execution.base import Event, done
from tasks.execution.bundle import checkpoint_files, code_bundle, input_files, job_key, send_code, write_remote_job
from tasks.execution.fetching import (
    fetch_checkpoint,
    fetch_training,
    local_epoch,
    move_training,
    remote_epoch,
    remove_folder,
)
from tasks.execution.found_jobs import STOP_GRACE_S, FoundJob, remove_all
from tasks.execution.lanes import Station
from tasks.execution.trainer_output import TrainerOutput, trainer_command
from tasks.hosts.errors import (
    CommandTimedOut,
    ConnectionLost,
    HostError,
    HostUnreachable,
    JobFailed,
    JobLost,
    JobStopped,
    JobTimedOut,
    RemoteFileMissing,
    TransferCorrupted,
)
from tasks.hosts.job import (
    JobHandle,
    JobSpec,
    JobStatus,
    find_job,
    follow_log,
    job_status,
    raise_unless_success,
    remove_job,
    start_job,
    stop_job,
)
from tasks.hosts.preflight import check_ready
from tasks.settings.environment import THREADING

LANES_NAME = "lanes"
SEND_S = 6 * 3600.0
POLL_S = 0.5
ENDING_POLL_S = 0.1
"""Between looks once all results are here, and the job has nothing to do but to end."""
MIRROR_EVERY_S = 30.0
"""How often a training's checkpoint is brought here at most: some train ten epochs in a second."""
ENDING_S = 120.0
"""After the last training a job has nothing to do but to end."""
SILENT_S = 10.0
"""A host that has not answered for so long is not waited for where others can do its work."""
PATIENCE_S = 300.0
"""How long a host may be out of reach before it counts as lost."""
BRING_ATTEMPTS = 5
"""A training that goes on may replace its checkpoint under our hands."""


class RemoteBatch:
    """Some trainings of a run as one job on a host.

    Args:
        station: The host.
        job: Of these trainings alone.
        folder: The run's, here. What comes is gathered in a folder of the lane's below it, which is emptied first.
        note: Told what a person should know.
        lock: Held by who moves a training to its place in the run's folder: of several, the first counts.
        pending: Run keys of those that are not over; None: all.
    """

    def __init__(
        self,
        station: Station,
        job: Job,
        folder: Path,
        *,
        note: Note,
        lock: AbstractContextManager[Any],
        pending: Collection[str] | None = None,
    ) -> None:
        self.job, self.key = job, job_key(job.trainings)
        self.heard_at = math.inf
        self._station, self._host, self._place = station, station.host, station.place
        self._folder, self._incoming, self._note, self._lock = folder, folder / LANES_NAME / station.name, note, lock
        self._output = TrainerOutput(job.trainings, station.name, is_remote=True)
        self._open = {item.run_key: item for item in job.trainings if pending is None or item.run_key in pending}
        self._handle: JobHandle | None = None
        self._may_run = False
        self._damaged: Training | None = None
        self._brought_at: dict[str, float] = {}
        shutil.rmtree(self._incoming, ignore_errors=True)

    @property
    def is_over(self) -> bool:
        """Whether each of its trainings was told to be done, or to have failed."""
        return not self._open

    @property
    def is_silent(self) -> bool:
        """Whether the host has not answered for some time."""
        return monotonic() - self.heard_at > SILENT_S

    def start(self, *, is_ready: bool) -> None:
        """Send what the trainings read, and start the job.

        Args:
            is_ready: Whether the host is known to be able to train.

        Raises:
            HostError, HostNotReady: It could not be started.
        """
        host, place = self._host, self._place
        self._remove_remains()
        bundle = code_bundle()
        if not is_ready:
            retry_transient(lambda: check_ready(host, place, is_quick=True))
        # Side by side: each takes seconds, on a far host or where torch is slow to import.
        with ThreadPoolExecutor(max_workers=2) as pool:
            others = [pool.submit(retry_transient, lambda: send_code(host, place, bundle))]
            if not is_ready and place.device != "cpu":
                others.append(pool.submit(retry_transient, lambda: check_ready(host, place)))
            self._send_inputs()
            for other in others:
                other.result()
        command = trainer_command(place.python, Path("job.json"), self.job, device=place.device, workers=place.workers)
        spec = JobSpec(
            self.key,
            command,
            place.run(self.key),
            time_limit_s=place.time_limit_s,
            # Only our sources, wherever the job is started from; a module of the user's own arms is run by its name.
            environment={**THREADING, "PYTHONPATH": f"../../code/{bundle.digest}", "PYTHONSAFEPATH": "1"},
            stop_grace_s=STOP_GRACE_S,
        )
        self._record()
        self._handle = retry_transient(lambda: start_job(host, place.jobs, spec))

    def adopt(self, found: FoundJob) -> None:
        """Take over a job that is there already; whoever started it follows it no more."""
        self.key, self._handle = found.handle.run_key, found.handle
        self._record()
        self._note(f"{self._host.name}: attached to the job that does these trainings already")

    def salvage(self, found: FoundJob) -> list[Event]:
        """Bring what a job that ended badly has left, and remove it there; what was done is told."""
        self.key, self._handle = found.handle.run_key, found.handle
        brought = []
        for training in list(self._open.values()):
            with contextlib.suppress(HostError):
                fetch_training(self._host, self._place.run(self.key), training, self._incoming)
                self._move(training)
                brought.append(done(training.run_key, self._station.name, 0.0))
                continue
            self._bring_newest(training)
        self.tidy()
        return brought

    def follow(self) -> Iterator[Event | None]:
        """Follow the job to its end; tell what it says and brings, and None at each look.

        Raises:
            TrainingFailed: It ended without telling how each training did.
            HostError: As `follow_log` says; or it was stopped, lost, or reached its time limit.
        """
        handle = self._handle
        assert handle is not None  # noqa: S101 -- it has been started
        self.heard_at = monotonic()
        ending_since: float | None = None
        status: JobStatus | None = None
        try:
            for look in follow_log(self._host, handle, poll_s=self._poll_s, patience_s=PATIENCE_S):
                self.heard_at = monotonic()
                for line in look.lines:
                    yield from self._hear(line)
                    self.heard_at = monotonic()
                status = look.status
                self._may_run = not status.is_over
                yield None
                if not self._open:
                    ending_since = ending_since or monotonic()
                    if monotonic() - ending_since > ENDING_S:
                        return
            if self._open:
                self._raise(handle, status or job_status(self._host, handle))
        except HostError:
            if self._open:
                raise  # else all results are here, however the job, or its host, ended after that

    def bring_newest(self) -> Iterator[Event]:
        """Bring the newest checkpoint of every unfinished training here: the host is lost in a moment."""
        for run_key, training in self._open.items():
            self._bring_newest(training)
            if local_epoch(self._folder, training):
                yield Event("checkpoint", run_key, self._station.name, {"at_once": True})

    def stop(self) -> None:
        """End the trainings over there and say so; what they have left there so far stays for the next attempt."""
        try:
            handle = self._handle or retry_transient(self._find)
            if handle is not None:
                # Another command that was attached, too, may have tidied up: then nothing runs.
                with contextlib.suppress(RemoteFileMissing):
                    retry_transient(functools.partial(stop_job, self._host, handle, grace_s=STOP_GRACE_S))
        except HostError as error:
            self._note(
                f"{self._host.name}: {self._folder.name} could not be stopped and may still train there ({error}). "
                f"`jade runs stop {self.key[:12]}` tries again."
            )
            return
        self._may_run = False
        remove_record(self._host.name, self.key)
        self._note(f"{self._host.name}: stopped; nothing of {self._folder.name} runs there any more")

    def leave(self, error: Exception | None = None) -> None:
        """After a failure: stop what runs over there, unless nobody can or nothing does; say which."""
        if self._damaged is not None:
            self.stop()
            self._discard(self._damaged)
        elif self.is_silent or isinstance(error, HostUnreachable | ConnectionLost | CommandTimedOut):
            self._note(
                f"{self._host.name} is out of reach; {self._folder.name} may still train there. The same command "
                f"attaches to it, `jade runs` shows it, `jade runs stop {self.key[:12]}` stops it."
            )
        elif self._may_run:
            self.stop()
        else:
            self.forget()

    def abandon(self) -> None:
        """Leave the job alone: whoever took this run for dead may be attached to it."""
        self._note(f"{self._host.name}: {self._folder.name} no longer follows the job there; `jade runs` shows it")

    def forget(self) -> None:
        """Nothing of this job runs any more."""
        self._may_run = False
        remove_record(self._host.name, self.key)

    def tidy(self) -> None:
        """Remove what the job has left over there; it is stopped first if it still runs."""
        assert self._handle is not None  # noqa: S101 -- it was started
        remove_all(self._station, self._handle, self._note, may_run=self._may_run)

    def _hear(self, line: str) -> Iterator[Event]:
        event, outcome = self._output.read(line)
        yield event
        training = self._open.get(outcome.run_key) if outcome is not None else None
        if outcome is None or training is None:
            return  # of the whole job, or its result is here already
        if outcome.kind == "checkpoint" and not self._is_brought(training):
            return
        if outcome.kind == "done":
            self._fetch(training)
        if outcome.kind in {"done", "failed"}:
            del self._open[training.run_key]
        yield outcome

    def _move(self, training: Training) -> bool:
        with self._lock:
            return move_training(training, self._incoming, self._folder)

    def _fetch(self, training: Training) -> None:
        remote = self._place.run(self.key)
        try:
            retry_transient(lambda: fetch_training(self._host, remote, training, self._incoming))
        except TransferCorrupted:
            self._damaged = training
            raise
        self._move(training)

    def _is_brought(self, training: Training) -> bool:
        """Bring a checkpoint here now and then, so that a host that is lost costs no more than the epochs since."""
        if monotonic() - self._brought_at.get(training.run_key, -math.inf) < MIRROR_EVERY_S:
            return False
        remote = self._place.run(self.key)
        came = retry_transient(lambda: fetch_checkpoint(self._host, remote, training, self._incoming))
        self._brought_at[training.run_key] = monotonic()
        return came and self._move(training)

    def _bring_newest(self, training: Training) -> None:
        remote = self._place.run(self.key)
        try:
            if remote_epoch(self._host, remote, training) > local_epoch(self._folder, training):
                for _ in range(BRING_ATTEMPTS):
                    if fetch_checkpoint(self._host, remote, training, self._incoming):
                        self._move(training)
                        return
        except HostError as error:
            self._note(f"{self._host.name}: the newest checkpoint of {training.title} did not come: {error}")

    def _raise(self, handle: JobHandle, status: JobStatus) -> None:
        tail = self._output.tail
        try:
            raise_unless_success(self._host, handle, status)
        except JobFailed as error:
            raise TrainingFailed(f"train on {self._host.name}", error.exit_status, tail) from error
        except (JobStopped, JobTimedOut, JobLost) as error:
            # Its own tail is events, which nobody wants to read.
            raise type(error)(error.host, error.folder, tail or "(nothing)") from error
        raise TrainingFailed(f"train on {self._host.name}", status.exit_status, tail)

    def _discard(self, training: Training) -> None:
        """Remove a training's files over there that stay damaged, so that the next attempt trains it again."""
        try:
            retry_transient(lambda: remove_job(self._host, self._place.jobs, self.key))
            folder = f"{self._place.run(self.key)}/{training.output_dir}"
            retry_transient(lambda: remove_folder(self._host, folder))
        except HostError as error:
            self._note(f"{self._host.name}: the damaged files of {training.title} could not be removed: {error}")
            return
        self._note(f"{self._host.name}: the files of {training.title} are damaged there and were removed")

    def _find(self) -> JobHandle | None:
        return find_job(self._host, self._place.jobs, self.key)

    def _remove_remains(self) -> None:
        """A job of this key that was not adopted is no good: somebody removed what it was to do, or has left."""
        handle = retry_transient(self._find)
        if handle is not None:
            status = retry_transient(lambda: job_status(self._host, handle))
            if not status.is_over:
                retry_transient(lambda: stop_job(self._host, handle, grace_s=STOP_GRACE_S))
            if not status.is_over or status.is_success:
                retry_transient(lambda: remove_job(self._host, self._place.jobs, self.key))

    def _send_inputs(self) -> None:
        """Bring to the host what its trainings read and go on from."""
        trainings = self.job.trainings
        with tempfile.TemporaryDirectory() as scratch:
            job_json = Path(scratch) / "job.json"
            write_remote_job(self.job, trainings, self.key, job_json)
            files = {**input_files(self.job, trainings, self._folder), "job.json": job_json}
            # Whichever checkpoint is further: what an earlier attempt left there, or what is here.
            further = [training for training in trainings if self._is_further_here(training)]
            files |= checkpoint_files(further, self._folder)
            retry_transient(lambda: self._host.put(files, self._place.run(self.key), timeout_s=SEND_S))

    def _is_further_here(self, training: Training) -> bool:
        here, remote = local_epoch(self._folder, training), self._place.run(self.key)
        return here > 0 and here > retry_transient(lambda: remote_epoch(self._host, remote, training))

    def _record(self) -> None:
        """From here on it may run, whatever becomes of this process."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = RemoteRun(
            self._host.name, self.key, self._folder.name, str(self._folder), len(self.job.trainings), now
        )
        save_record(record)
        self._may_run = True

    def _poll_s(self) -> float:
        return POLL_S if self._open else min(POLL_S, ENDING_POLL_S)
