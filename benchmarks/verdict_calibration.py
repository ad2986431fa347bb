"""How often the verdict is right: equal arms against each other (A/A), and planted differences (A/B).

    python benchmarks/verdict_calibration.py simulated --comparisons 2000
    python benchmarks/verdict_calibration.py trained --comparisons 200 --jobs 2

`simulated` draws counts (simulated_counts.py), `trained` trains a small recipe twice from fresh seeds; both
are tested as `jade compare` does. Tables are Markdown; verdict_calibration.md keeps them,
dated.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from cheap_trainings import cheap, train_out_of_fold
from numpy.typing import NDArray
from scipy import stats
from simulated_counts import Design, Study, draw, planted, true_scores

from jade_model.data.groups import group_windows
from jade_model.data.sample import sample_windows
from jade_model.scoring.metrics import truth_of
from jade_model.statistics.compare import ComparedArms, compare_arms
from jade_model.statistics.power import needed
from jade_model.statistics.scored_windows import ArmCounts, ScoredWindows
from jade_model.statistics.verdict import Difference, Outcome, Question

MARGIN = 0.03

SAMPLE_BASES = 40
TRAINED_SEEDS, TRAINED_FOLDS = 2, 3
CHEAP = cheap("jade_single_span", hidden_size=16, epochs=6, batch_size=32, learning_rate=4e-2)

UNEQUAL_6, UNEQUAL_10 = (100, 5, 5, 5, 5, 5), (60, 30, 15, 8, 8, 4, 4, 4, 4, 4)
EQUAL_ARMS: dict[str, Design] = {
    "3 seeds x 5 folds": Design(),
    "3 x 5, no training noise": Design(training_noise=0.0),
    "3 x 5, much training noise": Design(training_noise=0.5),
    "3 x 5, very much": Design(training_noise=1.0),
    "3 x 5, 1000 groups": Design(num_groups=1000),
    "3 x 5, 25 groups": Design(num_groups=25),
    "3 x 3, 12 groups": Design(num_groups=12, num_folds=3),
    "3 x 3, 10 groups": Design(num_groups=10, num_folds=3),
    "3 x 3, 6 groups": Design(num_groups=6, num_folds=3),
    "2 x 3, much training noise": Design(num_seeds=2, num_folds=3, training_noise=0.5),
    "2 x 2, much": Design(num_seeds=2, num_folds=2, training_noise=0.5),
    "5 x 1, much": Design(num_seeds=5, num_folds=1, training_noise=0.5),
    "3 x 1, much": Design(num_folds=1, training_noise=0.5),
    "3 x 1, very much, 300 groups, affinity": Design(num_folds=1, training_noise=1.0, num_groups=300, affinity=0.5),
    "2 x 1": Design(num_seeds=2, num_folds=1),
    "1 x 5": Design(num_seeds=1),
    "1 x 5, much": Design(num_seeds=1, training_noise=0.5),
    "1 x 5, much, 1000 groups": Design(num_seeds=1, training_noise=0.5, num_groups=1000),
    "1 x 3, much": Design(num_seeds=1, num_folds=3, training_noise=0.5),
    "1 x 3, much, 100 groups": Design(num_seeds=1, num_folds=3, training_noise=0.5, num_groups=100),
    "1 x 3, very much": Design(num_seeds=1, num_folds=3, training_noise=1.0, num_groups=100),
    "1 x 3, much, 25 groups": Design(num_seeds=1, num_folds=3, training_noise=0.5, num_groups=25),
    "1 x 3, much, 10 groups": Design(num_seeds=1, num_folds=3, training_noise=0.5, num_groups=10),
    "1 x 3, much, 1000 groups": Design(num_seeds=1, num_folds=3, training_noise=0.5, num_groups=1000),
    "1 x 3, much, heavy-tailed group sizes": Design(num_seeds=1, num_folds=3, training_noise=0.5, sizes="heavy"),
    "1 x 4, much, 50 groups": Design(num_seeds=1, num_folds=4, training_noise=0.5, num_groups=50),
    "1 x 5, much, 22 groups": Design(num_seeds=1, training_noise=0.5, num_groups=22),
    "1 x 5, much, heavy-tailed group sizes": Design(num_seeds=1, training_noise=0.5, sizes="heavy"),
    "3 x 5, much, heavy-tailed group sizes": Design(training_noise=0.5, sizes="heavy"),
    "1 x 2, much": Design(num_seeds=1, num_folds=2, training_noise=0.5),
    "1 training": Design(num_seeds=1, num_folds=1),
    "one group with 80 % of the windows": Design(num_groups=30, heaviest=240),
    "one group with half of them": Design(num_groups=60, heaviest=120),
    "one group with a fifth of them": Design(num_groups=100, heaviest=50),
    "heavy-tailed group sizes": Design(sizes="heavy"),
    "heavy-tailed group sizes, 30 groups": Design(sizes="heavy", num_groups=30, affinity=0.5),
    "6 unequal data sets": Design(datasets=UNEQUAL_6),
    "6 unequal data sets, much training noise": Design(datasets=UNEQUAL_6, training_noise=0.5),
    "6 unequal data sets, 1 x 2": Design(datasets=UNEQUAL_6, num_seeds=1, num_folds=2, training_noise=0.5),
    "10 unequal data sets": Design(datasets=UNEQUAL_10),
    "10 unequal data sets, 1 x 3, much": Design(datasets=UNEQUAL_10, num_seeds=1, num_folds=3, training_noise=0.5),
    "10 unequal data sets, 1 x 2, much": Design(datasets=UNEQUAL_10, num_seeds=1, num_folds=2, training_noise=0.5),
    "10 data sets, 1 x 1, much": Design(datasets=(10,) * 10, num_seeds=1, num_folds=1, training_noise=0.5),
    "6 data sets of one group": Design(datasets=(1,) * 6, num_folds=1),
    "8 data sets of one group, 1 x 1": Design(datasets=(1,) * 8, num_seeds=1, num_folds=1),
    "heavy tails (t of 3)": Design(tails="t3", affinity=0.5),
    "exponential, 20 groups": Design(tails="exponential", affinity=0.5, num_groups=20),
    "one window in ten has a span": Design(positives=0.1, sizes="heavy"),
    "one in ten, 30 groups": Design(positives=0.1, num_groups=30),
    "three arms": Design(skills=(1.0, 1.0, 1.0)),
    "poor arms": Design(skills=(-2.0, -2.0)),
    "good arms": Design(skills=(3.0, 3.0)),
    "beta: 3 x 5": Design(model="beta"),
    "beta: 3 x 5, much training noise": Design(model="beta", training_noise=0.8),
    "beta: 3 x 5, 20 groups": Design(model="beta", num_groups=20),
    "beta: 2 x 3, much": Design(model="beta", num_seeds=2, num_folds=3, training_noise=0.8),
    "beta: 1 x 5, much": Design(model="beta", num_seeds=1, training_noise=0.8),
    "beta: 1 x 3, much, 100 groups": Design(model="beta", num_seeds=1, num_folds=3, training_noise=0.8, num_groups=100),
    "beta: 1 x 3, much, heavy": Design(model="beta", num_seeds=1, num_folds=3, training_noise=0.8, sizes="heavy"),
    "beta: 10 unequal data sets, much": Design(model="beta", datasets=UNEQUAL_10, training_noise=0.8),
    "beta: heavy sizes, one in five has a span": Design(model="beta", sizes="heavy", positives=0.2),
}
# Arms that differ by more than the margin: "equivalent" is false.
APART: dict[str, tuple[Design, float]] = {
    "0.10, very good arms, 6 groups": (Design(skills=(2.5, 2.5), num_groups=6, num_folds=3), 0.1),
    "0.10, very good arms, 10 groups": (Design(skills=(2.5, 2.5), num_groups=10, num_folds=3), 0.1),
    "0.10, very good arms, 10 groups, 1 x 3": (
        Design(skills=(2.5, 2.5), num_groups=10, num_seeds=1, num_folds=3),
        0.1,
    ),
    "0.10, very good arms, 30 groups, 1 x 3": (
        Design(skills=(2.5, 2.5), num_groups=30, num_seeds=1, num_folds=3),
        0.1,
    ),
    "0.03, very good arms, 100 groups, 1 x 3": (
        Design(skills=(3.0, 3.0), num_groups=100, num_seeds=1, num_folds=3),
        0.03,
    ),
    "0.03, good arms, 1000 groups, 1 x 3": (
        Design(skills=(3.0, 3.0), num_groups=1000, num_seeds=1, num_folds=3),
        0.03,
    ),
    "0.10, heavy sizes": (Design(skills=(2.5, 2.5), sizes="heavy", num_groups=25), 0.1),
    "0.03, very good arms, 30 groups": (Design(skills=(3.0, 3.0), num_groups=30), 0.03),
    "0.03, very good arms, 105 groups": (Design(skills=(3.0, 3.0)), 0.03),
    "0.03, rare spans, heavy sizes": (Design(positives=0.1, sizes="heavy"), 0.03),
    "0.03, 10 unequal data sets": (Design(skills=(3.0, 3.0), datasets=UNEQUAL_10), 0.03),
    "0.03, 1 x 5, good arms, 1000 groups": (Design(skills=(3.0, 3.0), num_groups=1000, num_seeds=1), 0.03),
    "0.03, 1000 groups": (Design(num_groups=1000), 0.03),
    "0.03, beta, 300 groups": (Design(model="beta", skills=(2.5, 2.5), num_groups=300), 0.03),
}


@dataclass(frozen=True)
class Trial:
    """One comparison of two or more arms: the pairs' outcomes, and the first pair in full."""

    outcome: Outcome
    first: Difference

    @classmethod
    def of(cls, study: Study) -> Trial:
        pairs = list(itertools.combinations(range(len(study.arms)), 2))
        found = study.windows().differences(study.arms, pairs, Question(margin=MARGIN), metrics=("f1",), views=False)
        outcomes = {item.outcome for item in found}
        # Of equal arms, any winner in any pair is wrong.
        outcome: Outcome = next(name for name in ("winner", "undecided", "equivalent") if name in outcomes)
        return cls(outcome, found[0])


