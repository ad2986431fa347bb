"""The training job of a run on another host: sent there, followed from here, its results brought back as they come.

The job does not need us: whoever follows it may die, and the same command finds it by its key and goes on following.
"""

from __future__ import annotations

import contextlib
import functools
import math
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from jade_model.core.job import Job, Training
from jade_model.core.training_files import files_of, is_done
from tasks.artifacts.publisher import Mirror, Note, say
from tasks.artifacts.remote_records import RemoteRun, has_record, remove_record, save_record
from tasks.core.errors import TrainingFailed
from tasks.core.layout import REMOTE_LOG_NAME
from tasks.core.retry import retry_transient
from tasks.execution.bundle import (
    checkpoint_files,
    code_bundle,
    input_files,
    job_key,
    send_code,
    write_remote_job,
)
from tasks.execution.fetching import (
    fetch_checkpoint,
    fetch_training,
    local_epoch,
    remote_epoch,
    remote_run_keys,
    remove_folder,
)
from tasks.execution.jobs import FollowedJob, drawn
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
from tasks.hosts.host import Host
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
from tasks.hosts.place import RemotePlace, check_ready
from tasks.settings.host_entries import Workers
from tasks.settings.load import THREADING

SEND_S = 6 * 3600.0
POLL_S = 0.5
ENDING_POLL_S = 0.1
"""Between looks once all results are here, and the job has nothing to do but to end."""
MIRROR_EVERY_S = 30.0
"""How often a training's checkpoint is brought here at most: some train ten epochs in a second."""
ENDING_S = 120.0
"""After the last training a job has nothing to do but to end."""
STOP_GRACE_S = 10

SILENT_S = 10.0
"""A host that has not answered for so long is not waited for where nobody needs it any more."""
PATIENCE_S = 300.0
BRING_ATTEMPTS = 5
"""A training that goes on may replace its checkpoint under our hands."""

ReplaceHost = Callable[[Exception], "tuple[Host, RemotePlace] | None"]
MustLeave = Callable[[], "HostError | None"]


