"""Trainings on one GPU: captured steps beside eager ones, and several at once as streams of a process or as processes.

Nothing where there is no CUDA device.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.bench_training import NUM_TRAINED, NUM_WINDOWS
from benchmarks.harness import Measurement, elapsed
from jade_model.core.files import sha256_file
from jade_model.core.job import Job, JobData, Training, run_key, save_job, save_rows
from jade_model.core.recipes import recipe
from jade_model.core.windows import Windows, save_arrays
from jade_model.data.sample import sample_windows

EPOCHS, TOGETHER = 50, 8
ROOT = Path(__file__).parents[1]


def measure() -> list[Measurement]:
    """Time whole jobs from the start of their processes; wall time, for the work is the card's."""
    if not torch.cuda.is_available():
        return []
    windows = sample_windows(num_bases=120)
    windows = windows.take(np.arange(NUM_WINDOWS))
    one_s, eager_s = (run_job(windows, 1, [["--workers", "1", *flags]]) for flags in ([], ["--eager"]))
    one_by_one_s = run_job(windows, TOGETHER, [["--workers", "1"]])
    streams_s = {width: run_job(windows, TOGETHER, [["--workers", str(width)]]) for width in (2, 4, TOGETHER)}
    processes_s = run_job(windows, TOGETHER, [["--workers", "1", "--seed", str(seed)] for seed in range(TOGETHER)])
    card = torch.cuda.get_device_name()
    return [
        Measurement("one training, captured", one_s, eager_s, "the same, eager", note=f"wall time, {card}"),
        *(
            Measurement(f"{TOGETHER} trainings on {width} streams", seconds, one_by_one_s, "one after the other")
            for width, seconds in streams_s.items()
        ),
        Measurement(f"{TOGETHER} trainings in {TOGETHER} processes", processes_s, one_by_one_s, "one after the other"),
    ]


def run_job(windows: Windows, num_seeds: int, commands: Sequence[Sequence[str]]) -> float:
    """Return the wall seconds of a job's commands, all at once."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_job(windows, num_seeds, root)
        base = [sys.executable, "-m", "jade_model", "train", str(root / "job.json"), "--device", "cuda"]

        def run() -> None:
            running = [subprocess.Popen([*base, *flags], cwd=ROOT, stdout=subprocess.DEVNULL) for flags in commands]
            codes = [process.wait() for process in running]
            if any(codes):
                raise AssertionError("a training failed")

        return elapsed(run, time.perf_counter)


def write_job(windows: Windows, num_seeds: int, root: Path) -> None:
    """Write a job of one recipe and several seeds."""
    chosen = recipe("jade_soft_span")
    chosen = replace(chosen, training=replace(chosen.training, epochs=EPOCHS))
    rows = np.arange(NUM_WINDOWS)
    split = {"train_rows": rows[:NUM_TRAINED], "validation_rows": rows[NUM_TRAINED:]}
    save_arrays(windows, root / "windows.npz")
    save_rows(root / "rows.npz", **split)
    trainings = tuple(
        Training(
            chosen.loss,
            windows.name,
            seed,
            0,
            chosen,
            "rows.npz",
            f"seed{seed}",
            run_key(data_sha256=windows.sha256, recipe=chosen, seed=seed, fold=0, **split),
        )
        for seed in range(num_seeds)
    )
    data = JobData(windows.name, "windows.npz", windows.sha256, sha256_file(root / "windows.npz"))
    save_job(Job("benchmark", (data,), trainings), root / "job.json")
