from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jade_model.core.errors import DataError, Violation
from jade_model.core.windows import NO_TYPE, Windows, load_arrays, save_arrays
from jade_model.data.schema import iter_windows, load_windows, write_windows

REFERENCE = Path(__file__).parents[3] / ".." / "shared" / "data" / "expansions_btcusd_m30.parquet"
LENGTH = 20
Columns = dict[str, Any]


def bars(num_windows: int, length: int = LENGTH, seed: int = 0) -> list[list[list[float]]]:
    close = 100 + np.random.default_rng(seed).normal(size=(num_windows, length)).cumsum(axis=1)
    open_ = np.roll(close, 1, axis=1)
    prices = (open_, np.maximum(open_, close) + 0.5, np.minimum(open_, close) - 0.5, close)
    listed: list[list[list[float]]] = np.stack(prices, axis=2).tolist()
    return listed


def columns(num_windows: int = 4, length: int = LENGTH, prefix: str = "w") -> Columns:
    return {
        "window_id": [f"{prefix}{row}_offset+52" for row in range(num_windows)],
        "features": bars(num_windows, length),
        "label": ["consolidation", "retracement", "reversal", "consolidation"][:num_windows],
        "expansion_start": [0, 3, 5, 12][:num_windows],
        "expansion_end": [4, 3, 9, 14][:num_windows],
    }


def write(path: Path, table: Columns | pa.Table) -> Path:
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path)
    return path


def arrays_of(windows: Windows) -> dict[str, Any]:
    return {
        item.name: getattr(windows, item.name)
        for item in fields(Windows)
        if item.name not in {"name", "path", "sha256"}
    }


def assert_same(left: Windows, right: Windows) -> None:
    for name, value in arrays_of(left).items():
        np.testing.assert_array_equal(getattr(right, name), value, err_msg=name)
        assert np.asarray(getattr(right, name)).dtype.kind == np.asarray(value).dtype.kind, name


def find_violations(source: Path | str, *, require_labels: bool = True) -> list[Violation]:
    try:
        load_windows(source, require_labels=require_labels)
    except DataError as error:
        return list(error.violations)
    return []


