"""`--host`, `jade runs` and `jade runs stop`, with an SSH server in this process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.processes import heed_interrupts, processes_of_group

from flows.cli import run
from tasks.artifacts.backend import Records
from tasks.artifacts.errors import StoreUnavailable
from tasks.artifacts.leases import RemoteRun, load_records, save_record
from tasks.artifacts.local import LocalBackend
from tasks.hosts.job import JobSpec, start_job
from tasks.hosts.keys import load_private_key
from tasks.hosts.ssh import open_host
from tasks.settings.load import load_settings
from tests.fakes.ssh_server import FakeSshServer, running_fake_server, write_private_key

KEY = "ab" * 20


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JADE_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    for name in ("JADE_HOST", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeSshServer]:
    key = tmp_path / "id_ed25519"
    write_private_key(key)
    with running_fake_server(tmp_path / "host", [load_private_key(key)]) as running:
        where = ["--host", "127.0.0.1", "--port", str(running.port), "--user", "tester", "--key", str(key)]
        trust = ["--fingerprint", running.fingerprint, "--python", sys.executable]
        assert run(["hosts", "add", "ci", *where, *trust]) == 0
        yield running


def start_sleeper(key: str = KEY) -> int:
    """Start a job that takes an hour; return its process group."""
    host = open_host(load_settings(), "ci")
    job = start_job(host, ".jade/jobs", JobSpec(key, ("sleep", "3600"), ".", time_limit_s=3600, stop_grace_s=1))
    group = int(host.run(f"cat {job.folder}/process", timeout_s=60).text.split()[1])
    host.close()
    save_record(RemoteRun("ci", key, "20260101T000000Z-compare-abcdef", "/runs/x", 2, "2026-01-01T00:00:00+00:00"))
    return group


@pytest.mark.parametrize("name", ["20260101T000000Z-compare-abcdef", "20260101T", KEY[:8]])
def test_a_run_is_shown_and_stopped_by_its_name_or_key(
    name: str, server: FakeSshServer, capsys: pytest.CaptureFixture[str]
) -> None:
    group = start_sleeper()
    capsys.readouterr()
    assert run(["runs", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["host"], shown["run_id"], shown["state"]) == ("ci", "20260101T000000Z-compare-abcdef", "running")
    assert run(["runs", "stop", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"
    assert processes_of_group(group) == []
    assert load_records() == []
    assert run(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run(["runs", "--all"]) == 0
    assert "stopped" in capsys.readouterr().out


def test_all_jobs_of_a_run_are_stopped_together(server: FakeSshServer, capsys: pytest.CaptureFixture[str]) -> None:
    groups = [start_sleeper(key) for key in (KEY, KEY[::-1])]
    capsys.readouterr()
    assert run(["runs", "stop", "20260101T", "--json"]) == 0
    assert [job["state"] for job in json.loads(capsys.readouterr().out)["jobs"]] == ["stopped", "stopped"]
    assert [processes_of_group(group) for group in groups] == [[], []]


def test_a_run_on_a_host_that_does_not_answer_is_still_told_of(
    server: FakeSshServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.runs.active.CONNECT_S", 0.5)
    save_record(RemoteRun("ci", KEY, "run-1", "/runs/x", 2, "2026-01-01T00:00:00+00:00"))
    server.close()
    assert run(["runs", "--json"]) == 1
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["run_id"], shown["state"]) == ("run-1", "unreachable")
    assert "did not answer" in shown["problem"]
    assert run(["runs", "stop", "run-1"]) == 2
    assert "nothing was stopped" in capsys.readouterr().err
    assert len(load_records()) == 1


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_host_that_does_not_answer_is_never_one_on_which_nothing_trains(
    flags: list[str], server: FakeSshServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.runs.active.CONNECT_S", 0.5)
    server.close()
    capsys.readouterr()
    assert run(["runs", *flags]) == 1
    said = capsys.readouterr()
    assert "ci could not be asked: tester@127.0.0.1" in said.err
    assert "Nothing trains" not in said.err
    if flags:
        (shown,) = json.loads(said.out)
        assert (shown["host"], shown["run_id"], shown["state"]) == ("ci", None, "unreachable")
        assert "did not answer" in shown["problem"]
    assert run(["runs", "stop", "20260101T"]) == 2
    assert "ci could not be asked" in capsys.readouterr().err


def test_a_run_on_a_host_that_was_removed_is_still_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    save_record(RemoteRun("gone", KEY, "run-1", "/runs/x", 2, "2026-01-01T00:00:00+00:00"))
    assert run(["runs", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["host"], shown["problem"]) == ("gone", "no settings file has this host any more")


def test_a_record_whose_job_is_gone_goes_too(server: FakeSshServer) -> None:
    save_record(RemoteRun("ci", KEY, "run-1", "/runs/x", 2, "2026-01-01T00:00:00+00:00"))
    assert run(["runs"]) == 0
    assert load_records() == []


def test_a_run_that_nobody_knows_is_refused(server: FakeSshServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "stop", "nothing"]) == 2
    assert "no run called 'nothing'" in capsys.readouterr().err


FLOW = """
import sys, time
from pathlib import Path
from tasks.artifacts.leases import Heartbeat
from tasks.artifacts.local import LocalBackend
from tasks.artifacts.backend import Records
heartbeat = Heartbeat(Records(LocalBackend(Path(sys.argv[1]))), "20260101T000000Z-compare-abcdef")
heartbeat.start()
try:
    print("begun", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    heartbeat.stop()
"""


def test_a_flow_that_trains_here_is_shown_and_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = [sys.executable, "-c", FLOW, str(tmp_path / "artifacts")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, preexec_fn=heed_interrupts) as flow:  # noqa: PLW1509
        assert flow.stdout is not None
        assert flow.stdout.readline() == "begun\n"
        assert run(["runs", "--json"]) == 0
        (shown,) = json.loads(capsys.readouterr().out)
        assert (shown["host"], shown["run_id"]) == ("local", "20260101T000000Z-compare-abcdef")
        assert (shown["state"], shown["flow_on"]) == ("running", socket.gethostname())
        assert run(["runs", "stop", "20260101T", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["state"] == "stopped"
        assert flow.wait(60) == 0, "it ended as after Ctrl-C"
    assert run(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_flow_on_another_machine_is_shown_but_not_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = {"run_id": "run-1", "machine": "elsewhere", "host": "gpu7", "process": None}
    Records(LocalBackend(tmp_path / "kept")).write("running/run-1", json.dumps(told).encode(), replaces=None)
    assert run(["runs", "--artifacts", str(tmp_path / "kept")]) == 0
    assert {"gpu7", "run-1", "running", "elsewhere"} <= set(capsys.readouterr().out.split())
    assert run(["runs", "stop", "run-1", "--artifacts", str(tmp_path / "kept")]) == 1
    assert "runs on elsewhere: `jade runs stop run-1` there" in capsys.readouterr().err


def test_looking_for_runs_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs"]) == 0
    assert "Nothing trains" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_artifacts_that_do_not_answer_are_told_beside_what_was_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(records: object) -> list[object]:
        raise StoreUnavailable("s3://b", "listing", "the cable is out")

    monkeypatch.setattr("tasks.runs.active.holders", silent)
    save_record(RemoteRun("gone", KEY, "run-1", "/runs/x", 2, "2026-01-01T00:00:00+00:00"))
    assert run(["runs", "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["run_id"] == "run-1"
    assert "the cable is out" in said.err


@pytest.mark.parametrize("command", [["compare"], ["train", "--loss", "crf"]])
def test_an_unknown_host_is_refused_before_anything_is_prepared(
    command: list[str], server: FakeSshServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--host", "cj"]) == 2
    assert "Did you mean 'ci'?" in capsys.readouterr().err
    assert not (tmp_path / "artifacts").exists()


def test_train_runs_on_the_host_that_the_environment_names(
    server: FakeSshServer,
    small_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JADE_HOST", "ci")
    flags = ["--data-path", str(small_file), "--recipe", "seed", "--epochs", "1", "--artifacts", str(tmp_path / "a")]
    capsys.readouterr()
    assert run(["train", "--loss", "crf", *flags, "--json"]) == 0
    folder = Path(json.loads(capsys.readouterr().out)["folder"])
    record = json.loads((folder / "run.json").read_text())
    assert record["parameters"]["placement"]["host"] == ["ci"]
    assert str(tmp_path / "id_ed25519") not in (folder / "run.json").read_text()
    assert (folder / "remote.log").is_file()
    assert sorted(path.name for path in (tmp_path / "host" / ".jade").iterdir()) == ["code", "jobs", "runs"]
    assert not list((tmp_path / "host" / ".jade" / "runs").iterdir())
