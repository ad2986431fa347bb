"""What Prefect does to a flow that trains on a host: cancel stops it there, and the run after a crash picks it up."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from helpers.deployments import ENDED, Deployments
from helpers.processes import processes_in, wait_until
from helpers.servers import PrefectServer

from tasks.artifacts.backend import Records
from tasks.artifacts.leases import holders
from tasks.artifacts.local import LocalBackend
from tests.fakes.sshd import SSHD, Sshd

pytestmark = [pytest.mark.system, pytest.mark.skipif(SSHD is None, reason="no sshd here")]


class Site:
    """A host `ci` that the worker's flows know, and the deployment `compare/nightly` on it."""

    def __init__(self, folder: Path, sshd: Sshd, server: PrefectServer, data: Path) -> None:
        self.folder, self.up, self.data = folder, Deployments.of(server), data
        self.there, self.started = folder / "there", folder / "started"
        python = folder / "python"
        # A line for each training process that begins.
        python.write_text(
            f'#!/bin/sh\n[ "$1 $2" != "-m jade_model" ] || echo "$$" >> {self.started}\nexec {sys.executable} "$@"\n'
        )
        python.chmod(0o755)
        (folder / "config").mkdir()
        (folder / "config" / "jade.toml").write_text(
            f"""[hosts.ci]
host = "127.0.0.1"
port = {sshd.port}
user = "{sshd.user}"
key = "{sshd.user_key}"
fingerprint = "{sshd.fingerprint}"
folder = "{self.there}"
python = "{python}"
"""
        )

    def start(self, epochs: int) -> str:
        """Start the deployment; return the flow run's id."""
        deployment = self.up.find("compare/nightly")
        parameters = {
            "data": [str(self.data)],
            "arms": ["soft_span", "crf"],
            "epochs": epochs,
            "seeds": 1,
            "folds": 2,
            "placement": {"host": ["ci"], "workers": 1},
            "artifacts": str(self.folder / "artifacts"),
        }
        environment = {"JADE_CONFIG_DIR": str(self.folder / "config"), "JADE_STATE_DIR": str(self.folder / "state")}
        wanted = {"parameters": parameters, "job_variables": {"env": environment}, "idempotency_key": str(uuid4())}
        return str(self.up.ask("POST", f"deployments/{deployment['id']}/create_flow_run", wanted)["id"])

    def state(self, run: str) -> str:
        return str(self.up.run(run)["state_type"])

    def wait_for_training(self, run: str) -> None:
        """Return once the training process runs on the host."""

        def trains() -> bool:
            assert self.state(run) not in ENDED, self.up.told(run)
            return self.started.is_file()

        wait_until(trains, 400)

    def flow_process(self) -> int:
        """The process of the flow that goes on."""
        (holder,) = holders(Records(LocalBackend(self.folder / "artifacts")))
        assert holder.process_id is not None
        return holder.process_id

    def processes(self) -> list[int]:
        """What works in the host's folder."""
        return processes_in(self.there)


@pytest.fixture
def site(tmp_path: Path, sshd: Sshd, deployed: PrefectServer, small_file: Path) -> Iterator[Site]:
    site = Site(tmp_path, sshd, deployed, small_file)
    yield site
    for process in site.processes():
        os.kill(process, signal.SIGKILL)


def test_cancelling_in_the_ui_stops_the_processes_on_the_host(site: Site) -> None:
    run = site.start(epochs=9000)
    site.wait_for_training(run)
    assert site.processes()
    # What the UI's button sends.
    site.up.ask("POST", f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    wait_until(lambda: not site.processes(), 250, lambda: site.up.told(run))
    wait_until(lambda: site.state(run) == "CANCELLED", 200, lambda: site.up.told(run))
    (failed,) = (site.folder / "artifacts").glob("*/FAILED.json")
    assert json.loads((failed.parent / "run.json").read_text())["state"] == "failed"


def test_a_flow_that_is_killed_is_picked_up_by_the_next_run_which_does_not_train_again(site: Site) -> None:
    run = site.start(epochs=2)
    site.wait_for_training(run)
    os.kill(site.flow_process(), signal.SIGKILL)
    wait_until(lambda: site.state(run) == "CRASHED", 200, lambda: site.up.told(run))
    site.up.completed(site.start(epochs=2))
    assert len(site.started.read_text().splitlines()) == 1
    (finished,) = (path.parent for path in (site.folder / "artifacts").glob("*/comparison.json"))
    assert (finished / "remote.log").read_text().count('"job_started"') == 1
    # The job's supervisor says last that all has ended, and then ends itself.
    wait_until(lambda: site.processes() == [], 60)
