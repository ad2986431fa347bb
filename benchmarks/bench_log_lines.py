"""20,000 log lines a second from a job on a host: whole in the log file and on the terminal, in batches for Prefect.

    python -m benchmarks.bench_log_lines [--seconds 10] [--rate 20000]

The job runs behind a real sshd on loopback where there is one, else on this machine. What counts: no line is lost, and
the follower keeps pace, so that the last line is here soon after it was written.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tasks.core.names import HostAddress
from tasks.execution.progress import RunProgress, drawn
from tasks.execution.trainer_output import TrainerOutput
from tasks.hosts.access import SshAccess
from tasks.hosts.host import Host
from tasks.hosts.job import JobSpec, follow_log, start_job
from tasks.hosts.keys import HostTrust
from tasks.hosts.ssh import SshHost
from tests.fakes.local_host import LocalHost
from tests.fakes.sshd import SSHD, running_sshd

WRITER = """
import sys, time
rate, seconds = int(sys.argv[1]), float(sys.argv[2])
start, written, total = time.monotonic(), 0, int(rate * seconds)
while written < total:
    due = min(total, int((time.monotonic() - start) * rate))
    sys.stdout.write("".join(f"line {number} of a chatty library, as long as such lines are\\n"
                             for number in range(written, due)))
    sys.stdout.flush()
    written = due
    time.sleep(0.01)
print(f"written within {time.monotonic() - start:.2f} s")
"""
POLL_S = 0.5


@contextlib.contextmanager
def some_host(folder: Path) -> Iterator[Host]:
    if SSHD is None:
        yield LocalHost(folder / "host", name="here")
        return
    with running_sshd(folder / "sshd") as server:
        access = SshAccess(
            HostAddress("127.0.0.1", server.port, server.user),
            HostTrust(pins=(server.fingerprint,), own_file=folder / "known_hosts"),
            key_file=server.user_key,
        )
        host = SshHost(access, name="sshd")
        try:
            yield host
        finally:
            host.close()


def follow(host: Host, folder: Path, rate: int, seconds: float) -> None:
    there = folder / "there"
    there.mkdir()
    (there / "writer.py").write_text(WRITER)
    spec = JobSpec(
        "a" * 40, (sys.executable, "writer.py", str(rate), str(seconds)), str(there), time_limit_s=600, environment={}
    )
    progress, output = RunProgress(), TrainerOutput((), "bench", is_remote=True)
    terminal, records, shown, left_out = folder / "terminal", 0, 0, 0
    started, cpu = time.monotonic(), time.process_time()
    handle = start_job(host, str(folder / "jobs"), spec)
    with terminal.open("w") as screen, contextlib.redirect_stderr(screen), drawn(progress):
        with (folder / "remote.log").open("w") as log:
            for batch in follow_log(host, handle, poll_s=POLL_S):
                for line in batch.lines:
                    log.write(line + "\n")
                    progress.take(output.read(line)[0])
                log.flush()
                if said := progress.said.take_for_log():
                    records += 1
                    first, *_ = lines = said.splitlines()
                    left_out += int(first[1:].split()[0]) if first.startswith("(") else 0
                    shown += len(lines) - first.startswith("(")
        took = time.monotonic() - started
    used = time.process_time() - cpu
    expected = [
        f"line {number} of a chatty library, as long as such lines are" for number in range(int(rate * seconds))
    ]
    for name in ("remote.log", "terminal"):
        *lines, last = (folder / name).read_text().splitlines()
        assert lines == expected, f"{name}: {len(lines)} of {len(expected)} lines, or in another order"
    assert shown + left_out == len(expected) + 1
    print(
        f"{host.name}: {len(expected):,} lines, {last}; all here after {took:.2f} s, {used:.2f} s of them this process"
    )
    print(f"log file and terminal: every line, in order. Prefect's log: {records} records, {shown:,} lines shown,")
    print(f"{left_out:,} counted as left out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, some_host(Path(scratch)) as host:
        follow(host, Path(scratch), options.rate, options.seconds)


if __name__ == "__main__":
    main()
