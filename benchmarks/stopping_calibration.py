"""How often a sweep's stopping rule errs, and what it saves.

`python -m benchmarks.stopping_calibration [--sweeps 400]`. Counts are drawn (simulated_counts.py), arms are stopped as
`jade sweep` does. An error is an arm that was stopped for one that is not truly better.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from benchmarks.simulated_counts import Design, draw
from jade_model.statistics.elimination import StoppingRule, eliminate
from jade_model.statistics.scored_windows import ArmCounts, ScoredWindows

DESIGNS: dict[str, Design] = {
    "6 equal arms, 3 x 5": Design(skills=(1.0,) * 6),
    "6 equal arms, 5 x 3": Design(skills=(1.0,) * 6, num_seeds=5, num_folds=3),
    "6 equal arms, much training noise": Design(skills=(1.0,) * 6, training_noise=0.5),
    "6 equal arms, 25 base windows": Design(skills=(1.0,) * 6, num_groups=25),
    "2 equal arms": Design(skills=(1.0, 1.0)),
    "best of 6 by a little": Design(skills=(1.2, 1.0, 1.0, 1.0, 1.0, 1.0), affinity=0.3),
    "best of 6 by much": Design(skills=(2.0, 1.0, 1.0, 0.0, 0.0, -1.0), affinity=0.3),
}


@dataclass(frozen=True)
class Trial:
    """One sweep: whether anybody was stopped wrongly, whether a best arm was, and the share of trainings spared."""

    is_wrong: bool
    lost_best: bool
    spared: float


def run(design: Design, rng: np.random.Generator, *, error_rate: float) -> Trial:
    study = draw(design, rng)
    skill = dict(zip((arm.name for arm in study.arms), design.skills, strict=True))
    rule = StoppingRule(error_rate, design.num_seeds - 1)
    stopped: dict[str, int] = {}
    is_wrong = False
    for look in range(1, design.num_seeds):
        racing = [
            ArmCounts(arm.name, arm.bar_counts_SN3[:look], arm.span_counts_SN3[:look])
            for arm in study.arms
            if arm.name not in stopped
        ]
        windows = ScoredWindows(study.group_N, study.training_SN[:look])
        for item in eliminate(rule, look, racing, windows):
            stopped[item.arm] = look
            is_wrong |= skill[item.better] <= skill[item.arm]
    best = max(design.skills)
    spared = sum(design.num_seeds - look for look in stopped.values()) / (design.num_seeds * len(study.arms))
    return Trial(is_wrong, any(skill[name] == best for name in stopped), spared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=400)
    parser.add_argument("--error-rate", type=float, default=0.05)
    given = parser.parse_args()
    print(f"{given.sweeps} sweeps a row, stated error rate {100 * given.error_rate:g} %:\n")
    print("| design | someone stopped wrongly | a best arm stopped | trainings spared |")
    print("|---|---|---|---|")
    for name, design in DESIGNS.items():
        rng = np.random.default_rng(1)
        trials = [run(design, rng, error_rate=given.error_rate) for _ in range(given.sweeps)]
        wrong, lost, spared = (
            100 * float(np.mean(values))
            for values in (
                [trial.is_wrong for trial in trials],
                [trial.lost_best for trial in trials],
                [trial.spared for trial in trials],
            )
        )
        print(f"| {name} | {wrong:.1f} % | {lost:.1f} % | {spared:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
