from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.training_windows import random_windows
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from jade_model.core.errors import ConfigError
from jade_model.core.windows import NO_TYPE, Windows
from jade_model.data.groups import ENOUGH_SHARED_BARS, Grouping
from jade_model.data.sample import sample_windows
from jade_model.data.schema import load_windows
from jade_model.data.splits import Split, group_windows, grouped_folds, holdout_split, seed_split, straddling_groups

REFERENCE = Path(__file__).parents[3] / ".." / "shared" / "data" / "expansions_btcusd_m30.parquet"
LENGTH = 24


def walk(num_bars: int, seed: int = 0) -> NDArray[np.float64]:
    bars_B4: NDArray[np.float64] = random_windows(1, num_bars, seed=seed).bars_NT4[0]
    return bars_B4


def windows_at(series: NDArray[np.float64], firsts: list[int], length: int = LENGTH) -> Windows:
    made = random_windows(len(firsts), length)
    return replace(made, bars_NT4=np.stack([series[first : first + length] for first in firsts]))


def partition(grouping: Grouping) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(grouping.group_N == group).tolist()) for group in range(grouping.num_groups)}


def slow_partition(windows: Windows) -> set[frozenset[int]]:
    """Join windows by base and by any three equal bars in a row, comparing every pair; for bars that never repeat."""
    sets = [{row} for row in range(windows.num_windows)]
    bars = [[bar.tobytes() for bar in window] for window in windows.bars_NT4]
    for left in range(windows.num_windows):
        for right in range(left):
            runs_left, runs_right = (
                {tuple(bars[row][bar : bar + 3]) for bar in range(windows.window_length - 2)} for row in (left, right)
            )
            if runs_left & runs_right or windows.base_window_id_N[left] == windows.base_window_id_N[right]:
                joined = next(group for group in sets if left in group) | next(
                    group for group in sets if right in group
                )
                sets = [group for group in sets if not group & joined] + [joined]
    return {frozenset(group) for group in sets}


