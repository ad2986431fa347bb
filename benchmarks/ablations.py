"""Every ingredient of the `jade_*` recipes, taken out or swapped one at a time, on folds of one file.

`python -m benchmarks.ablations DATA.parquet [VARIANT ...] [--seeds 1] [--folds 5] [--processes 2]` prints one row a
variant; without names it runs all. `ablations.md` holds dated results. Cut-offs are chosen on training windows, spans
decoded as the one of greatest expected F1, probabilities left at temperature 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jade_model.core.checkpoint import model_of
from jade_model.core.config import TASKS, Recipe
from jade_model.core.network import JadeCompact
from jade_model.core.recipes import recipe
from jade_model.core.targets import Targets, build_targets, fitted_recipe
from jade_model.core.train import evaluate, train
from jade_model.core.training_data import PreparedWindows, prepare
from jade_model.core.windows import Windows
from jade_model.data.groups import group_windows
from jade_model.data.schema import load_windows
from jade_model.data.splits import Split, grouped_folds
from jade_model.scoring.calibration import expected_calibration_error
from jade_model.scoring.decoding import Cleanup, decode
from jade_model.scoring.evaluate import choose_decoders
from jade_model.scoring.metrics import Counts, count, pooled, truth_of
from jade_model.scoring.predict import predict, predictor_of
from jade_model.scoring.predictions import Predictions

# Variant -> what of its recipe changes; fields of ModelConfig, TrainingConfig and Recipe by their names.
SWITCHES: dict[str, dict[str, Any]] = {
    "": {},
    "relativity-12": {"feature_set": "relativity-12"},
    "position": {"feature_set": "displacement-17+position"},
    "no mirror": {"mirror": False},
    "constant rate 1e-3": {"schedule": "constant", "learning_rate": 1e-3},
    "constant rate 4e-3": {"schedule": "constant"},
    "peak 2e-3": {"learning_rate": 2e-3},
    "peak 8e-3": {"learning_rate": 8e-3},
    "dropout 0.3/0.6": {"input_dropout": 0.3, "head_dropout": 0.6},
    "dropout 0.1/0.5": {"input_dropout": 0.1, "head_dropout": 0.5},
    "dropout 0.05/0.15": {"input_dropout": 0.05, "head_dropout": 0.15},
    "dropout 0.1/0.3": {"input_dropout": 0.1, "head_dropout": 0.3},
    "dropout 0/0.1": {"input_dropout": 0.0, "head_dropout": 0.1},
    "no dropout": {"input_dropout": 0.0, "head_dropout": 0.0},
    "span layer x1": {"span_layer_rate": 1.0},
    "no clipping": {"gradient_clip": None},
    "raw losses": {"normalise_losses": False},
    "type from the mean": {"type_pooling": "mean"},
    "weight decay 0.1": {"weight_decay": 0.1},
    "batch 16": {"batch_size": 16},
    "no dice": {"dice_weight": 0.0},
    "dice 0.8": {"dice_weight": 0.8},
}
ARMS = ("soft_span", "crf", "single_span")
HEADER = (
    "variant", "bar F1", "event F1", "span loss", "separation", "ECE", "type", "centre, bars", "countdown, bars",
    "CPU s", "trainings",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class FoldResult:
    """One trained model on its held-out windows: counts add up over folds, arrays are put end to end.

    Attributes:
        seed: Of the training.
        counts: Hits and misses of each window.
        probability_NT: P(bar in a span).
        truth_NT: Labels.
        is_type_right_N: Whether the most probable type is the labelled one.
        errors_bars_N: Mean absolute errors: centre by the trained head, by the posterior, countdown likewise.
        span_loss: Mean held-out span loss: nats a window (CRF, single span) or a bar (soft span).
        train_seconds: CPU time of the training.
    """

    seed: int
    counts: Counts
    probability_NT: NDArray[np.float64]
    truth_NT: NDArray[np.bool_]
    is_type_right_N: NDArray[np.bool_]
    errors_bars_N: NDArray[np.float64]
    span_loss: float
    train_seconds: float


def variant_recipe(name: str) -> Recipe:
    """Return the recipe of `<recipe>` or `<recipe> / <switch>`.

    Raises:
        KeyError: There is no such switch.
    """
    base, _, switch = name.partition(" / ")
    chosen = recipe(base)
    parts = {"model": chosen.model, "training": chosen.training}
    own: dict[str, Any] = {}
    for field, value in SWITCHES[switch].items():
        home = next((part for part, config in parts.items() if hasattr(config, field)), None)
        if home is None:
            own[field] = value
        else:
            parts[home] = dataclasses.replace(parts[home], **{field: value})
    return dataclasses.replace(chosen, **parts, **own)


def run_fold(path: str, name: str, seed: int, fold: int, num_folds: int) -> FoldResult:
    """Train one fold of a variant and score what it holds out."""
    import torch

    torch.set_num_threads(1)
    windows = loaded(path)
    split = folds_of(path, seed, num_folds)[fold]
    chosen = fitted_recipe(variant_recipe(name), windows)
    began = time.process_time()
    data = prepare(windows, chosen)
    rows_of = {"train_rows": split.train_rows, "validation_rows": split.validation_rows}
    checkpoint = train(chosen, data, **rows_of, seed=seed, fold=fold)
    seconds = time.process_time() - began
    model = model_of(checkpoint)
    predictor = predictor_of([model], chosen)
    truth, rows = truth_of(windows), np.sort(split.test_rows)
    on_training = predict(predictor, windows.take(split.train_rows))
    choice = choose_decoders(on_training, truth.take(split.train_rows), Cleanup())["one_span"]
    held_out, held_truth = predict(predictor, windows.take(rows)), truth.take(rows)
    return FoldResult(
        seed=seed,
        counts=count(decode(held_out, choice), held_truth),
        probability_NT=held_out.probability_NT,
        truth_NT=held_truth.mask_NT,
        is_type_right_N=held_out.type_probability_N3.argmax(1) == windows.type_N[rows],
        errors_bars_N=errors_bars(held_out, build_targets(windows), rows),
        span_loss=held_out_span_loss(model, data, rows, chosen),
        train_seconds=seconds,
    )


def held_out_span_loss(model: JadeCompact, data: PreparedWindows, rows: NDArray[np.intp], chosen: Recipe) -> float:
    """Return the model's span loss on windows that it was not fitted on: steadier than any F1."""
    import torch

    losses_4 = evaluate(model, data.x_VNTF[0], data.labels, torch.from_numpy(rows), chosen.training).losses_4
    return float(losses_4[TASKS.index("span")])


