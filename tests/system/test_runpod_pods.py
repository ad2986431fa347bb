"""Pods with a real sshd: what our start command does in them, from the first connection to the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tasks.hosts.errors import HostKeyMismatch
from tasks.provisioning.provisioner import InstanceState, Timing, terminate_instance
from tasks.provisioning.runpod import RunPodProvisioner
from tasks.provisioning.runpod_api import RunPodApi
from tests.fakes.rented_machine import RentedMachine
from tests.fakes.runpod_server import RunPodServer, running_runpod
from tests.fakes.runpod_world import QUICK
from tests.helpers.processes import wait_until
from tests.helpers.rented_access import Rented, end_from_within, fingerprint_of_line

TIMING = Timing(look_s=0.02, release_s=60.0)

pytestmark = pytest.mark.system


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunPodServer]:
    with running_runpod(tmp_path / "pods") as server:
        yield server
        assert server.violations == []


@pytest.fixture
def provisioner(server: RunPodServer) -> RunPodProvisioner:
    api = RunPodApi(SecretStr(server.api_key), server.url, QUICK)
    return RunPodProvisioner(api)


class RentedPod(Rented):
    """With the pod from the other side."""

    def __init__(
        self, server: RunPodServer, provisioner: RunPodProvisioner, folder: Path, *, max_age_s: float = 3600
    ) -> None:
        (offer,) = (offer for offer in provisioner.offers() if offer.kind == "NVIDIA L4")
        super().__init__(provisioner, offer, folder, max_age_s=max_age_s)
        self.pod = server.pod(self.instance_id)

    @property
    def computer(self) -> RentedMachine:
        assert self.pod.machine is not None
        return self.pod.machine


@pytest.fixture
def rented(server: RunPodServer, provisioner: RunPodProvisioner, tmp_path: Path) -> RentedPod:
    return RentedPod(server, provisioner, tmp_path / "ours")


def test_the_first_connection_is_verified_though_sshd_comes_late(
    server: RunPodServer, provisioner: RunPodProvisioner, tmp_path: Path
) -> None:
    server.sshd_delay_s = 1.0
    rented = RentedPod(server, provisioner, tmp_path / "ours")
    host = rented.host()
    assert host.run("echo ready", timeout_s=60).text == "ready\n"
    host.close()


def test_another_host_key_is_refused(rented: RentedPod) -> None:
    with pytest.raises(HostKeyMismatch):
        rented.host("SHA256:" + "A" * 43).run("true", timeout_s=60)


def test_no_shell_and_no_file_for_shells_sees_what_is_secret(rented: RentedPod) -> None:
    host = rented.host()
    seen = host.run("printenv; cat ../etc/environment_of_shells", timeout_s=60).text
    host.close()
    environment = rented.pod.wanted["env"]
    assert "PUBLIC_KEY" in seen
    assert environment["JADE_HOST_KEY"] not in seen
    assert "JADE_START" not in seen


def test_a_renewed_host_key_is_shown_from_the_next_connection_on(rented: RentedPod) -> None:
    host = rented.host()
    renew = rented.provisioner.scripts.renew_host_key
    line = host.run(renew, timeout_s=60).text.splitlines()[-1]
    assert line.startswith("ssh-ed25519 ")
    assert host.run("echo still open", timeout_s=60).text == "still open\n"
    host.close()
    new = fingerprint_of_line(line)
    renewed = rented.host(new)
    assert renewed.host_key_fingerprint == new
    assert renewed.run(renew, timeout_s=60).text.splitlines()[-1] != line
    renewed.close()
    with pytest.raises(HostKeyMismatch):
        rented.host().run("true", timeout_s=60)


def test_a_pod_that_moves_is_found_again(rented: RentedPod) -> None:
    host = rented.host()
    host.run("true", timeout_s=60)
    host.close()
    rented.computer.move()
    moved = rented.host()
    assert moved.run("echo here", timeout_s=60).text == "here\n"
    moved.close()


def test_the_end_script_deletes_the_pod_where_its_key_may(server: RunPodServer, rented: RentedPod) -> None:
    server.pods_may_delete = True
    host = rented.host()
    host.run("setsid sleep 600 >/dev/null 2>&1 </dev/null &", timeout_s=60)
    end_from_within(host, rented.provisioner)
    rented.wait_for(InstanceState.GONE)
    host.close()


def test_the_end_script_stops_the_pod_where_its_key_may_not_delete(rented: RentedPod) -> None:
    host = rented.host()
    end_from_within(host, rented.provisioner)
    rented.wait_for(InstanceState.STOPPED)
    host.close()
    assert rented.computer.processes() == set()
    assert not rented.provisioner.scripts.end_is_certain
    terminate_instance(rented.provisioner, rented.instance_id, TIMING)
    assert not rented.pod.is_costing


def test_a_pod_ends_itself_at_its_age(server: RunPodServer, provisioner: RunPodProvisioner, tmp_path: Path) -> None:
    server.pods_may_delete = True
    rented = RentedPod(server, provisioner, tmp_path / "ours", max_age_s=3)
    rented.wait_for(InstanceState.GONE)
    assert not rented.pod.is_costing


def test_a_released_pod_takes_all_its_processes_with_it(rented: RentedPod) -> None:
    host = rented.host()
    host.run("setsid sleep 600 >/dev/null 2>&1 </dev/null &", timeout_s=60)
    assert rented.computer.processes() != set()
    terminate_instance(rented.provisioner, rented.instance_id, TIMING)
    host.close()
    wait_until(lambda: rented.computer.processes() == set())
