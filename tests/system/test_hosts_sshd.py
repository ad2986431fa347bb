"""Hosts and jobs against a real OpenSSH server on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import unique_sleep, wait_until_none, words_of

from tasks.core.names import HostAddress
from tasks.core.retry import retry_transient
from tasks.hosts import errors
from tasks.hosts.access import SshAccess
from tasks.hosts.host import Host, RemotePlace
from tasks.hosts.job import Ending, find_job, follow_log, raise_unless_success, start_job, stop_job
from tasks.hosts.keys import HostTrust
from tasks.hosts.preflight import check_host
from tasks.hosts.ssh import SshHost, SshStream
from tests.fakes.host_contract import (
    CommandContract,
    TransferContract,
    large_file,
)
from tests.fakes.job_contract import JobContract, sh
from tests.fakes.sshd import SSHD, Sshd, fingerprint_of, make_key, running_agent, running_sshd

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(SSHD is None, reason="no sshd here; test_hosts_ssh.py has the in-process server"),
]


def access_to(sshd: Sshd, *, trust: HostTrust | None = None, key_file: Path | None = None) -> SshAccess:
    return SshAccess(
        HostAddress("127.0.0.1", sshd.port, sshd.user),
        trust or HostTrust(pins=(sshd.fingerprint,)),
        key_file=key_file or sshd.user_key,
        use_agent=False,
    )


@pytest.fixture
def host(sshd: Sshd) -> Iterator[Host]:
    host = SshHost(access_to(sshd), name="sshd")
    yield host
    host.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root; /dev/full stands in for it in the contract suite")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestSshd(CommandContract, TransferContract, JobContract):
    pass


class TestServerKeys:
    def test_a_changed_key_is_refused_with_both_shown(self, tmp_path: Path) -> None:
        own_file = tmp_path / "known_hosts"
        trust = HostTrust(own_file=own_file, trust_first_use=True)
        with running_sshd(tmp_path / "first") as first:
            SshHost(access_to(first, trust=trust)).run("echo", timeout_s=60)
        with running_sshd(tmp_path / "second", port=first.port) as second:
            with pytest.raises(errors.HostKeyMismatch) as caught:
                SshHost(access_to(second, trust=trust)).run("echo", timeout_s=60)
            assert first.fingerprint in str(caught.value)
            assert second.fingerprint in str(caught.value)
            assert "Accepted publickey" not in (second.folder / "sshd.log").read_text()

    @pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
    def test_every_kind_of_key_is_checked_and_logs_in(self, tmp_path: Path, kind: str) -> None:
        host_key = make_key(tmp_path / "host_key", kind=kind)
        user_key = make_key(tmp_path / "user_key", kind=kind)
        with running_sshd(tmp_path / "sshd", host_key=host_key) as server:
            with (server.folder / "authorized_keys").open("a") as keys:
                keys.write(user_key.with_suffix(".pub").read_text())
            host = SshHost(access_to(server, key_file=user_key))
            assert host.host_key_fingerprint == fingerprint_of(host_key.with_suffix(".pub"))
            host.close()

    def test_hashed_known_hosts_of_openssh_are_read(self, sshd: Sshd, tmp_path: Path) -> None:
        file = tmp_path / "known_hosts"
        file.write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
        subprocess.run(["ssh-keygen", "-H", "-f", str(file)], check=True, capture_output=True)
        assert "127.0.0.1" not in file.read_text()
        host = SshHost(access_to(sshd, trust=HostTrust(files=(file,))))
        assert host.run("echo yes", timeout_s=60).text == "yes\n"
        host.close()


class TestUserKeys:
    def test_a_locked_key_is_used_through_the_agent_that_holds_it(
        self, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        locked = tmp_path / "locked"
        for suffix in ("", ".pub"):
            shutil.copy(f"{sshd.user_key}{suffix}", f"{locked}{suffix}")
        locked.chmod(0o600)
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", str(locked)], check=True)
        access = replace(access_to(sshd, key_file=locked), use_agent=True)
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        with pytest.raises(errors.HostUserError):
            SshHost(access).run("echo", timeout_s=60)
        with running_agent(tmp_path, sshd.user_key) as agent:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
            host = SshHost(access)
            assert host.run("echo in", timeout_s=60).text == "in\n"
            host.close()


class TestFaults:
    def test_training_goes_on_through_cuts_and_its_log_comes_whole(self, host: Host, sshd: Sshd, place: Path) -> None:
        going_on = "[ $i -lt 60 ] || ! [ -e cut ]"
        text = f"i=0; while {going_on}; do echo line $i; i=$((i + 1)); sleep 0.05; done; echo $$ >> pids"
        job = start_job(host, str(place / "jobs"), sh(text, place))
        lines: list[str] = []
        num_cuts = 0
        for batch in follow_log(host, job, poll_s=0.2):
            lines += batch.lines
            if num_cuts < 4:
                num_cuts += sshd.cut()
            else:
                (place / "cut").touch()
        assert lines == [f"line {i}" for i in range(max(60, len(lines)))]
        assert batch.status.is_success
        assert len((place / "pids").read_text().split()) == 1

    def test_another_process_attaches_and_stops_what_this_one_started(
        self, host: Host, sshd: Sshd, place: Path
    ) -> None:
        jobs = str(place / "jobs")
        sleep = unique_sleep()
        start_job(host, jobs, sh(sleep, place))
        sshd.cut()
        other = SshHost(access_to(sshd), name="other")
        job = find_job(other, jobs, "run")
        assert job is not None
        status = stop_job(other, job, grace_s=1)
        assert status.ending is Ending.STOPPED
        assert wait_until_none(words_of(sleep)) == []
        with pytest.raises(errors.JobStopped):
            raise_unless_success(other, job, status)
        other.close()

    def test_a_server_that_freezes_in_mid_command_is_given_up_in_time(self, host: Host, sshd: Sshd) -> None:
        host.run("true", timeout_s=60)
        freezer = threading.Timer(0.5, sshd.freeze)
        freezer.start()
        started = time.monotonic()
        try:
            with pytest.raises((errors.CommandTimedOut, errors.ConnectionLost)) as caught:
                host.run("sleep 100; cat", timeout_s=2, stdin=b"x" * 20_000_000)
        finally:
            freezer.join()
            sshd.thaw()
        assert time.monotonic() - started < 60
        assert caught.value.is_transient
        assert host.run("echo back", timeout_s=60).text == "back\n"

    @pytest.mark.parametrize("way", ["put", "get"])
    def test_a_transfer_that_is_cut_goes_on(
        self, host: Host, sshd: Sshd, place: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = large_file(tmp_path, 60_000_000)
        target = place if way == "put" else tmp_path / "back"
        entries = host.put(files, str(place), timeout_s=120) if way == "get" else ()
        name = "write" if way == "put" else "read"
        move, moved, num_kept = getattr(SshStream, name), [0], list[int]()

        def moving(stream: SshStream, data: Any) -> Any:
            if moved[0] > 30_000_000 and len(num_kept) == 1:
                sshd.cut()
            got = move(stream, data)
            moved[0] += len(data if got is None else got)
            return got

        monkeypatch.setattr(SshStream, name, moving)

        def attempt() -> None:
            num_kept.append(sum(part.stat().st_size for part in target.rglob("*.part")))
            if way == "put":
                host.put(files, str(target), timeout_s=120)
            else:
                host.get(entries, str(place), target, timeout_s=120)

        retry_transient(attempt, sleep=lambda _: None)
        assert len(num_kept) == 2
        assert num_kept[1] > 5_000_000
        assert moved[0] < 100_000_000, "the second attempt goes on where the first one stood"
        assert (target / "large").read_bytes() == files["large"].read_bytes()

    def test_a_full_disk_over_there_is_told_and_nothing_gets_the_files_name(
        self, host: Host, small_disk: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(errors.HostUserError, match="No space left") as caught:
            host.put(large_file(tmp_path, 20_000_000), str(small_disk / "sub"), timeout_s=60)
        assert caught.value.exit_code == 2
        assert not (small_disk / "sub" / "large").exists()

    def test_a_full_disk_here_is_told_and_nothing_gets_the_files_name(
        self, host: Host, small_disk: Path, place: Path, tmp_path: Path
    ) -> None:
        entries = host.put(large_file(tmp_path, 20_000_000), str(place), timeout_s=60)
        with pytest.raises(errors.HostUserError, match="this machine"):
            host.get(entries, str(place), small_disk / "sub", timeout_s=60)
        assert not (small_disk / "sub" / "large").exists()

    def test_a_job_on_a_full_disk_is_told_at_the_start(self, host: Host, small_disk: Path) -> None:
        host.run(f"head -c 5000000 /dev/zero > {small_disk}/filler", timeout_s=60, check=False)
        with pytest.raises(errors.HostUserError, match="No space left"):
            start_job(host, str(small_disk / "jobs"), sh("true", small_disk))

    def test_a_folder_that_may_not_be_written_is_told(self, host: Host, small_disk: Path, tmp_path: Path) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        with pytest.raises(errors.HostUserError, match="Read-only"):
            host.put(large_file(tmp_path), str(small_disk / "sub"), timeout_s=60)
        with pytest.raises(errors.HostUserError, match="No permission"):
            start_job(host, str(small_disk / "jobs"), sh("true", tmp_path))

    def test_a_command_past_its_time_leaves_no_process_for_root_either(self, host: Host) -> None:
        sleep = unique_sleep()
        with pytest.raises(errors.CommandTimedOut):
            host.run(f"trap '' TERM HUP; {sleep} & wait", timeout_s=1)
        assert wait_until_none(words_of(sleep)) == []


def test_the_check_tells_what_the_host_has(host: Host, sshd: Sshd, place: Path) -> None:
    there = RemotePlace(str(place / "not" / "there" / "yet"), "python3", 60)
    report = check_host(host, there)
    assert report.problem is None
    found = {row.subject: row.found for row in report.findings}
    assert found["host key"] == sshd.fingerprint
    assert found["disk"].endswith("GiB free")
    assert found["tools"] == "all there"
    assert abs(int(found["clock"].split()[0])) < 10