class TestGrouping:
    def test_windows_of_one_base_are_one_group_and_groups_are_numbered_by_appearance(self) -> None:
        windows = replace(random_windows(5, LENGTH), base_window_id_N=np.array(["z", "a", "z", "m", "a"]))
        grouping = group_windows(windows)
        assert grouping.group_N.tolist() == [0, 1, 0, 2, 1]
        assert (grouping.num_groups, grouping.num_shared_bar_joins, grouping.num_time_overlap_joins) == (3, 0, 0)

    @pytest.mark.parametrize("num_shared", range(3, LENGTH + 1))
    def test_windows_that_share_three_bars_or_more_are_joined(self, num_shared: int) -> None:
        grouping = group_windows(windows_at(walk(3 * LENGTH), [0, LENGTH - num_shared, 2 * LENGTH]))
        assert grouping.group_N[0] == grouping.group_N[1]
        assert grouping.num_shared_bar_joins == 1

    def test_windows_side_by_side_share_no_bars(self) -> None:
        grouping = group_windows(windows_at(walk(3 * LENGTH), [0, LENGTH, 2 * LENGTH]))
        assert grouping.num_groups == 3

    def test_joins_that_identifiers_make_as_well_are_not_counted(self) -> None:
        windows = windows_at(walk(3 * LENGTH), [0, 5, 10, 2 * LENGTH])
        windows = replace(windows, base_window_id_N=np.array(["a", "a", "b", "c"]))
        grouping = group_windows(windows)
        assert partition(grouping) == {frozenset({0, 1, 2}), frozenset({3})}
        assert grouping.num_shared_bar_joins == 1

    @given(
        firsts=st.lists(st.integers(0, 300), min_size=1, max_size=12),
        bases=st.lists(st.integers(0, 12), min_size=12, max_size=12),
        seed=st.integers(0, 50),
    )
    @settings(max_examples=60)
    def test_groups_are_those_of_comparing_every_pair(self, firsts: list[int], bases: list[int], seed: int) -> None:
        windows = windows_at(walk(300 + LENGTH, seed), firsts)
        windows = replace(windows, base_window_id_N=np.array([str(base) for base in bases[: len(firsts)]]))
        grouping = group_windows(windows)
        assert partition(grouping) == slow_partition(windows)
        by_identifier = len(set(bases[: len(firsts)]))
        assert grouping.num_shared_bar_joins == by_identifier - grouping.num_groups

    def test_flat_bars_at_one_price_join_nothing(self) -> None:
        windows = replace(random_windows(6, LENGTH), bars_NT4=np.full((6, LENGTH, 4), 5.0))
        assert group_windows(windows).num_groups == 6

    def test_a_bar_that_repeats_joins_nothing(self) -> None:
        bars_NT4 = random_windows(4, LENGTH).bars_NT4
        bars_NT4[:, 8:20] = [5.0, 6.0, 4.0, 5.5]
        assert group_windows(replace(random_windows(4, LENGTH), bars_NT4=bars_NT4)).num_groups == 4

    def test_shared_bars_are_found_between_flat_ones(self) -> None:
        series = walk(3 * LENGTH)
        flat = np.arange(len(series)) % 3 != 0
        series[flat] = series[flat][:, :1]
        grouping = group_windows(windows_at(series, [0, LENGTH - 9, 2 * LENGTH]))
        assert partition(grouping) == {frozenset({0, 1}), frozenset({2})}

    def test_a_chance_run_amid_other_bars_joins_nothing(self) -> None:
        windows = random_windows(3, LENGTH)
        bars_NT4 = windows.bars_NT4
        bars_NT4[1, 5:9] = bars_NT4[0, 14:18]
        assert group_windows(replace(windows, bars_NT4=bars_NT4)).num_groups == 3

    def test_a_chance_run_does_not_hide_a_true_one(self) -> None:
        series = walk(3 * LENGTH)
        windows = windows_at(series, [0, 2 * LENGTH, LENGTH - 3])
        bars_NT4 = windows.bars_NT4
        # The middle window has the very run that the outer ones share, and stands between them in row order.
        bars_NT4[1, 8:11] = series[LENGTH - 3 : LENGTH]
        grouping = group_windows(replace(windows, bars_NT4=bars_NT4))
        assert partition(grouping) == {frozenset({0, 2}), frozenset({1})}

    def test_windows_with_some_corrected_bars_are_still_joined(self) -> None:
        windows = windows_at(walk(2 * LENGTH), [0, 6, LENGTH])
        bars_NT4 = windows.bars_NT4
        bars_NT4[1, [0, 7]] *= 1.01
        assert LENGTH - 6 - 2 > ENOUGH_SHARED_BARS
        assert group_windows(replace(windows, bars_NT4=bars_NT4)).group_N.tolist()[:2] == [0, 0]

    def test_a_chain_of_overlaps_is_one_group(self) -> None:
        grouping = group_windows(windows_at(walk(10 * LENGTH), list(range(0, 9 * LENGTH, LENGTH - 4))))
        assert grouping.num_groups == 1
        assert grouping.num_shared_bar_joins == len(grouping.group_N) - 1

    def test_windows_at_one_time_are_joined_only_within_an_instrument(self) -> None:
        windows = replace(
            random_windows(5, LENGTH),
            instrument_N=np.array(["NQ", "NQ", "ES", "", ""]),
            start_time_N=np.full(5, np.datetime64("2024-01-01", "ns")),
        )
        grouping = group_windows(windows)
        assert partition(grouping) == {frozenset({0, 1}), frozenset({2}), frozenset({3}), frozenset({4})}
        assert (grouping.num_shared_bar_joins, grouping.num_time_overlap_joins) == (0, 1)

    def test_overlapping_times_join_once_shifted_windows_tell_how_long_a_bar_lasts(self) -> None:
        minutes = np.array([0, 10, 33, 34, 500]) * np.timedelta64(1, "m")
        windows = replace(
            random_windows(5, LENGTH),
            base_window_id_N=np.array(["a", "a", "b", "c", "d"]),
            offset_N=np.array([0, 10, 0, 0, 0]),
            instrument_N=np.full(5, "NQ"),
            start_time_N=np.datetime64("2024-01-01", "ns") + minutes,
        )
        # Bars last a minute, so window 2 starts on the last but one bar of window 1, and window 3 a bar later.
        assert partition(group_windows(windows)) == {frozenset({0, 1, 2, 3}), frozenset({4})}
        apart = windows.take(np.array([0, 1, 3, 4]))
        assert partition(group_windows(apart)) == {frozenset({0, 1}), frozenset({2}), frozenset({3})}

    @pytest.mark.skipif(not REFERENCE.exists(), reason="the reference data is not at hand")
    def test_nine_pairs_of_base_windows_of_the_reference_file_share_bars(self) -> None:
        windows = load_windows(REFERENCE)
        grouping = group_windows(windows)
        assert (grouping.num_groups, grouping.num_shared_bar_joins) == (96, 9)
        assert partition(grouping) == slow_partition(windows.take(np.arange(windows.num_windows)))


