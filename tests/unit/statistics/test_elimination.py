"""The stopping rule: it stops what is clearly worse, and hardly ever what is not."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulated_counts import Design, draw
from jade_model.core.errors import ConfigError
from jade_model.statistics.elimination import StoppingRule, eliminate
from jade_model.statistics.scored_windows import ArmCounts, ScoredWindows


def sweeps(design: Design, number: int, *, error_rate: float) -> list[list[str]]:
    """Run sweeps of as many looks as the design has seeds less one; return who was stopped in each, in order."""
    rng = np.random.default_rng(0)
    rule = StoppingRule(error_rate, design.num_seeds - 1)
    found = []
    for _ in range(number):
        study = draw(design, rng)
        stopped: list[str] = []
        for look in range(1, design.num_seeds):
            windows = ScoredWindows(study.group_N, study.training_SN[:look])
            racing = [
                ArmCounts(arm.name, arm.bar_counts_SN3[:look], arm.span_counts_SN3[:look])
                for arm in study.arms
                if arm.name not in stopped
            ]
            stopped += [item.arm for item in eliminate(rule, look, racing, windows)]
        found.append(stopped)
    return found


def test_equal_arms_are_stopped_no_more_often_than_stated() -> None:
    design = Design(skills=(1.0,) * 4, num_groups=40, num_seeds=3, num_folds=3)
    wrong = sum(bool(stopped) for stopped in sweeps(design, 60, error_rate=0.1))
    # At 10 %, more than 13 of 60 come by chance in fewer than one of 500 runs.
    assert wrong <= 13


def test_a_clearly_worse_arm_is_stopped_and_the_best_one_stays() -> None:
    design = Design(skills=(2.0, -1.0, 2.0), num_groups=60, num_seeds=3, num_folds=3)
    found = sweeps(design, 5, error_rate=0.05)
    assert all(stopped == ["b"] for stopped in found)


def test_the_error_rate_is_shared_over_the_looks_and_no_more_looks_are_taken() -> None:
    rule = StoppingRule(0.06, 3)
    assert rule.confidence == pytest.approx(0.98)
    study = draw(Design(num_groups=10, num_folds=2), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="look 4"):
        eliminate(rule, 4, study.arms, study.windows())


def test_one_arm_alone_is_never_stopped() -> None:
    study = draw(Design(num_groups=10, num_folds=2), np.random.default_rng(0))
    assert eliminate(StoppingRule(0.05, 1), 1, study.arms[:1], study.windows()) == ()


@pytest.mark.parametrize(("rate", "looks"), [(0.0, 1), (0.6, 1), (0.05, 0)])
def test_settings_out_of_range_are_refused(rate: float, looks: int) -> None:
    with pytest.raises(ConfigError):
        StoppingRule(rate, looks)
