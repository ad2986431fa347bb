"""`prefect deployment run compare/nightly` on rented machines: RunPod's fake and moto, with real SSH servers."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from helpers.command_line import figures
from helpers.deployments import Deployments
from helpers.processes import command_lines_seen
from helpers.servers import ROOT, PrefectServer, kill_group, stop_group, wait_until

from tasks.layout import RunLayout
from tests.fakes.ec2_world import CREDENTIALS, SECRET_KEY, ec2_world
from tests.fakes.runpod_server import RunPodServer, running_runpod
from tests.fakes.sshd import SSHD
from tests.helpers.waiting_trainer import waiting_python

pytestmark = pytest.mark.skipif(SSHD is None, reason="no sshd here")

POOL = "rented"
AN_HOUR_S = 3600
QUICK: dict[str, Any] = {
    "arms": ["soft_span", "crf"],
    "recipe": "seed",
    "epochs": 2,
    "seeds": 1,
    "folds": 2,
    "workers": 1,
    "max_hours": 1,
}


@dataclass
class Provider:
    """A fake that lends, and what a run needs to rent of it.

    Attributes:
        name: For `host`.
        parameters: Of the flow.
        settings: Text of jade.toml.
        environment: Of the worker.
        secrets: That must be seen nowhere.
        costing: Tells how many machines of ours cost.
        is_tidy: Tells whether nothing of ours is left beside machines, and nothing of others was touched.
    """

    name: str
    parameters: dict[str, Any]
    settings: str
    environment: dict[str, str]
    secrets: set[str]
    costing: Callable[[], int]
    is_tidy: Callable[[], bool]


def of_runpod(server: RunPodServer) -> Provider:
    server.add_foreign("somebody-elses")
    return Provider(
        "runpod",
        {"gpu": ["L4"], "max_price": 0.5, "budget": 5, "accept_unreaped": True},
        "look_s = 0.1",
        {"RUNPOD_API_KEY": server.api_key, "JADE_RUNPOD_URL": server.url},
        {server.api_key},
        lambda: len(server.costing),
        lambda: (server.violations, server.touched_others, len(server.others)) == ([], [], 1),
    )


@contextmanager
def lent_by(name: str, folder: Path) -> Iterator[Provider]:
    """A provider whose machines lie in a folder."""
    if name == "runpod":
        with running_runpod(folder) as server:
            yield of_runpod(server)
        return
    with ec2_world(folder) as world:
        settings = f"""
region = "us-east-1"
endpoint_url = "{world.server.url}"
instance_types = ["g4dn.xlarge", "g5.xlarge"]
image = "ami-12345678"
user = "{world.provisioner._settings.user}"
ssh_port = {world.server.ssh_port}
admit = "127.0.0.1"
look_s = 0.2
"""
        yield Provider(
            "ec2",
            {"gpu": ["NVIDIA T4"]},
            settings,
            CREDENTIALS,
            {SECRET_KEY},
            world.costing,
            lambda: (world.groups(), world.key_pairs(), world.others_untouched()) == ([], [], True),
        )


@dataclass
class Site:
    """A worker of its own, whose flows rent.

    Attributes:
        folder: Of settings, state and artifacts.
        deployments: Of the server.
        provider: Of whom.
        env: Of the worker, and of commands beside it.
        data: To train on.
        worker: Its process.
        started: Flow runs.
    """

    folder: Path
    deployments: Deployments
    provider: Provider
    env: dict[str, str]
    data: Path
    worker: subprocess.Popen[bytes]
    started: list[str] = field(default_factory=list)

    def train_with(self, python: str | Path) -> None:
        """Let machines train with this program from now on."""
        (self.folder / "config").mkdir(exist_ok=True)
        settings = f'[{self.provider.name}]\npython = "{python}"\ndevice = "cpu"\n{self.provider.settings}\n'
        (self.folder / "config" / "jade.toml").write_text(settings)

    def start(self, **changes: Any) -> str:
        """Start `compare/nightly` on a rented machine; return the flow run's id."""
        parameters = {**QUICK, **self.provider.parameters, **changes}
        parameters |= {
            "host": self.provider.name,
            "data": [str(self.data)],
            "artifacts": str(self.folder / "artifacts"),
        }
        self.started.append(self.deployments.start("compare/nightly", {"parameters": parameters}))
        return self.started[-1]

    def wait_for_epochs(self, run: str) -> None:
        """Return once an epoch has been trained on a machine."""

        def trains() -> bool:
            assert self.deployments.run(run)["state_type"] not in {"COMPLETED", "FAILED"}, self.deployments.told(run)
            return any('"epoch"' in path.read_text() for path in self.folder.glob("artifacts/*/remote.log"))

        wait_until(trains, 200, lambda: self.deployments.told(run))

    def kill_flow(self, run: str) -> None:
        """SIGKILL all that runs for a flow run on this side; a machine's processes know nothing of it."""
        mine = [item for item in psutil.process_iter(["environ"]) if run in str(item.info["environ"])]
        assert mine
        for process in mine:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)

    def jade(self, *arguments: str, expect: int = 0) -> Any:
        """Run a command; return what it prints as JSON."""
        done = Deployments(self.deployments.port, self.env).jade(*arguments, "--json")
        assert done.returncode == expect, done.stderr
        return json.loads(done.stdout)

    def let_time_pass(self, seconds: float) -> None:
        """Move all that the ledger holds into the past."""
        with contextlib.closing(sqlite3.connect(self.folder / "state" / "ledger.db")) as ledger, ledger:
            ledger.execute(
                "UPDATE jade_rentals SET intended_at = intended_at - ?, seen_at = seen_at - ?", [seconds] * 2
            )

    def secrets(self) -> set[str]:
        """What is secret by now: the provider's keys, and a private line of each key that lies in the state folder."""
        files = [path for path in (self.folder / "state" / "rentals").glob("*/*") if path.is_file()]
        return self.provider.secrets | {path.read_text().splitlines()[3] for path in files}


