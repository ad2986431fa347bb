"""Pods with a real sshd: what our start command does in them, from the first connection to the end."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from pydantic import SecretStr

from tasks.hosts.connection import SshAccess
from tasks.hosts.errors import HostKeyMismatch
from tasks.hosts.keys import HostTrust
from tasks.hosts.provisioner import MachineRequest, MachineState
from tasks.hosts.runpod import RunPodProvisioner, RunPodSettings
from tasks.hosts.runpod_api import RunPodAccess
from tasks.hosts.ssh import SshHost
from tests.fakes.provisioner_contract import new_request
from tests.fakes.rented_machine import RentedMachine
from tests.fakes.runpod_server import FakePod, RunPodServer, running_runpod
from tests.fakes.runpod_world import QUICK
from tests.fakes.ssh_server import write_private_key

pytestmark = pytest.mark.system


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunPodServer]:
    with running_runpod(tmp_path / "pods") as server:
        yield server
        assert server.violations == []


@pytest.fixture
def provisioner(server: RunPodServer) -> RunPodProvisioner:
    access = RunPodAccess(SecretStr(server.api_key), server.url, QUICK)
    return RunPodProvisioner(access, RunPodSettings(look_s=0.02))


class Rented:
    """A pod and how to get into it, from one request."""

    def __init__(
        self, server: RunPodServer, provisioner: RunPodProvisioner, folder: Path, *, max_age_s: float = 3600
    ) -> None:
        folder.mkdir()
        self.key_file = folder / "id_ed25519"
        key = write_private_key(self.key_file)
        (offer,) = (offer for offer in provisioner.offers() if offer.kind == "NVIDIA L4")
        self.request = new_request(offer, public_key=f"{key.get_name()} {key.get_base64()} ours", max_age_s=max_age_s)
        self.provisioner = provisioner
        self.machine_id = provisioner.acquire(self.request).machine_id
        self.pod: FakePod = server.pod(self.machine_id)

    @property
    def computer(self) -> RentedMachine:
        assert self.pod.machine is not None
        return self.pod.machine

    def host(self, *pins: str, connect_timeout_s: float = 15.0) -> SshHost:
        while (address := self.provisioner.find(self.machine_id).address) is None:
            time.sleep(0.02)
        trust = HostTrust(pins=pins or (_fingerprint(self.request),))
        access = SshAccess(address, trust, key_file=self.key_file, use_agent=False, connect_timeout_s=connect_timeout_s)
        return SshHost(access)

    def wait_until_costing_nothing(self, limit_s: float = 15.0) -> None:
        deadline = time.monotonic() + limit_s
        while self.pod.is_costing:
            assert time.monotonic() < deadline, "it still costs"
            time.sleep(0.05)


@pytest.fixture
def rented(server: RunPodServer, provisioner: RunPodProvisioner, tmp_path: Path) -> Rented:
    return Rented(server, provisioner, tmp_path / "ours")


def test_the_first_connection_is_verified_though_sshd_comes_late(
    server: RunPodServer, provisioner: RunPodProvisioner, tmp_path: Path
) -> None:
    server.sshd_delay_s = 1.0
    rented = Rented(server, provisioner, tmp_path / "ours")
    host = rented.host()
    assert host.run("echo ready", timeout_s=10).text == "ready\n"
    host.close()


def test_another_host_key_is_refused(rented: Rented) -> None:
    with pytest.raises(HostKeyMismatch):
        rented.host("SHA256:" + "A" * 43).run("true", timeout_s=10)


def test_no_shell_and_no_file_for_shells_sees_what_is_secret(rented: Rented) -> None:
    host = rented.host()
    seen = host.run("printenv; cat ../etc/environment_of_shells", timeout_s=10).text
    host.close()
    environment = rented.pod.wanted["env"]
    assert "PUBLIC_KEY" in seen
    assert environment["JADE_HOST_KEY"] not in seen
    assert "JADE_START" not in seen


def test_a_renewed_host_key_is_shown_from_the_next_connection_on(rented: Rented) -> None:
    host = rented.host()
    renew = rented.provisioner.scripts.renew_host_key
    line = host.run(renew, timeout_s=20).text.splitlines()[-1]
    assert line.startswith("ssh-ed25519 ")
    assert host.run("echo still open", timeout_s=10).text == "still open\n"
    host.close()
    new = paramiko.PKey.from_type_string("ssh-ed25519", _decoded(line)).fingerprint
    renewed = rented.host(new)
    assert renewed.host_key_fingerprint == new
    assert renewed.run(renew, timeout_s=20).text.splitlines()[-1] != line
    renewed.close()
    with pytest.raises(HostKeyMismatch):
        rented.host().run("true", timeout_s=10)


def test_a_pod_that_moves_is_found_again(rented: Rented) -> None:
    host = rented.host()
    host.run("true", timeout_s=10)
    host.close()
    rented.computer.move()
    moved = rented.host()
    assert moved.run("echo here", timeout_s=10).text == "here\n"
    moved.close()


def test_the_end_script_deletes_the_pod_where_its_key_may(server: RunPodServer, rented: Rented) -> None:
    server.pods_may_delete = True
    host = rented.host()
    host.run("setsid sleep 600 >/dev/null 2>&1 </dev/null &", timeout_s=10)
    host.run(rented.provisioner.scripts.end, timeout_s=10)
    rented.wait_until_costing_nothing()
    host.close()
    assert rented.provisioner.find(rented.machine_id).state is MachineState.GONE


def test_the_end_script_stops_the_pod_where_its_key_may_not_delete(rented: Rented) -> None:
    host = rented.host()
    host.run(rented.provisioner.scripts.end, timeout_s=10)
    deadline = time.monotonic() + 15
    while rented.provisioner.find(rented.machine_id).state is not MachineState.STOPPED:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    host.close()
    assert rented.computer.processes() == set()
    assert not rented.provisioner.scripts.end_is_certain
    rented.provisioner.release(rented.machine_id)
    assert not rented.pod.is_costing


def test_a_pod_ends_itself_at_its_age(server: RunPodServer, provisioner: RunPodProvisioner, tmp_path: Path) -> None:
    server.pods_may_delete = True
    rented = Rented(server, provisioner, tmp_path / "ours", max_age_s=3)
    host = rented.host()
    host.run("true", timeout_s=10)
    rented.wait_until_costing_nothing()
    host.close()


def test_a_released_pod_takes_all_its_processes_with_it(rented: Rented) -> None:
    host = rented.host()
    host.run("setsid sleep 600 >/dev/null 2>&1 </dev/null &", timeout_s=10)
    assert rented.computer.processes() != set()
    rented.provisioner.release(rented.machine_id)
    host.close()
    deadline = time.monotonic() + 5
    while rented.computer.processes() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert rented.computer.processes() == set()


def _fingerprint(request: MachineRequest) -> str:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(request.host_private_key)).fingerprint


def _decoded(line: str) -> bytes:
    return base64.b64decode(line.split()[1])
