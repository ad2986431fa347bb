"""Folders of 1,000 to 1,000,000 windows: validated, featurised and predicted in a process each; time and peak memory.

JADE_BENCH_WINDOWS sets the largest folder (100,000 unless told otherwise; a million takes 1.5 GB of disk). Beyond
100,000 windows the model has 8 units rather than 96: what is to be seen there is that memory stays flat. Training holds
its windows in memory and is measured for one epoch up to 100,000; beyond 10,000 with 8 units.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_features import NUM_BARS, random_bars
from benchmarks.harness import Measurement
from jade_model.core.config import Recipe

SIZES = (10**3, 10**4, 10**5, 10**6)
WINDOWS_A_FILE = 10_000
FULL_MODEL_UP_TO = {"predict": 10**5, "train": 10**4}
TRAIN_UP_TO = 10**5
ROOT = Path(__file__).parents[1]


def measure() -> list[Measurement]:
    """Run every operation on every size."""
    largest = int(os.environ.get("JADE_BENCH_WINDOWS", str(10**5)))
    measurements = []
    with tempfile.TemporaryDirectory(prefix="jade-scale-") as temporary:
        bars_NT4 = random_bars(WINDOWS_A_FILE)
        folder = Path(temporary) / "windows"
        folder.mkdir()
        written = 0
        for size in (size for size in SIZES if size <= largest):
            # Each size goes on with the files of the one before.
            while written < size:
                count = min(WINDOWS_A_FILE, size - written)
                write_file(folder / f"{written:07}.parquet", bars_NT4[:count], written)
                written += count
            for name in (name for name in OPERATIONS if name != "train" or size <= TRAIN_UP_TO):
                measurements.append(operation(name, folder, size))
                print(f"{measurements[-1].name}: {measurements[-1].note}", file=sys.stderr, flush=True)
    return measurements


def write_file(path: Path, bars_NT4: np.ndarray[Any, Any], first: int) -> None:
    """Write windows without labels, in single precision; their prices and identifiers are those of no other file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = len(bars_NT4)
    values = pa.array((bars_NT4 * (1 + first / 1e6)).astype(np.float32).ravel())
    bars = pa.ListArray.from_arrays(pa.array(np.arange(count * NUM_BARS + 1) * 4, pa.int32()), values)
    features = pa.ListArray.from_arrays(pa.array(np.arange(count + 1) * NUM_BARS, pa.int32()), bars)
    identifiers = pa.array([f"w{first + row}" for row in range(count)])
    pq.write_table(
        pa.table({"window_id": identifiers, "features": features}), path, compression="zstd", row_group_size=2048
    )


def operation(name: str, folder: Path, size: int) -> Measurement:
    """Measure one operation in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_scale", name, str(folder), str(size)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout)
    return Measurement(
        f"{name} {size:,} windows",
        told["seconds"],
        note=f"{told['seconds'] / size * 1e6:.0f} us a window, peak {told['peak_mib']:.0f} MiB"
        + (", 8 units" if size > FULL_MODEL_UP_TO.get(name, size) else ""),
    )


def validate(folder: Path, _size: int) -> None:
    from jade_model.data.schema import iter_windows

    next(iter_windows(str(folder), batch_size=1, require_labels=False))  # after a look at all of them


def featurise(folder: Path, _size: int) -> None:
    from jade_model.core.features import feature_set
    from jade_model.data.schema import iter_windows

    features = feature_set("displacement-17")
    for batch in iter_windows(str(folder), batch_size=4096, require_labels=False):
        features.compute(batch.bars_NT4)


def recipe_for(name: str, size: int) -> Recipe:
    from jade_model.core.recipes import recipe

    chosen = recipe("seed_soft_span")
    if size > FULL_MODEL_UP_TO[name]:
        chosen = replace(chosen, model=replace(chosen.model, hidden_size=8))
    return chosen


def train(_folder: Path, size: int) -> None:
    from jade_model.core.train import prepare
    from jade_model.core.train import train as train_one
    from jade_model.data.sample import sample_windows

    windows, rows = sample_windows(num_bases=size // 2 + 20), np.arange(size)
    chosen = recipe_for("train", size)
    chosen = replace(chosen, training=replace(chosen.training, epochs=1))
    train_one(chosen, prepare(windows.take(rows), chosen), train_rows=rows, validation_rows=rows[:0], seed=0)


def predict(folder: Path, size: int) -> None:
    from jade_model.scoring.decoding import DecoderChoice
    from jade_model.scoring.predict import untrained_predictor
    from jade_model.scoring.trained import TrainedModel
    from tasks.experiments.predict import predict_file

    chosen = recipe_for("predict", size)
    out = folder.parent / "spans.parquet"
    model = TrainedModel(folder, untrained_predictor(chosen, seed=0), (), DecoderChoice("threshold", 0.5))
    told = predict_file(model, str(folder), out)
    if told["num_windows"] != size:
        raise AssertionError(f"{told['num_windows']} windows predicted of {size}")


OPERATIONS: dict[str, Callable[[Path, int], None]] = {
    "validate": validate,
    "featurise": featurise,
    "predict": predict,
    "train": train,
}


def main(name: str, folder: str, size: str) -> None:
    """Run one operation and print its CPU time and this process's peak memory."""
    import torch

    torch.set_num_threads(1)
    begin = time.process_time()
    OPERATIONS[name](Path(folder), int(size))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.process_time() - begin, "peak_mib": peak_mib}))


if __name__ == "__main__":
    main(*sys.argv[1:])
