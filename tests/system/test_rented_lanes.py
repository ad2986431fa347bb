"""Trainings shared out over machines that are rented for them: RunPod's fake, each pod a real SSH server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from helpers.processes import wait_until
from helpers.servers import ROOT

from jade_model.core.job import Job
from jade_model.core.training_files import files_of, is_done
from jade_model.data.sample import sample_windows
from tasks.core.layout import RunLayout
from tasks.execution.opening import open_executor
from tasks.execution.placement import Placement
from tasks.experiments.plan import Plan, write_job
from tasks.provisioning.ledger import Ledger
from tasks.provisioning.offers import RentalRequest
from tasks.provisioning.reaper import Reaper
from tasks.provisioning.registry import open_registry
from tasks.provisioning.rental_record import read_rental
from tests.fakes.runpod_server import RunPodServer, running_runpod
from tests.fakes.sshd import SSHD
from tests.helpers.waiting_trainer import waiting_python

pytestmark = [pytest.mark.system, pytest.mark.skipif(SSHD is None, reason="no sshd here")]

REQUEST = RentalRequest(gpu=("L4",), max_price=0.5, max_hours=1.0, budget=5.0, accept_unreaped=True)
TWO = Placement(host=("runpod:2",), workers=1, rental=REQUEST)
NUM_UNITS = 12


@pytest.fixture
def runpod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunPodServer]:
    # Long enough that a lost pod is missed before the other one has done its work, too.
    python = waiting_python(tmp_path / "waiting-python", unit_s=2.0)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jade.toml").write_text(f'[runpod]\npython = "{python}"\ndevice = "cpu"\nconnect_s = 1.0\n')
    with running_runpod(tmp_path / "pods") as server:
        server.add_foreign("somebody-elses")
        monkeypatch.setenv("JADE_CONFIG_DIR", str(tmp_path / "config"))
        monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
        monkeypatch.setenv("RUNPOD_API_KEY", server.api_key)
        monkeypatch.setenv("JADE_RUNPOD_URL", server.url)
        # How long a silence is waited out, shortened as the units are.
        monkeypatch.setattr("tasks.execution.remote.SILENT_S", 2.0)
        yield server
        assert (server.violations, server.touched_others) == ([], [])


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "run").mkdir()
    plan = Plan({"a": "jade_soft_span"}, 1, seeds=4, folds=3, split="grouped", ensemble=1)
    return write_job(RunLayout(tmp_path / "run"), [sample_windows(num_bases=12)], plan)


def ours(server: RunPodServer) -> list[str]:
    return [pod.id for pod in server.costing if not pod.is_foreign]


def test_a_pod_that_is_lost_is_replaced_all_is_done_and_nothing_is_left(
    runpod: RunPodServer, job: Job, tmp_path: Path
) -> None:
    run, outcomes, lost = tmp_path / "run", [], ""
    with open_executor(TWO, run, job) as executor:
        for event in executor.run(job.trainings):
            if event.kind not in {"done", "failed"}:
                continue
            outcomes.append(event)
            if len(outcomes) == 2:
                lost = ours(runpod)[0]
                machine = runpod.pod(lost).machine
                assert machine is not None
                # As a pod that its owner needs back: everything there dies, and the service says so.
                runpod.pod(lost).status = "EXITED"
                machine.end()
        # Kept for the next round of a sweep.
        assert ours(runpod)
    assert all(item.kind == "done" for item in outcomes), outcomes
    assert len(outcomes) == len({item.run_key for item in outcomes}) == NUM_UNITS
    assert all(is_done(item, files_of(item, run)) for item in job.trainings)
    assert ours(runpod) == []
    rental = read_rental(run)
    assert rental is not None
    assert len(rental["machines"]) == 3
    assert rental["limits"]["machines_at_once"] == 2
    assert 0 < rental["cost_usd"] < 3 * 0.39
    assert {machine["state"] for machine in rental["machines"]} == {"terminated"}


def test_a_sweep_that_is_interrupted_frees_its_pods(runpod: RunPodServer, job: Job, tmp_path: Path) -> None:
    def interrupted() -> None:
        with open_executor(TWO, tmp_path / "run", job) as executor:
            for event in executor.run(job.trainings):
                if event.kind == "done":
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert runpod.count("POST") == 2
    assert ours(runpod) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from jade_model.core.job import load_job
from tasks.execution.opening import open_executor
from tests.system.test_rented_lanes import TWO

folder = Path(sys.argv[1])
job = load_job(folder / "job.json")
with open_executor(TWO, folder, job) as executor:
    for number, _ in enumerate(event for event in executor.run(job.trainings) if event.kind == "done"):
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_after_two(folder: Path) -> None:
    """Be a command that is killed once it has two results."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()


def test_after_a_sigkill_the_reaper_frees_all_pods(runpod: RunPodServer, job: Job, tmp_path: Path) -> None:
    kill_after_two(tmp_path / "run")
    assert ours(runpod)
    with closing(open_registry()) as registry:
        there, _ = registry.provisioners()
        later = Ledger(f"sqlite:///{tmp_path / 'state' / 'ledger.db'}", clock=lambda: registry.ledger.now() + 3600)
        reaper = Reaper(later, {"runpod": there["runpod"]}, registry.keys_folder, later.owner)
        reaper.reap()
        later.close()
    wait_until(lambda: not ours(runpod), 60)


def test_the_same_run_again_attaches_to_its_pods_and_goes_on_with_what_trains_there(
    runpod: RunPodServer, job: Job, tmp_path: Path
) -> None:
    kill_after_two(tmp_path / "run")
    pods = ours(runpod)
    with open_executor(TWO, tmp_path / "run", job) as executor:
        outcomes = [event for event in executor.run(job.trainings) if event.kind in {"done", "failed"}]
    assert all(item.kind == "done" for item in outcomes), outcomes
    assert len(outcomes) == NUM_UNITS
    assert len(pods) == runpod.count("POST") == 2
    assert ours(runpod) == []
