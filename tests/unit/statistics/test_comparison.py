"""Scores, differences and verdicts against slow sums, closed forms and small simulations."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from jade_model.core.errors import ConfigError
from jade_model.scoring.metrics import f1_of
from jade_model.statistics.compare import ComparedArms, compare_arms
from jade_model.statistics.power import chance_to_decide, detectable_difference
from jade_model.statistics.scored_windows import ArmCounts, ScoredWindows
from jade_model.statistics.verdict import Difference, Outcome, Question, decide, outcome_of

IntArray = NDArray[np.int64]


def study(
    rng: np.random.Generator,
    skills: tuple[float, ...],
    *,
    num_groups: int = 60,
    num_seeds: int = 2,
    num_folds: int = 3,
    training_noise: float = 0.2,
) -> tuple[list[ArmCounts], IntArray, IntArray]:
    """Return arms that find spans where skill, window and training add up to more than 0; groups; folds."""
    group_N = np.repeat(np.arange(num_groups), rng.integers(1, 4, num_groups))
    ease_N = rng.normal(0, 1, num_groups)[group_N]
    length_N = rng.integers(4, 9, len(group_N))
    fold_SN = np.stack([(rng.permutation(num_groups) % num_folds)[group_N] for _ in range(num_seeds)])
    arms = []
    for index, skill in enumerate(skills):
        luck_SF = rng.normal(0, training_noise, (num_seeds, num_folds))
        luck_SN = np.take_along_axis(luck_SF, fold_SN, axis=1)
        hit_SN = skill + ease_N + luck_SN + rng.normal(0, 0.7, fold_SN.shape) > 0
        found_SN = np.where(hit_SN, length_N - rng.binomial(2, 0.3, fold_SN.shape), 0)
        vain_SN = np.where(hit_SN, rng.binomial(2, 0.3, fold_SN.shape), rng.integers(0, 7, fold_SN.shape))
        bars = np.stack([found_SN, vain_SN, length_N - found_SN], axis=2)
        events = np.stack([hit_SN, ~hit_SN & (vain_SN > 0), ~hit_SN], axis=2).astype(np.int64)
        arms.append(ArmCounts("abcdef"[index], bars, events))
    return arms, group_N, fold_SN


def compared(*skills: float, seed: int = 0, baseline: bool = False, **options: Any) -> ComparedArms:
    arms, group_N, fold_SN = study(np.random.default_rng(seed), skills, **options)
    *arms, rule = arms if baseline else [*arms, arms[0]]
    windows = ScoredWindows(group_N, fold_SN)
    return compare_arms(arms, windows, baseline=rule if baseline else None)


# --- scores


def test_a_score_is_the_micro_f1_of_each_seed_averaged_over_seeds() -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(0), (0.5, 1.0))
    scores = {(s.arm, s.metric): s.value for s in ScoredWindows(group_N, fold_SN).scores(arms)}
    for arm in arms:
        assert scores[arm.name, "f1"] == pytest.approx(f1_of(arm.bar_counts_SN3.sum(axis=1)).mean())
        assert scores[arm.name, "span_f1_iou50"] == pytest.approx(f1_of(arm.span_counts_SN3.sum(axis=1)).mean())


def test_with_equal_windows_the_standard_error_is_that_of_a_mean() -> None:
    # One window a group, as many bars marked as labelled, 10 in all of them: the F1 is then a mean.
    rng = np.random.default_rng(1)
    hits = rng.integers(0, 11, 80)
    bars = np.stack([hits, 10 - hits, 10 - hits], axis=1)[None]
    windows = ScoredWindows(np.arange(80), np.arange(80)[None] % 8)
    score = windows.scores([ArmCounts("a", bars, bars)])[0]
    without_training = score.standard_error * np.sqrt(1 - score.training_share)
    assert without_training == pytest.approx(np.std(hits / 10, ddof=1) / np.sqrt(80), rel=0.03)


def test_windows_of_one_group_count_as_one_observation() -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(2), (0.5, 0.5))
    twice = [ArmCounts(a.name, *(np.repeat(c, 2, axis=1) for c in (a.bar_counts_SN3, a.span_counts_SN3))) for a in arms]
    once = ScoredWindows(group_N, fold_SN).scores(arms)
    doubled = ScoredWindows(np.repeat(group_N, 2), np.repeat(fold_SN, 2, axis=1)).scores(twice)
    for a, b in zip(once, doubled, strict=True):
        assert (b.value, b.standard_error) == pytest.approx((a.value, a.standard_error))


def test_intervals_stay_within_what_an_f1_can_be() -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(3), (-3.0, 4.0), num_groups=8)
    for score in ScoredWindows(group_N, fold_SN).scores(arms):
        low, high = score.confidence_interval
        assert 0 <= low <= score.value <= high <= 1


def test_the_interval_of_a_poor_arm_reaches_further_up_than_down() -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(3), (-1.5,))
    score = ScoredWindows(group_N, fold_SN).scores(arms)[0]
    low, high = score.confidence_interval
    assert 0 < low < score.value < 0.2
    assert high - score.value > 1.1 * (score.value - low)


@pytest.mark.parametrize("kept", [(0, 1, 1), (1, 0, 0)])
def test_where_all_groups_agree_the_interval_still_has_a_width(kept: tuple[int, int, int]) -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(3), (3.0,))
    counts = (arms[0].bar_counts_SN3 + 1) * np.array(kept)
    score = ScoredWindows(group_N, fold_SN).scores([ArmCounts("a", counts, counts)])[0]
    assert score.value == kept[0]
    # The rule of three: of 60 groups that agree, up to 5 % of others may not (more, as some hold more windows).
    low, high = score.confidence_interval
    assert 0.05 < high - low < 0.07


def test_windows_that_nobody_scored_change_nothing() -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(4), (0.5, 1.0))
    longer = [
        ArmCounts(a.name, *(np.pad(c, ((0, 0), (0, 40), (0, 0))) for c in (a.bar_counts_SN3, a.span_counts_SN3)))
        for a in arms
    ]
    unscored = np.full((len(fold_SN), 40), -1)
    windows = ScoredWindows(np.r_[group_N, 1000 + np.arange(40)], np.hstack([fold_SN, unscored]))
    assert windows.num_groups == 60
    assert compare_arms(longer, windows) == compare_arms(arms, ScoredWindows(group_N, fold_SN))


def test_data_sets_are_scored_alone_and_pooled() -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(5), (0.5, 1.0))
    dataset_N = np.where(group_N < 20, 0, 1)
    windows = ScoredWindows(group_N, fold_SN, dataset_N=dataset_N, dataset_names=("x", "y"))
    comparison = compare_arms(arms, windows)
    for index, name in enumerate(("x", "y")):
        inside = arms[0].bar_counts_SN3[:, dataset_N == index]
        assert comparison.score("a", dataset=name).value == pytest.approx(f1_of(inside.sum(axis=1)).mean())
    assert comparison.score("a").value == pytest.approx(f1_of(arms[0].bar_counts_SN3.sum(axis=1)).mean())
    assert {(d.metric, d.dataset) for d in comparison.differences} == set(
        itertools.product(("f1", "span_f1_iou50"), (None, "x", "y"))
    )
    with pytest.raises(KeyError):
        comparison.score("a", dataset="z")


# --- variance


def test_the_groups_part_is_what_leaving_each_of_them_out_does() -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(6), (0.8, 0.8), num_groups=150, num_seeds=3)
    found = compare_arms(arms, ScoredWindows(group_N, fold_SN)).differences[0]

    def difference(kept_N: NDArray[np.bool_]) -> float:
        first, second = (f1_of(arm.bar_counts_SN3[:, kept_N].sum(axis=1)).mean() for arm in arms)
        return float(first - second)

    whole = difference(np.ones(len(group_N), dtype=bool))
    slow = sum((difference(group_N != group) - whole) ** 2 for group in range(150))
    assert found.standard_error**2 * (1 - found.training_share) == pytest.approx(slow, rel=0.02)


def test_with_one_seed_of_equal_folds_the_variance_is_at_least_that_of_the_folds_mean() -> None:
    # Five folds of twelve windows with 20 bars each: F1s are means, and folds differ far more than groups do.
    rng = np.random.default_rng(7)
    fold_N = np.repeat(np.arange(5), 12)
    shift_AF = np.array([[0, 0, 0, 0, 0], [3, -2, 1, -4, 2]])
    arms = []
    for name, shift_F in zip("ab", shift_AF, strict=True):
        hits_N = np.clip(5 + shift_F[fold_N] + rng.integers(-1, 2, 60), 0, 10)
        bars = np.stack([hits_N, 10 - hits_N, 10 - hits_N], axis=1)[None]
        arms.append(ArmCounts(name, bars, bars))
    found = compare_arms(arms, ScoredWindows(np.arange(60), fold_N[None])).differences[0]
    first, second = (arm.bar_counts_SN3[0].reshape(5, 12, 3)[..., 0].mean(axis=1) / 10 for arm in arms)
    assert found.standard_error**2 == pytest.approx(np.var(first - second, ddof=1) / 5, rel=0.03)
    low, high = found.confidence_interval
    # Student's t of four degrees of freedom at most.
    assert (high - low) / 2 / found.standard_error > stats.t.ppf(0.975, 4)


def test_what_is_hard_for_all_arms_cancels() -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(7), (0.5, 0.6), num_groups=200, training_noise=0.0)
    windows = ScoredWindows(group_N, fold_SN)
    difference = compare_arms(arms, windows).differences[0]
    alone = [score.standard_error for score in windows.scores(arms)[:2]]
    assert difference.standard_error < 0.8 * float(np.hypot(alone[0], alone[1]))


@pytest.mark.parametrize(("seeds", "folds"), [(1, 1), (1, 2), (2, 1)])
def test_fewer_than_three_trainings_give_no_verdict(seeds: int, folds: int) -> None:
    comparison = compared(-3.0, 3.0, num_seeds=seeds, num_folds=folds, num_groups=200)
    assert (comparison.verdict.outcome, comparison.verdict.lack) == ("undecided", "trainings")
    assert comparison.verdict.confidence_interval == (-1, 1)
    assert "3 folds or 3 seeds are the least" in comparison.verdict.reason
    assert any("as large as that between base windows" in caveat for caveat in comparison.verdict.caveats)
    # A score of its own still has an interval, by that assumption.
    assert comparison.scores[0].confidence_interval[1] < 1


def test_one_seed_with_folds_is_a_caveat() -> None:
    caveats = compared(0.5, 0.5, num_seeds=1, num_folds=5).verdict.caveats
    assert [caveat for caveat in caveats if caveat.startswith("One seed only")]


# --- differences


def test_swapping_two_arms_mirrors_everything() -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(8), (0.4, 0.9, 0.6))
    windows = ScoredWindows(group_N, fold_SN)
    forward = {(d.first, d.second, d.metric): d for d in compare_arms(arms, windows).differences}
    for d in compare_arms(arms[::-1], windows).differences:
        other = forward[d.second, d.first, d.metric]
        assert d.difference == pytest.approx(-other.difference)
        assert d.confidence_interval == pytest.approx(tuple(-x for x in reversed(other.confidence_interval)))
        assert (d.p_value, d.adjusted_p_value) == pytest.approx((other.p_value, other.adjusted_p_value))
        assert d.outcome == other.outcome


@pytest.mark.parametrize(("num_groups", "outcome"), [(10, "undecided"), (60, "undecided"), (150, "equivalent")])
def test_a_copy_of_an_arm_is_equivalent_to_it_once_enough_groups_agree(num_groups: int, outcome: Outcome) -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(9), (0.5,), num_groups=num_groups)
    copy = ArmCounts("copy", arms[0].bar_counts_SN3, arms[0].span_counts_SN3)
    comparison = compare_arms([*arms, copy], ScoredWindows(group_N, fold_SN))
    assert (comparison.verdict.outcome, comparison.verdict.difference) == (outcome, 0)
    assert comparison.differences[0].adjusted_p_value == 1


def test_five_groups_that_differ_make_no_winner_however_many_agree() -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(9), (0.5,), num_groups=300)
    for differing, outcome in ((5, "equivalent"), (40, "winner")):
        bars = arms[0].bar_counts_SN3.copy()
        bars[:, group_N < differing] = [0, 4, 6]
        other = ArmCounts("b", bars, bars)
        found = ScoredWindows(group_N, fold_SN).differences([arms[0], other], [(0, 1)], Question(margin=0.1))[0]
        assert found.outcome == outcome


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), gap=st.sampled_from([0.0, 0.3, 0.6]))
def test_the_interval_leaves_zero_out_exactly_where_the_adjusted_test_says_so(seed: int, gap: float) -> None:
    for d in compared(0.5, 0.5 + gap, 0.2, seed=seed, num_groups=25).differences:
        low, high = d.confidence_interval
        assert (low > 0 or high < 0) == (d.adjusted_p_value <= 0.05)
        assert d.p_value <= d.adjusted_p_value
        assert low <= d.difference <= high


def test_the_p_value_is_near_that_of_flipping_signs() -> None:
    # Equal windows make the F1 a mean, whose exact test flips the signs of the differences. A training a window
    # leaves no training noise but the little that is assumed.
    rng = np.random.default_rng(10)
    hits_AN = np.repeat(rng.integers(0, 11, (1, 300)), 2, axis=0)
    hits_AN[1] = np.clip(hits_AN[1] + rng.choice([-2, -1, 0, 1, 2, 3], 300, p=[0.2, 0.2, 0.2, 0.1, 0.2, 0.1]), 0, 10)
    arms = [
        ArmCounts(name, bars, bars)
        for name, hits in zip("ab", hits_AN, strict=True)
        for bars in [np.stack([hits, 10 - hits, 10 - hits], axis=1)[None]]
    ]
    windows = ScoredWindows(np.arange(300), np.arange(300)[None])
    found = compare_arms(arms, windows).differences[0]
    gaps = hits_AN[0] - hits_AN[1]
    flipped = np.abs((rng.choice([-1, 1], (20_000, 300)) * gaps).sum(axis=1))
    # Sums are whole numbers: those as large as the one found count half.
    expected = np.mean(flipped > abs(gaps.sum())) + np.mean(flipped == abs(gaps.sum())) / 2
    assert found.training_share < 0.01
    assert found.p_value == pytest.approx(expected, abs=0.015)
    assert 0.02 < found.p_value < 0.5


def test_fewer_than_six_groups_show_nothing() -> None:
    comparison = compared(-3.0, 4.0, num_groups=5)
    assert comparison.verdict.outcome == "undecided"
    assert comparison.verdict.confidence_interval[0] == -1
    assert "5 base windows" in comparison.verdict.reason


def test_six_data_sets_of_one_group_each_do_not_pass_for_certain() -> None:
    # Each data set alone says nothing of its spread: together they are six groups that differ.
    rng = np.random.default_rng(1)
    winners = 0
    for _ in range(60):
        arms, group_N, fold_SN = study(rng, (0.5, 0.5), num_groups=6, num_seeds=3, num_folds=1)
        windows = ScoredWindows(group_N, fold_SN, dataset_N=group_N, dataset_names=tuple("uvwxyz"))
        found = windows.differences(arms, [(0, 1)], views=False)[0]
        assert found.standard_error > 0.02
        winners += found.outcome == "winner"
    assert winners <= 7


def test_a_group_that_outweighs_all_others_gives_no_verdict() -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(2), (-1.0, 2.0), num_groups=30)
    heavy = [
        ArmCounts(arm.name, *(np.where(group_N[:, None] == 0, 60, 1) * counts for counts in both))
        for arm in arms
        for both in [(arm.bar_counts_SN3, arm.span_counts_SN3)]
    ]
    verdict = compare_arms(heavy, ScoredWindows(group_N, fold_SN)).verdict
    assert (verdict.outcome, verdict.lack) == ("undecided", "groups")


def test_a_confidence_next_to_certainty_is_held() -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(0), (0.5, 0.9, 0.4))
    pairs_PA = np.array([[1.0, -1, 0], [1, 0, -1], [0, 1, -1]])
    estimates = ScoredWindows(group_N, fold_SN).estimates(arms, pairs_PA, "f1", None)
    found = [estimates.critical_values(c, jointly=True)[0] for c in (0.95, 0.999, 0.9999, 0.999999)]
    assert found == sorted(set(found))
    assert found[-1] == pytest.approx(stats.t.isf(1e-6 / 6, estimates.degrees_P[0]), rel=1e-6)


def test_the_same_arms_give_the_same_answer_again() -> None:
    assert compared(0.4, 0.7) == compared(0.4, 0.7)


# --- calibration, small (benchmarks/verdict_calibration.py has the large one)


def repeated(skills: tuple[float, float], times: int, num_groups: int) -> list[Difference]:
    rng = np.random.default_rng(11)
    found = []
    for _ in range(times):
        arms, group_N, fold_SN = study(rng, skills, num_groups=num_groups)
        windows = ScoredWindows(group_N, fold_SN)
        found.append(windows.differences(arms, [(0, 1)])[0])
    return found


def test_equal_arms_seldom_have_a_winner() -> None:
    outcomes = [item.outcome for item in repeated((0.7, 0.7), times=200, num_groups=50)]
    # 5 % of 200 is 10; 18 or more have a chance of 1 %.
    assert outcomes.count("winner") <= 17


def test_a_difference_that_is_said_to_be_detectable_is_seen_four_times_in_five() -> None:
    found = repeated((0.5, 1.05), times=200, num_groups=80)
    true = -np.mean([item.difference for item in found])
    claimed = np.mean([item.detectable_difference for item in found])
    assert true == pytest.approx(claimed, rel=0.05)
    assert 0.7 < np.mean([item.better == "b" for item in found]) < 0.9


# --- power


def test_four_times_the_groups_halve_the_detectable_difference() -> None:
    few = compared(0.5, 0.5, num_groups=50, num_folds=10, training_noise=0.0).differences[0]
    many = compared(0.5, 0.5, num_groups=200, num_folds=10, training_noise=0.0).differences[0]
    assert many.detectable_difference == pytest.approx(few.detectable_difference / 2, rel=0.3)


def test_detectable_difference_adds_the_two_quantiles() -> None:
    assert detectable_difference(0.01, 1.96, 1e9) == pytest.approx(0.01 * (1.96 + 0.8416), rel=1e-3)
    assert detectable_difference(1.0, 12.7, 1) == 1.0


@pytest.mark.parametrize("difference", [0.0, 0.01, 0.05])
def test_the_chance_to_decide_is_that_of_the_intervals_outcome(difference: float) -> None:
    error, critical, margin = 0.013, 2.1, 0.03
    values = np.random.default_rng(0).normal(difference, error, 20_000)
    decided = [outcome_of((v - critical * error, v + critical * error), margin) != "undecided" for v in values]
    claimed = chance_to_decide(difference, np.array([error]), np.array([critical]), margin)
    assert claimed[0] == pytest.approx(np.mean(decided), abs=0.01)


# --- verdict


def pair(first: str, second: str, value: float, half: float, margin: float = 0.03) -> Difference:
    interval = (value - half, value + half)
    outcome = outcome_of(interval, margin)
    return Difference(
        first=first,
        second=second,
        metric="f1",
        dataset=None,
        difference=value,
        confidence_interval=interval,
        p_value=0.5,
        adjusted_p_value=0.5,
        outcome=outcome,
        standard_error=half / 2,
        training_share=0.6,
        detectable_difference=1.4 * half,
        groups_needed=77 if outcome == "undecided" else None,
    )


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.001, 0.2), "winner"),
        ((-0.2, -0.001), "winner"),
        ((0.001, 0.02), "winner"),
        ((-0.03, 0.03), "equivalent"),
        ((-0.001, 0.029), "equivalent"),
        ((-0.031, 0.01), "undecided"),
        ((-0.01, 0.04), "undecided"),
        ((0.0, 0.04), "undecided"),
    ],
)
def test_outcome_of_an_interval(interval: tuple[float, float], expected: Outcome) -> None:
    assert outcome_of(interval, 0.03) == expected


@pytest.mark.parametrize(
    ("values", "halves", "outcome", "winner", "rival"),
    [
        ((0.8, 0.7), {"ab": 0.05}, "winner", "a", "b"),
        ((0.7, 0.8), {"ab": 0.05}, "winner", "b", "a"),
        ((0.8, 0.7), {"ab": 0.15}, "undecided", None, "b"),
        ((0.80, 0.79), {"ab": 0.015}, "equivalent", None, "b"),
        ((0.7, 0.7), {"ab": 0.02}, "equivalent", None, "b"),
        ((0.6, 0.7, 0.8), {"ab": 0.05, "ac": 0.05, "bc": 0.05}, "winner", "c", "b"),
        # The best two are alike, the third is beaten.
        ((0.80, 0.79, 0.5), {"ab": 0.015, "ac": 0.05, "bc": 0.05}, "equivalent", None, "b"),
        # All alike.
        ((0.80, 0.79, 0.795), {"ab": 0.015, "ac": 0.015, "bc": 0.015}, "equivalent", None, "c"),
        # The next best is beaten; a noisier third is not.
        ((0.80, 0.70, 0.69), {"ab": 0.05, "ac": 0.2, "bc": 0.2}, "undecided", None, "c"),
        # The next best is as good; whether the third is, is open.
        ((0.80, 0.79, 0.78), {"ab": 0.015, "ac": 0.05, "bc": 0.05}, "undecided", None, "c"),
    ],
)
def test_verdict_rules(
    values: tuple[float, ...], halves: dict[str, float], outcome: Outcome, winner: str | None, rival: str
) -> None:
    named = dict(zip("abc", values, strict=False))
    pairs = [pair(both[0], both[1], named[both[0]] - named[both[1]], half) for both, half in halves.items()]
    verdict = decide(named, pairs, Question(), num_groups=100)
    best = max(named, key=lambda name: named[name])
    assert (verdict.outcome, verdict.winner) == (outcome, winner)
    assert {verdict.first, verdict.second} == {best, rival}
    assert verdict.first < verdict.second
    assert verdict.difference == pytest.approx(named[verdict.first] - named[verdict.second])
    assert verdict.groups_needed == (77 if outcome == "undecided" else None)
    assert best in verdict.reason
    assert rival in verdict.reason


def test_the_reason_speaks_from_the_better_arms_side() -> None:
    verdict = decide({"a": 0.6, "b": 0.7}, [pair("a", "b", -0.1, 0.05)], Question(), num_groups=9)
    assert verdict.reason == (
        "b is better than a: 0.700 against 0.600 bar F1 on the same windows, and the true difference lies "
        "between 0.050 and 0.150 (95 % interval)."
    )


def test_an_undecided_reason_says_what_could_be_seen_and_what_it_would_take() -> None:
    verdict = decide({"a": 0.7, "b": 0.6}, [pair("a", "b", 0.1, 0.2)], Question(confidence=0.9), num_groups=43)
    assert "43 base windows" in verdict.reason
    assert "between -0.100 and 0.300 (90 % interval)" in verdict.reason
    assert "under 0.280 cannot be seen" in verdict.reason
    assert "about 77 more base windows with folds in proportion would decide" in verdict.reason
    assert [c for c in verdict.caveats if "more seeds" in c]


@pytest.mark.parametrize(("training_share", "said"), [(0.6, 1), (0.5, 0), (0.3, 0), (None, 0)])
def test_more_seeds_are_advised_where_most_of_the_uncertainty_is_luck_in_training(
    training_share: float | None, said: int
) -> None:
    pairs = [pair("a", "b", 0.1, 0.2).model_copy(update={"training_share": training_share})]
    verdict = decide({"a": 0.7, "b": 0.6}, pairs, Question(), num_groups=43)
    assert len([caveat for caveat in verdict.caveats if "more seeds" in caveat]) == said


@pytest.mark.parametrize("sign", [1, -1])
def test_a_win_by_less_than_the_margin_is_said_to_hardly_matter(sign: int) -> None:
    said = {}
    for difference, half in ((0.01, 0.005), (0.025, 0.02), (0.04, 0.02)):
        pairs = [pair("a", "b", sign * difference, half)]
        verdict = decide({"a": 0.7, "b": 0.7 - sign * difference}, pairs, Question(), num_groups=9)
        assert verdict.outcome == "winner"
        said[difference] = [caveat.rsplit(": ")[-1] for caveat in verdict.caveats]
    assert said == {0.01: ["it hardly matters."], 0.025: ["it may hardly matter."], 0.04: []}


def test_an_arm_that_does_not_beat_the_rule_is_called_so() -> None:
    comparison = compared(0.5, 2.0, 0.5, baseline=True)
    assert comparison.verdict.beats_baseline == {"a": False, "b": True}
    assert [c for c in comparison.verdict.caveats if c.startswith("a does not beat the untrained rule c")]
    assert not [c for c in comparison.verdict.caveats if c.startswith("b does not beat")]


def test_a_baseline_of_one_seed_stands_for_all() -> None:
    arms, group_N, fold_SN = study(np.random.default_rng(13), (0.5, 1.0, 0.7))
    rule = ArmCounts("rule", arms[2].bar_counts_SN3[:1], arms[2].span_counts_SN3[:1])
    full = ArmCounts("rule", *(np.repeat(c, 2, axis=0) for c in (rule.bar_counts_SN3, rule.span_counts_SN3)))
    windows = ScoredWindows(group_N, fold_SN)
    assert compare_arms(arms[:2], windows, baseline=rule) == compare_arms(arms[:2], windows, baseline=full)


# --- several data sets, and what decides


def over_sets(shifts: list[float]) -> ComparedArms:
    """Compare arms on data sets in which the second is better by so much."""
    rng = np.random.default_rng(4)
    drawn = [study(rng, (0.5, 0.5 + shift), num_groups=30) for shift in shifts]
    arms = [
        ArmCounts(
            name, *(np.concatenate([getattr(arms[row], field) for arms, _, _ in drawn], axis=1) for field in FIELDS)
        )
        for row, name in enumerate("ab")
    ]
    dataset_N = np.concatenate([np.full(len(group_N), index) for index, (_, group_N, _) in enumerate(drawn)])
    group_N = np.concatenate([group_N + 1000 * index for index, (_, group_N, _) in enumerate(drawn)])
    fold_SN = np.concatenate([fold_SN + 10 * index for index, (_, _, fold_SN) in enumerate(drawn)], axis=1)
    names = tuple("rstuvwxyz"[: len(shifts)])
    return compare_arms(arms, ScoredWindows(group_N, fold_SN, dataset_N=dataset_N, dataset_names=names))


FIELDS = ("bar_counts_SN3", "span_counts_SN3")


def test_data_sets_that_disagree_are_named_and_no_more_is_claimed_than_these() -> None:
    verdict = over_sets([3.0, 3.0, -2.0]).verdict
    assert verdict.over_datasets is None
    assert verdict.caveats[0] == "It holds for these 3 data sets (r, s, t); another instrument may differ."
    assert verdict.caveats[1].startswith("The sign is the other way in t (+0.")
    assert "Without data set " in verdict.what_decides


def test_six_data_sets_say_something_of_other_instruments() -> None:
    comparison = over_sets([2.0, 1.5, 2.5, -1.0, 0.0, 1.0])
    over = comparison.verdict.over_datasets
    assert over is not None
    each = [d.difference for d in comparison.differences if d.dataset is not None and d.metric == "f1"]
    expected = stats.t.interval(0.95, 5, np.mean(each), stats.sem(each))
    assert (*over.confidence_interval, over.num_datasets) == pytest.approx((*expected, 6))
    low, high = comparison.verdict.confidence_interval
    assert over.confidence_interval[1] - over.confidence_interval[0] > high - low


def test_what_makes_the_doubt_is_said_with_the_training_that_moves_it_most() -> None:
    quiet, noisy = (
        compared(0.5, 0.5, num_seeds=3, num_folds=5, num_groups=300, training_noise=noise).verdict.what_decides
        for noise in (0.0, 1.5)
    )
    shares = [int(told.partition(" % the luck of whole trainings")[0].rpartition(", ")[2]) for told in (quiet, noisy)]
    assert shares[0] < 40 < shares[1]
    assert re.search(r"Without fold [0-4] of seed [0-2] the lead", noisy)


def test_trainings_have_the_names_that_they_have_elsewhere() -> None:
    group_N, counts_SN3 = np.arange(60), np.tile(np.array([1, 1, 1]), (1, 60, 1))
    better_SN3 = counts_SN3.copy()
    better_SN3[0, 20:40] = 3, 0, 0  # what is told apart is all of one training
    arms = [ArmCounts("a", better_SN3, better_SN3), ArmCounts("b", counts_SN3, counts_SN3)]
    windows = ScoredWindows(group_N, group_N[None] // 20, seeds=[7])
    assert "Without fold 1 of seed 7 the" in compare_arms(arms, windows).verdict.what_decides


# --- bad input


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("a", {}, "two arms"),
        ("aa", {}, "name of its own"),
        ("ab", {"margin": 0.0}, "margin"),
        ("ab", {"confidence": 1.0}, "confidence"),
    ],
)
def test_settings_out_of_range_are_named(names: str, options: dict[str, float], message: str) -> None:
    counts = np.ones((1, 8, 3), dtype=np.int64)
    windows = ScoredWindows(np.arange(8), np.zeros((1, 8), dtype=np.int64))
    with pytest.raises(ConfigError, match=message):
        compare_arms([ArmCounts(name, counts, counts) for name in names], windows, Question(**options))


def test_counts_of_other_windows_are_refused() -> None:
    windows = ScoredWindows(np.arange(8), np.zeros((2, 8), dtype=np.int64))
    counts = np.ones((2, 9, 3), dtype=np.int64)
    with pytest.raises(ValueError, match=r"counts of a: found \(2, 9, 3\); expected \(2, 8, 3\)"):
        windows.scores([ArmCounts("a", counts, counts)])


def test_windows_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        ScoredWindows(np.arange(8), np.zeros((2, 9), dtype=np.int64))
    with pytest.raises(ValueError, match="no window was scored"):
        ScoredWindows(np.arange(8), np.full((2, 8), -1))