@pytest.fixture(scope="module")
def sample() -> Windows:
    return sample_windows()


@pytest.fixture(scope="module")
def grouping(sample: Windows) -> Grouping:
    return group_windows(sample)


def rows_of(split: Split) -> list[int]:
    return sorted(np.concatenate((split.train_rows, split.validation_rows, split.test_rows)).tolist())


class TestHoldout:
    def test_every_row_stands_in_one_part_and_no_group_straddles(self, sample: Windows, grouping: Grouping) -> None:
        for seed in range(20):
            split = holdout_split(sample, grouping, seed=seed)
            assert rows_of(split) == list(range(sample.num_windows))
            assert straddling_groups(split, grouping) == 0
            assert (split.kind, split.seed, split.fold) == ("holdout", seed, 0)

    def test_parts_have_their_share_of_windows_and_of_every_type(self, sample: Windows, grouping: Grouping) -> None:
        for seed in range(20):
            split = holdout_split(sample, grouping, seed=seed, fractions=(0.5, 0.25, 0.25))
            for rows, share in ((split.train_rows, 0.5), (split.validation_rows, 0.25), (split.test_rows, 0.25)):
                assert abs(len(rows) - share * sample.num_windows) <= 2
                for kind in (0, 1):
                    of_kind = (sample.type_N == kind).sum()
                    assert abs((sample.type_N[rows] == kind).sum() - share * of_kind) <= 2

    def test_windows_without_an_expansion_are_spread_as_well(self) -> None:
        windows = random_windows(60, LENGTH, spans_of=[[(2, 5)]] * 30 + [[]] * 30)
        split = holdout_split(windows, group_windows(windows), seed=1)
        assert [(windows.num_spans_N[rows] == 0).sum() for rows in (split.train_rows, split.test_rows)] == [18, 6]
        assert (windows.type_N[30:] == NO_TYPE).all()

    def test_a_seed_gives_one_split_and_others_give_others(self, sample: Windows, grouping: Grouping) -> None:
        tests = [holdout_split(sample, grouping, seed=seed).test_rows.tolist() for seed in (0, 0, 1, 2)]
        assert tests[0] == tests[1]
        assert len({tuple(rows) for rows in tests}) == 3

    def test_three_groups_are_enough_and_no_part_stays_empty(self) -> None:
        windows = random_windows(30, LENGTH)
        windows = replace(windows, base_window_id_N=np.array([str(min(row, 2)) for row in range(30)]))
        grouping = group_windows(windows)
        for seed in range(10):
            split = holdout_split(windows, grouping, seed=seed)
            assert min(map(len, (split.train_rows, split.validation_rows, split.test_rows))) > 0

    def test_a_part_with_the_smallest_share_gets_a_group_all_the_same(self) -> None:
        windows = random_windows(3, LENGTH)
        split = holdout_split(windows, group_windows(windows), seed=0, fractions=(0.98, 0.01, 0.01))
        assert [len(split.train_rows), len(split.validation_rows), len(split.test_rows)] == [1, 1, 1]

    def test_too_few_groups_are_refused(self) -> None:
        windows = replace(random_windows(9, LENGTH), base_window_id_N=np.array(list("aaaabbbbb")))
        with pytest.raises(ConfigError, match=r"2 groups .* at least 3 are needed"):
            holdout_split(windows, group_windows(windows), seed=0)

    @pytest.mark.parametrize("fractions", [(1.0, 0.0, 0.2), (0.6, -0.2, 0.2), (float("nan"), 0.5, 0.5)])
    def test_shares_that_are_none_are_refused(
        self, sample: Windows, grouping: Grouping, fractions: tuple[float, float, float]
    ) -> None:
        with pytest.raises(ConfigError, match="above 0"):
            holdout_split(sample, grouping, seed=0, fractions=fractions)


