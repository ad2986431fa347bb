"""Sweeps for real: a Dask scheduler with two workers, one of which is killed; three SSH servers, one of which dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers.processes import wait_until
from helpers.servers import PrefectServer, stop_group

from jade_model.core.training_files import files_of, is_done
from jade_model.data.sample import sample_windows
from jade_model.data.schema import write_windows
from tasks.core.layout import RunLayout
from tasks.experiments.plan import Plan, write_job
from tests.helpers.dask_cluster import command, dask_cluster
from tests.helpers.three_hosts import train_on_three_hosts

pytestmark = pytest.mark.system

SWEEP = """
data = "tiny.parquet"
seeds = 1
folds = 3
epochs = 1
stop_early = false

[grid]
recipe = ["jade_soft_span"]
model.hidden_size = [2, 3]
training.learning_rate = [0.001, 0.01]
"""
NUM_UNITS = 12


def trained(folder: Path) -> Counter[str]:
    """How often each unit was begun, by what the workers have written."""
    begun: Counter[str] = Counter()
    for log in folder.glob("dask_worker-*.log"):
        for line in log.read_text(errors="replace").splitlines():
            if '{"event": "training_started"' in line:
                event = json.loads(line[line.index("{") :])
                begun[f"{event['arm']}/{event['seed']}/{event['fold']}"] += 1
    return begun


def test_a_killed_dask_worker_costs_one_training_and_changes_no_result(
    prefect_server: PrefectServer, tmp_path: Path
) -> None:
    write_windows(sample_windows(num_bases=12), tmp_path / "tiny.parquet")
    (tmp_path / "sweep.toml").write_text(SWEEP)
    env = prefect_server.env | {"JADE_STATE_DIR": str(tmp_path / "state"), "JADE_CONFIG_DIR": str(tmp_path / "config")}

    def sweep(artifacts: str, *flags: str) -> subprocess.Popen[bytes]:
        kept = ("--artifacts", str(tmp_path / artifacts), "--json")
        return command("flows.cli", "sweep", str(tmp_path / "sweep.toml"), *kept, *flags, env=env, folder=tmp_path)

    with dask_cluster(tmp_path, env) as (address, workers):
        running = sweep("dask", "--host", address)
        try:
            wait_until(lambda: sum(trained(tmp_path).values()) >= NUM_UNITS // 2 or running.poll() is not None, 300)
            os.kill(workers[0].pid, signal.SIGKILL)
            assert running.wait(300) == 0, said(tmp_path)
        finally:
            stop_group(running)
    begun = trained(tmp_path)
    assert len(begun) == NUM_UNITS
    # What it was at, and what it had done but nobody had fetched.
    assert sum(begun.values()) <= NUM_UNITS + 2
    here = sweep("processes")
    try:
        assert here.wait(400) == 0, said(tmp_path)
    finally:
        stop_group(here)
    assert table(tmp_path / "dask").equals(table(tmp_path / "processes"))
    assert table(tmp_path / "dask").num_rows == NUM_UNITS


def table(artifacts: Path) -> Any:
    (path,) = artifacts.glob("*/results.parquet")
    return pq.read_table(path)


def said(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-3000:] for path in folder.glob("cli-*.log"))


def test_three_ssh_hosts_one_slow_and_one_lost_do_all_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("tasks.execution.remote.SILENT_S", 2.0)
    plan = Plan({"a": "jade_soft_span"}, 1, seeds=6, folds=3, split="grouped", ensemble=1)
    run = tmp_path / "run"
    run.mkdir()
    job = write_job(RunLayout(run), [sample_windows(num_bases=12)], plan)
    # How long it takes, against the best possible, is measured in benchmarks/bench_engine.py.
    found = train_on_three_hosts(job, run, tmp_path, unit_s=0.6)
    assert all(item.kind == "done" for item in found.outcomes), (found.outcomes, found.notes)
    assert {item.run_key for item in found.outcomes} == {item.run_key for item in job.trainings}
    assert len(found.outcomes) == len(job.trainings) == 18
    assert all(is_done(item, files_of(item, run)) for item in job.trainings)
    assert 9 <= found.died_after < 14
    assert "doomed" not in {item.where for item in found.outcomes[found.died_after + 4 :]}