class RemoteTrainingJob(FollowedJob):
    """`python -m jade_model train` on another host; see `FollowedJob`.

    A training counts as finished here once its files are here and verified.

    Args:
        folder: The run's, here.
        host: Where it trains.
        place: How that host is used.
        device: Where it trains over there.
        workers: Trainings at once; None: as many as the host does by itself.
        mirror: Publishes checkpoints once they are here.
        note: Told what a person should know.
        job: What is trained; None: all of the run's `job.json`.
        log_name: File in the run's folder that keeps what the job writes.
        replace_host: Asked when the job was lost; gives another host, known to be able to train, to go on from the last
            checkpoint; or None.
        is_ready: Whether the host is known to be able to train, so that it need not be looked over again.
        patience_s: How long the host may be out of reach before it counts as lost.
        must_leave: Says why the host is lost in a moment, if it is: its newest checkpoints are then brought here first.
    """

    def __init__(
        self,
        folder: Path,
        host: Host,
        place: RemotePlace,
        *,
        device: str,
        workers: Workers,
        mirror: Mirror | None = None,
        note: Note = say,
        job: Job | None = None,
        log_name: str = REMOTE_LOG_NAME,
        replace_host: ReplaceHost | None = None,
        is_ready: bool = False,
        patience_s: float = PATIENCE_S,
        must_leave: MustLeave = lambda: None,
    ) -> None:
        super().__init__(folder, job, mirror)
        self._patience_s, self._heard_at = patience_s, math.inf
        self._is_ready = is_ready
        self._replace_host, self._must_leave = replace_host, must_leave
        self._log_name = log_name
        self._host, self._place, self._device, self._workers, self._note = host, place, device, workers, note
        self._pending = pending_trainings(self.job, folder)
        # Of all, not of what is still to be done: an attempt that left some results is found by the next one.
        self.key = job_key(self.job.trainings)
        self._handle: JobHandle | None = None
        self._may_run = False
        self._brought_at: dict[str, float] = {}
        self._error: Exception | None = None
        self._damaged: Training | None = None
        self._follower = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Start the job, or attach to the one that does the same trainings; return when it runs.

        Raises:
            HostError, HostNotReady: It could not be started.
        """
        for training in self.job.trainings:
            if training.run_key not in self._pending:
                self._tell_finished(training, "training_skipped")
        if not self._pending:
            self._end(0)
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        save_record(RemoteRun(self._host.name, self.key, self.folder.name, str(self.folder), len(self._pending), now))
        self._handle = self._running_job() or self._start_anew()
        self._follower.start()

    def finish(self) -> None:
        """Wait for the end of a job whose trainings are all here, and tidy up after it over there."""
        if self._pending:
            self._follower.join(ENDING_S)
            self._tidy()
        elif has_record(self._host.name, self.key):
            self._tidy_after_another()

    def _tidy(self) -> None:
        try:
            retry_transient(self._remove_all)
        except HostError as error:
            self._note(f"{self._host.name}: {self._place.run(self.key)} could not be removed there: {error}")

    def _tidy_after_another(self) -> None:
        """Remove what a flow has left there that was killed once all results were here; nothing waits for it."""
        try:
            handle = self._find()
            if handle is not None:
                stop_job(self._host, handle, grace_s=STOP_GRACE_S)
            self._remove_all()
        except HostError as error:
            self._note(f"{self._host.name}: {self._place.run(self.key)} could not be removed there: {error}")

    def leave(self) -> None:
        """After a failure: stop what runs over there, unless nobody can or nothing does; say which."""
        if self._aborted is not None:
            self._note(f"{self._host.name}: {self.folder.name} no longer follows the job there; `jade runs` shows it")
        elif self.is_silent or isinstance(self._error, HostUnreachable | ConnectionLost | CommandTimedOut):
            self._note(
                f"{self._host.name} is out of reach; {self.folder.name} may still train there. The same command "
                f"attaches to it, `jade runs` shows it, `jade runs stop {self.key[:12]}` stops it."
            )
        elif self._damaged is not None:
            self.stop()
            self._discard(self._damaged)
        else:
            if self._may_run:
                self.stop()
            else:
                remove_record(self._host.name, self.key)
            if self._pending and self._has_all():
                self._tidy()  # no next attempt will find anything to do, and come here

    def forget(self) -> None:
        """The host is gone for good: nothing of this job runs any more."""
        self._may_run = False
        remove_record(self._host.name, self.key)

    @property
    def is_silent(self) -> bool:
        """Whether the host that is followed has not answered for some time."""
        return not self.ended and monotonic() - self._heard_at > SILENT_S

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
                f"{self._host.name}: {self.folder.name} could not be stopped and may still train there ({error}). "
                f"`jade runs stop {self.key[:12]}` tries again."
            )
            return
        self._may_run = False
        remove_record(self._host.name, self.key)
        self._note(f"{self._host.name}: stopped; nothing of {self.folder.name} runs there any more")
        if self._follower.is_alive():
            self._follower.join(ENDING_S)

    def abort(self, error: Exception) -> None:
        """See `FollowedJob`. The job over there is left alone: whoever took this run for dead may be attached to it."""
        self._aborted = error
        self._end(None)

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

    def failure(self, what: str) -> Exception:
        """See `FollowedJob`: a host's own error, or how the process ended."""
        if self._aborted is not None:
            return self._aborted
        if self._error is None or isinstance(self._error, JobFailed):
            return TrainingFailed(f"{what} on {self._host.name}", self.exit_status, self.stderr_tail)
        if isinstance(self._error, JobStopped | JobTimedOut | JobLost):
            # Its own tail is events, which nobody wants to read.
            return type(self._error)(self._error.host, self._error.folder, self.stderr_tail or "(nothing)")
        return self._error

    def _find(self) -> JobHandle | None:
        return find_job(self._host, self._place.jobs, self.key)

    def _running_job(self) -> JobHandle | None:
        """The job of this key, if it runs or has left what it was to do."""
        found = retry_transient(self._find)
        if found is None:
            return None
        status = retry_transient(lambda: job_status(self._host, found))
        if status.is_over and not status.is_success:
            return None
        if not retry_transient(lambda: remote_run_keys(self._host, self._place.run(self.key))) >= set(self._pending):
            # Somebody removed what it has left, or what was here when it began: it must be done again.
            if not status.is_over:
                retry_transient(lambda: stop_job(self._host, found, grace_s=STOP_GRACE_S))
            retry_transient(lambda: remove_job(self._host, self._place.jobs, self.key))
            return None
        self._record()
        self._note(f"{self._host.name}: attached to the job that does these trainings already")
        return found

    def _start_anew(self) -> JobHandle:
        host, place = self._host, self._place
        bundle = code_bundle()
        if not self._is_ready:
            check_ready(host, place, device=self._device, is_quick=True)
        # Side by side: each takes seconds, on a far host or where torch is slow to import.
        with ThreadPoolExecutor(max_workers=2) as pool:
            others = [pool.submit(retry_transient, lambda: send_code(host, place, bundle))]
            if not self._is_ready and self._device != "cpu":
                others.append(pool.submit(check_ready, host, place, device=self._device))
            self._send_inputs()
            for other in others:
                other.result()
        command = [place.python, "-m", "jade_model", "train", "job.json", "--device", self._device]
        command += ["--resume", "--progress", "json"]
        if self._workers is not None:
            command += ["--workers", str(self._workers)]
        spec = JobSpec(
            self.key,
            tuple(command),
            place.run(self.key),
            time_limit_s=place.time_limit_s,
            # Only our sources, wherever the job is started from: the run's folder holds no code.
            environment={**THREADING, "PYTHONPATH": f"../../code/{bundle.digest}", "PYTHONSAFEPATH": "1"},
            stop_grace_s=STOP_GRACE_S,
        )
        self._record()
        return retry_transient(lambda: start_job(host, place.jobs, spec))

    def _send_inputs(self) -> None:
        """Bring to the host what its trainings read and go on from."""
        trainings = list(self._pending.values())
        with tempfile.TemporaryDirectory() as scratch:
            job_json = Path(scratch) / "job.json"
            write_remote_job(self.job, trainings, self.key, job_json)
            files = {**input_files(self.job, trainings, self.folder), "job.json": job_json}
            # Whichever checkpoint is further: what an earlier attempt left there, or what was published since.
            further = [training for training in trainings if self._is_further_here(training)]
            files |= checkpoint_files(further, self.folder)
            retry_transient(lambda: self._host.put(files, self._place.run(self.key), timeout_s=SEND_S))

    def _is_further_here(self, training: Training) -> bool:
        here = local_epoch(self.folder, training)
        return here > 0 and here > retry_transient(
            lambda: remote_epoch(self._host, self._place.run(self.key), training)
        )

    def _record(self) -> None:
        """From here on it may run, whatever becomes of this process."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        save_record(RemoteRun(self._host.name, self.key, self.folder.name, str(self.folder), len(self._pending), now))
        self._may_run = True

    def _follow(self) -> None:
        while True:
            exit_status = self._follow_attempt()
            if self._error is not None and self._aborted is None and self._has_all():
                self._error, exit_status = None, 0  # however the job, or its host, ended after that
            if self._error is None or not self._goes_on_elsewhere(self._error):
                break
        self._end(exit_status)

    def _has_all(self) -> bool:
        """Whether the results of all trainings are here, each byte checked."""
        return not pending_trainings(self.job, self.folder)

    def _goes_on_elsewhere(self, error: Exception) -> bool:
        """Start what is left on another host, if there is one for us; an error on the way there is the job's."""
        if self._replace_host is None or self._aborted is not None:
            return False
        try:
            found = self._replace_host(error)
            if found is None:
                return False
            remove_record(self._host.name, self.key)
            self._host, self._place = found
            self._is_ready = True
            self._pending, self._error, self._handle = pending_trainings(self.job, self.folder), None, None
            self._handle = self._running_job() or self._start_anew()
        except Exception as problem:  # whatever it is, those who wait must hear of it
            self._error = problem
            return False
        return True

    def _follow_attempt(self) -> int | None:
        """Follow the job to its end; return its status and keep what went wrong."""
        handle = self._handle
        assert handle is not None  # noqa: S101 -- started after it was set
        status: JobStatus | None = None
        try:
            with (self.folder / self._log_name).open("a", encoding="utf-8") as log:
                self._heard_at = monotonic()
                for batch in follow_log(self._host, handle, poll_s=self._poll_s, patience_s=self._patience_s):
                    self._heard_at = monotonic()
                    for line in batch.lines:
                        log.write(line + "\n")
                        self._hear_remote(line)
                        self._heard_at = monotonic()
                    log.flush()
                    status = batch.status
                    if status.is_over:
                        self._may_run = False
                    elif (going := self._must_leave()) is not None:
                        self._bring_newest()
                        raise going  # noqa: TRY301 -- as if the host had been lost by now
            raise_unless_success(self._host, handle, status or job_status(self._host, handle))
        except Exception as error:  # whatever it is, those who wait must hear of it
            self._error = error
        return status.exit_status if status is not None else None

    def _poll_s(self) -> float:
        return POLL_S if self._pending.keys() - self.finished.keys() else min(POLL_S, ENDING_POLL_S)

    def _hear_remote(self, line: str) -> None:
        # What a host says is not to be trusted to make sense, nor to leave the terminal alone.
        shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
        try:
            self._hear(shown)
        except (KeyError, TypeError, ValueError, AttributeError):
            self.said.add(shown)

    def _take(self, event: dict[str, object]) -> None:
        training = self._pending.get(self._training_of(event).run_key)
        if training is None:
            return  # an earlier attempt's result is here already
        if event["event"] in {"training_done", "training_skipped"}:
            if not is_done(training, files_of(training, self.folder)):
                remote = self._place.run(self.key)
                try:
                    retry_transient(lambda: fetch_training(self._host, remote, training, self.folder))
                except TransferCorrupted:
                    self._damaged = training
                    raise
                self._tell_finished(training, str(event["event"]), event.get("seconds", 0.0))
        elif event["event"] == "checkpoint":
            self._bring(event, training)
        else:
            super()._take(event)

    def _bring(self, event: dict[str, object], training: Training) -> None:
        """Bring a checkpoint here, so that a host that is lost costs no more than the epochs since."""
        if monotonic() - self._brought_at.get(training.run_key, -math.inf) < MIRROR_EVERY_S:
            return
        if retry_transient(functools.partial(self._fetch_checkpoint, training)):
            self._publish(event)
        self._brought_at[training.run_key] = monotonic()

    def _fetch_checkpoint(self, training: Training) -> bool:
        return fetch_checkpoint(self._host, self._place.run(self.key), training, self.folder)

    def _bring_newest(self) -> None:
        """Bring the newest checkpoint of every unfinished training here, and publish it at once."""
        for training in pending_trainings(self.job, self.folder).values():
            try:
                there = remote_epoch(self._host, self._place.run(self.key), training)
                if there > local_epoch(self.folder, training):
                    any(self._fetch_checkpoint(training) for _ in range(BRING_ATTEMPTS))
            except HostError as error:
                self._note(f"{self._host.name}: the newest checkpoint of {training.title} did not come: {error}")
            if self._mirror is not None and local_epoch(self.folder, training):
                self._mirror.checkpoint(training, at_once=True)

    def _tell_finished(self, training: Training, event: str, seconds: object = 0.0) -> None:
        super()._take(
            {
                "event": event,
                "arm": training.arm,
                "dataset": training.dataset,
                "seed": training.seed,
                "fold": training.fold,
                "run_key": training.run_key,
                "seconds": seconds,
            }
        )

    def _remove_all(self) -> None:
        run = self._place.run(self.key)
        try:
            remove_job(self._host, self._place.jobs, self.key, also=run)
        except RemoteFileMissing:  # an earlier try, or another that was attached, removed it
            remove_folder(self._host, run)
        remove_record(self._host.name, self.key)


