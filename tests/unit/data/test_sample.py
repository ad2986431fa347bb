from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jade_model.core.windows import Windows
from jade_model.data.sample import sample_windows
from jade_model.data.schema import load_windows, write_windows
from jade_model.data.splits import group_windows


@pytest.fixture(scope="module")
def sample() -> Windows:
    return sample_windows()


def test_it_is_about_two_hundred_windows_of_105_bars_in_a_hundred_groups(sample: Windows) -> None:
    grouping = group_windows(sample)
    assert 190 <= sample.num_windows <= 215
    assert sample.window_length == 105
    assert grouping.num_groups == len(set(sample.base_window_id_N)) == 100
    assert (grouping.num_shared_bar_joins, grouping.num_time_overlap_joins) == (0, 0)


def test_it_keeps_the_contract_and_survives_being_written(sample: Windows, tmp_path: Path) -> None:
    write_windows(sample, tmp_path / "sample.parquet")
    read = load_windows(tmp_path / "sample.parquet")
    np.testing.assert_array_equal(read.bars_NT4, sample.bars_NT4)
    np.testing.assert_array_equal(read.spans_S2, sample.spans_S2)
    np.testing.assert_array_equal(read.start_time_N, sample.start_time_N)
    assert read.window_id_N.tolist() == sample.window_id_N.tolist()


def test_a_seed_always_gives_the_same_windows_and_others_give_others() -> None:
    digests = [sample_windows(num_bases=20, seed=seed).sha256 for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_the_windows_are_the_same_on_every_platform() -> None:
    windows = sample_windows(num_bases=3, seed=0)
    assert windows.spans_S2.tolist() == [[39, 47], [91, 99], [38, 45], [90, 97], [70, 74], [18, 22]]
    assert windows.bars_NT4[0, 0].tolist() == [15329.0, 15354.75, 15326.75, 15352.5]
    assert windows.bars_NT4[-1, -1].tolist() == [14677.0, 14677.5, 14672.25, 14676.5]
    assert windows.sha256 == "86ddaa935f818e62527d2cfabc7b8c69932371c706eae03c19645c31f2d998c4"


def test_shifted_windows_show_the_bars_of_their_base(sample: Windows) -> None:
    for row in np.flatnonzero(sample.offset_N):
        base = np.flatnonzero(sample.base_window_id_N == sample.base_window_id_N[row])[0]
        left, right = (row, base) if sample.offset_N[row] > 0 else (base, row)
        np.testing.assert_array_equal(sample.bars_NT4[left, :53], sample.bars_NT4[right, 52:])
        assert sample.window_id_N[row] == f"{sample.base_window_id_N[row]}_offset{sample.offset_N[row]:+d}"


def test_spans_are_legs_of_4_to_14_bars_unless_a_shifted_window_cuts_them(sample: Windows) -> None:
    length_N = np.diff(sample.spans_S2)[:, 0]
    whole_N = sample.overlap_fraction_N == 1
    assert set(length_N[whole_N]) <= set(range(4, 15))
    assert (sample.overlap_fraction_N >= 0.3).all()
    np.testing.assert_array_equal(whole_N[sample.offset_N == 0], True)
    assert 0.04 < sample.in_span_NT().mean() < 0.07


def test_prices_move_as_real_ones_do(sample: Windows) -> None:
    move_NT = np.diff(np.log(sample.bars_NT4[:, :, 3]), axis=1)
    scaled_NT = move_NT / move_NT.std(axis=1, keepdims=True)
    assert (scaled_NT**4).mean() > 4.5, "tails are fat"
    size_NT = np.abs(scaled_NT)
    assert np.corrcoef(size_NT[:, 1:].ravel(), size_NT[:, :-1].ravel())[0, 1] > 0.1, "volatility clusters"
    np.testing.assert_array_equal(sample.bars_NT4 % 0.25, 0)


def test_the_largest_five_bar_move_finds_about_as_much_as_on_real_windows() -> None:
    for seed in range(3):
        windows = sample_windows(seed=seed)
        close_NT = windows.bars_NT4[:, :, 3]
        best_N = np.abs(close_NT[:, 5:] - close_NT[:, :-5]).argmax(axis=1)
        bar_T = np.arange(windows.window_length)
        marked_NT = (bar_T > best_N[:, None]) & (bar_T <= best_N[:, None] + 5)
        in_span_NT = windows.in_span_NT()
        f1 = 2 * (marked_NT & in_span_NT).sum() / (marked_NT.sum() + in_span_NT.sum())
        assert 0.5 < f1 < 0.7


def test_one_base_is_enough() -> None:
    assert len(set(sample_windows(num_bases=1).base_window_id_N)) == 1