class TestValidFiles:
    def test_a_file_of_required_columns_only_is_read_and_the_rest_takes_defaults(self, tmp_path: Path) -> None:
        given_columns = columns()
        windows = load_windows(write(tmp_path / "old.parquet", given_columns))
        assert (windows.name, windows.num_windows, windows.window_length) == ("old", 4, LENGTH)
        np.testing.assert_array_equal(windows.bars_NT4, np.array(given_columns["features"]))
        assert windows.window_id_N.tolist() == given_columns["window_id"]
        assert windows.base_window_id_N.tolist() == ["w0", "w1", "w2", "w3"]
        assert windows.type_N.tolist() == [0, 1, 2, 0]
        assert [windows.spans_of(row).tolist() for row in range(4)] == [[[0, 5]], [[3, 4]], [[5, 10]], [[12, 15]]]
        assert windows.overlap_fraction_N.tolist() == [1.0] * 4
        assert windows.offset_N.tolist() == [0] * 4
        assert windows.quality_N.tolist() == [""] * 4
        assert np.isnat(windows.start_time_N).all()
        assert windows.is_labelled

    def test_an_inclusive_end_becomes_half_open_and_the_mask_covers_both_bounds(self, tmp_path: Path) -> None:
        in_span_NT = load_windows(write(tmp_path / "a.parquet", columns())).in_span_NT()
        for row, (start, end) in enumerate([(0, 4), (3, 3), (5, 9), (12, 14)]):
            assert np.flatnonzero(in_span_NT[row]).tolist() == list(range(start, end + 1))

    def test_optional_columns_are_read(self, tmp_path: Path) -> None:
        times = np.array(["2024-01-01T00:00", "NaT", "2024-01-03", "2024-01-04"], dtype="datetime64[us]")
        table = columns() | {
            "base_window_id": ["a", None, "b", "b"],
            "offset": pa.array([0, 52, None, -52]),
            "overlap_fraction": [1.0, 0.5, None, 0.3],
            "source": ["original", None, "overlapped", "x"],
            "quality": pa.array(["auto", "low", None, "auto"]).dictionary_encode(),
            "instrument": ["NQ", "NQ", None, "ES"],
            "start_time": pa.array(times, pa.timestamp("us", tz="America/New_York")),
        }
        windows = load_windows(write(tmp_path / "a.parquet", table))
        assert windows.base_window_id_N.tolist() == ["a", "w1", "b", "b"]
        assert windows.offset_N.tolist() == [0, 52, 0, -52]
        assert windows.overlap_fraction_N.tolist() == [1.0, 0.5, 1.0, 0.3]
        assert windows.source_N.tolist() == ["original", "", "overlapped", "x"]
        assert windows.quality_N.tolist() == ["auto", "low", "", "auto"]
        assert windows.instrument_N.tolist() == ["NQ", "NQ", "", "ES"]
        np.testing.assert_array_equal(windows.start_time_N, times.astype("datetime64[ns]"))

    def test_windows_without_and_with_several_expansions_are_read(self, tmp_path: Path) -> None:
        table = columns() | {
            "label": ["consolidation", None, "retracement", None],
            "expansion_start": pa.array([1, None, None, None], pa.int64()),
            "expansion_end": pa.array([2, None, None, None], pa.int64()),
            "expansion_starts": [None, None, [9, 2], []],
            "expansion_ends": [None, None, [12, 4], []],
        }
        windows = load_windows(write(tmp_path / "a.parquet", table))
        assert windows.num_spans_N.tolist() == [1, 0, 2, 0]
        assert windows.spans_of(2).tolist() == [[2, 5], [9, 13]]
        assert windows.type_N.tolist() == [0, NO_TYPE, 1, NO_TYPE]

    def test_lists_of_bounds_alone_are_enough(self, tmp_path: Path) -> None:
        table = columns() | {
            "expansion_starts": [[1], [2, 5], [], [3]],
            "expansion_ends": [[1], [4, 6], [], [9]],
        }
        del table["expansion_start"], table["expansion_end"]
        windows = load_windows(write(tmp_path / "a.parquet", table))
        assert windows.spans_S2.tolist() == [[1, 2], [2, 5], [5, 7], [3, 10]]

    def test_a_single_bound_beside_lists_may_repeat_one_of_them(self, tmp_path: Path) -> None:
        table = columns(1) | {
            "expansion_start": [2],
            "expansion_end": [4],
            "expansion_starts": [[2, 9]],
            "expansion_ends": [[4, 11]],
        }
        assert load_windows(write(tmp_path / "a.parquet", table)).spans_S2.tolist() == [[2, 5], [9, 12]]

    def test_bounds_that_pandas_wrote_as_doubles_are_read(self, tmp_path: Path) -> None:
        table = columns() | {
            "expansion_start": [1.0, float("nan"), None, 3.0],
            "expansion_end": [2.0, float("nan"), None, 3.0],
        }
        windows = load_windows(write(tmp_path / "a.parquet", table))
        assert windows.num_spans_N.tolist() == [1, 0, 0, 1]

    @pytest.mark.parametrize(
        "kind",
        [
            pa.list_(pa.list_(pa.float32())),
            pa.large_list(pa.large_list(pa.float64())),
            pa.list_(pa.list_(pa.float64(), 4), LENGTH),
            pa.list_(pa.list_(pa.float64(), 4)),
        ],
        ids=str,
    )
    def test_any_kind_of_list_of_floats_is_read(self, tmp_path: Path, kind: pa.DataType) -> None:
        table = columns() | {"features": pa.array(bars(4), kind)}
        windows = load_windows(write(tmp_path / "a.parquet", table))
        np.testing.assert_allclose(windows.bars_NT4, np.array(bars(4)), rtol=1e-6)
        assert windows.bars_NT4.dtype == np.float64

    def test_bars_as_structures_are_read_by_the_names_of_their_prices(self, tmp_path: Path) -> None:
        named = [
            [{"v": 1, "C": bar[3], "l": bar[2], "high": bar[1], "Open": bar[0]} for bar in window] for window in bars(4)
        ]
        windows = load_windows(write(tmp_path / "a.parquet", columns() | {"features": named}))
        np.testing.assert_array_equal(windows.bars_NT4, np.array(bars(4)))
        del named[2][3]["l"]
        (violation,) = find_violations(write(tmp_path / "b.parquet", columns() | {"features": named}))
        assert (violation.row, violation.column) == (2, "features")
        assert "nan" in violation.found
        named = [[{"open": 1.0, "o": 1.0, "h": 1.0, "l": 1.0, "c": 1.0}]] * 4
        assert (
            "structure" in find_violations(write(tmp_path / "c.parquet", columns() | {"features": named}))[0].expected
        )

    def test_decimals_views_dates_and_labels_in_any_case_are_read(self, tmp_path: Path) -> None:
        table = columns() | {
            "features": [[[Decimal(f"{price:.2f}") for price in bar] for bar in window] for window in bars(4)],
            "expansion_start": pa.array([0, 3, 5, 12]).cast(pa.decimal128(19, 0)),
            "label": pa.array(["Consolidation", " RETRACEMENT", "reversal", "Reversal"]).cast(pa.string_view()),
            "start_time": pa.array(np.arange(4).astype("datetime64[D]")),
        }
        windows = load_windows(write(tmp_path / "a.parquet", table))
        assert windows.type_N.tolist() == [0, 1, 2, 2]
        assert windows.spans_S2[:, 0].tolist() == [0, 3, 5, 12]
        assert windows.start_time_N[3] == np.datetime64("1970-01-04")
        np.testing.assert_allclose(windows.bars_NT4, np.array(bars(4)), atol=0.006)

    def test_negative_prices_are_read(self, tmp_path: Path) -> None:
        table = with_bar(2, 19, [-2.0, 3.0, -3.0, 0.0])(columns())
        assert load_windows(write(tmp_path / "a.parquet", table)).bars_NT4.min() == -3

    def test_flat_bars_for_whole_windows_are_valid(self, tmp_path: Path) -> None:
        table = columns() | {"features": np.full((4, LENGTH, 4), 7.25).tolist()}
        assert find_violations(write(tmp_path / "a.parquet", table)) == []

    @pytest.mark.parametrize("length", [16, 1024])
    def test_windows_of_any_allowed_length_are_read(self, tmp_path: Path, length: int) -> None:
        assert load_windows(write(tmp_path / "a.parquet", columns(2, length))).window_length == length

    def test_prediction_needs_only_identifiers_and_bars_and_reads_no_labels(self, tmp_path: Path) -> None:
        table = {name: columns()[name] for name in ("window_id", "features")} | {"label": [1, 2, 3, 4]}
        path = write(tmp_path / "a.parquet", table)
        windows = load_windows(path, require_labels=False)
        assert not windows.is_labelled
        assert windows.num_spans_N.tolist() == [0] * 4
        assert find_violations(path, require_labels=False) == []


