"""Data that are not fit for training are found before a host is taken; drift agrees with scipy's figures."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ks_2samp, kstwobign

from jade_model.core.windows import Windows
from jade_model.data.checks import DataRefused, DataReport, Reference, check_data
from jade_model.data.drift import ks_p_value, ks_statistic, population_stability_index
from jade_model.data.groups import group_windows
from jade_model.data.sample import sample_windows
from jade_model.data.splits import grouped_folds, seed_split

FEATURES = "displacement-17"


@pytest.fixture(scope="module")
def windows() -> Windows:
    return sample_windows(num_bases=40)


def asked(windows: Windows, reference: Windows | None = None, splits=()) -> DataReport:
    known = Reference("20261123T020000Z-retrain-abcdef", reference, FEATURES) if reference is not None else None
    return check_data(windows, group_windows(windows), splits, reference=known)


def status(report: DataReport, name: str) -> str:
    return next(check.status for check in report.checks if check.name == name)


def test_good_data_pass_every_check(windows: Windows) -> None:
    folds = grouped_folds(windows, group_windows(windows), num_folds=3, seed=0, validation_fraction=0.1)
    report = asked(windows, sample_windows(num_bases=30), folds)
    assert {check.status for check in report.checks} == {"passed"}
    assert [check.name for check in report.checks] == [
        "schema",
        "size",
        "duplicates",
        "leakage",
        "labels",
        "in-span rate",
        "drift",
    ]
    assert len(report.drift) == 17


def test_many_copies_fail_and_a_contradiction_warns(windows: Windows) -> None:
    rows = np.arange(windows.num_windows)
    assert status(asked(windows.take(np.concatenate([rows, rows[:20]]))), "duplicates") == "failed"
    twice = windows.take(np.concatenate([rows, rows[:1]]))
    spans = twice.spans_S2.copy()
    spans[-1] += 1
    report = asked(replace(twice, spans_S2=spans))
    assert status(report, "duplicates") == "warning"
    assert "1 windows whose bars stand there again" in report.checks[2].found


def test_a_leaking_split_fails_unless_it_leaks_by_design(windows: Windows) -> None:
    leaking = seed_split(windows.num_windows)
    assert status(asked(windows, splits=[leaking]), "leakage") == "warning"
    assert status(asked(windows, splits=[replace(leaking, kind="fold")]), "leakage") == "failed"


def test_few_groups_fail() -> None:
    assert status(asked(sample_windows(num_bases=5)), "size") == "failed"


def test_labels_that_cannot_be_right_fail(windows: Windows) -> None:
    whole = np.tile([0, windows.window_length], (len(windows.spans_S2), 1))
    assert status(asked(replace(windows, spans_S2=whole)), "in-span rate") == "failed"
    none = replace(windows, spans_S2=np.zeros((0, 2), int), span_offsets_N1=np.zeros(windows.num_windows + 1, int))
    report = asked(none)
    assert (status(report, "labels"), status(report, "in-span rate")) == ("failed", "failed")


def test_bars_that_relativity_reads_as_flat_are_said(windows: Windows) -> None:
    small = replace(windows, bars_NT4=windows.bars_NT4 * 1e-9)
    for data, expected in ((windows, "passed"), (small, "warning")):
        report = check_data(data, group_windows(data), feature_sets={"relativity-12+position"})
        assert status(report, "price scale") == expected
    assert "price scale" not in {check.name for check in asked(small).checks}


def test_bars_of_another_kind_have_drifted(windows: Windows) -> None:
    bars = windows.bars_NT4.copy()
    bars[:, :, 1] = bars[:, :, 2] + 30 * (bars[:, :, 1] - bars[:, :, 2])  # highs far above everything
    report = asked(replace(windows, bars_NT4=bars), windows)
    assert status(report, "drift") == "failed"
    assert "shifted: " in report.failed[0].found


def test_the_refusal_names_the_findings_and_survives_a_task_runner() -> None:
    error = pickle.loads(pickle.dumps(DataRefused([asked(sample_windows(num_bases=5))])))  # noqa: S301
    assert error.exit_code == 2
    assert "sample: size: found 5 groups" in str(error)


def test_ks_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = np.round(rng.normal(size=60), 1), np.round(rng.normal(0.3, size=45), 1)
        assert ks_statistic(first, second) == pytest.approx(ks_2samp(first, second).statistic, abs=1e-12)
    for statistic in (0.05, 0.2, 0.4, 0.8):
        root = np.sqrt(60 * 45 / 105)
        expected = kstwobign.sf((root + 0.12 + 0.11 / root) * statistic)
        assert ks_p_value(statistic, 60, 45) == pytest.approx(expected, abs=1e-9)


def test_psi_is_0_for_the_same_values_and_grows_with_the_shift() -> None:
    values = np.random.default_rng(1).normal(size=5000)
    assert population_stability_index(values, values) == 0
    shifts = [population_stability_index(values + shift, values) for shift in (0.1, 0.5, 1.0)]
    assert shifts == sorted(shifts)
    # For a normal distribution moved by 1, symmetric relative entropy is 1; tenths see most of it.
    assert shifts[-1] == pytest.approx(1.0, abs=0.25)


def test_psi_counts_a_heap_at_one_value_as_one_bin() -> None:
    heap = np.concatenate([np.zeros(900), np.random.default_rng(2).random(100)])
    assert population_stability_index(heap[::2], heap) < 0.02
