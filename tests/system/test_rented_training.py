"""A training on a rented pod whose command is killed, and whose pod is then lost: attached to, and gone on with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.homes import clean_environment
from helpers.servers import ROOT, kill_group

from tasks.provisioning.entries import LeaseState
from tasks.provisioning.ledger import Ledger
from tests.fakes.runpod_server import RunPodServer, running_runpod
from tests.fakes.sshd import SSHD
from tests.helpers.processes import heed_interrupts, wait_until

pytestmark = [pytest.mark.slow_system, pytest.mark.skipif(SSHD is None, reason="no sshd here")]

JADE = [sys.executable, "-m", "flows.cli"]
SETTINGS = f"""
[runpod]
python = "{sys.executable}"
device = "cpu"
look_s = 0.1
"""


@pytest.fixture
def runpod(tmp_path: Path) -> Iterator[RunPodServer]:
    with running_runpod(tmp_path / "pods") as server:
        server.add_foreign("somebody-elses")
        yield server
        assert server.violations == []
        assert server.touched_others == []
        assert server.costing == []


class Command:
    """`jade train` on a pod, again and again the same, each time as a process of its own."""

    def __init__(self, folder: Path, data: Path, **variables: str) -> None:
        (folder / "config").mkdir()
        (folder / "config" / "jade.toml").write_text(SETTINGS)
        places = {"JADE_CONFIG_DIR": str(folder / "config"), "JADE_STATE_DIR": str(folder / "state")}
        self.env = clean_environment(folder / "home", **places, **variables)
        self.folder, self.artifacts = folder, folder / "artifacts"
        self.arguments = ["train", "--loss", "crf", "--recipe", "seed", "--epochs", "9000", "--data-path", str(data)]
        self.arguments += ["--artifacts", str(self.artifacts), "--host", "runpod", "--gpu", "L4", "--accept-unreaped"]
        self.number = 0

    def start(self) -> subprocess.Popen[bytes]:
        self.number += 1
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [*JADE, *self.arguments],
                cwd=ROOT,
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=heed_interrupts,  # noqa: PLW1509 - no thread holds a lock that it needs
            )

    @property
    def log(self) -> Path:
        """What the latest one has said."""
        return self.folder / f"said-{self.number}"

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What the latest one's job has told."""
        logs = sorted(self.artifacts.glob("*/remote.log"))
        if len(logs) < self.number:
            return []
        events = [json.loads(line) for line in logs[-1].read_text().splitlines() if line.startswith("{")]
        return [event for event in events if event["event"] == kind]

    def wait_for(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.events(kind)) >= count, 200, self.log.read_text)
        return self.events(kind)


def test_a_killed_command_attaches_again_goes_on_elsewhere_when_its_pod_is_lost_and_leaves_nothing_when_interrupted(
    runpod: RunPodServer, small_file: Path, tmp_path: Path
) -> None:
    command = Command(tmp_path, small_file, RUNPOD_API_KEY=runpod.api_key, JADE_RUNPOD_URL=runpod.url)
    killed = command.start()
    command.wait_for("checkpoint")
    kill_group(killed)
    (pod,) = runpod.costing
    again = command.start()
    try:
        command.wait_for("checkpoint", 2)
        said = command.log.read_text()
        assert f"attached to machine {pod.id}" in said
        assert "attached to the job that does these trainings already" in said
        assert (runpod.costing, runpod.count("POST")) == ([pod], 1)
        assert pod.machine is not None
        pod.machine.end()
        pod.status = "EXITED"
        _, resumed = command.wait_for("training_started", 2)
        assert resumed["first_epoch"] > 1
        assert "Another machine goes on from the last checkpoint" in command.log.read_text()
        (other,) = runpod.costing
        assert other is not pod
        again.send_signal(signal.SIGINT)
        assert again.wait(60) == 1
    finally:
        kill_group(again)
    assert "is freed" in command.log.read_text()
    ledger = Ledger(f"sqlite:///{tmp_path / 'state' / 'ledger.db'}")
    assert [entry.state for entry in ledger.entries()] == [LeaseState.TERMINATED] * 2
    ledger.close()
