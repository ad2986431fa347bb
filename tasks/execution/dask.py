"""Trainings on a Dask cluster, through Prefect's task runner for Dask: each is a Prefect task that the UI shows.

Whoever may connect to a Dask scheduler may run code on its workers and, by what they send back, here: that is how Dask
works, and a cluster is therefore one's own, behind TLS or a private network. Jade adds that nothing of a training is
taken that does not agree with its manifest.

Inputs and results travel as bytes with digests, over Dask's own connections, to a cluster on this machine as to one
elsewhere: there is one way, it needs no shared file system, and a training's files are about a megabyte. A data set's
arrays are held by the cluster and sent from worker to worker; if the one that holds them is lost, they are made anew.

A training's events come through the scheduler, and so does its newest checkpoint, now and then: if this process is
killed, the next one goes on from there. A lost worker's trainings are given to the others by the scheduler; one that
takes its worker with it again and again is given up (Dask's `distributed.scheduler.allowed-failures`, 3).
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import queue
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from jade_model.core.files import write_atomically
from jade_model.core.job import Job, Training
from jade_model.core.training_files import MANIFEST_NAME, files_of
from tasks.core.errors import BadRequest, UnitError
from tasks.execution.base import OWN_FAULTS, Event, Executor, done, failed
from tasks.execution.bundle import checkpoint_files, input_files, write_remote_job
from tasks.execution.fetching import manifest_entries, move_training
from tasks.execution.placement import Placement
from tasks.execution.trainer_output import TrainerOutput
from tasks.hosts.errors import HostError, TransferCorrupted
from tasks.settings.environment import THREADING, available_cores

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture
    from prefect_dask.task_runners import DaskTaskRunner

Files = dict[str, bytes]
TrainedUnit = tuple[Files, str, float]
"""A training's files, where it was trained, and how many seconds that took."""

TAG = "dask-train"
"""On every training: a limit of this tag holds over all flows."""

MISSING = (
    "--host dask needs an optional package: `pip install 'jade-expansions[dask]'` (in a checkout: "
    "`.venv/bin/pip install -c constraints.txt -e '.[dask]'`); every other host does without"
)
CHECKPOINT_WITHIN_S = 30.0
LOOPBACK = ("127.", "localhost", "[::1]")

_log = logging.getLogger(__name__)


def topic_of(run_id: str) -> str:
    """Return under which topic a cluster's workers tell of a run's trainings."""
    return f"jade-{run_id}"


def checkpoint_name(run_id: str, run_key: str) -> str:
    """Return under which name a cluster keeps the newest checkpoint of a training."""
    return f"jade-{run_id}-{run_key}"


def pack(job: Job, training: Training, root: Path) -> Files:
    """Return what a worker needs for a training, but the arrays: by name in a run's folder, `job.json` among them.

    Args:
        job: The run's.
        training: One of its trainings.
        root: The run's folder.
    """
    with tempfile.TemporaryDirectory() as scratch:
        job_json = Path(scratch) / "job.json"
        write_remote_job(job, (training,), job.run_id, job_json)
        sent = {**input_files(job, (training,), root), **checkpoint_files((training,), root), "job.json": job_json}
        del sent[job.dataset(training.dataset).arrays]
        return {name: path.read_bytes() for name, path in sent.items()}


def unpack(files: Mapping[str, bytes], training: Training, root: Path, *, is_complete: bool = True) -> bool:
    """Write what a worker left of a training into the run's folder, manifest last, unless what lies there is as far.

    Nothing that came is unpickled: weights stay bytes until `load_checkpoint` reads them, which runs no code.

    Args:
        files: By name, the manifest among them.
        training: Whose they must be.
        root: The run's folder.
        is_complete: Whether they must be those of the finished training, or of one that goes on.

    Returns:
        Whether they were written.

    Raises:
        TransferCorrupted: They are not what the manifest says, or it is not of this training.
        NameRefused: The manifest names a file that no training leaves, or one that is too large.
    """
    manifest = files.get(MANIFEST_NAME, b"")
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        came = files_of(training, Path(scratch))
        for entry in manifest_entries(manifest, training, came, is_complete=is_complete):
            content = files.get(entry.path, b"")
            found = hashlib.sha256(content).hexdigest()
            if (len(content), found) != (entry.size, entry.sha256):
                raise TransferCorrupted(entry.path, entry.sha256, found)
            write_atomically(came.folder / entry.path, content)
        write_atomically(came.manifest, manifest)
        return move_training(training, Path(scratch), root)


