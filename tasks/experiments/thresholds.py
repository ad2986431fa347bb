"""Threshold optimisation of a trained model: chosen on some windows, scored on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jade_model.core.checkpoint import Checkpoint, load_checkpoint
from jade_model.core.config import Loss
from jade_model.core.windows import Windows
from jade_model.data.schema import load_windows
from jade_model.data.splits import group_windows
from jade_model.scoring.baselines import all_positive_scores
from jade_model.scoring.decoding import Cleanup, DecoderName, decode, decoders_of
from jade_model.scoring.diagnostics import separation
from jade_model.scoring.evaluate import calibrated, choose_decoders
from jade_model.scoring.metrics import Counts, Truth, count, pooled, truth_of
from jade_model.scoring.predict import Predictor, load_predictor, posterior, run_network, untrained_predictor
from jade_model.scoring.thresholds import threshold_curve, threshold_grid
from tasks.core.errors import BadRequest

MOST_NAMED = 6
"""Trainings that a message names."""

MODES: dict[str, Loss] = {
    "soft": "soft_span",
    "soft_span": "soft_span",
    "crf": "crf",
    "single_span": "single_span",
}


@dataclass(frozen=True)
class Grid:
    """Thresholds to report beside the exact optimum.

    Attributes:
        minimum: First.
        maximum: Last.
        step: Between them.
    """

    minimum: float = 0.3
    maximum: float = 0.7
    step: float = 0.05


@dataclass(frozen=True, eq=False)
class _Part:
    """Windows to choose on, and windows to score."""

    chosen_on: NDArray[np.intp]
    scored: NDArray[np.intp]


def optimise_threshold(
    data_path: str, model_path: Path, mode: str, *, device: str, grid: Grid, cleanup: Cleanup
) -> dict[str, Any]:
    """Choose every decoder's threshold and score it on windows that took no part in the choice.

    On the file that the model was trained on, its validation windows choose and the windows that it never saw are
    scored. On any other file, or if nothing unseen is left, two halves of the groups choose for one another.

    Returns:
        JSON values: what was chosen on and scored on, the grid, each decoder's threshold and scores, baselines.

    Raises:
        BadRequest: The mode is not the model's, too few windows are unseen, or the folder holds several trainings.
        DataError: The file breaks the contract.
        CheckpointError: The model can't be read.
    """
    model_path = _one_training(model_path)
    checkpoint = load_checkpoint(model_path)
    loss = checkpoint.recipe.loss
    if MODES[mode] != loss:
        raise BadRequest(
            f"{model_path} was trained with {loss}; use --mode {next(m for m, of in MODES.items() if of == loss)}"
        )
    windows = load_windows(data_path)
    truth = truth_of(windows)
    parts, how = _parts(windows, checkpoint)
    trained = load_predictor(model_path, device=device)
    untrained = untrained_predictor(checkpoint.recipe, seed=checkpoint.seed)
    scored_rows = np.concatenate([part.scored for part in parts])
    return {
        "model": str(model_path),
        "data": {"path": windows.path, "sha256": windows.sha256, "num_windows": windows.num_windows},
        "mode": mode,
        "how": how,
        "num_chosen_on": sum(len(part.chosen_on) for part in parts),
        "num_scored": len(scored_rows),
        **_scores(trained, windows, truth, parts, cleanup),
        "grid": _grid(trained, windows, truth.take(scored_rows), scored_rows, grid, cleanup),
        "baselines": {
            "all_positive": all_positive_scores([truth.take(scored_rows)]).to_json(),
            "untrained": _scores(untrained, windows, truth, parts, cleanup)["decoders"],
        },
    }


def _one_training(path: Path) -> Path:
    """Return the checkpoint of a training's folder; a file stays what it is."""
    if not path.is_dir():
        return path
    found = sorted(path.glob("**/checkpoint_*.pt"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadRequest(f"{path} holds no checkpoint; name a training's folder, or its checkpoint_*.pt")
    # The first training of an arm lies in the arm's own folder, those of other seeds and folds below it.
    names = ", ".join(map(str, found[:MOST_NAMED]))
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    raise BadRequest(f"{path} holds {len(found)} trainings, and a threshold is one model's. Name one: {names}{more}")


def _parts(windows: Windows, checkpoint: Checkpoint) -> tuple[list[_Part], str]:
    if windows.sha256 == checkpoint.data_sha256:
        fitted, watched = checkpoint.train_rows.numpy(), checkpoint.validation_rows.numpy()
        unseen = np.setdiff1d(np.arange(windows.num_windows), np.concatenate([fitted, watched]))
        if len(watched) and len(unseen):
            return [_Part(watched, unseen)], "chosen on the model's validation windows, scored on windows it never saw"
        rest = np.setdiff1d(np.arange(windows.num_windows), fitted)
        how = "of the windows that the model was not fitted on, each half chose for the other"
    else:
        rest = np.arange(windows.num_windows)
        how = "another file than the model's: each half of its groups chose for the other"
    group_R = group_windows(windows).group_N[rest]
    groups = np.random.default_rng(0).permutation(np.unique(group_R))
    if len(groups) < 2:
        raise BadRequest(
            "all windows share bars, or the model was fitted on them: none are left to choose on and to score"
        )
    first = np.isin(group_R, groups[: len(groups) // 2])
    return [_Part(rest[first], rest[~first]), _Part(rest[~first], rest[first])], how


def _scores(
    predictor: Predictor, windows: Windows, truth: Truth, parts: Sequence[_Part], cleanup: Cleanup
) -> dict[str, Any]:
    found: dict[DecoderName, list[Counts]] = {}
    found_thresholds: dict[DecoderName, list[float]] = {}
    temperatures, probabilities, truths = [], [], []
    for part in parts:
        temperature, known, on_scored = calibrated(predictor, windows, truth, part.chosen_on, part.scored)
        choices = choose_decoders(known, truth.take(part.chosen_on), cleanup)
        for name, choice in choices.items():
            found.setdefault(name, []).append(count(decode(on_scored, choice), truth.take(part.scored)))
            if choice.threshold is not None:
                found_thresholds.setdefault(name, []).append(choice.threshold)
        temperatures.append(temperature)
        probabilities.append(on_scored.probability_NT)
        truths.append(truth.mask_NT[part.scored])
    decoders = {}
    for name, counts in found.items():
        threshold = float(np.mean(found_thresholds[name])) if name in found_thresholds else None
        decoders[name] = {"threshold": threshold, **pooled(counts).scores().to_json()}
    return {
        "temperature": float(np.mean(temperatures)),
        "separation": separation(np.concatenate(probabilities), np.concatenate(truths)).to_json(),
        "decoders": decoders,
    }


def _grid(
    predictor: Predictor, windows: Windows, truth: Truth, rows: NDArray[np.intp], grid: Grid, cleanup: Cleanup
) -> list[dict[str, float]]:
    """Score the original's way: fixed thresholds on the probability, no temperature, nothing chosen."""
    predictions = posterior(run_network(predictor, windows.bars_NT4[rows]), 1.0)
    decoder = next(name for name in decoders_of(predictions.loss) if name in {"threshold", "marginal"})
    thresholds = threshold_grid(grid.minimum, grid.maximum, grid.step)
    bars = threshold_curve(predictions, truth, decoder, cleanup).at(thresholds)
    spans = threshold_curve(predictions, truth, decoder, cleanup, metric="span_f1_iou50").at(thresholds)
    columns = {
        "threshold": bars.threshold_D,
        "precision": bars.precision_D,
        "recall": bars.recall_D,
        "f1": bars.f1_D,
        "span_f1_iou50": spans.f1_D,
    }
    return [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