def simulate(design: Design, comparisons: int, *, seed: int) -> list[Trial]:
    rng = np.random.default_rng(seed)
    return [Trial.of(draw(design, rng)) for _ in range(comparisons)]


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
    header = ("design", "a winner is declared", "equivalent", "no verdict", "standard error / true spread")
    show(header, (_equal_row(name, design, comparisons) for name, design in EQUAL_ARMS.items()))
    print(f"Arms that differ by the margin of {MARGIN} or more, {comparisons} comparisons a row:\n")
    header = ("true difference, design", "called equivalent", "the worse called better", "no verdict")
    show(header, (_apart_row(name, *both, comparisons) for name, both in APART.items()))
    print(f"Planted differences, {comparisons} comparisons a row, 3 x 5, 105 groups:\n")
    header = ("true difference", "detectable, as claimed", "power, as claimed", "found", "the worse called better")
    show(header, (_planted_row(gap, comparisons) for gap in (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)))
    print(f"What is said to be needed for 80 %, {comparisons // 2} comparisons a row with as much:\n")
    header = ("true difference, present design", "said to be needed", "decided with it")
    show(header, _needed_rows(comparisons // 2))


def _equal_row(name: str, design: Design, comparisons: int) -> list[str]:
    trials = simulate(design, comparisons, seed=1)
    known = [trial.first for trial in trials if trial.first.lack is None]
    spread = np.std([trial.first.difference for trial in trials])
    error = np.sqrt(np.mean([item.standard_error**2 for item in known])) if known else np.nan
    return [
        name,
        rate(trial.outcome == "winner" for trial in trials),
        rate(trial.outcome == "equivalent" for trial in trials),
        f"{100 * (1 - len(known) / len(trials)):.0f} %",
        f"{error / spread:.2f}" if known else "",
    ]


def _apart_row(name: str, design: Design, difference: float, comparisons: int) -> list[str]:
    trials = simulate(planted(design, difference), comparisons, seed=2)
    return [
        name,
        rate(trial.outcome == "equivalent" for trial in trials),
        rate(trial.first.better == "a" for trial in trials),
        f"{100 * np.mean([trial.first.lack is not None for trial in trials]):.0f} %",
    ]


def _planted_row(gap: float, comparisons: int) -> list[str]:
    design = Design(skills=(1.0, 1.0 + gap), affinity=0.3)
    first, second = true_scores(design)
    trials = simulate(design, comparisons, seed=3)
    claimed = float(np.mean([trial.first.detectable_difference for trial in trials]))
    # 80 % at the claimed difference, and as the normal distribution has it elsewhere.
    expected = stats.norm.cdf((1.96 + 0.8416) * (second - first) / claimed - 1.96)
    return [
        f"{second - first:.3f}",
        f"{claimed:.3f}",
        f"{100 * expected:.0f} %",
        rate(trial.first.better == "b" for trial in trials),
        rate(trial.first.better == "a" for trial in trials),
    ]


def _needed_rows(comparisons: int) -> Iterator[list[str]]:
    """Add as much as is said to be needed (the median of what 60 comparisons say, given the true difference)."""
    designs = {
        "0.04, 3 x 5, 105 groups": planted(Design(affinity=0.3), 0.04),
        "0, good arms, 3 x 5, 60 groups": Design(skills=(2.5, 2.5), num_groups=60),
        "0.05, 2 x 3, 80 groups, much training noise": planted(
            Design(num_seeds=2, num_folds=3, num_groups=80, training_noise=0.3), 0.05
        ),
    }
    for name, design in designs.items():
        first, second = true_scores(design)
        true = second - first if design.skills[0] != design.skills[1] else 0.0
        said = []
        for study in (draw(design, rng) for rng in [np.random.default_rng(4)] for _ in range(60)):
            estimates = study.windows().estimates(study.arms, np.array([[-1.0, 1.0]]), "f1", None)
            estimates = dataclasses.replace(estimates, value_P=np.array([true]))
            said.append(needed(estimates, 0, estimates.normal_quantile(0.95, jointly=True), MARGIN))
        for what in ("groups", "seeds"):
            more = [getattr(item, what) for item in said]
            if sum(item is None for item in more) > len(more) // 2:
                yield [name, f"no number of {what}", ""]
                continue
            median = int(np.median([item for item in more if item is not None]))
            field = {"groups": "num_groups", "seeds": "num_seeds"}[what]
            grown = dataclasses.replace(design, **{field: getattr(design, field) + median})
            if what == "groups":
                folds = round(design.num_folds * grown.num_groups / design.num_groups)
                grown = dataclasses.replace(grown, num_folds=folds)
            trials = simulate(grown, comparisons, seed=5)
            yield [name, f"{median} more {what}", rate(trial.outcome != "undecided" for trial in trials)]


@dataclass(frozen=True)
class Rerun:
    """One recipe against itself: the comparisons that one set of trainings allows."""

    all_trainings: ComparedArms
    one_seed: ComparedArms
    one_training: ComparedArms


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
    views: dict[str, Callable[[Rerun], ComparedArms]] = {
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

    def compared(scored_by_SN: NDArray[np.int64]) -> ComparedArms:
        is_scored_SN1 = (scored_by_SN >= 0)[..., None]
        seeds = len(scored_by_SN)
        kept = [
            ArmCounts(arm.name, arm.bar_counts_SN3[:seeds] * is_scored_SN1, arm.span_counts_SN3[:seeds] * is_scored_SN1)
            for arm in arms
        ]
        return compare_arms(kept, ScoredWindows(grouping.group_N, scored_by_SN), Question(margin=MARGIN))

    one_seed_SN = a.fold_SN[:1]
    return Rerun(compared(a.fold_SN), compared(one_seed_SN), compared(np.where(one_seed_SN == 0, 0, -1)))


def _rerun_row(name: str, comparisons: Sequence[ComparedArms]) -> list[str]:
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
    parser.add_argument("--comparisons", type=int, help="default: 1000 simulated, 200 trained")
    parser.add_argument("--jobs", type=int, default=1, help="processes that train")
    arguments = parser.parse_args()
    if arguments.study == "simulated":
        simulated(arguments.comparisons or 1000)
    else:
        trained(arguments.comparisons or 200, arguments.jobs)


if __name__ == "__main__":
    main()
