"""Files to and from a host: our verified streams against OpenSSH's sftp, over loopback in the same run.

`JADE_BENCH_TRANSFER_MIB` sets the size (1024). Ours checks SHA-256 on both sides, sftp checks nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Measurement, interleaved
from tasks.core.names import HostAddress
from tasks.hosts.access import SshAccess
from tasks.hosts.keys import HostTrust
from tasks.hosts.ssh import SshHost
from tasks.hosts.transfer import describe_files
from tests.fakes.sshd import SSHD, Sshd, running_sshd

TARGET_RATIO = 0.7
REPEAT = 3


def measure() -> list[Measurement]:
    """One large file each way; none where there is no sshd to measure against."""
    if SSHD is None or shutil.which("sftp") is None:
        return []
    num_mib = int(os.environ.get("JADE_BENCH_TRANSFER_MIB", "1024"))
    with (
        tempfile.TemporaryDirectory(prefix="jade-bench-") as folder,
        running_sshd(Path(folder) / "sshd") as sshd,
    ):
        return [_one_way(way, Path(folder), sshd, num_mib) for way in ("to", "from")]


def _one_way(way: str, folder: Path, sshd: Sshd, num_mib: int) -> Measurement:
    source = folder / f"{way}-source"
    with source.open("wb") as file:
        for _ in range(num_mib):
            file.write(os.urandom(2**20))
    entries = describe_files({source.name: source})
    trust = HostTrust(pins=(sshd.fingerprint,))
    host = SshHost(SshAccess(HostAddress("127.0.0.1", sshd.port, sshd.user), trust, key_file=sshd.user_key))
    arrived = folder / f"{way}-arrived"

    def ours() -> None:
        shutil.rmtree(arrived, ignore_errors=True)
        if way == "to":
            host.put({source.name: source}, str(arrived), timeout_s=600)
        else:
            host.get(entries, str(folder), arrived, timeout_s=600)

    def peer() -> None:
        shutil.rmtree(arrived, ignore_errors=True)
        arrived.mkdir()
        verb = "put" if way == "to" else "get"
        _sftp(sshd, folder, f"{verb} {source} {arrived}/{source.name}\n")

    ours_s, peer_s = interleaved(ours, peer, REPEAT, time.perf_counter)
    host.close()
    shutil.rmtree(arrived, ignore_errors=True)
    source.unlink()
    return Measurement(
        f"{num_mib} MiB {way} a host",
        ours_s,
        peer_s,
        "OpenSSH sftp",
        target_ratio=TARGET_RATIO,
        note=f"wall time; {num_mib / ours_s:.0f} MiB/s with SHA-256 checked; sftp {num_mib / peer_s:.0f} MiB/s",
    )


def _sftp(sshd: Sshd, folder: Path, batch: str) -> None:
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
    options = [f"UserKnownHostsFile={known_hosts}", "IdentitiesOnly=yes"]
    subprocess.run(
        ["sftp", "-q", "-b", "-", "-P", str(sshd.port), "-i", str(sshd.user_key)]
        + [word for option in options for word in ("-o", option)]
        + [f"{sshd.user}@127.0.0.1"],
        input=batch.encode(),
        check=True,
        capture_output=True,
    )
