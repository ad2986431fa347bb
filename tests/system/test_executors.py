"""The contract of executors over each of them: processes, one host, three hosts, a rented machine, a Dask cluster."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client

from jade_model.core.job import Job
from tasks.core.layout import RunLayout
from tasks.execution.base import Event, Executor, pending_trainings
from tasks.execution.fleet import FleetExecutor
from tasks.execution.lanes import HostLane
from tasks.execution.opening import open_executor
from tasks.execution.placement import Placement, Where
from tasks.execution.queue import QueueRules
from tasks.execution.rented_lanes import RentedLane
from tasks.hosts.errors import HostUnreachable
from tasks.hosts.host import CommandResult, RemotePlace
from tasks.provisioning.ledger import Ledger, Purpose
from tests.contracts.executor import ExecutorContract, LosingContract, Trained, World
from tests.fakes.local_host import LocalHost
from tests.fakes.machines import LocalMachines, lent_machines
from tests.fakes.sshd import SSHD
from tests.helpers.dask_cluster import dask_cluster, in_a_flow
from tests.helpers.processes import processes_with
from tests.helpers.rentals import provider_of, renter_of
from tests.helpers.servers import ROOT, PrefectServer
from tests.helpers.waiting_trainer import waiting_python

pytestmark = pytest.mark.system
UNIT_S = 1.2


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("JADE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("tasks.execution.remote.POLL_S", 0.1)
    monkeypatch.setattr("tasks.execution.remote.MIRROR_EVERY_S", 0.0)
    yield
    for process in waiting_below(tmp_path):  # left alone on purpose by a run that may not go on
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


class TestLocalProcesses(ExecutorContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return LocalWorld(tmp_path, is_remote=False, outlives_controller=False)


class LocalWorld(World):
    def executor(self, layout: RunLayout, job: Job) -> contextlib.AbstractContextManager[Executor]:
        return open_executor(Placement(workers=2), layout.root, job)

    def running(self) -> list[int]:
        return processes_with("jade_model", "train", str(self.folder))


class MortalHost(LocalHost):
    """This machine in a folder, which may be lost."""

    is_gone = False

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        if self.is_gone:
            raise HostUnreachable(self.name, 0.0, 1, "gone")
        return super().run(command, timeout_s=timeout_s, stdin=stdin, check=check)


class HostsWorld(World):
    """Folders of this machine as hosts, whose trainings wait instead of computing."""

    names: tuple[str, ...] = ("ci",)

    def executor(self, layout: RunLayout, job: Job) -> contextlib.AbstractContextManager[Executor]:
        python = waiting_python(self.folder / "python", UNIT_S)
        place = RemotePlace("jade", str(python), 600, workers=1)
        self.hosts = [MortalHost(self.folder / name, name=name) for name in self.names]
        lanes = [HostLane(host.name, lambda host=host: host, place) for host in self.hosts]
        rules = QueueRules(batch_s=math.inf if len(lanes) == 1 else 60.0, pause_s=0.1)
        return opened(FleetExecutor(layout.root, job, lanes, rules=rules, note=self.notes.append))

    def running(self) -> list[int]:
        return waiting_below(self.folder)

    def lose_one(self) -> None:
        self.hosts[0].is_gone = True


def waiting_below(folder: Path) -> list[int]:
    """Return the processes that stand in for trainings, on hosts that are folders below this one."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        line, where = process.info["cmdline"] or [], process.info["cwd"] or ""
        if any("cheap_trainer" in word for word in line) and where.startswith(str(folder)):
            found.append(process.pid)
    return found


@contextlib.contextmanager
def opened(executor: Executor) -> Iterator[Executor]:
    try:
        yield executor
    finally:
        executor.stop()


class TestOneHost(ExecutorContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return HostsWorld(tmp_path)


class TestThreeHosts(ExecutorContract, LosingContract):
    @pytest.fixture
    def world(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
        monkeypatch.setattr("tasks.execution.remote.SILENT_S", 1.0)
        monkeypatch.setattr("tasks.execution.remote.PATIENCE_S", 3.0)
        world = HostsWorld(tmp_path)
        world.names = ("x", "y", "z")
        return world


@pytest.mark.skipif(SSHD is None, reason="no sshd here")
class TestRentedMachine(ExecutorContract, LosingContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        with lent_machines(tmp_path / "provider") as machines:
            world = RentedWorld(tmp_path)
            world.machines = machines
            yield world
            assert machines.all() == []


class RentedWorld(World):
    """A machine of a provider on this machine, with an SSH server of its own."""

    machines: LocalMachines

    @contextlib.contextmanager
    def executor(self, layout: RunLayout, job: Job) -> Iterator[Executor]:
        python = waiting_python(self.folder / "python", UNIT_S)
        ledger = Ledger(f"sqlite:///{self.folder / 'ledger.db'}")
        with contextlib.closing(ledger):
            lender = provider_of(self.machines, python=str(python))
            renter = renter_of(ledger, self.machines, self.folder, self.notes, lender=lender)
            renter.purpose = Purpose(layout.root.name, "", tuple(pending_trainings(job.trainings, layout.root)))
            lane = RentedLane("fake-1", renter, layout.root, Where(workers=1))
            rules = QueueRules(batch_s=math.inf, pause_s=0.1)
            with opened(FleetExecutor(layout.root, job, [lane], rules=rules, note=self.notes.append)) as executor:
                yield executor

    def running(self) -> list[int]:
        return waiting_below(self.folder)

    def lose_one(self) -> None:
        (machine,) = self.machines.all()
        self.machines.take_away(machine.instance_id)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, prefect_server: PrefectServer) -> Iterator[str]:
    with dask_cluster(tmp_path_factory.mktemp("dask"), prefect_server.env) as (address, _):
        yield address


class TestDask(ExecutorContract):
    @pytest.fixture
    def world(self, tmp_path: Path, prefect_server: PrefectServer, cluster: str) -> World:
        world = DaskWorld(tmp_path, outlives_controller=False)
        world.address, world.api_url = cluster, prefect_server.env["PREFECT_API_URL"]
        return world


class DaskWorld(World):
    """A scheduler with two workers."""

    address: str
    api_url: str

    def executor(self, layout: RunLayout, job: Job) -> contextlib.AbstractContextManager[Executor]:
        return open_executor(Placement(host=(self.address,)), layout.root, job)

    def train(
        self, layout: RunLayout, job: Job, heard: Callable[[Event, Executor], object] = lambda *_: None
    ) -> Trained:
        return in_a_flow(self.api_url, lambda: super(DaskWorld, self).train(layout, job, heard))

    def killed_at(self, kind: str, layout: RunLayout, job: Job) -> None:
        program = KILLED.format(
            root=str(layout.root), folder=str(self.folder), address=self.address, api_url=self.api_url, kind=kind
        )
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, timeout=300, check=False
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()

    def running(self) -> list[str]:  # type: ignore[override]
        with Client(self.address) as client:
            return [key for keys in client.processing().values() for key in keys]


KILLED = """
from pathlib import Path
from jade_model.core.job import load_job
from tasks.core.layout import RunLayout
from tests.system.test_executors import DaskWorld, kill_here

layout = RunLayout(Path({root!r}))
world = DaskWorld(Path({folder!r}))
world.address, world.api_url = {address!r}, {api_url!r}
world.train(layout, load_job(layout.job_json), lambda event, _: event.kind == {kind!r} and kill_here())
"""


def kill_here() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
