"""A worker of its own whose `compare/nightly` rents machines of a fake provider, with real SSH servers."""

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

import psutil

from tests.fakes.ec2_world import CREDENTIALS, SECRET_KEY, ec2_world
from tests.fakes.runpod_server import RunPodServer, running_runpod
from tests.helpers.deployments import Deployments
from tests.helpers.processes import wait_until
from tests.helpers.servers import ROOT, PrefectServer, kill_group, stop_group

NIGHTLY = "compare/nightly"
POOL = "rented"
QUICK: dict[str, Any] = {
    "arms": ["soft_span", "crf"],
    "recipe": "seed",
    "epochs": 2,
    "seeds": 1,
    "folds": 2,
}


@dataclass
class Provider:
    """A fake that lends, and what a run needs to rent of it.

    Attributes:
        name: For `host`.
        rental: What the flow may rent.
        settings: Text of jade.toml.
        environment: Of the worker.
        secrets: That must be seen nowhere.
        costing: Tells how many machines of ours cost.
        is_tidy: Tells whether nothing of ours is left beside machines, and nothing of others was touched.
    """

    name: str
    rental: dict[str, Any]
    settings: str
    environment: dict[str, str]
    secrets: set[str]
    costing: Callable[[], int]
    is_tidy: Callable[[], bool]


def of_runpod(server: RunPodServer) -> Provider:
    """A provider with somebody else's pod beside ours."""
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
            lambda: (world.groups(), world.others_untouched()) == ([], True),
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
        started: Flow runs.
    """

    folder: Path
    deployments: Deployments
    provider: Provider
    env: dict[str, str]
    data: Path
    started: list[str] = field(default_factory=list)
    _worker: subprocess.Popen[bytes] | None = None

    def start_worker(self) -> None:
        """Start a worker; one that was started before is over."""
        with (self.folder / "worker.log").open("ab") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL],
                cwd=ROOT,
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop_worker(self) -> None:
        """End the worker and all that runs for it."""
        if self._worker is not None:
            stop_group(self._worker)

    def train_with(self, python: str | Path) -> None:
        """Let machines train with this program from now on."""
        (self.folder / "config").mkdir(exist_ok=True)
        settings = f'[{self.provider.name}]\npython = "{python}"\ndevice = "cpu"\n{self.provider.settings}\n'
        (self.folder / "config" / "jade.toml").write_text(settings)

    def start(self, **changes: Any) -> str:
        """Start `compare/nightly` on a rented machine; return the flow run's id."""
        parameters = {
            **QUICK,
            "rental": {"max_hours": 1, **self.provider.rental},
            "placement": {"host": [self.provider.name], "workers": 1},
            "data": [str(self.data)],
            "artifacts": str(self.folder / "artifacts"),
            **changes,
        }
        self.started.append(self.deployments.start(NIGHTLY, parameters))
        return self.started[-1]

    def wait_for_epochs(self, run: str) -> None:
        """Return once an epoch has been trained on a machine."""

        def trains() -> bool:
            assert self.deployments.run(run)["state_type"] not in {"COMPLETED", "FAILED"}, self.deployments.told(run)
            return any('"epoch"' in path.read_text() for path in self.folder.glob("artifacts/*/remote.log"))

        wait_until(trains, 200, lambda: self.deployments.told(run))

    def kill_worker(self) -> None:
        """SIGKILL the worker, but not the flows that it started."""
        assert self._worker is not None
        kill_group(self._worker)

    def kill_flow(self, run: str) -> None:
        """SIGKILL all that runs for a flow run on this side; a machine's processes know nothing of it."""
        mine = processes_for(run)
        assert mine
        for process in mine:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)

    def declare_over(self, run: str) -> None:
        """Say that a run whose worker was killed is over: until then it holds its place."""
        if self.deployments.run(run)["state_type"] == "RUNNING":
            # Not as crashed: that would start a reaper.
            self.deployments.ask("POST", f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLED"}, "force": True})

    def jade(self, *arguments: str, expect: int = 0) -> Any:
        """Run a command; return what it prints as JSON."""
        done = Deployments(self.deployments.port, self.env).jade(*arguments, "--json")
        assert done.returncode == expect, done.stderr
        return json.loads(done.stdout)

    def let_time_pass(self, seconds: float) -> None:
        """Move what the ledger holds of machines that may cost into the past."""
        with contextlib.closing(sqlite3.connect(self.folder / "state" / "ledger.db")) as ledger, ledger:
            ledger.execute(
                "UPDATE jade_rentals SET intended_at = intended_at - ?, seen_at = seen_at - ? WHERE ended_at IS NULL",
                [seconds] * 2,
            )

    def secrets(self) -> set[str]:
        """What is secret by now: the provider's keys, and a private line of each key that lies in the state folder."""
        files = [path for path in (self.folder / "state" / "rentals").glob("*/*") if path.is_file()]
        return self.provider.secrets | {path.read_text().splitlines()[3] for path in files}


@contextmanager
def rented_site(
    server: PrefectServer, provider: Provider, data: Path, folder: Path, **environment: str
) -> Iterator[Site]:
    """`compare/nightly` in a work pool of its own, so that no other worker takes it; in the end nothing may be left.

    Args:
        server: To which `prefect.yaml` was deployed.
        provider: Of whom it rents.
        data: To train on.
        folder: An empty one.
        environment: Further variables of the worker.
    """
    deployments = Deployments.of(server)
    with contextlib.suppress(AssertionError):
        deployments.ask("POST", "work_pools/", {"name": POOL, "type": "process"})
    env = {
        **server.env,
        "JADE_CONFIG_DIR": str(folder / "config"),
        "JADE_STATE_DIR": str(folder / "state"),
        **provider.environment,
        **environment,
    }
    deployments.change(NIGHTLY, work_pool_name=POOL)
    site = Site(folder, deployments, provider, env, data)
    site.train_with(sys.executable)
    try:
        site.start_worker()
        yield site
        assert provider.costing() == 0
        assert provider.is_tidy()
    finally:
        site.stop_worker()
        deployments.change(NIGHTLY, work_pool_name="jade")
        for run in site.started:
            site.declare_over(run)


def processes_for(*texts: str) -> list[psutil.Process]:
    """Return the living processes in whose environment or command line one of the texts stands."""
    return [
        item
        for item in psutil.process_iter(["environ", "cmdline", "status"])
        if item.info["status"] != psutil.STATUS_ZOMBIE
        and any(text in f"{item.info['environ']} {item.info['cmdline']}" for text in texts)
    ]
