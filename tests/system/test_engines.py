"""Sweeps for real: a Dask scheduler with two workers, one of which is killed; three SSH servers, one of which dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fakes.sshd import running_sshd
from helpers.servers import ROOT, PrefectServer, stop_group, wait_until

from jade_model.config import ModelConfig
from jade_model.sample import sample_windows
from jade_model.schema import write_windows
from jade_model.training_files import files_of, is_done
from jade_model.windows import Windows
from tasks.bundle import RemotePlace
from tasks.engines.base import UnitDone
from tasks.engines.hosts import HostsEngine, Lane
from tasks.engines.queue import QueueRules
from tasks.hosts.base import HostAddress
from tasks.hosts.connection import SshAccess
from tasks.hosts.keys import HostTrust
from tasks.hosts.ssh import SshHost
from tasks.layout import RunLayout
from tasks.planning import Plan, write_job

pytestmark = pytest.mark.slow_system

SWEEP = """
data = "tiny.parquet"
seeds = 2
folds = 3
epochs = 1
stop_early = false

[grid]
recipe = ["jade_soft_span"]
model.hidden_size = [2, 3, 4, 5, 6]
training.learning_rate = [0.001, 0.01]
"""
NUM_UNITS = 60


def command(*arguments: str, env: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    log = (folder / f"{arguments[0].rpartition('.')[2]}-{time.monotonic_ns()}.log").open("wb")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
        )


@contextmanager
def dask_cluster(folder: Path, env: dict[str, str]) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers, each a process of its own, as an operator would start them."""
    where = folder / "scheduler.json"
    scheduler = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    started = [command(*scheduler, "--scheduler-file", str(where), env=env, folder=folder)]
    try:
        wait_until(where.is_file, 120)
        address = json.loads(where.read_text())["address"]
        for name in ("one", "two"):
            worker = ("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
            local = ("--name", name, "--local-directory", str(folder / name))
            started.append(command(*worker, *local, env=env, folder=folder))
        yield address, started[1:]
    finally:
        for process in reversed(started):
            stop_group(process)


def trained(folder: Path) -> Counter[str]:
    """How often each unit was begun, by what the workers have written."""
    begun: Counter[str] = Counter()
    for log in folder.glob("dask_worker-*.log"):
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith('{"event": "training_started"'):
                event = json.loads(line)
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
        running = sweep("dask", "--engine", "dask", "--scheduler", address)
        try:
            wait_until(lambda: sum(trained(tmp_path).values()) >= NUM_UNITS // 2 or running.poll() is not None, 300)
            os.kill(workers[0].pid, signal.SIGKILL)
            assert running.wait(300) == 0, said(tmp_path)
        finally:
            stop_group(running)
    begun = trained(tmp_path)
    assert len(begun) == NUM_UNITS
    assert sum(begun.values()) <= NUM_UNITS + 1
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


SLOW_PYTHON = """#!/bin/sh
# Ten times slower where it trains: the same program, with nine pauses as long as each run.
start=$(date +%s%N)
{python} "$@"
status=$?
case "$*" in *" train "*) sleep $(( ($(date +%s%N) - start) * 9 / 1000000000 ));; esac
exit $status
"""


def test_three_ssh_hosts_one_slow_and_one_lost_do_all_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    windows: Windows = sample_windows(num_bases=12)
    base = Plan({"a": "jade_soft_span"}, 1, seeds=2, folds=4, split="grouped", ensemble=1)
    tiny = replace(base.recipe_of("a"), model=ModelConfig(hidden_size=3))
    run = tmp_path / "run"
    run.mkdir()
    job = write_job(RunLayout(run), [windows], replace(base, arms={"a": tiny}))
    slow = tmp_path / "slow-python"
    slow.write_text(SLOW_PYTHON.format(python=sys.executable))
    slow.chmod(0o755)
    with ExitStack() as servers:
        lanes, sshds = [], []
        for name, python in (("quick", sys.executable), ("slow", str(slow)), ("doomed", sys.executable)):
            sshd = servers.enter_context(running_sshd(tmp_path / name))
            sshds.append(sshd)
            access = SshAccess(
                HostAddress("127.0.0.1", sshd.port, sshd.user),
                HostTrust(pins=(sshd.fingerprint,)),
                key_file=sshd.user_key,
                connect_timeout_s=3,
            )
            place = RemotePlace(str(tmp_path / f"{name}-there"), python, 600)
            lanes.append(Lane(name, lambda a=access, n=name: SshHost(a, name=n), place, "cpu", 1))  # type: ignore[misc]
        notes: list[str] = []
        engine = HostsEngine(run, job, lanes, rules=QueueRules(batch_s=10, pause_s=1), note=notes.append)
        begun, outcomes, died_s = time.monotonic(), [], 0.0
        for outcome in engine.run(job.trainings):
            outcomes.append(outcome)
            if len(outcomes) == len(job.trainings) // 2:
                doomed = sshds[2]
                # First the one that would answer, so that nothing connects anew; its children are known only before.
                serving = doomed.connections()
                os.kill(doomed.process_id, signal.SIGKILL)
                for process_id in serving:
                    doomed._signal_tree(process_id, signal.SIGKILL)
                died_s = time.monotonic() - begun
            if len(outcomes) == len(job.trainings):
                record_property("wall_s", round(time.monotonic() - begun, 1))
                record_property("died_s", round(died_s, 1))
    record_property("done_by", dict(Counter(item.where for item in outcomes)))
    assert all(isinstance(item, UnitDone) for item in outcomes), (outcomes, notes)
    assert len(outcomes) == len({item.run_key for item in outcomes}) == len(job.trainings)
    assert all(is_done(item, files_of(item, run)) for item in job.trainings)
