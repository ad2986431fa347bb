from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.training_windows import random_windows

from jade_model.core.errors import ConfigError, DataError, Violation
from jade_model.core.windows import NO_TYPE, TYPE_NAMES, Windows
from jade_model.data.bars import read_bars
from jade_model.data.cutting import Cutting, cut_windows
from jade_model.data.groups import group_windows
from jade_model.data.schema import load_windows, write_windows

NUM_BARS = 400
TIMES = pd.date_range("2024-01-01 09:00", periods=NUM_BARS, freq="min")
LABELS = [(40, 44, "consolidation"), (90, 96, "retracement"), (100, 103, "reversal"), (395, 399, "consolidation")]


def bars_table() -> pd.DataFrame:
    bars = random_windows(1, NUM_BARS).bars_NT4[0]
    table = pd.DataFrame(bars, columns=["open", "high", "low", "close"])
    table.insert(0, "time", TIMES)
    return table


def labels_table(labels: list[tuple[int, int, str]] = LABELS, times: pd.DatetimeIndex = TIMES) -> pd.DataFrame:
    return pd.DataFrame(
        [(times[start], times[end], label) for start, end, label in labels], columns=["start", "end", "label"]
    )


@pytest.fixture
def bars_csv(tmp_path: Path) -> Path:
    bars_table().to_csv(tmp_path / "bars.csv", index=False)
    return tmp_path / "bars.csv"


@pytest.fixture
def labels_csv(tmp_path: Path) -> Path:
    labels_table().to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path / "labels.csv"


def cut(bars: Path, labels: Path | None = None, **settings: Any) -> Windows:
    return cut_windows(bars, labels, Cutting(**settings))[0]


def violations_of(call: Callable[[], object]) -> list[Violation]:
    with pytest.raises(DataError) as caught:
        call()
    return caught.value.violations


class TestWindowsAroundLabels:
    def test_each_label_gets_a_window_that_shows_its_bars_and_all_spans_in_it(
        self, bars_csv: Path, labels_csv: Path
    ) -> None:
        windows = cut(bars_csv, labels_csv, window_length=64, instrument="NQ")
        (series,) = read_bars(bars_csv)
        assert windows.window_id_N.tolist() == [f"NQ_{number}_exp_1_offset0" for number in range(4)]
        assert windows.is_labelled
        for row in range(4):
            first = int(np.flatnonzero(series.time_B == windows.start_time_N[row])[0])
            np.testing.assert_array_equal(windows.bars_NT4[row], series.bars_B4[first : first + 64])
            visible = [
                [max(start - first, 0), min(end + 1 - first, 64)]
                for start, end, _ in LABELS
                if start - first < 64 and end + 1 - first > 0
            ]
            assert windows.spans_of(row).tolist() == visible
            start, end, label = LABELS[row]
            assert [start - first, end + 1 - first] in visible
            assert TYPE_NAMES[windows.type_N[row]] == label
        assert windows.overlap_fraction_N.tolist() == [1.0] * 4
        assert windows.num_spans_N.max() > 1

    def test_spans_stand_at_different_places_chosen_by_the_seed(self, bars_csv: Path, tmp_path: Path) -> None:
        labels_table([(start, start + 4, "reversal") for start in range(100, 300, 10)]).to_csv(tmp_path / "l.csv")
        places = []
        for seed in (0, 0, 1):
            windows = cut(bars_csv, tmp_path / "l.csv", window_length=64, seed=seed)
            starts = (TIMES[100].to_datetime64() + np.arange(20) * np.timedelta64(10, "m")) - windows.start_time_N
            places.append((starts / np.timedelta64(1, "m")).tolist())
        assert places[0] == places[1] != places[2]
        assert len(set(places[0])) > 10
        assert min(places[0]) >= 64 // 7
        assert max(places[0]) + 5 <= 64

    def test_shifted_windows_belong_to_their_base_and_show_a_share_of_its_span(
        self, bars_csv: Path, labels_csv: Path, tmp_path: Path
    ) -> None:
        windows = cut(bars_csv, labels_csv, window_length=64, overlap_offsets=(-32, 32), seed=3)
        write_windows(windows, tmp_path / "out.parquet")
        read = load_windows(tmp_path / "out.parquet")
        assert read.window_id_N.tolist() == windows.window_id_N.tolist()
        (series,) = read_bars(bars_csv)
        shifts = {"0": 0, "-32": -32, "+32": 32}
        seen = set()
        for row, window_id in enumerate(read.window_id_N.tolist()):
            base, _, ending = window_id.partition("_offset")
            assert read.base_window_id_N[row] == base
            assert read.offset_N[row] == shifts[ending]
            start, end, _ = LABELS[int(base.split("_")[0])]
            first = int(np.searchsorted(series.time_B, read.start_time_N[row]))
            visible = max(min(end + 1, first + 64) - max(start, first), 0) / (end + 1 - start)
            assert read.overlap_fraction_N[row] == pytest.approx(visible)
            assert visible >= 0.3
            seen.add(ending)
        assert seen == set(shifts)
        assert len(set(read.base_window_id_N)) == 4
        # Labels 1 and 2 lie a few bars apart: their windows show the same bars.
        assert group_windows(read).num_shared_bar_joins >= 1

    def test_a_gap_in_time_does_not_break_a_window(self, labels_csv: Path, tmp_path: Path) -> None:
        table = bars_table().drop(index=range(42, 80))
        table.to_csv(tmp_path / "gap.csv", index=False)
        labels_table(LABELS[1:2]).to_csv(tmp_path / "l.csv", index=False)
        windows = cut(tmp_path / "gap.csv", tmp_path / "l.csv", window_length=100)
        assert windows.bars_NT4.shape == (1, 100, 4)
        (start, end), first = windows.spans_of(0)[0], windows.start_time_N[0]
        assert end - start == 7
        assert windows.bars_NT4[0, start].tolist() == bars_table().to_numpy()[90, 1:].tolist()
        assert first in TIMES

    def test_a_span_longer_than_a_window_is_named(self, bars_csv: Path, tmp_path: Path) -> None:
        labels_table([(10, 60, "reversal")]).to_csv(tmp_path / "l.csv", index=False)
        (violation,) = violations_of(lambda: cut(bars_csv, tmp_path / "l.csv", window_length=32))
        assert "51 bars" in violation.found

    @pytest.mark.parametrize("label", [(0, 15, "reversal"), (384, 399, "reversal"), (200, 215, "reversal")])
    def test_a_span_as_long_as_a_window_or_at_an_end_of_the_bars_is_cut(
        self, bars_csv: Path, tmp_path: Path, label: tuple[int, int, str]
    ) -> None:
        labels_table([label]).to_csv(tmp_path / "l.csv", index=False)
        assert cut(bars_csv, tmp_path / "l.csv", window_length=16).spans_S2.tolist() == [[0, 16]]
        assert np.diff(cut(bars_csv, tmp_path / "l.csv", window_length=64).spans_S2).tolist() == [[16]]


