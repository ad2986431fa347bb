"""How often the verdict is right: equal arms against each other (A/A), and planted differences (A/B).

    python benchmarks/verdict_calibration.py simulated --comparisons 2000
    python benchmarks/verdict_calibration.py trained --comparisons 200 --jobs 2

`simulated` draws counts (simulated_counts.py), `trained` trains a small recipe twice from fresh seeds; both
go through `compare_arms` as `jade compare` does. Tables are Markdown; verdict_calibration.md keeps them,
dated.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from cheap_trainings import cheap, train_out_of_fold
from numpy.typing import NDArray
from scipy import stats
from simulated_counts import Design, draw, true_scores

from jade_model.data.groups import group_windows
from jade_model.data.sample import sample_windows
from jade_model.scoring.metrics import truth_of
from jade_model.statistics.compare import Comparison, compare_arms
from jade_model.statistics.scored_windows import ArmCounts, ScoredWindows

MARGIN = 0.03

SAMPLE_BASES = 40
TRAINED_SEEDS, TRAINED_FOLDS = 2, 3
CHEAP = cheap("jade_single_span", hidden_size=16, epochs=6, batch_size=32, learning_rate=4e-2)

EQUAL_ARMS: dict[str, Design] = {
    "3 seeds x 5 folds": Design(),
    "3 x 5, no training noise": Design(training_noise=0.0),
    "3 x 5, much training noise": Design(training_noise=0.5),
    "1 x 5": Design(num_seeds=1),
    "1 x 5, much training noise": Design(num_seeds=1, training_noise=0.5),
    "2 x 3": Design(num_seeds=2, num_folds=3),
    "3 x 5, 25 base windows": Design(num_groups=25),
    "3 x 5, 12 base windows": Design(num_groups=12, num_folds=3),
    "1 training, 21 base windows": Design(num_groups=21, num_seeds=1, num_folds=1),
    "3 x 1, 21 base windows": Design(num_groups=21, num_folds=1),
    "three arms": Design(skills=(1.0, 1.0, 1.0)),
    "poor arms": Design(skills=(-2.0, -2.0)),
    "good arms": Design(skills=(3.0, 3.0)),
}


@dataclass(frozen=True)
class Trial:
    """One comparison of two or more arms, the true F1s known."""

    comparison: Comparison
    true: Sequence[float]

    @property
    def claimed(self) -> float:
        return self.comparison.differences[0].detectable_difference

    @property
    def covers_difference(self) -> bool:
        low, high = self.comparison.differences[0].confidence_interval
        return low <= self.true[0] - self.true[1] <= high

    @property
    def covers_first_score(self) -> bool:
        low, high = self.comparison.scores[0].confidence_interval
        return low <= self.true[0] <= high


def simulate(design: Design, comparisons: int, *, seed: int) -> list[Trial]:
    rng = np.random.default_rng(seed)
    true = true_scores(design)
    if len(set(design.skills)) == 1:
        true = [float(np.mean(true))] * len(true)
    trials = []
    for _ in range(comparisons):
        arms, group_N, fold_SN = draw(design, rng)
        windows = ScoredWindows(group_N, fold_SN)
        trials.append(Trial(compare_arms(arms, windows, margin=MARGIN), true))
    return trials


def rate(hits: Iterable[bool]) -> str:
    """Return a share in per cent with its exact 95 % binomial interval (Clopper and Pearson)."""
    listed = list(hits)
    interval = stats.binomtest(sum(listed), len(listed)).proportion_ci(0.95, method="exact")
    return f"{100 * np.mean(listed):.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def show(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print("| " + " | ".join(header) + " |", "|" + "---|" * len(header), sep="\n")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def simulated(comparisons: int) -> None:
    print(f"Equal arms, {comparisons} comparisons a row:\n")
    header = ("design", "F1", "a winner is declared", "equivalent", "standard error / true spread", "F1 interval holds")
    show(header, (_equal_row(name, design, comparisons) for name, design in EQUAL_ARMS.items()))
    print(f"Planted differences, {comparisons} comparisons a row, 3 x 5, 105 base windows:\n")
    header = (
        "true difference",
        "detectable, as claimed",
        "power, as claimed",
        "right winner",
        "wrong winner",
        "interval holds",
    )
    gaps = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
    show(header, (_planted_row(gap, comparisons) for gap in gaps))
    _margin(comparisons)


def _equal_row(name: str, design: Design, comparisons: int) -> list[str]:
    trials = simulate(design, comparisons, seed=1)
    firsts = [trial.comparison.differences[0] for trial in trials]
    error = np.sqrt(np.mean([item.standard_error**2 for item in firsts]))
    outcomes = [trial.comparison.verdict.outcome for trial in trials]
    return [
        name,
        f"{trials[0].true[0]:.2f}",
        rate(outcome == "winner" for outcome in outcomes),
        rate(outcome == "equivalent" for outcome in outcomes),
        f"{error / np.std([item.difference for item in firsts]):.2f}",
        rate(trial.covers_first_score for trial in trials),
    ]


def _planted_row(gap: float, comparisons: int) -> list[str]:
    trials = simulate(Design(skills=(1.0, 1.0 + gap), affinity=0.3), comparisons, seed=2)
    true = trials[0].true[1] - trials[0].true[0]
    winners = [trial.comparison.verdict.winner for trial in trials]
    claimed = float(np.mean([trial.claimed for trial in trials]))
    # 80 % at the claimed difference, and as the normal distribution has it elsewhere.
    expected = stats.norm.cdf((1.96 + 0.8416) * true / claimed - 1.96)
    return [
        f"{true:.3f}",
        f"{claimed:.3f}",
        f"{100 * expected:.0f} %",
        rate(winner == "b" for winner in winners),
        rate(winner == "a" for winner in winners),
        rate(trial.covers_difference for trial in trials),
    ]


def _margin(comparisons: int) -> None:
    """Plant a difference of just the margin: calling it equivalent is the other error."""
    low, high = 0.0, 1.0
    for _ in range(12):
        gap = (low + high) / 2
        scores = true_scores(Design(skills=(1.0, 1.0 + gap)))
        low, high = (gap, high) if scores[1] - scores[0] < MARGIN else (low, gap)
    design = Design(skills=(1.0, 1.0 + gap), num_groups=1000, num_folds=10)
    at_margin = simulate(design, comparisons // 2, seed=5)
    equal = simulate(dataclasses.replace(design, skills=(1.0, 1.0)), comparisons // 2, seed=6)
    wrong, right = (
        rate(trial.comparison.verdict.outcome == "equivalent" for trial in trials) for trials in (at_margin, equal)
    )
    print(
        f"A true difference of {at_margin[0].true[1] - at_margin[0].true[0]:.3f}, the margin, with "
        f"{design.num_groups} base windows is called equivalent in {wrong}; at most 5 % may be. Equal arms there: "
        f"{right}.\n"
    )


@dataclass(frozen=True)
class Rerun:
    """One recipe against itself: the comparisons that one set of trainings allows."""

    all_trainings: Comparison
    one_seed: Comparison
    one_training: Comparison


def trained(comparisons: int, jobs: int) -> None:
    started = time.monotonic()
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        reruns = []
        for item in pool.map(rerun, range(comparisons)):
            reruns.append(item)
            print(f"{len(reruns)} of {comparisons}", end="\r", file=sys.stderr, flush=True)
    minutes = (time.monotonic() - started) / 60
    per_comparison = 2 * TRAINED_SEEDS * TRAINED_FOLDS
    print(
        f"A recipe against itself: {CHEAP.name}, {CHEAP.model.hidden_size} LSTM units, "
        f"{CHEAP.training.epochs} epochs, one span decoded; {comparisons} comparisons, each on {SAMPLE_BASES} sample "
        f"base windows of its own and with {per_comparison} trainings of its own, so that they are independent; "
        f"{minutes:.0f} minutes on {jobs} process{'es' if jobs > 1 else ''}.\n"
    )
    views: dict[str, Callable[[Rerun], Comparison]] = {
        f"{TRAINED_SEEDS} seeds x {TRAINED_FOLDS} folds": lambda item: item.all_trainings,
        f"1 seed x {TRAINED_FOLDS} folds": lambda item: item.one_seed,
        "1 training, one fold scored": lambda item: item.one_training,
    }
    header = (
        "trainings an arm",
        "F1",
        "a winner is declared",
        "equivalent",
        "standard error / true spread",
        "training noise",
    )
    show(header, (_rerun_row(name, [view(item) for item in reruns]) for name, view in views.items()))


def rerun(index: int) -> Rerun:
    """Train the cheap recipe twice from fresh seeds on fresh windows, and compare."""
    windows = sample_windows(num_bases=SAMPLE_BASES, seed=10_000 + index)
    grouping, truth = group_windows(windows), truth_of(windows)
    folds = range(TRAINED_SEEDS)
    first = 2 * TRAINED_SEEDS * index
    a, b = (
        train_out_of_fold(
            CHEAP,
            windows,
            grouping,
            training_seeds=range(start, start + TRAINED_SEEDS),
            split_seeds=folds,
            num_folds=TRAINED_FOLDS,
        )
        for start in (first, first + TRAINED_SEEDS)
    )
    assert np.array_equal(a.fold_SN, b.fold_SN)
    arms = [a.counts("a", truth), b.counts("b", truth)]

    def compared(scored_by_SN: NDArray[np.int64]) -> Comparison:
        is_scored_SN1 = (scored_by_SN >= 0)[..., None]
        seeds = len(scored_by_SN)
        kept = [
            ArmCounts(
                arm.name, arm.bar_counts_SN3[:seeds] * is_scored_SN1, arm.event_counts_SN3[:seeds] * is_scored_SN1
            )
            for arm in arms
        ]
        return compare_arms(kept, ScoredWindows(grouping.group_N, scored_by_SN), margin=MARGIN)

    one_seed_SN = a.fold_SN[:1]
    return Rerun(compared(a.fold_SN), compared(one_seed_SN), compared(np.where(one_seed_SN == 0, 0, -1)))


def _rerun_row(name: str, comparisons: Sequence[Comparison]) -> list[str]:
    firsts = [item.differences[0] for item in comparisons]
    error = np.sqrt(np.mean([item.standard_error**2 for item in firsts]))
    outcomes = [item.verdict.outcome for item in comparisons]
    return [
        name,
        f"{np.mean([item.scores[0].value for item in comparisons]):.2f}",
        rate(outcome == "winner" for outcome in outcomes),
        rate(outcome == "equivalent" for outcome in outcomes),
        f"{error / np.std([item.difference for item in firsts]):.2f}",
        f"{100 * np.mean([item.training_share for item in firsts]):.0f} % of the variance",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["simulated", "trained"])
    parser.add_argument("--comparisons", type=int, help="default: 2000 simulated, 200 trained")
    parser.add_argument("--jobs", type=int, default=1, help="processes that train")
    arguments = parser.parse_args()
    if arguments.study == "simulated":
        simulated(arguments.comparisons or 2000)
    else:
        trained(arguments.comparisons or 200, arguments.jobs)


if __name__ == "__main__":
    main()
