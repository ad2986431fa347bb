"""`jade compare --host ci` over a real OpenSSH server, as a person runs it, and as things go wrong.

All runs share a Prefect server; starting one of its own, as a person's would, costs more than all else in most of them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import CommandLine, figures
from helpers.processes import heed_interrupts, processes_in, wait_until
from helpers.servers import ROOT, PrefectServer, kill_group, serving

from tests.fakes.s3_server import s3_client, s3_endpoint
from tests.fakes.sshd import SSHD, Sshd
from tests.helpers.waiting_trainer import watched_python

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(SSHD is None, reason="no sshd here; test_remote_runs.py has the in-process server"),
    pytest.mark.xdist_group("compare over ssh"),
]

EXTENDING = ROOT / "docs" / "extending.md"
QUICK = ["--epochs", "2", "--folds", "2"]
# Each training has a checkpoint, after its tenth epoch.
MEDIUM_EPOCHS = 12
MEDIUM = ["--epochs", str(MEDIUM_EPOCHS), "--recipe", "seed", "--folds", "2", "--arms", "soft_span,crf"]
ENDLESS = ["--epochs", "9000", "--folds", "2", "--arms", "soft_span,crf"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[PrefectServer]:
    with serving(tmp_path_factory.mktemp("prefect"), database) as found:
        yield found


class Place:
    """A home, artifacts and a host called `ci` whose files lie in a folder of the test's."""

    def __init__(self, folder: Path, sshd: Sshd, data: Path, server: PrefectServer, database: Path) -> None:
        self.folder, self.data = folder, data
        self.there = folder / "there"
        self.jade = CommandLine(folder, database, JADE_CACHE_DIR=str(folder / "cache"), PREFECT_API_URL=server.url)
        self.env = self.jade.env
        where = ["--host", "127.0.0.1", "--port", str(sshd.port), "--user", sshd.user, "--key", str(sshd.user_key)]
        self.python = folder / "python"
        self.python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        self.python.chmod(0o755)
        trust = ["--fingerprint", sshd.fingerprint, "--folder", str(self.there), "--python", str(self.python)]
        self.jade("hosts", "add", "ci", *where, *trust)

    def compare(self, artifacts: str, *flags: str) -> list[str]:
        kept = artifacts if "://" in artifacts else str(self.folder / artifacts)
        return ["compare", "--data", str(self.data), "--artifacts", kept, "--workers", "1", "--json", *flags]

    @contextmanager
    def comparing(self, artifacts: str, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
        """A comparison that has trained at least one epoch on the host."""
        with (self.folder / "log").open("wb") as log:
            running = subprocess.Popen(
                [*self.jade.program, *self.compare(artifacts, *flags)],
                cwd=ROOT,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=heed_interrupts,  # noqa: PLW1509 - no thread holds a lock that it needs
            )
            try:
                wait_until(lambda: self.has_trained(artifacts) or running.poll() is not None, 400, self.said)
                assert running.poll() is None, self.said()
                yield running
            finally:
                kill_group(running)

    def has_trained(self, artifacts: str) -> bool:
        return any('"epoch"' in path.read_text() for path in (self.folder / artifacts).glob("*/remote.log"))

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def processes(self) -> list[int]:
        """What works in the host's folder."""
        return processes_in(self.there)

    def result(self, artifacts: str) -> dict[str, Any]:
        """The newest finished comparison."""
        path = max((self.folder / artifacts).glob("*/comparison.json"))
        content: dict[str, Any] = json.loads(path.read_text())
        return content


@contextmanager
def bucket_for(place: Place) -> Iterator[str]:
    """A bucket at an S3 endpoint over HTTP, and the settings and credentials that lead to it."""
    client = s3_client()
    name = f"bucket-{place.folder.name.replace('_', '-')}"[:60].rstrip("-").lower()
    client.create_bucket(Bucket=name)
    place.env |= {
        "JADE_S3_ENDPOINT_URL": s3_endpoint(),
        "JADE_S3_REGION": "us-east-1",
        "JADE_CACHE_DIR": str(place.folder / "cache"),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    yield f"s3://{name}/runs"


@pytest.fixture
def place(tmp_path: Path, sshd: Sshd, small_file: Path, server: PrefectServer, database: Path) -> Iterator[Place]:
    place = Place(tmp_path, sshd, small_file, server, database)
    yield place
    for process in place.processes():
        os.kill(process, signal.SIGKILL)


def attempts(place: Place) -> int:
    return len(list((place.there / "jobs").glob("*/attempt-*")))


def test_a_comparison_on_a_host_kept_in_a_bucket_gives_the_figures_of_a_local_one(place: Place) -> None:
    own = place.folder / "my_arms.py"
    (block,) = re.findall(r"^```python\n(.*?)^```", EXTENDING.read_text(), re.MULTILINE | re.DOTALL)
    own.write_text(block)
    flags = [*QUICK, "--arm-module", str(own)]
    place.jade(*place.compare("local", *flags))
    with bucket_for(place) as bucket:
        remote = json.loads(place.jade(*place.compare(bucket, *flags, "--host", "ci")).stdout)
        there = json.loads((Path(remote["folder"]) / "comparison.json").read_text())
        assert len(there["arms"]) == 4, "with the arm of one's own, which travels"
        assert figures(place.result("local")) == figures(there)
        # Another machine with the same bucket.
        place.env["JADE_CACHE_DIR"] = str(place.folder / "another")
        run = f"{bucket}/{remote['run_id']}"
        assert json.loads(place.jade("artifacts", "verify", run, "--json").stdout)["is_whole"]
        written = Path(json.loads(place.jade("report", run, "--json").stdout)["html"])
        assert written.is_relative_to(place.folder / "another")
        (kept,) = json.loads(place.jade("artifacts", "list", "--artifacts", bucket, "--json").stdout)
        assert (kept["run_id"], kept["state"], kept["pointers"]) == (remote["run_id"], "complete", ["latest"])
    wait_until(lambda: place.processes() == [], 60, place.said)
    assert [path.name for path in place.there.iterdir() if any(path.iterdir())] == ["code"]
    assert not list((place.folder / "state" / "runs").iterdir())


def test_cut_connections_and_a_killed_flow_cost_nothing_and_the_same_command_attaches_and_finishes(
    place: Place, sshd: Sshd
) -> None:
    watched_python(place.python, place.folder)
    (place.folder / "wait").touch()
    with place.comparing("a", *MEDIUM, "--host", "ci") as running:
        for _ in range(3):
            victims = frozenset(sshd.connections())
            assert sshd.cut() > 0
            wait_until(lambda gone=victims: bool(set(sshd.connections()) - gone), 200, place.said)
        assert running.poll() is None, place.said()
        assert attempts(place) == 1
        (shown,) = json.loads(place.jade("runs", "--json").stdout)
        assert (shown["host"], shown["state"]) == ("ci", "running")
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert attempts(place) == 1
    with place.comparing("a", *MEDIUM, "--host", "ci") as again:
        wait_until(lambda: "attached to the job" in place.said(), 200, place.said)
        (place.folder / "wait").unlink()
        assert again.wait(400) == 0, place.said()
    (finished,) = (path.parent for path in (place.folder / "a").glob("*/comparison.json"))
    assert shown["run_id"] != finished.name
    log = (finished / "remote.log").read_text()
    assert log.count('"job_started"') == 1
    events = [json.loads(line) for line in log.splitlines()]
    told = [(event["arm"], event["fold"], event["epoch"]) for event in events if event["event"] == "epoch"]
    assert len(told) == len(set(told)) == 2 * 2 * MEDIUM_EPOCHS
    wait_until(lambda: place.processes() == [], 60, place.said)
    assert json.loads(place.jade("runs", "--all", "--json").stdout) == []


def test_an_interrupted_comparison_leaves_no_process_and_says_so(place: Place) -> None:
    with place.comparing("a", *ENDLESS, "--host", "ci") as running:
        assert place.processes()
        running.send_signal(signal.SIGINT)
        assert running.wait(300) != 0
    wait_until(lambda: not place.processes(), 60, lambda: str(place.processes()))
    assert "stopped; nothing of" in place.said()
    assert list((place.folder / "a").glob("*/FAILED.json"))


def test_a_run_that_is_stopped_from_elsewhere_is_cancelled_with_the_reason(place: Place, server: PrefectServer) -> None:
    with place.comparing("a", *ENDLESS, "--host", "ci") as running:
        (run,) = (place.folder / "a").glob("*/run.json")
        stopped = json.loads(place.jade("runs", "stop", run.parent.name, "--json").stdout)
        assert stopped["state"] == "stopped"
        # The job's supervisor says last that all has ended, and then ends itself.
        wait_until(lambda: place.processes() == [], 60, place.said)
        assert running.wait(300) == 1
    assert "was stopped on request" in place.said()
    assert "Traceback" not in place.said()
    run, *_ = server.read("flow_runs", sort="START_TIME_DESC")
    assert run["state_type"] == "CANCELLED"
    assert "on ci was stopped on request); what it had rented" in str(run["state"])
    tasks = server.read("task_runs", flow_runs={"id": {"any_": [run["id"]]}})
    assert {str(task["state_type"]) for task in tasks} == {"COMPLETED", "CANCELLED"}