class TestWindowsOneAfterTheOther:
    def test_without_labels_windows_follow_one_another_and_end_with_the_last_bar(self, bars_csv: Path) -> None:
        windows = cut(bars_csv, window_length=105)
        assert not windows.is_labelled
        (series,) = read_bars(bars_csv)
        firsts = [0, 105, 210, 295]
        np.testing.assert_array_equal(windows.start_time_N, series.time_B[firsts])
        np.testing.assert_array_equal(windows.bars_NT4[3], series.bars_B4[-105:])
        assert windows.window_id_N.tolist() == [f"bar_{first}" for first in firsts]
        assert windows.num_spans_N.tolist() == [0] * 4

    def test_a_stride_decides_how_far_apart_windows_start(self, bars_csv: Path) -> None:
        windows = cut(bars_csv, window_length=100, stride=50)
        assert windows.num_windows == 7
        assert set(np.diff(windows.start_time_N)) == {np.timedelta64(50, "m")}

    def test_with_labels_and_a_stride_windows_without_an_expansion_are_kept(
        self, bars_csv: Path, labels_csv: Path
    ) -> None:
        windows = cut(bars_csv, labels_csv, window_length=50, stride=50)
        assert windows.is_labelled
        assert windows.num_spans_N.tolist() == [1, 1, 1, 0, 0, 0, 0, 1]
        assert windows.type_N.tolist() == [0, 1, 2, *[NO_TYPE] * 4, 0]
        other = cut(bars_csv, labels_csv, window_length=50, stride=42)
        assert other.spans_of(0).tolist() == [[40, 45]]
        assert other.spans_of(1).tolist() == [[0, 3], [48, 50]]
        # It shows most of the first span, and three of its five bars.
        assert other.type_N[1] == 0
        assert other.overlap_fraction_N[1] == pytest.approx(3 / 5)

    def test_other_settings_and_other_bars_have_other_digests(self, bars_csv: Path, labels_csv: Path) -> None:
        digests = {
            cut(bars_csv, window_length=50).sha256,
            cut(bars_csv, window_length=51).sha256,
            cut(bars_csv, labels_csv, window_length=50).sha256,
        }
        assert len(digests) == 3
        assert cut(bars_csv, window_length=50).sha256 in digests

    def test_too_few_bars_for_one_window_are_named(self, bars_csv: Path) -> None:
        (violation,) = violations_of(lambda: cut(bars_csv, window_length=401))
        assert violation.found == "400 bars"

    @pytest.mark.parametrize(
        ("settings", "word"),
        [
            ({"window_length": 15}, "window_length"),
            ({"stride": 0}, "stride"),
            ({"overlap_offsets": (52,)}, "overlap_offsets"),
        ],
    )
    def test_settings_that_make_no_sense_are_refused(self, bars_csv: Path, settings: dict[str, int], word: str) -> None:
        with pytest.raises(ConfigError, match=word):
            cut(bars_csv, **settings)

    @pytest.mark.parametrize("offsets", [(0, 5), (5, 5)])
    def test_shifts_must_differ_from_one_another_and_from_none(
        self, bars_csv: Path, labels_csv: Path, offsets: tuple[int, int]
    ) -> None:
        with pytest.raises(ConfigError, match="overlap_offsets"):
            cut(bars_csv, labels_csv, overlap_offsets=offsets)
