"""How the arms and the verdict hold up when labels are wrong.

    python benchmarks/label_noise.py --data windows.parquet --seeds 2 --folds 5

Labels are spoilt base window by base window, as a person would: span boundaries move by up to 2 bars, and of 10 % of
the base windows the type is flipped or the span stands somewhere else. Arms learn from spoilt labels, cut-offs are
chosen on them, and out-of-fold spans are scored twice: against the spoilt labels, which is all that a user can do, and
against the good ones, which is what counts. Tables are Markdown; label_noise.md keeps them, dated.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from cheap_trainings import cheap, train_out_of_fold
from numpy.typing import NDArray

from jade_model.core.config import Loss, Recipe
from jade_model.core.windows import NO_TYPE, Windows
from jade_model.data.groups import Grouping, group_windows
from jade_model.data.sample import sample_windows
from jade_model.data.schema import load_windows
from jade_model.scoring.metrics import truth_of
from jade_model.statistics.compare import ComparedArms, compare_arms
from jade_model.statistics.scored_windows import ScoredWindows

LOSSES: tuple[Loss, ...] = ("soft_span", "crf", "single_span")
MAX_SHIFT = 2
WRONG_SHARE = 0.1


def shift_boundaries(windows: Windows, rng: np.random.Generator) -> Windows:
    """Move both ends of every base window's span by up to MAX_SHIFT bars; at least one bar stays."""
    starts, ends = windows.spans_S2.T
    moves_S2 = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, (windows.num_windows, 2))[_base_of_span(windows)]
    starts = np.clip(starts + moves_S2[:, 0], 0, windows.window_length - 1)
    ends = np.clip(ends + moves_S2[:, 1], starts + 1, windows.window_length)
    return replace(windows, spans_S2=np.stack([starts, ends], axis=1))


def mislabel(windows: Windows, rng: np.random.Generator) -> Windows:
    """Flip the type, or move the span somewhere else, of WRONG_SHARE of the base windows, half each."""
    fate_S = rng.random(windows.num_windows)[_base_of_span(windows)]
    starts, ends = windows.spans_S2.T
    lengths = ends - starts
    elsewhere = rng.integers(0, windows.window_length - lengths + 1)
    starts = np.where(fate_S < WRONG_SHARE / 2, elsewhere, starts)
    is_flipped = (fate_S >= WRONG_SHARE / 2) & (fate_S < WRONG_SHARE) & (windows.type_N != NO_TYPE)
    type_N = np.where(is_flipped, 1 - np.minimum(windows.type_N, 1), windows.type_N)
    return replace(windows, spans_S2=np.stack([starts, starts + lengths], axis=1), type_N=type_N)


NOISES: dict[str, Callable[[Windows, np.random.Generator], Windows]] = {
    "none": lambda windows, _: windows,
    f"boundaries by up to {MAX_SHIFT} bars": shift_boundaries,
    f"{100 * WRONG_SHARE:.0f} % mislabelled": mislabel,
    "both": lambda windows, rng: mislabel(shift_boundaries(windows, rng), rng),
}


def _base_of_span(windows: Windows) -> NDArray[np.intp]:
    """Return a number of each window's base; every window has one span."""
    return np.unique(windows.base_window_id_N, return_inverse=True)[1].reshape(-1)


def study(windows: Windows, arguments: argparse.Namespace) -> None:
    grouping, good = group_windows(windows), truth_of(windows)
    recipes = arms_of(arguments)
    print(
        f"{windows.name}: {windows.num_windows} windows, {grouping.num_groups} groups; jade recipes with "
        f"{arguments.hidden_size} LSTM units and {arguments.epochs} epochs, {arguments.seeds} seeds x "
        f"{arguments.folds} folds, one span decoded.\n"
    )
    print("| labels | scored against | " + " | ".join(f"{name} F1" for name in recipes) + " | verdict |")
    print("|---" * (len(recipes) + 3) + "|", flush=True)
    for name, spoil in NOISES.items():
        spoilt = spoil(windows, np.random.default_rng(arguments.noise_seed))
        found = {
            arm: train_out_of_fold(
                chosen,
                spoilt,
                grouping,
                training_seeds=range(arguments.seeds),
                split_seeds=range(arguments.seeds),
                num_folds=arguments.folds,
            )
            for arm, chosen in recipes.items()
        }
        fold_SN = next(iter(found.values())).fold_SN
        for against, truth in {"the same labels": truth_of(spoilt), "good labels": good}.items():
            arms = [item.counts(arm, truth) for arm, item in found.items()]
            _show(name, against, list(found), compare_arms(arms, _scored(grouping, fold_SN)))
            if name == "none":
                break


def arms_of(arguments: argparse.Namespace) -> dict[str, Recipe]:
    """Return the recipes to compare: each loss's."""
    return {
        str(loss): cheap(
            f"jade_{loss}",
            hidden_size=arguments.hidden_size,
            epochs=arguments.epochs,
            batch_size=32,
            learning_rate=arguments.learning_rate,
        )
        for loss in LOSSES
    }


def _scored(grouping: Grouping, fold_SN: NDArray[np.int64]) -> ScoredWindows:
    return ScoredWindows(grouping.group_N, fold_SN)


def _show(noise: str, against: str, arms: Sequence[str], comparison: ComparedArms) -> None:
    cells = []
    for arm in arms:
        score = comparison.score(arm)
        low, high = score.confidence_interval
        cells.append(f"{score.value:.3f} ({low:.3f} to {high:.3f})")
    verdict = comparison.verdict
    low, high = verdict.confidence_interval
    said = f"{verdict.winner} wins" if verdict.winner else verdict.outcome
    pair = f"{verdict.first} - {verdict.second} = {verdict.difference:+.3f} ({low:+.3f} to {high:+.3f})"
    print(f"| {noise} | {against} | " + " | ".join(cells) + f" | {said}: {pair} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="Parquet file; default: built-in sample windows")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden-size", type=int, default=48)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--noise-seed", type=int, default=0)
    arguments = parser.parse_args()
    windows = load_windows(arguments.data) if arguments.data else sample_windows()
    if (np.diff(windows.span_offsets_N1) != 1).any():
        parser.error("the study spoils files with one span in every window")
    started = time.monotonic()
    study(windows, arguments)
    print(f"\n{(time.monotonic() - started) / 60:.0f} minutes.")


if __name__ == "__main__":
    main()
