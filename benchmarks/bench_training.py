"""Training: a step beside the LSTM that it can't do without, and both of the original's losses beside its scripts."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Measurement
from benchmarks.peers.original_training import seconds_an_epoch
from jade_model.config import Recipe
from jade_model.files import sha256_file
from jade_model.job import Job, JobData, Training, run_key, save_job, save_rows
from jade_model.recipes import recipe
from jade_model.sample import sample_windows
from jade_model.train import prepare, train
from jade_model.windows import Windows, save_arrays

NUM_WINDOWS, NUM_TRAINED = 210, 168
EPOCHS, PEER_EPOCHS = 50, 2
STEPS_AN_EPOCH, TIMED_EPOCHS, BATCH_SIZE = 6, 12, 32
ROOT = Path(__file__).parents[1]


def measure() -> list[Measurement]:
    """Time steps of the seed's and of the best known recipes, then whole trainings."""
    windows = sample_windows(num_bases=120)
    windows = windows.take(np.arange(NUM_WINDOWS))
    steps = [
        step(windows, recipe("seed_soft_span"), max_overhead=1.4),
        step(windows, recipe("seed_crf"), max_overhead=1.5),
        *(step(windows, recipe(f"jade_{loss}")) for loss in ("soft_span", "crf", "single_span")),
    ]
    return [*steps, both_losses(windows)]


def step(windows: Windows, chosen: Recipe, max_overhead: float | None = None) -> Measurement:
    """Time full batches of one recipe beside forward and backward of their LSTM alone, by turns."""
    chosen = replace(chosen, training=replace(chosen.training, epochs=TIMED_EPOCHS, batch_size=BATCH_SIZE))
    data = prepare(windows, chosen)
    num_bars, num_features = data.x_VNTF.shape[2:]
    lstm = torch.nn.LSTM(num_features, chosen.model.hidden_size, batch_first=True, bidirectional=True)
    x_BTF = torch.randn(BATCH_SIZE, num_bars, num_features)
    step_s: list[float] = []
    lstm_s: list[float] = []

    def lstm_alone() -> None:
        for _ in range(STEPS_AN_EPOCH):
            lstm.zero_grad()
            torch.autograd.backward(lstm(x_BTF)[0].sum())

    # CPU time of this one-threaded process: what a shared machine does meanwhile would otherwise decide the ratio.
    began = time.process_time()

    def after_epoch(*_: object) -> None:
        nonlocal began
        step_s.append((time.process_time() - began) / STEPS_AN_EPOCH)
        began = time.process_time()
        lstm_alone()
        lstm_s.append((time.process_time() - began) / STEPS_AN_EPOCH)
        began = time.process_time()

    rows = np.arange(STEPS_AN_EPOCH * BATCH_SIZE)
    train(chosen, data, train_rows=rows, validation_rows=rows[:0], seed=0, on_epoch=after_epoch)
    # The first epoch warms both up.
    ours_s, peer_s = statistics.median(step_s[1:]), statistics.median(lstm_s[1:])
    return Measurement(
        f"training step, {chosen.name}, {BATCH_SIZE} x {num_bars}",
        ours_s,
        peer_s,
        "forward and backward of its LSTM alone",
        max_overhead=max_overhead,
        note="CPU time",
    )


def both_losses(windows: Windows) -> Measurement:
    """Time the job of both seed recipes, from its start as a command, beside the original's scripts."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_job(windows, root)
        command = [sys.executable, "-m", "jade_model", "train", str(root / "job.json"), "--workers", "2"]
        begin = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        ours_s = time.perf_counter() - begin
    rows = np.arange(NUM_WINDOWS)
    peer_s = EPOCHS * sum(
        seconds_an_epoch(
            windows,
            train_rows=rows[:NUM_TRAINED],
            validation_rows=rows[NUM_TRAINED:],
            with_crf=with_crf,
            epochs=PEER_EPOCHS,
        )
        for with_crf in (False, True)
    )
    return Measurement(
        f"soft span and CRF, {EPOCHS} epochs, {NUM_WINDOWS} windows",
        ours_s,
        peer_s,
        "the original's scripts: features per sample and epoch, pytorch-crf, DataLoader",
        target_ratio=15,
        note=f"ours from process start, 2 processes; peer: {PEER_EPOCHS} epochs of each, scaled to {EPOCHS}",
    )


def write_job(windows: Windows, root: Path) -> None:
    """Write a job of both seed recipes and all it needs."""
    rows = np.arange(NUM_WINDOWS)
    split = {"train_rows": rows[:NUM_TRAINED], "validation_rows": rows[NUM_TRAINED:]}
    save_arrays(windows, root / "windows.npz")
    save_rows(root / "rows.npz", **split)
    trainings = []
    for chosen in (recipe("seed_soft_span"), recipe("seed_crf")):
        key = run_key(data_sha256=windows.sha256, recipe=chosen, seed=0, fold=0, **split)
        trainings.append(Training(chosen.loss, windows.name, 0, 0, chosen, "rows.npz", chosen.loss, key))
    data = JobData(windows.name, "windows.npz", windows.sha256, sha256_file(root / "windows.npz"))
    save_job(Job("benchmark", (data,), tuple(trainings)), root / "job.json")