@pytest.fixture
def site(
    request: pytest.FixtureRequest,
    prefect_server: PrefectServer,
    deployed: PrefectServer,
    small_file: Path,
    tmp_path: Path,
) -> Iterator[Site]:
    """`compare/nightly` in a work pool of its own, so that no other worker takes it."""
    deployments = Deployments(urlsplit(prefect_server.url).port or 0, prefect_server.env)
    with contextlib.suppress(AssertionError):
        deployments.ask("POST", "work_pools/", {"name": POOL, "type": "process"})
    with lent_by(request.param, tmp_path / "machines") as provider:
        env = {
            **prefect_server.env,
            "JADE_CONFIG_DIR": str(tmp_path / "config"),
            "JADE_STATE_DIR": str(tmp_path / "state"),
            **provider.environment,
        }
        deployments.change("compare/nightly", work_pool_name=POOL)
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL],
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        found = Site(tmp_path, deployments, provider, env, small_file, worker)
        found.train_with(sys.executable)
        try:
            yield found
            assert provider.costing() == 0
            assert provider.is_tidy()
        finally:
            stop_group(worker)
            deployments.change("compare/nightly", work_pool_name="jade")
            for run in found.started:
                # A run whose worker was killed holds its place until somebody says that it is over.
                if deployments.run(run)["state_type"] == "RUNNING":
                    deployments.ask("POST", f"flow_runs/{run}/set_state", {"state": {"type": "CRASHED"}, "force": True})


@pytest.mark.parametrize(
    "site",
    [pytest.param("runpod", marks=pytest.mark.system), pytest.param("ec2", marks=pytest.mark.slow_system)],
    indirect=True,
)
def test_a_night_on_a_rented_machine_gives_the_figures_of_a_local_one_leaves_nothing_and_shows_no_secret(
    site: Site, small_run: RunLayout
) -> None:
    with command_lines_seen() as lines:
        run = site.start()
        site.wait_for_epochs(run)
        secrets = site.secrets()
        assert len(secrets) >= 3
        site.deployments.completed(run)
    (found,) = site.folder.glob("artifacts/*/comparison.json")
    assert figures(json.loads(found.read_text())) == figures(json.loads(small_run.comparison_json.read_text()))
    assert site.provider.costing() == 0
    record = json.loads((found.parent / "run.json").read_text())
    (machine,) = record["rental"]["machines"]
    assert machine["state"] == "released"
    assert 0 < record["rental"]["cost_usd"] < machine["price_usd_per_hour"]
    artifacts = site.deployments.ask("POST", "artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})
    assert "rental" in {item["key"] for item in artifacts}
    assert site.jade("rented")["machines"] == []
    # What was written by whomever, Prefect's database and logs included; keys to log in are gone with the machine.
    places = [site.folder, Path(site.env["PREFECT_HOME"])]
    files = [path for place in places for path in place.rglob("*") if path.is_file() and "machines" not in path.parts]
    assert any(path.name.startswith("prefect.db") for path in files)
    for secret in secrets:
        assert not [path for path in files if secret.encode() in path.read_bytes()]
        assert not [line for line in lines if secret in line]
    assert any("jade_model" in line for line in lines), "the machine's own processes were not looked at"


@pytest.mark.slow_system  # in CI, test_rental_kills.py kills at every step that a rental takes
@pytest.mark.parametrize("site", ["runpod"], indirect=True)
def test_a_flow_that_is_killed_is_cleaned_up_by_its_worker_and_one_killed_with_it_by_the_reaper(site: Site) -> None:
    site.train_with(waiting_python(site.folder / "waiting-python", unit_s=24.0))
    first = site.start(fresh=True)
    site.wait_for_epochs(first)
    site.kill_flow(first)
    wait_until(lambda: site.provider.costing() == 0, 100, lambda: site.deployments.told(first))
    assert site.deployments.wait(first)["state_type"] == "CRASHED"
    for log in site.folder.glob("artifacts/*/remote.log"):
        log.unlink()
    second = site.start(fresh=True)
    site.wait_for_epochs(second)
    kill_group(site.worker)
    site.kill_flow(second)
    # For a quarter of an hour the same command may still attach to it.
    assert [item["deed"] for item in site.jade("reap")] == ["left"]
    assert site.provider.costing() == 1
    site.let_time_pass(AN_HOUR_S / 3)
    assert [item["deed"] for item in site.jade("reap", "--dry-run")] == ["freed"]
    assert site.provider.costing() == 1
    (freed,) = site.jade("reap")
    assert freed["deed"] == "freed"
    assert freed["why"].startswith("nobody has controlled it for 2")
    assert site.provider.costing() == 0
    assert site.jade("rented")["machines"] == []
