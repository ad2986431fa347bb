"""Roles that stay while data grow, models scored on what they have not seen, and the promotion's rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jade_model.core.errors import ConfigError
from jade_model.core.windows import Windows
from jade_model.data.groups import group_windows
from jade_model.data.retraining import (
    HOLDOUT,
    UNJUDGED,
    assign_roles,
    honest_models,
    retraining_splits,
    window_digests,
)
from jade_model.data.sample import sample_windows
from jade_model.data.splits import straddling_groups
from jade_model.scoring.baselines import all_positive_scores
from jade_model.scoring.metrics import Counts, count, truth_of
from jade_model.statistics.promotion import PARTS, PromotionRule, decide_promotion, judge

FOLDS = 4
UNKNOWN = -9


@pytest.fixture(scope="module")
def windows() -> Windows:
    return sample_windows(num_bases=60)


def roles_of(windows: Windows):
    return assign_roles(windows, group_windows(windows), num_folds=FOLDS, holdout_fraction=0.2)


def first_bases(windows: Windows, number: int) -> Windows:
    bases = list(dict.fromkeys(windows.base_window_id_N.tolist()))[:number]
    return windows.take(np.flatnonzero(np.isin(windows.base_window_id_N, bases)))


def test_growing_data_keep_every_group_in_its_role(windows: Windows) -> None:
    before, after = roles_of(first_bases(windows, 40)), roles_of(windows)
    role_of = dict(zip(window_digests(windows).tolist(), after.role_N.tolist(), strict=True))
    old = [role_of[digest] for digest in window_digests(first_bases(windows, 40)).tolist()]
    assert old == before.role_N.tolist()


def test_renamed_and_reordered_windows_keep_their_role(windows: Windows) -> None:
    shuffled = windows.take(np.random.default_rng(0).permutation(windows.num_windows))
    renamed = replace(
        shuffled,
        window_id_N=np.array([f"w{row}" for row in range(shuffled.num_windows)]),
        base_window_id_N=np.array([f"b-{name}" for name in shuffled.base_window_id_N.tolist()]),
    )
    role_of = dict(zip(window_digests(windows).tolist(), roles_of(windows).role_N.tolist(), strict=True))
    assert roles_of(renamed).role_N.tolist() == [role_of[digest] for digest in window_digests(renamed).tolist()]


def test_a_later_window_of_a_group_does_not_move_the_group(windows: Windows) -> None:
    early = windows.take(np.flatnonzero(windows.offset_N <= 0))
    role_of = dict(zip(window_digests(windows).tolist(), roles_of(windows).role_N.tolist(), strict=True))
    assert roles_of(early).role_N.tolist() == [role_of[digest] for digest in window_digests(early).tolist()]


def test_splits_score_every_window_once_and_no_group_straddles(windows: Windows) -> None:
    grouping, roles = group_windows(windows), roles_of(windows)
    splits = retraining_splits(roles)
    assert len(splits) == FOLDS + 1
    scored = np.concatenate([split.test_rows for split in splits])
    assert sorted(scored.tolist()) == list(range(windows.num_windows))
    assert all(straddling_groups(split, grouping) == 0 for split in splits)
    held_out = set(np.flatnonzero(roles.role_N == HOLDOUT).tolist())
    assert set(splits[-1].test_rows.tolist()) == held_out
    assert not any(held_out & {*split.train_rows.tolist(), *split.validation_rows.tolist()} for split in splits)


def test_too_few_groups_say_which_role_is_empty() -> None:
    with pytest.raises(ConfigError, match="too few for a hold-out of 20%"):
        roles_of(sample_windows(num_bases=3))


def test_only_a_model_that_saw_nothing_of_the_group_is_honest(windows: Windows) -> None:
    grouping = group_windows(windows)
    group_of = grouping.group_N
    rows = [np.flatnonzero(group_of == group) for group in range(5)]
    known = np.full(windows.num_windows, UNKNOWN)
    known[rows[0]] = 2  # all of the group in a fold
    known[rows[1][0]] = HOLDOUT  # a sibling is new
    known[rows[2][0]], known[rows[2][1]] = 0, 1  # two groups that later data joined
    known[rows[3][0]], known[rows[3][1]] = HOLDOUT, 3
    model_N = honest_models(grouping, known, final=FOLDS, unknown=UNKNOWN)
    assert set(model_N[rows[0]]) == {2}
    assert set(model_N[rows[1]]) == {FOLDS}
    assert set(model_N[rows[2]]) == {UNJUDGED}
    assert set(model_N[rows[3]]) == {3}
    assert set(model_N[rows[4]]) == {FOLDS}


def marked(windows: Windows, share: float, *, seed: int = 0) -> Counts:
    """Count a made-up model that finds the labelled span in a share of the groups and nothing elsewhere."""
    grouping = group_windows(windows)
    found_G = np.random.default_rng(seed).random(grouping.num_groups) < share
    truth = truth_of(windows)
    return count(truth.mask_NT & found_G[grouping.group_N][:, None], truth)


def judged(windows: Windows, challenger: float, champion: float | None, *, error: float = 0.01):
    truth = truth_of(windows)
    promotion = PromotionRule()
    judgement = judge(
        roles_of(windows),
        group_windows(windows),
        marked(windows, challenger),
        marked(windows, 0.3, seed=5),
        None if champion is None else marked(windows, champion),
        judged_N=np.ones(windows.num_windows, dtype=bool),
        all_positive_f1=all_positive_scores([truth]).f1,
        calibration_error=error,
        promotion=promotion,
    )
    return judgement, decide_promotion(judgement, promotion)


def test_the_first_model_is_promoted_by_the_gates_alone(windows: Windows) -> None:
    judgement, decision = judged(windows, 0.7, None)
    assert decision.promote
    assert judgement.difference() is None
    assert {item.dataset for item in judgement.scores} == {None, *PARTS}


def test_a_better_model_is_promoted_and_the_reason_says_so(windows: Windows) -> None:
    _, decision = judged(windows, 1.0, 0.1)
    assert decision.promote
    assert "better than the champion" in decision.reason


def test_an_equal_model_is_promoted_as_not_worse_once_enough_groups_agree(windows: Windows) -> None:
    # Of 60 groups that agree, one in twenty others may not: 0.05 is more than the margin.
    assert not judged(windows, 0.8, 0.8)[1].promote
    _, decision = judged(sample_windows(num_bases=160), 0.8, 0.8)
    assert decision.promote
    assert "not worse" in decision.reason


def test_small_losses_do_not_add_up(windows: Windows) -> None:
    # Week after week the challenger is as good as the champion, to within the margin: a little is lost each time.
    windows = sample_windows(num_bases=200)
    truth, grouping, roles = truth_of(windows), group_windows(windows), roles_of(windows)
    order = np.random.default_rng(0).permutation(grouping.num_groups)

    def model(missed: int) -> Counts:
        finds_G = np.ones(grouping.num_groups, dtype=bool)
        finds_G[order[:missed]] = False
        return count(truth.mask_NT & finds_G[grouping.group_N][:, None], truth)

    everywhere_N = np.ones(windows.num_windows, dtype=bool)
    promotion = PromotionRule(margin=0.05)
    champion = anchor = 0
    for week in range(1, 13):
        judgement = judge(
            roles,
            grouping,
            model(2 * week),
            model(60),
            model(champion),
            judged_N=everywhere_N,
            all_positive_f1=0.1,
            calibration_error=0.0,
            promotion=promotion,
            anchor=None if anchor == champion else (model(anchor), everywhere_N),
        )
        decision = decide_promotion(judgement, promotion)
        if decision.promote:
            champion = 2 * week
            anchor = champion if decision.is_best else anchor
    assert anchor == 0
    assert champion > 0
    assert 1 - model(champion).scores().f1 < promotion.margin
    assert not decision.promote
    assert "not worse than the best champion so far" in decision.reason
    assert judgement.to_json()["since_anchor"]["difference"] < -0.05


def test_a_worse_model_is_kept_back(windows: Windows) -> None:
    _, decision = judged(windows, 0.4, 0.9)
    assert not decision.promote
    assert decision.reason.startswith("it fails the gate: not worse than the champion (found F1 difference -0.")


def test_a_badly_calibrated_or_useless_model_never_passes(windows: Windows) -> None:
    _, decision = judged(windows, 0.9, 0.4, error=0.2)
    assert not decision.promote
    assert decision.reason.startswith("it fails the gate: calibration (found expected calibration error 0.200")
    _, decision = judged(windows, 0.02, None)
    assert not decision.promote
    assert "F1 above marking every bar" in decision.reason


def test_failed_data_checks_close_the_gate(windows: Windows) -> None:
    judgement, _ = judged(windows, 0.9, 0.4)
    assert not decide_promotion(judgement, PromotionRule(), failed_checks=["drift"]).promote


def test_unjudged_windows_do_not_count(windows: Windows) -> None:
    grouping, roles, truth = group_windows(windows), roles_of(windows), truth_of(windows)
    judged_N = grouping.group_N % 3 > 0
    everything = count(truth.mask_NT, truth)
    nothing_outside = count(truth.mask_NT & judged_N[:, None], truth)
    scores = [
        judge(
            roles,
            grouping,
            counts,
            everything,
            everything,
            judged_N=judged_N,
            all_positive_f1=0.1,
            calibration_error=0.0,
            promotion=PromotionRule(),
        ).challenger.value
        for counts in (everything, nothing_outside)
    ]
    assert scores == [1.0, 1.0]
