"""`python -m jade_model train job.json`: all that a GPU host ever runs.

Exit codes: 0 done, 1 a training failed, 2 bad usage or input. Progress goes to standard output, errors to
standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jade_model.errors import ConfigError, JadeError
from jade_model.job import Execution, Job, Training, load_job
from jade_model.job_runner import Emitter, Task, run_all

# A step keeps a GPU busy for less time than it takes to wait for an epoch's numbers; each training takes memory.
GPU_STREAMS = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    emit = Emitter(as_json=options.progress == "json")
    try:
        job = load_job(options.job)
        trainings = selected(job, arm=options.arm, seed=options.seed, fold=options.fold)
        workers = options.workers or default_workers(options.device)
        if workers < 1:
            raise ConfigError(f"--workers is {workers}; it must be at least 1")
    except JadeError as error:
        return emit.failed(error)
    emit({"event": "job_started", "run_id": job.run_id, "trainings": len(trainings), "workers": workers})
    execution = Execution(options.device, options.resume, not options.eager, options.deterministic)
    tasks = [Task(job, training, options.job.parent, execution, emit.as_json) for training in trainings]
    exit_code = run_all(tasks, min(workers, len(tasks)), emit)
    emit({"event": "job_done", "run_id": job.run_id, "exit_code": exit_code})
    return exit_code


def selected(job: Job, *, arm: str | None, seed: int | None, fold: int | None) -> list[Training]:
    """Return the job's trainings that match; None matches all.

    Raises:
        ConfigError: None matches.
    """
    chosen = [
        training
        for training in job.trainings
        if arm in (None, training.arm) and seed in (None, training.seed) and fold in (None, training.fold)
    ]
    if not chosen:
        has = ", ".join(training.title for training in job.trainings) or "none"
        raise ConfigError(f"no training of the job matches arm {arm}, seed {seed}, fold {fold}; it has: {has}")
    return chosen


def default_workers(device: str) -> int:
    """Return how many trainings run side by side: one a core on the CPU, GPU_STREAMS on a GPU."""
    if device != "cpu":
        return GPU_STREAMS
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jade_model", description="Train the models of a job file.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="run a job's trainings")
    train.add_argument("job", type=Path, help="job.json; its paths are relative to its folder")
    train.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N; never replaced by another")
    train.add_argument("--arm", help="only this arm's trainings")
    train.add_argument("--seed", type=int, help="only this seed's trainings")
    train.add_argument("--fold", type=int, help="only this fold's trainings")
    train.add_argument("--workers", type=int, help="trainings side by side (default: one a core; four on a GPU)")
    train.add_argument("--eager", action="store_true", help="on a GPU, launch each step's kernels one by one")
    train.add_argument("--deterministic", action="store_true", help="on a GPU, the same bits every time, slower")
    train.add_argument("--resume", action="store_true", help="go on from checkpoints of cut-off trainings")
    train.add_argument("--progress", choices=("text", "json"), default="text", help="lines for people or programs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
