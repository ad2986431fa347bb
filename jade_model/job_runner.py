"""All trainings of a job, side by side in worker processes.

An importable module of its own: a spawned process can't find functions that live in a package's `__main__`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from jade_model.errors import JadeError
from jade_model.job import Job, Training


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


TrainingTask = tuple[Job, Training, Path, str, bool, str]
"""Job, training, the job's folder, device, whether to resume, and the form of progress lines."""


def run_all(tasks: Sequence[TrainingTask], workers: int, emit: Emitter) -> int:
    """Run trainings, so many at a time; returns the worst exit code.

    A training that fails does not stop the others.
    """
    if workers == 1:
        return max(run_one(task) for task in tasks)
    # Children read these when they load their libraries: one thread each, none spinning while it waits.
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    exit_code = 0
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(run_one, task): task[1] for task in tasks}
        for future in as_completed(futures):
            try:
                exit_code = max(exit_code, future.result())
            except BrokenProcessPool:
                error = JadeError("its process, or one beside it, was killed (out of memory?)")
                exit_code = max(exit_code, emit.failed(error, futures[future]))
    return exit_code


def run_one(task: TrainingTask) -> int:
    """Run one training in this process; returns its exit code."""
    import torch

    from jade_model.worker import run_training

    job, training, root, device, resume, progress = task
    emit = Emitter(as_json=progress == "json")
    torch.set_num_threads(1)
    try:
        run_training(job, training, root, device=device, resume=resume, emit=emit)
    except Exception as error:  # one failed training must not take the others down
        return emit.failed(error, training)
    return 0


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
        case _:
            return json.dumps(event)
