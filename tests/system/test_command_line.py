"""`jade compare` as a person runs it: its own ephemeral server, an empty home."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.homes import clean_environment, give_database
from helpers.processes import (
    children_of,
    heed_interrupts,
    leaders_named,
    processes_of_group,
    processes_with,
    wait_until,
)
from helpers.servers import ROOT, kill_group

pytestmark = pytest.mark.system


@pytest.fixture
def environment(tmp_path: Path, database: Path) -> dict[str, str]:
    """A home with nothing but an empty database, and no settings."""
    return clean_environment(give_database(tmp_path / "home", database))


def jade(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *arguments]


def test_compare_prints_the_verdict_and_repeats_it_without_training_again(small_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    environment = clean_environment(tmp_path / "empty")
    flags = ["--data", str(small_file), "--epochs", "2", "--folds", "2", "--arms", "soft_span,crf"]
    flags += ["--artifacts", str(tmp_path / "a"), "--json"]
    results = []
    for _ in range(2):
        done = subprocess.run(
            jade("compare", *flags), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
        results.append(json.loads(done.stdout))
    first, second = (json.loads((Path(item["folder"]) / "comparison.json").read_text()) for item in results)
    assert first["verdict"] == second["verdict"] == results[1]["verdict"]
    log = (Path(results[0]["folder"]) / "crf" / "manifest.json").read_bytes()
    assert (Path(results[1]["folder"]) / "crf" / "manifest.json").read_bytes() == log


def test_bad_data_exit_with_2_before_anything_is_started(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"nothing of the kind")
    flags = ["--data", str(tmp_path / "bad.parquet"), "--artifacts", str(tmp_path / "a")]
    done = subprocess.run(
        jade("compare", *flags), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 2
    assert "bad.parquet" in done.stderr
    assert done.stdout == ""
    assert not list((tmp_path / "a").glob("*")), "nothing was started that could fail"


def test_runs_that_cannot_be_kept_are_refused_before_anything_is_started(environment: dict[str, str]) -> None:
    done = subprocess.run(
        jade("compare", "--artifacts", "s3://"), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: 's3:' is no place for artifacts: '' is not a bucket's name")
    assert done.stderr.endswith("Give a folder or s3://bucket/prefix.\n")


def test_a_server_of_its_own_that_cannot_start_is_one_error(
    small_file: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    (database,) = (tmp_path / "home").rglob("prefect.db")
    database.write_bytes(b"of another program")
    flags = ["--data", str(small_file), "--artifacts", str(tmp_path / "a")]
    done = subprocess.run(
        jade("compare", *flags), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 1
    assert "error: Prefect's temporary server did not start" in done.stderr
    assert "file is not a database" in done.stderr
    assert "Traceback" not in done.stderr
    assert str(database.parent / "server.log") in done.stderr


@pytest.mark.parametrize(
    ("number", "whom"),
    [(signal.SIGINT, os.kill), (signal.SIGKILL, os.kill), (signal.SIGTERM, os.killpg)],
    ids=["Ctrl-C", "killed", "SIGTERM to its group"],
)
def test_ending_compare_in_the_middle_leaves_no_training_process(
    small_file: Path,
    tmp_path: Path,
    environment: dict[str, str],
    number: signal.Signals,
    whom: Callable[[int, int], None],
) -> None:
    artifacts = tmp_path / "a"
    flags = ["--data", str(small_file), "--epochs", "5000", "--folds", "2", "--artifacts", str(artifacts)]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            jade("compare", *flags),
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=heed_interrupts,  # noqa: PLW1509 - no thread holds a lock that it needs
        )
        try:
            wait_until(lambda: bool(list(artifacts.glob("*/*/history.jsonl"))), 400, (tmp_path / "log").read_text)
            (group,) = leaders_named("jade_model", str(artifacts))
            assert len(processes_of_group(group)) > 1
            (server,) = set(processes_with("tasks.operations.temporary_server")) & dict(children_of(running.pid)).keys()
            whom(running.pid, number)
            running.wait(300)
        finally:
            kill_group(running)
    wait_until(lambda: not processes_of_group(group) + processes_of_group(server), 200)
    if number != signal.SIGKILL:
        (failed,) = artifacts.glob("*/FAILED.json")
        assert json.loads(failed.read_text())["error"] in {"KeyboardInterrupt", "TerminationSignal", "CancelledError"}
