"""A run's folder says what was asked for and how it ended."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jade_model.core.errors import ConfigError
from tasks.artifacts.repository import open_place, open_run
from tasks.core.errors import RunNotFound
from tasks.core.layout import RunLayout, training_folder
from tasks.runs.diff import diff_runs
from tasks.runs.record import new_run_id, read_run_record, recorded_run


def test_a_run_id_is_time_flow_and_six_hex_digits() -> None:
    name = new_run_id("compare", now=datetime(2026, 11, 23, 2, 0, 5, tzinfo=UTC))
    assert re.fullmatch(r"20261123T020005Z-compare-[0-9a-f]{6}", name)


def test_a_completed_run_records_identity_times_and_phases(tmp_path: Path) -> None:
    with recorded_run(tmp_path, "compare", {"epochs": 3}) as run:
        assert read_run_record(run.layout)["state"] == "running"
        with run.phase("train"):
            pass
    record = read_run_record(run.layout)
    assert record["state"] == "completed"
    assert record["parameters"] == {"epochs": 3}
    assert set(record["seconds"]) == {"train", "total"}
    assert {"torch", "numpy", "python"} <= set(record["versions"])
    assert len(record["code"]["digest"]) == 64
    assert not run.layout.failed_json.exists()


def test_a_run_tells_what_it_took_beside_training(tmp_path: Path) -> None:
    with recorded_run(tmp_path, "compare", {}) as run:
        begun = time.monotonic()
        run.trained = (begun, begun + 0.001)
    overhead = read_run_record(run.layout)["overhead"]
    assert overhead["start of the process and of Prefect"] > 0
    assert overhead["until the first epoch"] == round(begun - run.started, 3)
    assert overhead["since the last epoch"] <= read_run_record(run.layout)["seconds"]["total"]


@pytest.mark.parametrize("error", [ConfigError("epochs is 0; it must be at least 1"), KeyboardInterrupt()])
def test_a_failed_run_says_where_and_why(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), recorded_run(tmp_path, "compare", {}) as run:
        raise error
    failure = json.loads(run.layout.failed_json.read_text())
    assert failure["error"] == type(error).__name__
    assert failure["message"] == (str(error) or "interrupted")
    assert failure["where"].startswith("test_runs.py:")
    assert read_run_record(run.layout)["state"] == "failed"


def test_a_run_is_found_by_folder_name_beginning_and_latest(tmp_path: Path) -> None:
    for name in ("20260101T000000Z-compare-aaaaaa", "20260102T000000Z-compare-bbbbbb"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    first = tmp_path / "20260101T000000Z-compare-aaaaaa"
    place = open_place(tmp_path)
    assert open_run(str(first), None)[1].root == first
    assert place.find_run("20260101T000000Z-compare-aaaaaa").root == first
    assert place.find_run("20260101").root == first
    assert place.find_run("latest").run_id.endswith("bbbbbb")
    with pytest.raises(RunNotFound, match="2 runs called '2026'"):
        place.find_run("2026")
    with pytest.raises(RunNotFound, match=r"no run called 'x'.*bbbbbb"):
        place.find_run("x")


def test_only_an_arms_first_training_lies_in_the_arms_own_folder() -> None:
    assert training_folder("crf", None, 0, 0) == "crf"
    assert training_folder("crf", None, 1, 0) == "crf/seed1-fold0"
    assert training_folder("crf", "eurusd", 0, 2) == "crf/eurusd/seed0-fold2"
    assert training_folder("crf", None, 0, 2, member=1) == "crf/seed0-fold2/member1"


def test_alike_runs_do_not_differ_and_others_differ_where_they_do(tmp_path: Path, small_run: RunLayout) -> None:
    assert diff_runs(small_run, small_run) == []
    other = RunLayout(tmp_path / "other")
    other.root.mkdir()
    record = read_run_record(small_run)
    record["parameters"]["epochs"] = 3
    record["versions"]["torch"] = "0.0"
    other.run_json.write_text(json.dumps(record))
    comparison = json.loads(small_run.comparison_json.read_text())
    comparison["data"][0]["sha256"] = "0" * 64
    comparison["arms"]["crf"]["summary"]["decoders"]["viterbi"]["f1"] = 0.5
    other.comparison_json.write_text(json.dumps(comparison))
    other.job_json.write_bytes(small_run.job_json.read_bytes())
    found = {(item.section, item.field): (item.first, item.second) for item in diff_runs(small_run, other)}
    assert found[("settings", "epochs")] == (2, 3)
    assert found[("versions", "torch")][1] == "0.0"
    assert found[("data", "small.sha256")][1] == "0" * 64
    assert found[("results", "arms.crf.decoders.viterbi.f1")][1] == 0.5
    assert len(found) == 4


def test_a_run_of_before_groups_differs_from_one_with_them_only_where_it_does(tmp_path: Path) -> None:
    old = {"data": [], "epochs": 2, "host": "gpu1", "margin": 0.03}
    new = {"data": ["sample"], "epochs": 3, "placement": {"host": ["gpu1"]}, "scoring": {"margin": 0.05}}
    runs = [RunLayout(tmp_path / name) for name in ("old", "new")]
    for run, parameters in zip(runs, (old, new), strict=True):
        run.root.mkdir()
        run.run_json.write_text(json.dumps({"parameters": parameters}))
    found = {item.field: (item.first, item.second) for item in diff_runs(*runs)}
    assert found == {"epochs": (2, 3), "margin": (0.03, 0.05)}