class DaskExecutor(Executor):
    """An `Executor` on a Dask cluster; made by `dask_executor`.

    Args:
        folder, job: As of every executor.
        runner: Started.
        device: Where workers train.
        api_url: Of the Prefect server, as workers shall call it.
    """

    def __init__(self, folder: Path, job: Job, runner: DaskTaskRunner, *, device: str, api_url: str) -> None:
        super().__init__(folder, job)
        self._runner, self._device, self._api_url = runner, device, api_url
        self._arrays: dict[str, PrefectFuture[bytes]] = {}
        self._open: dict[Any, tuple[Training, PrefectFuture[TrainedUnit]]] = {}
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def _end(self) -> None:
        """Give up what was submitted; what a cluster elsewhere is at ends with its training."""
        if self._open:
            self._runner.client.cancel(list(self._open), force=True)  # type: ignore[no-untyped-call]
        self._told.put(None)

    def _train(self, pending: dict[str, Training]) -> Iterator[Event]:
        topic, client = topic_of(self._job.run_id), self._runner.client
        output = TrainerOutput(pending.values(), "the cluster", is_remote=True)
        client.subscribe_topic(topic, self._told.put)  # type: ignore[no-untyped-call]
        try:
            with temporary_settings({PREFECT_API_URL: self._api_url}):
                for training in pending.values():
                    self._submit(training)
            for future in self._open:
                future.add_done_callback(self._told.put)
            while self._open and not self._is_stopped:
                item = self._told.get()
                if item is None:
                    return
                if isinstance(item, tuple):
                    # Dask gives the time and what was told; it may come from anybody on the cluster.
                    line, told = output.read(json.dumps(item[1]))
                    yield line
                    if told is not None and (told.kind == "epoch" or self._is_brought(told, pending)):
                        yield told
                elif item in self._open:
                    training, ended = self._open.pop(item)
                    yield self._outcome(training, ended)
        finally:
            if self._open:
                client.cancel(list(self._open), force=True)  # type: ignore[no-untyped-call]
                self._open.clear()
            client.unsubscribe_topic(topic)  # type: ignore[no-untyped-call]

    def _is_brought(self, told: Event, trainings: Mapping[str, Training]) -> bool:
        """Bring the checkpoint that is told of here, if it is further than what is here."""
        from distributed import Variable

        if told.kind != "checkpoint":
            return False  # the end of a training is that of its task
        training = trainings[told.run_key]
        name = checkpoint_name(self._job.run_id, training.run_key)
        try:
            kept: Any = Variable(name, client=self._runner.client)  # type: ignore[no-untyped-call]
            files = kept.get(timeout=CHECKPOINT_WITHIN_S)
            return unpack(dict(files), training, self._folder, is_complete=False)
        except Exception as error:  # of Dask, or not what its manifest says: the next one comes
            _log.warning("%s: a checkpoint did not come: %s: %s", training.title, type(error).__name__, error)
            return False

    def _submit(self, training: Training) -> None:
        data = self._job.dataset(training.dataset)
        if data.name not in self._arrays:
            content = (self._folder / data.arrays).read_bytes()
            self._arrays[data.name] = self._runner.submit(hold_arrays, {"name": data.name, "content": content})
        parcel = {"files": pack(self._job, training, self._folder), "arrays": self._arrays[data.name]}
        future = self._runner.submit(train_unit, {"title": training.title, "device": self._device, **parcel})
        self._open[future.wrapped_future] = (training, future)

    def _outcome(self, training: Training, future: PrefectFuture[TrainedUnit]) -> Event:
        try:
            files, where, seconds = future.result()
            unpack(files, training, self._folder)
        except UnitError as error:
            return failed(training.run_key, error.where, error.reason, is_own_fault=error.kind in OWN_FAULTS)
        except HostError as error:
            return failed(training.run_key, "the cluster", str(error))
        except Exception as error:  # lost workers, closed clusters: Dask's errors have no common base
            return failed(training.run_key, "the cluster", f"{type(error).__name__}: {error}")
        return done(training.run_key, where, seconds)


@task(name="hold-arrays", task_run_name="hold-{name}", cache_policy=NO_CACHE, persist_result=False)
def hold_arrays(name: str, content: bytes) -> bytes:  # noqa: ARG001 - the name is for the UI
    """Keep a data set's arrays on the cluster."""
    return content


@task(name="train-unit", task_run_name="train {title}", tags={TAG}, cache_policy=NO_CACHE, persist_result=False)
def train_unit(title: str, device: str, files: Files, arrays: bytes) -> TrainedUnit:  # noqa: ARG001
    """Train one model on a worker of the cluster; return its files, where that was, and how long it took.

    Raises:
        UnitError: The training failed.
    """
    # Prefect sends tasks by value: what a worker does lies in a module that it imports.
    from tasks.execution.dask_worker import train_here

    return train_here(files, arrays, device=device)


@contextmanager
def dask_executor(placement: Placement, folder: Path, job: Job) -> Iterator[DaskExecutor]:
    """Connect to a scheduler, or start a cluster on this machine that ends with the block. Called within a flow.

    Raises:
        BadRequest: The optional package is missing, the scheduler does not answer, or its workers could not reach the
            Prefect server.
    """
    runner_class = dask_runner_class()
    with get_client(sync_client=True) as client:
        api_url = str(client.api_url)
    if placement.scheduler is not None:
        check_reachable(placement.scheduler, api_url)
        runner = runner_class(address=placement.scheduler, client_kwargs={"timeout": 30})
    else:
        runner = runner_class(
            cluster_kwargs={
                "n_workers": placement.workers or available_cores(),
                "threads_per_worker": 1,
                "dashboard_address": None,
                "env": {**THREADING, "PREFECT_API_URL": api_url},
            }
        )
    with runner:
        try:
            runner.client.scheduler_info()
        except OSError as error:  # TimeoutError is one
            raise BadRequest(f"the Dask scheduler {placement.scheduler} does not answer: {error}") from error
        yield DaskExecutor(folder, job, runner, device=placement.device or "cpu", api_url=api_url)


def check_reachable(scheduler: str, api_url: str) -> None:
    """Refuse a Prefect server on this machine alone for workers that are elsewhere.

    Raises:
        BadRequest: It says what to set.
    """
    there, here = scheduler.partition("://")[2], api_url.partition("://")[2]
    if here.startswith(LOOPBACK) and not there.startswith(LOOPBACK):
        raise BadRequest(
            f"workers of {scheduler} report to the Prefect server, but {api_url} is this machine's own address: start "
            "one that they can reach (`prefect server start --host 0.0.0.0`) and set PREFECT_API_URL to it"
        )


@functools.cache
def dask_runner_class() -> type[DaskTaskRunner]:
    """Return Prefect's task runner for Dask.

    Raises:
        BadRequest: It is not installed.
    """
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise BadRequest(MISSING) from error
    return DaskTaskRunner
