"""Training: a step beside the LSTM that it can't do without, and both of the original's losses beside its scripts."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Measurement, children_s, elapsed
from benchmarks.peers.original_training import seconds_an_epoch
from jade_model.core.config import Recipe
from jade_model.core.files import sha256_file
from jade_model.core.job import Job, JobData, Training, run_key, save_job, save_rows
from jade_model.core.recipes import recipe
from jade_model.core.train import prepare, train
from jade_model.core.windows import Windows, save_arrays
from jade_model.data.sample import sample_windows
from tasks.settings.environment import training_environment

NUM_WINDOWS, NUM_TRAINED = 210, 168
EPOCHS, PEER_EPOCHS = 50, 3
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
    ours_s, peer_s = min(step_s[1:]), min(lstm_s[1:])
    return Measurement(
        f"training step, {chosen.name}, {BATCH_SIZE} x {num_bars}",
        ours_s,
        peer_s,
        "forward and backward of its LSTM alone",
        max_overhead=max_overhead,
        note="CPU time",
    )


def both_losses(windows: Windows) -> Measurement:
    """Time both seed recipes, each from the start of its process, beside the original's scripts one after the other.

    Ours run side by side, so the slower one counts. The peer's epochs are alike, so a few of them are scaled.
    """
    rows = np.arange(NUM_WINDOWS)
    ours_s, peer_s = [], []
    with tempfile.TemporaryDirectory() as folder:
        write_job(windows, Path(folder))
        for loss in ("soft_span", "crf"):
            ours_s.append(elapsed(lambda loss=loss: train_alone(Path(folder), loss), children_s))
            an_epoch_s = [
                seconds_an_epoch(
                    windows,
                    train_rows=rows[:NUM_TRAINED],
                    validation_rows=rows[NUM_TRAINED:],
                    with_crf=loss == "crf",
                )
                for _ in range(PEER_EPOCHS)
            ]
            peer_s.append(EPOCHS * min(an_epoch_s))
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return Measurement(
        f"soft span and CRF, {EPOCHS} epochs, {NUM_WINDOWS} windows",
        max(ours_s),
        sum(peer_s),
        "the original's scripts: features per sample and epoch, pytorch-crf, DataLoader",
        target_ratio=15,
        note=f"two processes side by side, from their start: the slower one's CPU time (the other's "
        f"{min(ours_s):.1f} s), {peak_mib:.0f} MiB at most each; peer: the quickest of "
        f"{PEER_EPOCHS} epochs of each, times {EPOCHS}",
    )


def train_alone(root: Path, loss: str) -> None:
    """Run one of the job's trainings as a command, in the environment that Jade gives it."""
    command = [sys.executable, "-m", "jade_model", "train", str(root / "job.json"), "--arm", loss]
    subprocess.run(command, cwd=ROOT, env=training_environment(), check=True, stdout=subprocess.DEVNULL)


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