class TestSources:
    def test_files_of_a_folder_follow_one_another_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        (tmp_path / "deep").mkdir()
        write(tmp_path / "b.parquet", columns(2, prefix="b"))
        write(tmp_path / "a.parquet", columns(2, prefix="a"))
        write(tmp_path / "deep" / "c.parquet", columns(1, prefix="c"))
        (tmp_path / ".half-written.parquet").write_bytes(b"")
        windows = load_windows(tmp_path)
        assert [name[:2] for name in windows.window_id_N] == ["a0", "a1", "b0", "b1", "c0"]
        assert windows.name == tmp_path.name
        single = load_windows(tmp_path / "a.parquet")
        assert windows.sha256 != single.sha256
        assert_same(windows.take(np.array([0, 1])), single)

    def test_a_glob_and_a_list_name_the_same_files(self, tmp_path: Path) -> None:
        paths = [write(tmp_path / f"{name}.parquet", columns(2, prefix=name)) for name in "ab"]
        from_glob, from_list = load_windows(f"{tmp_path}/*.parquet"), load_windows(paths, name="both")
        assert_same(from_glob, from_list)
        assert from_glob.sha256 == from_list.sha256
        assert from_list.name == "both"

    @pytest.mark.parametrize(
        ("source", "found", "expected"),
        [
            ("none.parquet", "no such file", "Parquet file"),
            ("none/*.parquet", "no such file", "pattern"),
            ("empty", "no file that ends in .parquet", "folder"),
        ],
    )
    def test_a_source_without_files_is_named(self, tmp_path: Path, source: str, found: str, expected: str) -> None:
        (tmp_path / "empty").mkdir()
        (violation,) = find_violations(str(tmp_path / source))
        assert violation.file.endswith(source)
        assert violation.found == found
        assert expected in violation.expected

    def test_a_relative_source_without_files_is_named_with_the_folder_that_it_is_looked_for_in(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (violation,) = find_violations("none.parquet")
        assert violation.found == f"no such file in {tmp_path}"

    def test_a_folder_and_a_pattern_find_the_same_files_and_say_what_they_leave_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
        for name in ("data/a.PARQUET", "data/_old/b.parquet", "data/_c.parquet", "elsewhere/d.parquet"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            write(tmp_path / name, columns(2, prefix=name))
        (data / "linked").symlink_to(elsewhere)
        (elsewhere / "back").symlink_to(data)
        assert load_windows(data).window_id_N.tolist() == load_windows(f"{data}/**/*.[pP]*").window_id_N[:4].tolist()
        assert "_c.parquet, _old/b.parquet" in caplog.text
        assert {name.split("/")[0] for name in load_windows(data).window_id_N} == {"data", "elsewhere"}

    def test_folders_that_name_a_value_give_every_row_of_their_files_it(self, tmp_path: Path) -> None:
        for name in ("AAA", "B%20B"):
            folder = tmp_path / f"instrument={name}" / "year=2024"
            folder.mkdir(parents=True)
            write(folder / "part.parquet", columns(2, prefix=name))
        assert load_windows(tmp_path).instrument_N.tolist() == ["AAA", "AAA", "B B", "B B"]
        (tmp_path / "offset=3").mkdir()
        write(tmp_path / "offset=3" / "a.parquet", columns(2))
        assert "folders only name text" in find_violations(tmp_path)[0].expected

    def test_parts_without_rows_are_left_out_of_a_folder(self, tmp_path: Path) -> None:
        write(tmp_path / "a.parquet", pa.table(columns()).slice(0, 0))
        write(tmp_path / "b.parquet", columns())
        assert load_windows(tmp_path).num_windows == 4

    @pytest.mark.parametrize("log", ["_delta_log/0.json", ".hoodie/x", "metadata/v1.metadata.json"])
    def test_a_table_whose_folder_holds_removed_files_too_is_refused(self, tmp_path: Path, log: str) -> None:
        (tmp_path / log).parent.mkdir()
        (tmp_path / log).write_text("")
        path = write(tmp_path / "a.parquet", columns())
        for source in (str(tmp_path), f"{tmp_path}/*.parquet"):
            (violation,) = find_violations(source)
            assert "older versions" in violation.found
        assert find_violations(path) == []

    def test_a_list_of_nothing_is_named(self) -> None:
        with pytest.raises(DataError, match="at least one"):
            load_windows([])

    def test_the_same_file_twice_is_named_once(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", columns())
        (violation,) = find_violations([path, tmp_path / "*.parquet"])
        assert violation.found == "the same file twice"

    @pytest.mark.parametrize("content", [b"", b"PAR1 but not really", b"\x00" * 5000])
    def test_what_is_no_parquet_file_is_named(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a.parquet"
        path.write_bytes(content)
        (violation,) = find_violations(path)
        assert (violation.file, violation.row, violation.expected) == (str(path), None, "a readable Parquet file")
        assert violation.found == "an empty file" if not content else "no Parquet file" in violation.found

    def test_a_file_cut_short_is_named(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", columns())
        path.write_bytes(path.read_bytes()[:-100])
        assert "damaged" in find_violations(path)[0].found

    def test_damaged_pages_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table(columns()), path, compression="zstd", use_dictionary=False)
        content = bytearray(path.read_bytes())
        content[60:1500] = b"\xff" * 1440
        path.write_bytes(content)
        assert any("damaged" in violation.found for violation in find_violations(path))

    def test_a_file_without_rows_is_named(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", pa.table(columns()).slice(0, 0))
        assert [violation.found for violation in find_violations(path)] == ["no rows"]


def edited(**changes: Any) -> Callable[[Columns], Columns]:
    return lambda table: table | changes


def with_bar(row: int, bar: int, values: Any) -> Callable[[Columns], Columns]:
    def edit(table: Columns) -> Columns:
        features = bars(4)
        features[row][bar] = values
        return table | {"features": features}

    return edit


def without(name: str) -> Callable[[Columns], Columns]:
    return lambda table: {column: values for column, values in table.items() if column != name}


def shorter(table: Columns) -> Columns:
    features = bars(4)
    features[2] = features[2][:17]
    return table | {"features": features}


NAN, INF = float("nan"), float("inf")
BROKEN: dict[str, tuple[Callable[[Columns], Columns], int | None, str, str, str]] = {
    "missing window_id": (without("window_id"), None, "window_id", "no such column", "strings"),
    "missing features": (without("features"), None, "features", "no such column", "lists"),
    "missing label": (without("label"), None, "label", "no such column", "strings"),
    "missing start": (without("expansion_start"), None, "expansion_start", "no such column", "integers"),
    "label of integers": (edited(label=[0, 1, 0, 1]), None, "label", "int64", "strings"),
    "start as text": (edited(expansion_start=["1"] * 4), None, "expansion_start", "string", "integers"),
    "features as text": (edited(features=["x"] * 4), None, "features", "string", "lists"),
    "flat features": (edited(features=[[1.0, 2.0]] * 4), None, "features", "list<", "lists of bars"),
    "time as text": (edited(start_time=["2024"] * 4), None, "start_time", "string", "timestamps"),
    "another length": (shorter, 2, "features", "17 bars", "20 bars"),
    "no bars": (edited(features=[*bars(3), []], expansion_start=[0, 3, 5, None],
                       expansion_end=[4, 3, 9, None]), 3, "features", "0 bars", "20 bars"),
    "null window": (edited(features=[*bars(3), None]), 3, "features", "null", "a list"),
    "null bar": (with_bar(1, 5, None), 1, "features", "bar 5 null", "four values"),
    "bar of five": (with_bar(3, 7, [2.0] * 5), 3, "features", "bar 7 with 5 values", "four values"),
    "NaN": (with_bar(1, 5, [NAN, 3.0, 1.0, 2.0]), 1, "features", "bar 5 with open, high, low, close nan", "finite"),
    "null price": (with_bar(1, 5, [2.0, 3.0, 1.0, None]), 1, "features", "bar 5", "finite"),
    "infinite": (with_bar(0, 0, [2.0, INF, 1.0, 2.0]), 0, "features", "inf", "finite"),
    "zero": (with_bar(2, 19, [2.0, 3.0, 0.0, 2.0]), 2, "features", "bar 19", "other than 0"),
    "high below low": (with_bar(2, 1, [2.0, 1.0, 3.0, 2.0]), 2, "features", "bar 1", "not below the low"),
    "open above high": (with_bar(2, 1, [4.0, 3.0, 1.0, 2.0]), 2, "features", "bar 1", "open and close"),
    "close below low": (with_bar(2, 1, [2.0, 3.0, 1.0, 0.5]), 2, "features", "bar 1", "open and close"),
    "start after end": (edited(expansion_start=[0, 3, 9, 12], expansion_end=[4, 3, 5, 15]), 2, "expansion_start",
                        "9 to 5", "not after the end"),
    "null start": (edited(expansion_start=[0, None, 5, 12]), 1, "expansion_start", "expansion_end 3", "both"),
    "null end": (edited(expansion_end=[4, None, 9, 15]), 1, "expansion_end", "expansion_start 3", "both"),
    "end outside": (edited(expansion_end=[4, 3, 9, 20]), 3, "expansion_end", "12 to 20 in a window of 20", "a bar"),
    "start outside": (edited(expansion_start=[-1, 3, 5, 12]), 0, "expansion_start", "-1 to 4", "a bar"),
    "broken number": (edited(expansion_start=[0.0, 2.5, 5.0, 12.0]), 1, "expansion_start", "2.5", "whole"),
    "unknown label": (edited(label=["consolidation"] * 3 + ["breakout"]), 3, "label", "'breakout'", "reversal"),
    "null label": (edited(label=["reversal", None, "reversal", "reversal"]), 1,
                   "label", "null beside an expansion", "reversal"),
    "duplicate id": (edited(window_id=["a", "b", "c", "a"]), 3, "window_id", "'a', as in row 0", "its own"),
    "null id": (edited(window_id=["a", "b", None, "d"]), 2, "window_id", "None", "an identifier"),
    "empty id": (edited(window_id=["a", "b", "", "d"]), 2, "window_id", "''", "an identifier"),
    "overlap fraction": (edited(overlap_fraction=[1.0, 0.2, 1.2, 0.0]), 2, "overlap_fraction", "1.2", "0 to 1"),
    "only starts": (edited(expansion_starts=[[1]] * 4), None, "expansion_ends", "no such column", "lists"),
    "uneven lists": (edited(expansion_starts=[[0]] + [None] * 3, expansion_ends=[[4, 9]] + [None] * 3), 0,
                     "expansion_starts", "1 expansion_starts and 2 expansion_ends", "one length"),
    "one list null": (edited(expansion_starts=[[0]] + [None] * 3, expansion_ends=pa.nulls(4)),
                      0, "expansion_starts", "null expansion_ends", "one length"),
    "null in list": (edited(expansion_starts=[None, [3, None]] + [None] * 2, expansion_ends=[None, [3, 4], None, None]),
                     1, "expansion_starts", "[3, None]", "whole numbers"),
    "overlapping spans": (edited(expansion_starts=[[0, 4]] + [None] * 3, expansion_ends=[[4, 6]] + [None] * 3), 0,
                          "expansion_starts", "4 to 6 over span 0 to 4", "share no bar"),
    "contradicting lists": (edited(expansion_starts=[[1]] + [None] * 3, expansion_ends=[[4]] + [None] * 3), 0,
                            "expansion_start", "0 to 4", "listed"),
    "listed span outside": (edited(expansion_starts=[None] * 3 + [[12, 18]], expansion_ends=[None] * 3 + [[14, 30]]),
                            3, "expansion_ends", "18 to 30", "a bar"),
}  # fmt: skip


class TestViolations:
    @pytest.mark.parametrize("case", BROKEN)
    def test_each_breach_is_named_with_its_place_and_alone(self, tmp_path: Path, case: str) -> None:
        edit, row, column, found, expected = BROKEN[case]
        table = edit(columns())
        path = write(tmp_path / "a.parquet", table)
        (violation,) = find_violations(path)
        assert (violation.file, violation.row, violation.column) == (str(path), row, column)
        assert found in violation.found
        assert expected in violation.expected
        if row is not None and table["window_id"][row]:
            # The identifier column itself is the one place where the identifier may be unknown.
            assert violation.window_id == table["window_id"][row]
        with pytest.raises(DataError) as caught:
            load_windows(path)
        assert caught.value.violations == [violation]

    def test_all_breaches_are_found_in_one_go_in_the_order_of_files_and_rows(self, tmp_path: Path) -> None:
        table = without("label")(columns())
        table["features"][1][4] = [NAN, 1.0, 1.0, 1.0]
        table["features"][1][6] = [1.0, 1.0, 2.0, 1.0]
        table["features"][3] = table["features"][3][:18]
        table["window_id"][2] = table["window_id"][0]
        table["expansion_end"][0] = 77
        first = write(tmp_path / "a.parquet", table)
        second = write(tmp_path / "b.parquet", columns(2) | {"offset": ["x", "y"]})
        found = [(Path(item.file).name, item.row, item.column) for item in find_violations([first, second])]
        assert found == [
            ("a.parquet", None, "label"),
            ("a.parquet", 0, "expansion_end"),
            ("a.parquet", 1, "features"),
            ("a.parquet", 1, "features"),
            ("a.parquet", 2, "window_id"),
            ("a.parquet", 3, "features"),
            ("b.parquet", None, "offset"),
            ("b.parquet", 0, "window_id"),
            ("b.parquet", 1, "window_id"),
        ]

    def test_several_wrong_bars_of_one_window_are_one_violation_that_counts_them(self, tmp_path: Path) -> None:
        table = columns()
        for bar in (3, 8, 9):
            table["features"][2][bar] = [1.0, 1.0, 2.0, 1.0]
        (violation,) = find_violations(write(tmp_path / "a.parquet", table))
        assert "bar 3" in violation.found
        assert "2 more" in violation.found

    def test_a_duplicate_across_files_names_the_other_place(self, tmp_path: Path) -> None:
        first = write(tmp_path / "a.parquet", columns(2))
        second = write(tmp_path / "b.parquet", columns(4))
        violations = find_violations([first, second])
        assert [item.row for item in violations] == [0, 1]
        assert f"row 1 of {first}" in violations[1].found

    def test_files_of_different_window_lengths_are_named(self, tmp_path: Path) -> None:
        first = write(tmp_path / "a.parquet", columns(2))
        second = write(tmp_path / "b.parquet", columns(2, 30, prefix="x"))
        (violation,) = find_violations([first, second])
        assert (violation.file, violation.row, violation.column) == (str(second), None, "features")
        assert violation.found == "windows of 30 bars"
        assert "20 bars, as in" in violation.expected

    @pytest.mark.parametrize("length", [15, 1025])
    def test_a_window_length_out_of_range_is_named_once_for_the_file(self, tmp_path: Path, length: int) -> None:
        (violation,) = find_violations(write(tmp_path / "a.parquet", columns(4, length)))
        assert (violation.row, violation.column) == (None, "features")
        assert "16 to 1024" in violation.expected

    def test_rows_of_later_batches_keep_their_numbers_in_the_file(self, tmp_path: Path) -> None:
        num_windows, row = 9000, 8765
        table = {
            "window_id": [str(number) for number in range(num_windows)],
            "features": np.full((num_windows, 16, 4), 5.0).tolist(),
            "label": ["reversal"] * num_windows,
            "expansion_start": [1] * num_windows,
            "expansion_end": [3] * row + [16] + [3] * (num_windows - row - 1),
        }
        (violation,) = find_violations(write(tmp_path / "a.parquet", table))
        assert (violation.row, violation.window_id) == (row, str(row))

    def test_the_message_shows_the_first_twenty_and_counts_the_rest(self, tmp_path: Path) -> None:
        table = {name: values * 10 for name, values in columns().items()}
        with pytest.raises(DataError, match="and 16 more") as caught:
            load_windows(write(tmp_path / "a.parquet", table))
        assert len(caught.value.violations) == 36

    @given(
        row=st.integers(0, 3),
        bar=st.integers(0, LENGTH - 1),
        values=st.lists(st.floats(width=32) | st.just(1.5), min_size=4, max_size=4),
    )
    @settings(max_examples=60)
    def test_a_bar_is_accepted_exactly_if_it_is_possible(
        self, tmp_path_factory: pytest.TempPathFactory, row: int, bar: int, values: list[float]
    ) -> None:
        open_, high, low, close = values
        slack = 1e-9 * max(map(abs, values))
        is_possible = all(-INF < value < INF for value in values) and (0 not in values or min(values) < 0)
        is_possible &= low - slack <= min(open_, close) <= max(open_, close) <= high + slack and low <= high + slack
        path = tmp_path_factory.mktemp("bars") / "a.parquet"
        violations = find_violations(write(path, with_bar(row, bar, values)(columns())))
        assert [violation.row for violation in violations] == ([] if is_possible else [row])


class TestStreaming:
    def test_batches_together_are_the_loaded_windows(self, tmp_path: Path) -> None:
        for name in "ab":
            write(tmp_path / f"{name}.parquet", columns(4, prefix=name))
        batches = list(iter_windows(tmp_path, batch_size=3))
        assert [batch.num_windows for batch in batches] == [3, 1, 3, 1]
        whole = load_windows(tmp_path)
        assert {batch.sha256 for batch in batches} == {whole.sha256}
        first = 0
        for batch in batches:
            rows = np.arange(first, first + batch.num_windows)
            assert_same(whole.take(rows), batch)
            first += batch.num_windows

    def test_a_duplicate_is_found_before_the_first_batch_is_given(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", edited(window_id=["a", "b", "c", "a"])(columns()))
        with pytest.raises(DataError, match="its own"):
            next(iter_windows(path, batch_size=1))

    def test_a_breach_is_found_before_the_first_batch_is_given(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", with_bar(3, 2, [NAN] * 4)(columns()))
        with pytest.raises(DataError, match=r"row 3 \(w3_offset\+52\), column features"):
            next(iter_windows(path, batch_size=2))

    def test_a_source_without_files_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no file that ends in \.parquet"):
            next(iter_windows(tmp_path, batch_size=2))

    def test_unreadable_files_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.parquet").write_bytes(b"nothing")
        with pytest.raises(DataError, match="no Parquet file"):
            next(iter_windows(tmp_path, batch_size=2))

    def test_a_batch_of_no_windows_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="batch_size"):
            next(iter_windows(tmp_path, batch_size=0))

    def test_memory_does_not_grow_with_the_number_of_windows(self, tmp_path: Path) -> None:
        peaks = []
        for num_windows in (1_500, 6_000):
            path = tmp_path / f"{num_windows}.parquet"
            windows = load_windows(write(tmp_path / "few.parquet", columns(4, 64)))
            many = windows.take(np.resize(np.arange(4), num_windows))
            object.__setattr__(many, "window_id_N", np.arange(num_windows).astype(np.str_))
            write_windows(many, path)
            del many
            list(map(id, iter_windows(path, batch_size=250)))
            tracemalloc.start()
            for batch in iter_windows(path, batch_size=250):
                assert batch.num_windows
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 1.3 * peaks[0]


class TestWriting:
    def test_what_was_written_is_read_back(self, tmp_path: Path) -> None:
        table = columns() | {
            "base_window_id": ["a", "a", "b", "b"],
            "offset": [0, 52, 0, -52],
            "overlap_fraction": [1.0, 0.5, 1.0, 0.3],
            "source": ["original", "", "overlapped", "x"],
            "quality": ["auto", "low", None, "auto"],
            "instrument": ["NQ", "NQ", None, "ES"],
            "start_time": np.array(["2024-01-01", "NaT", "2024-01-03", "2024-01-04"], dtype="datetime64[ns]"),
            "expansion_starts": [[0], [3], [5, 15], []],
            "expansion_ends": [[4], [3], [9, 15], []],
            "expansion_start": pa.array([None] * 4, pa.int64()),
            "expansion_end": pa.array([None] * 4, pa.int64()),
        }
        windows = load_windows(write(tmp_path / "a.parquet", table))
        write_windows(windows, tmp_path / "b.parquet")
        assert_same(windows, load_windows(tmp_path / "b.parquet"))
        written = pq.read_table(tmp_path / "b.parquet").to_pydict()
        assert written["expansion_start"] == [0, 3, None, None]
        assert written["expansion_end"] == [4, 3, None, None]

    def test_columns_that_say_nothing_are_left_out(self, tmp_path: Path) -> None:
        windows = load_windows(write(tmp_path / "a.parquet", columns()))
        write_windows(windows, tmp_path / "b.parquet")
        names = set(pq.read_schema(tmp_path / "b.parquet").names)
        assert not names & {"instrument", "start_time", "expansion_starts", "expansion_ends"}
        assert_same(windows, load_windows(tmp_path / "b.parquet"))

    def test_unlabelled_windows_are_written_without_labels(self, tmp_path: Path) -> None:
        windows = load_windows(write(tmp_path / "a.parquet", columns()), require_labels=False)
        write_windows(windows, tmp_path / "b.parquet")
        assert "label" not in pq.read_schema(tmp_path / "b.parquet").names
        assert_same(windows, load_windows(tmp_path / "b.parquet", require_labels=False))


class TestArrays:
    def test_what_was_saved_is_loaded(self, tmp_path: Path) -> None:
        table = columns() | {"instrument": ["NQ", "", "a longer name", "ES"]}
        windows = load_windows(write(tmp_path / "a.parquet", table))
        save_arrays(windows, tmp_path / "a.npz")
        loaded = load_arrays(tmp_path / "a.npz")
        assert_same(windows, loaded)
        assert (loaded.name, loaded.path, loaded.sha256) == (windows.name, windows.path, windows.sha256)

    def test_what_is_not_such_a_file_is_refused_and_never_unpickled(self, tmp_path: Path) -> None:
        np.save(tmp_path / "single.npy", np.zeros(3))
        np.savez(tmp_path / "other.npz", x=np.zeros(3))
        np.savez(tmp_path / "newer.npz", version=99)
        np.savez(tmp_path / "objects.npz", version=np.array([{}], dtype=object))
        (tmp_path / "text.npz").write_text("hello")
        (tmp_path / "empty.npz").write_bytes(b"")
        for path in [*sorted(tmp_path.iterdir()), tmp_path / "missing.npz"]:
            with pytest.raises(DataError, match=path.name):
                load_arrays(path)

    def test_arrays_are_loaded_where_only_numpy_is_installed(self, tmp_path: Path) -> None:
        save_arrays(load_windows(write(tmp_path / "a.parquet", columns())), tmp_path / "a.npz")
        code = (
            "import sys\n"
            "for name in ('pyarrow', 'pandas', 'scipy', 'torch'): sys.modules[name] = None\n"
            "import jade_model.data.schema, jade_model.data.splits, jade_model.core.targets, jade_model.data.sample\n"
            "from jade_model.core.windows import load_arrays\n"
            f"print(load_arrays({str(tmp_path / 'a.npz')!r}).num_windows)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
        )
        assert done.stdout.strip() == "4"


class TestTaking:
    @given(rows=st.lists(st.integers(0, 3), max_size=9))
    def test_taken_windows_keep_their_own_spans(self, rows: list[int]) -> None:
        spans = [[(2, 5), (9, 13)], [], [(0, 20)], [(1, 2), (3, 4), (5, 6)]]
        windows = make_windows(spans)
        taken = windows.take(np.array(rows, dtype=np.intp))
        assert taken.window_id_N.tolist() == [f"w{row}" for row in rows]
        assert [list(map(tuple, taken.spans_of(row))) for row in range(len(rows))] == [spans[row] for row in rows]
        np.testing.assert_array_equal(taken.in_span_NT(), windows.in_span_NT()[rows])
        np.testing.assert_array_equal(taken.bars_NT4, windows.bars_NT4[rows])


def make_windows(spans: list[list[tuple[int, int]]]) -> Windows:
    num_windows = len(spans)
    names = np.array([f"w{row}" for row in range(num_windows)])
    empty = np.full(num_windows, "")
    return Windows(
        name="made",
        path="made",
        sha256="0" * 64,
        window_id_N=names,
        base_window_id_N=names,
        bars_NT4=np.array(bars(num_windows)),
        type_N=np.zeros(num_windows, dtype=np.int64),
        span_offsets_N1=np.cumsum([0, *map(len, spans)]),
        spans_S2=np.array([span for row in spans for span in row], dtype=np.int64).reshape(-1, 2),
        offset_N=np.zeros(num_windows, dtype=np.int64),
        overlap_fraction_N=np.ones(num_windows),
        quality_N=empty,
        source_N=empty,
        instrument_N=empty,
        start_time_N=np.full(num_windows, np.datetime64("NaT", "ns")),
    )


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference data is not at hand")
def test_the_reference_file_is_read_as_its_description_says() -> None:
    windows = load_windows(REFERENCE)
    assert windows.sha256 == "8589a402dc5d3d0952cc3a350eb5d57333b2dd1ba327e2d87bb154bfe1e16058"
    assert (windows.num_windows, windows.window_length) == (215, 105)
    assert np.bincount(windows.type_N).tolist() == [145, 70]
    assert len(set(windows.base_window_id_N)) == 105
    assert sorted(set(windows.offset_N.tolist())) == [-52, 0, 52]
    assert round(float(windows.in_span_NT().mean()), 3) == 0.052


def test_a_violation_reads_as_a_sentence_with_its_place() -> None:
    violation = Violation("a.parquet", 3, "label", "'x'", "one of y", "w3")
    assert str(violation) == "a.parquet, row 3 (w3), column label: found 'x'; expected one of y"