class TestFolds:
    def test_every_window_is_tested_once_a_seed_and_nothing_straddles(
        self, sample: Windows, grouping: Grouping
    ) -> None:
        for seed in range(5):
            splits = grouped_folds(sample, grouping, num_folds=5, seed=seed, validation_fraction=0.2)
            assert sorted(np.concatenate([split.test_rows for split in splits])) == list(range(sample.num_windows))
            for fold, split in enumerate(splits):
                assert rows_of(split) == list(range(sample.num_windows))
                assert straddling_groups(split, grouping) == 0
                assert (split.kind, split.seed, split.fold) == ("fold", seed, fold)
                assert abs(len(split.validation_rows) - 0.2 * 0.8 * sample.num_windows) <= 2
                assert abs(len(split.test_rows) - 0.2 * sample.num_windows) <= 2

    def test_a_seed_gives_the_same_folds_and_others_give_others(self, sample: Windows, grouping: Grouping) -> None:
        tested = [
            grouped_folds(sample, grouping, num_folds=3, seed=seed, validation_fraction=0)[0].test_rows.tolist()
            for seed in (0, 0, 1, 2)
        ]
        assert tested[0] == tested[1]
        assert len({tuple(rows) for rows in tested}) == 3

    def test_no_validation_part_is_made_where_none_is_asked_for(self, sample: Windows, grouping: Grouping) -> None:
        for split in grouped_folds(sample, grouping, num_folds=4, seed=0, validation_fraction=0):
            assert len(split.validation_rows) == 0
            assert len(split.train_rows) + len(split.test_rows) == sample.num_windows

    def test_validation_windows_do_not_change_who_is_tested(self, sample: Windows, grouping: Grouping) -> None:
        with_part, without = (
            grouped_folds(sample, grouping, num_folds=3, seed=4, validation_fraction=fraction) for fraction in (0.3, 0)
        )
        for left, right in zip(with_part, without, strict=True):
            np.testing.assert_array_equal(left.test_rows, right.test_rows)

    def test_as_many_folds_as_groups_leave_one_out(self) -> None:
        windows = random_windows(6, LENGTH)
        splits = grouped_folds(windows, group_windows(windows), num_folds=6, seed=0, validation_fraction=0)
        assert [len(split.test_rows) for split in splits] == [1] * 6

    def test_more_folds_than_groups_are_refused(self) -> None:
        windows = random_windows(6, LENGTH)
        with pytest.raises(ConfigError, match=r"6 groups .* 7 folds: at least 7"):
            grouped_folds(windows, group_windows(windows), num_folds=7, seed=0, validation_fraction=0)

    def test_too_few_groups_for_a_validation_part_are_refused(self) -> None:
        windows = random_windows(2, LENGTH)
        with pytest.raises(ConfigError, match="beside fold 0 of 2"):
            grouped_folds(windows, group_windows(windows), num_folds=2, seed=0, validation_fraction=0.5)

    @pytest.mark.parametrize(("num_folds", "fraction", "word"), [(1, 0.1, "folds"), (3, 1.0, "validation_fraction")])
    def test_settings_out_of_range_are_refused(
        self, sample: Windows, grouping: Grouping, num_folds: int, fraction: float, word: str
    ) -> None:
        with pytest.raises(ConfigError, match=word):
            grouped_folds(sample, grouping, num_folds=num_folds, seed=0, validation_fraction=fraction)


class TestSeedSplit:
    @pytest.mark.parametrize("num_windows", [2, 3, 5, 10, 102, 210, 215, 1001])
    def test_it_is_scikit_learns(self, num_windows: int) -> None:
        train, test = train_test_split(range(num_windows), test_size=0.2, random_state=42)
        split = seed_split(num_windows)
        assert split.train_rows.tolist() == train
        assert split.test_rows.tolist() == test
        assert split.validation_rows.tolist() == test
        assert split.kind == "seed"

    def test_210_windows_are_split_into_168_and_42(self) -> None:
        split = seed_split(210)
        assert (len(split.train_rows), len(split.test_rows)) == (168, 42)

    def test_one_window_cannot_be_split(self) -> None:
        with pytest.raises(ConfigError, match="at least 2"):
            seed_split(1)

    def test_it_leaks_and_the_straddling_groups_are_counted(self, sample: Windows, grouping: Grouping) -> None:
        split = seed_split(sample.num_windows)
        test_rows = set(split.test_rows.tolist())
        expected = sum(0 < len(group & test_rows) < len(group) for group in partition(grouping))
        assert straddling_groups(split, grouping) == expected > 20


def test_a_group_on_all_three_sides_straddles_once() -> None:
    windows = replace(random_windows(6, LENGTH), base_window_id_N=np.array(list("aaabbc")))
    train, validation, test = (np.array(rows, dtype=np.intp) for rows in ([0, 3], [1, 5], [2, 4]))
    split = Split(train, validation, test, seed=0, fold=0, kind="holdout")
    assert straddling_groups(split, group_windows(windows)) == 2
