"""A host behind a network that loses packets and goes away: two network namespaces, a cable between them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.core.names import HostAddress
from tasks.hosts.access import SshAccess
from tasks.hosts.job import JobSpec, follow_log, job_status, remove_job, start_job
from tasks.hosts.keys import HostTrust
from tasks.hosts.ssh import SshHost
from tests.fakes.sshd import SSHD, running_sshd

LINES = 60


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=60)


def _why_not() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if SSHD is None or shutil.which("ip") is None:
        return "needs sshd and ip"
    name = f"jade-probe-{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except (OSError, subprocess.SubprocessError) as error:
        return f"network namespaces are not allowed here: {error}"
    return ""


@dataclass
class Cable:
    """Between this machine and the host's namespace."""

    end: str
    namespace: str
    here: str
    there: str

    def unplug(self) -> None:
        _ip("link", "set", self.end, "down")

    def plug(self) -> None:
        _ip("link", "set", self.end, "up")

    def worsen(self) -> bool:
        """Lose every tenth packet and delay the others; whether that is possible here."""
        command = ["tc", "qdisc", "replace", "dev", self.end, "root", "netem", "loss", "10%", "delay", "20ms"]
        return (
            shutil.which("tc") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
        )


@pytest.fixture
def cable() -> Iterator[Cable]:
    if reason := _why_not():
        pytest.skip(reason)
    # Names and addresses of this process: other tests may have a cable at the same time.
    number = os.getpid() % 2**14
    here, there = (f"10.213.{number >> 6}.{4 * (number & 63) + end}" for end in (1, 2))
    cable = Cable(f"jd{number}a", f"jade-{number}", here, there)
    try:
        _ip("netns", "add", cable.namespace)
        _ip("link", "add", cable.end, "type", "veth", "peer", "name", f"jd{number}b", "netns", cable.namespace)
        _ip("addr", "add", f"{cable.here}/30", "dev", cable.end)
        _ip("link", "set", cable.end, "up")
        _ip("-n", cable.namespace, "addr", "add", f"{cable.there}/30", "dev", f"jd{number}b")
        _ip("-n", cable.namespace, "link", "set", f"jd{number}b", "up")
        yield cable
    finally:
        for words in (("link", "del", cable.end), ("netns", "del", cable.namespace)):
            with contextlib.suppress(subprocess.SubprocessError):
                _ip(*words)


@pytest.fixture
def host(cable: Cable, tmp_path: Path) -> Iterator[SshHost]:
    within = ["ip", "netns", "exec", cable.namespace]
    with running_sshd(tmp_path / "sshd", address=cable.there, within=within) as sshd:
        trust = HostTrust(pins=(sshd.fingerprint,))
        host = SshHost(
            SshAccess(HostAddress(cable.there, sshd.port, sshd.user), trust, key_file=sshd.user_key), name="far"
        )
        yield host
        host.close()


pytestmark = pytest.mark.system


def test_a_job_goes_on_and_its_log_comes_whole_while_the_network_goes_away(
    cable: Cable, host: SshHost, tmp_path: Path
) -> None:
    place = tmp_path / "there"
    script = f"for n in $(seq {LINES}); do echo line $n; sleep 0.2; done"
    job = start_job(host, f"{place}/jobs", JobSpec("run", ("sh", "-c", script), str(place), time_limit_s=600))

    def disturb() -> None:
        time.sleep(1)
        cable.unplug()
        time.sleep(5)
        cable.plug()

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    lines: list[str] = []
    for batch in follow_log(host, job, poll_s=0.2):
        lines += batch.lines
    disturbing.join()
    assert lines == [f"line {number}" for number in range(1, LINES + 1)]
    assert job_status(host, job).is_success
    remove_job(host, f"{place}/jobs", "run")


def test_files_come_whole_over_a_line_that_loses_packets(cable: Cable, host: SshHost, tmp_path: Path) -> None:
    if not cable.worsen():
        pytest.skip("tc netem is not allowed here")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2**20))
    sent = host.put({"weights": source}, str(tmp_path / "there"), timeout_s=100)
    host.get(sent, str(tmp_path / "there"), tmp_path / "back", timeout_s=100)
    assert hashlib.sha256((tmp_path / "back" / "weights").read_bytes()).hexdigest() == sent[0].sha256