def pending_trainings(job: Job, folder: Path) -> dict[str, Training]:
    """Return the trainings of a job that are not done in a run's folder, by run key."""
    return {item.run_key: item for item in job.trainings if not is_done(item, files_of(item, folder))}


@contextmanager
def running_remote_job(
    folder: Path,
    host: Host,
    place: RemotePlace,
    *,
    device: str,
    workers: Workers,
    mirror: Mirror | None = None,
    note: Note = say,
    job: Job | None = None,
    replace_host: ReplaceHost | None = None,
    is_ready: bool = False,
    must_leave: MustLeave = lambda: None,
) -> Iterator[RemoteTrainingJob]:
    """Run the job of a run on a host while the block lasts, or attach to it.

    Left in good order, it removes what it brought there, but the sources. Left by an error or an interruption, it stops
    the job there and says so; if this process is killed, the job goes on, and the same command attaches to it.

    Args:
        folder: The run's.
        host: Where it trains; closed in the end.
        place: How that host is used.
        device: Where it trains over there.
        workers: Trainings at once; None: one a core, or one on a GPU.
        mirror: Publishes checkpoints once they are here.
        note: Told what a person should know.
        job: What is trained; None: all of the run's `job.json`.
        replace_host: See `RemoteTrainingJob`.
        is_ready: Likewise.
        must_leave: Likewise.
    """
    there = RemoteTrainingJob(
        folder,
        host,
        place,
        device=device,
        workers=workers,
        mirror=mirror,
        note=note,
        job=job,
        replace_host=replace_host,
        is_ready=is_ready,
        must_leave=must_leave,
    )
    try:
        there.start()
        with drawn(there):
            yield there
        there.finish()
    except BaseException:
        there.leave()
        raise
    finally:
        host.close()