def errors_bars(predictions: Predictions, targets: Targets, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return each window's mean absolute error of centre (head, posterior) and countdown (head, posterior), in bars."""
    num_bars = predictions.probability_NT.shape[1]
    centre_N, countdown_NT = targets.pointers_N2[rows, 0], targets.countdown_NT[rows]
    return np.stack(
        [
            np.abs(predictions.pointers_N2[:, 0] - centre_N) * num_bars,
            np.abs(predictions.posterior_pointers_N2[:, 0] - centre_N) * num_bars,
            np.abs(predictions.countdown_NT - countdown_NT).mean(1),
            np.abs(predictions.posterior_countdown_NT - countdown_NT).mean(1),
        ]
    )


def row_of(name: str, results: Sequence[FoldResult]) -> str:
    """Lay one variant's results out as a row of the table: scores are means over seeds of pooled folds."""
    seeds = sorted({result.seed for result in results})
    scores = [pooled([result.counts for result in results if result.seed == seed]).scores() for seed in seeds]
    f1_S = [score.f1 for score in scores]
    probability_NT = np.concatenate([result.probability_NT for result in results])
    truth_NT = np.concatenate([result.truth_NT for result in results])
    separation = probability_NT[truth_NT].mean() - probability_NT[~truth_NT].mean()
    errors = np.concatenate([result.errors_bars_N for result in results], axis=1).mean(1)
    cells = (
        name,
        f"{np.mean(f1_S):.3f}" + (f" ± {np.std(f1_S, ddof=1):.3f}" if len(seeds) > 1 else ""),
        f"{np.mean([score.span_f1_iou50 for score in scores]):.3f}",
        f"{np.mean([result.span_loss for result in results]):.3f}",
        f"{separation:.2f}",
        f"{expected_calibration_error(probability_NT, truth_NT):.3f}",
        f"{np.concatenate([result.is_type_right_N for result in results]).mean():.2f}",
        f"{errors[0]:.1f} / {errors[1]:.1f}",
        f"{errors[2]:.1f} / {errors[3]:.1f}",
        f"{np.mean([result.train_seconds for result in results]):.1f}",
        str(len(results)),
    )
    return f"| {' | '.join(cells)} |"


@cache
def loaded(path: str) -> Windows:
    """Read the windows, once a process."""
    return load_windows(path)


@cache
def folds_of(path: str, seed: int, num_folds: int) -> list[Split]:
    """Split the windows into grouped folds, once a process and seed; none is set aside for validation."""
    windows = loaded(path)
    return grouped_folds(windows, group_windows(windows), num_folds=num_folds, seed=seed, validation_fraction=0)


def main() -> None:
    """Run the variants and print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("variants", nargs="*", help="such as 'jade_crf' or 'jade_crf / no mirror'; default: all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    names = options.variants or [f"jade_{arm}{switch and ' / ' + switch}" for switch in SWITCHES for arm in ARMS]
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    # Read when the child processes load torch.
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        for name in names:
            futures = [
                pool.submit(run_fold, str(options.data), name, seed, fold, options.folds)
                for seed in range(options.seeds)
                for fold in range(options.folds)
            ]
            print(row_of(name, [future.result() for future in futures]), flush=True)


if __name__ == "__main__":
    main()
