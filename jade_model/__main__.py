"""`python -m jade_model train job.json`: all that a GPU host ever runs.

Exit codes: 0 done, 1 a training failed, 2 bad usage or input. Progress goes to standard output, errors to
standard error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jade_model.core.errors import ConfigError, JadeError
from jade_model.core.job import Execution, Job, Training, load_job
from jade_model.core.job_runner import Emitter, Task, run_all

# A step keeps a GPU busy for less time than it takes to wait for an epoch's numbers; each training takes memory.
GPU_STREAMS = 4

GPU_BYTES_A_TRAINING = 2**30
"""Room for one training on a GPU: CUDA's own half a gigabyte, the windows, and what the network needs, generously."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    emit = Emitter(as_json=options.progress == "json")
    try:
        if options.arm_module is not None:
            from jade_model.core.span_heads.own import load_arms

            load_arms(options.arm_module)
        job = load_job(options.job)
        trainings = selected(job, arm=options.arm, seed=options.seed, fold=options.fold)
        workers = num_workers(options.workers, options.device, trainings)
    except JadeError as error:
        return emit.failed(error)
    emit({"event": "job_started", "run_id": job.run_id, "trainings": len(trainings), "workers": workers})
    execution = Execution(options.device, options.resume, not options.eager, options.deterministic)
    tasks = [
        Task(job, training, options.job.parent, execution, emit.as_json, options.arm_module) for training in trainings
    ]
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


def num_workers(asked: str | None, device: str, trainings: Sequence[Training]) -> int:
    """Return how many trainings run side by side.

    Args:
        asked: A number; `arms` for one of each arm on a GPU, as far as its free memory goes; None for the default.
        device: Where.
        trainings: What is trained.

    Raises:
        ConfigError: It is neither.
    """
    if asked is None or (asked == "arms" and device == "cpu"):
        return default_workers(device)
    if asked == "arms":
        arms = len({training.arm for training in trainings})
        fit = free_gpu_bytes(device) // GPU_BYTES_A_TRAINING
        if fit < arms:
            sys.stderr.write(
                f"{device} has room for {fit} trainings at once, not for {arms}; {max(1, fit)} at a time\n"
            )
        return max(1, min(arms, fit))
    if not asked.isdecimal() or int(asked) < 1:
        raise ConfigError(f"--workers is {asked}; it must be a number of at least 1, or arms")
    return int(asked)


def free_gpu_bytes(device: str) -> int:
    """Return how much of a GPU's memory is free; asked in a process of its own, which leaves nothing there."""
    # As a context: not every torch takes "cuda", without a number, for the current device elsewhere.
    code = f"import torch\nwith torch.cuda.device({device!r}):\n    print(torch.cuda.mem_get_info()[0])"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise ConfigError(f"{device} cannot be asked for its free memory: {asked.stderr.strip().splitlines()[-1:]}")
    return int(asked.stdout)


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
    train.add_argument("--arm-module", type=Path, help="module of the job's arms that are not Jade's; it is run")
    train.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N; never replaced by another")
    train.add_argument("--arm", help="only this arm's trainings")
    train.add_argument("--seed", type=int, help="only this seed's trainings")
    train.add_argument("--fold", type=int, help="only this fold's trainings")
    train.add_argument("--workers", help="trainings side by side, or arms (default: one a core; four on a GPU)")
    train.add_argument("--eager", action="store_true", help="on a GPU, launch each step's kernels one by one")
    train.add_argument("--deterministic", action="store_true", help="on a GPU, the same bits every time, slower")
    train.add_argument("--resume", action="store_true", help="go on from checkpoints of cut-off trainings")
    train.add_argument("--progress", choices=("text", "json"), default="text", help="lines for people or programs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
