"""All trainings of a job, side by side: in processes on a CPU's cores, on streams of one process on a GPU.

A step of this model fills a small part of a GPU, and two processes take turns on it: only streams of one process run
at the same time. On a CPU it is the other way round, for a step keeps one core busy.

An importable module of its own: another process can't find functions that live in a package's `__main__`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jade_model.core.errors import JadeError
from jade_model.core.job import Execution, Job, Training

if TYPE_CHECKING:
    import torch


class Emitter:
    """Prints events, one line each, for a program or a person."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def __call__(self, event: dict[str, Any]) -> None:
        """Print one event."""
        line = json.dumps(event) if self.as_json else _for_people(event)
        # One write a line: several processes share the stream.
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def failed(self, error: Exception, training: Training | None = None) -> int:
        """Say what went wrong, on standard error and as an event; returns the exit code."""
        exit_code = error.exit_code if isinstance(error, JadeError) else 1
        title = f"{training.title}: " if training is not None else ""
        reason = str(error) or type(error).__name__
        sys.stderr.write(f"error: {title}{reason}\n")
        sys.stderr.flush()
        if self.as_json:
            self(
                {
                    "event": "failed",
                    "training": training and training.output_dir,
                    "kind": type(error).__name__,
                    "error": reason,
                    "exit_code": exit_code,
                }
            )
        return exit_code


@dataclass(frozen=True)
class Task:
    """One training and all that a process needs to run it.

    Attributes:
        job: Where its data are named.
        training: What to train.
        root: The job file's folder.
        execution: How to run it.
        as_json: Whether progress is told to a program.
        arm_module: Module of arms of one's own, which a process of its own has to run, too; None: all are Jade's.
    """

    job: Job
    training: Training
    root: Path
    execution: Execution
    as_json: bool
    arm_module: Path | None = None


def run_all(tasks: Sequence[Task], workers: int, emit: Emitter) -> int:
    """Run trainings, so many at a time; returns the worst exit code.

    A training that fails does not stop the others.
    """
    if workers == 1 or not tasks[0].execution.on_cpu:
        return run_together(tasks, workers)
    # Children read these when they load their libraries: one thread each, none spinning while it waits.
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    # One process imports torch, and those that train are forked from it: no other thread runs in it. It listens at a
    # path below the folder for temporary files, and no path of a socket is longer than some hundred characters.
    context = multiprocessing.get_context("forkserver" if len(tempfile.gettempdir()) < 60 else "spawn")
    context.set_forkserver_preload(["jade_model.core.worker"])
    exit_code = 0
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(run_together, [task], 1): task.training for task in tasks}
        for future in as_completed(futures):
            try:
                exit_code = max(exit_code, future.result())
            except BrokenProcessPool:
                error = JadeError("its process, or one beside it, was killed (out of memory?)")
                exit_code = max(exit_code, emit.failed(error, futures[future]))
    return exit_code


def run_together(tasks: Sequence[Task], width: int) -> int:
    """Run trainings in this process, so many in turns of one step; returns the worst exit code."""
    prepare_process(tasks[0].execution)
    if not tasks[0].execution.on_cpu:
        tell_gpu(tasks[0].execution.device, Emitter(as_json=tasks[0].as_json))
    if tasks[0].arm_module is not None:
        from jade_model.core.span_heads.own import load_arms

        load_arms(tasks[0].arm_module)
    waiting, running, exit_code = deque(tasks), list[_Running](), 0
    # torch hands out 32 streams in turn: made anew for each training, two that run together could get the same one, and
    # the first to end would free the workspace that the other's graphs use.
    idle: list[torch.cuda.Stream | None] = [None] * width
    while waiting or running:
        while waiting and len(running) < width:
            running.append(_Running(waiting.popleft(), idle.pop()))
        for each in running:
            each.go_on()
        exit_code = max([exit_code, *(each.exit_code for each in running if each.exit_code is not None)])
        idle += [each.stream for each in running if each.exit_code is not None]
        running = [each for each in running if each.exit_code is None]
    return exit_code


def prepare_process(execution: Execution) -> None:
    """Set what belongs to a process that trains: one thread, and on a GPU the CPU's results."""
    # Read by cuBLAS when a device is first used.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    import torch

    torch.set_num_threads(1)
    if not execution.on_cpu:
        torch.use_deterministic_algorithms(execution.deterministic)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Please use the new API settings to control TF32")
            # Ten bits of mantissa would be another result than the CPU's; some images turn them on for matrices too.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False


def tell_gpu(device: str, emit: Emitter) -> None:
    """Say what the GPU is called that trains; one that is not there is for the trainings to refuse."""
    import torch

    if torch.cuda.is_available():
        with suppress(RuntimeError, AssertionError):
            emit({"event": "gpu", "name": torch.cuda.get_device_name(device)})


class _Running:
    """A training that goes on step by step; on a GPU, on a stream that is its own for as long."""

    def __init__(self, task: Task, stream: torch.cuda.Stream | None) -> None:
        from jade_model.core.worker import run_training

        self.training, self.emit = task.training, Emitter(as_json=task.as_json)
        self.steps = run_training(task.job, task.training, task.root, task.execution, self.emit)
        self.device = None if task.execution.on_cpu else task.execution.device
        self.stream = stream
        self.exit_code: int | None = None

    def go_on(self) -> None:
        """Take one more step; sets exit_code once there is none left, or one failed."""
        try:
            with self._on_stream():
                next(self.steps)
        except StopIteration:
            self.exit_code = 0
        except Exception as error:  # one failed training must not take the others down
            self.exit_code = self.emit.failed(error, self.training)

    def _on_stream(self) -> AbstractContextManager[object]:
        import torch

        if self.device is None:
            return nullcontext()
        if self.stream is None:
            from jade_model.core.train_state import usable_device

            self.stream = torch.cuda.Stream(usable_device(self.device))  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self.stream)


def _for_people(event: dict[str, Any]) -> str:
    title = f"{event['arm']} {event['dataset']} seed {event['seed']} fold {event['fold']}" if "arm" in event else ""
    match event["event"]:
        case "job_started":
            return f"{event['run_id']}: {event['trainings']} trainings, {event['workers']} at a time"
        case "epoch":
            validation = event["validation_loss"]
            shown = "" if validation is None else f", val_loss={validation:.4f}"
            epoch = f"{event['epoch']}/{event['epochs']}"
            return f"{title}: Epoch {epoch}: train_loss={event['train_loss']:.4f}{shown}"
        case "training_done":
            return f"{title}: done in {event['seconds']:.1f} s, {event['checkpoint']}"
        case "training_skipped":
            return f"{title}: already done, {event['checkpoint']}"
        case "training_started":
            return f"{title}: epochs {event['first_epoch']} to {event['epochs']}"
        case "checkpoint":
            return f"{title}: checkpoint after epoch {event['epoch']}, {event['path']}"
        case "resume_refused":
            return f"{title}: starting over: {event['reason']}"
        case "gpu":
            return f"trains on {event['name']}"
        case _:
            return json.dumps(event)
