"""A hundred trainings on a host behind SSH, kept in a bucket, each with a fault at a random moment.

    python -m tests.soak.faults [--runs 100] [--seed 0]

Faults: the connection is cut, the flow is SIGKILLed, the process on the host is killed, the storage answers 5xx, a
byte is corrupted on the host or on the way to or from the bucket. Each run is started again until it ends. Then there
must be exactly one complete run in its bucket, every byte of it verified, its trainings the bytes of undisturbed ones,
and no process left. Everything is real but the training itself (see cheap_trainer.py): sshd, an S3 endpoint over HTTP,
flows as processes of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from jade_model.core.job import load_job
from jade_model.core.training_files import files_of
from tasks.artifacts.leases import running
from tasks.artifacts.repository import ArtifactPlace, open_place
from tasks.artifacts.transfer import verify
from tests.fakes.s3_faults import Fault, FaultyProxy, faulty_proxy
from tests.fakes.sshd import Sshd, running_sshd
from tests.soak import cheap_trainer
from tests.soak.fault_flow import run_flow

BUCKET = "soak"
MOST_ATTEMPTS = 8
ATTEMPT_LIMIT_S = 300.0
SPREAD_S = 4.0
"""A fault comes within this time after the first attempt's start, or after its first checkpoint on the host."""


@dataclass
class Case:
    """One run with its fault.

    Attributes:
        number: Of the run.
        fault: What happens to its first attempt.
        at_s: When, after that attempt's start, or after its first checkpoint.
        while_training: Which of both.
        attempts: How often it was started.
        seconds: In all.
        problems: What does not hold in the end; must be empty.
    """

    number: int
    fault: str
    at_s: float
    while_training: bool
    attempts: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class World:
    """What the flows meet: a host, a bucket, and a way to disturb both."""

    def __init__(self, folder: Path, sshd: Sshd, proxy: FaultyProxy, endpoint: str, seed: int) -> None:
        self.folder, self.sshd, self.proxy, self.endpoint = folder, sshd, proxy, endpoint
        self.random = random.Random(seed)
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["tests.soak.fault_flow"])
        self.python = folder / "python"
        trainer = Path(cheap_trainer.__file__)
        self.python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {trainer} "$@"\n')
        self.python.chmod(0o755)
        self.faults: dict[str, Callable[[Case, Any], None]] = {
            "connection cut": lambda case, flow: self._cut(),
            "flow SIGKILLed": lambda case, flow: flow.kill(),
            "remote process killed": lambda case, flow: self._kill_there(case),
            "storage 5xx": lambda case, flow: self._refuse(),
            "corrupted byte": lambda case, flow: self._corrupt(case),
        }

    def there(self, case: Case) -> Path:
        return self.folder / f"there-{case.number}"

    def environment(self, case: Case) -> dict[str, str]:
        config = self.folder / f"config-{case.number}"
        config.mkdir(exist_ok=True)
        sshd = self.sshd
        (config / "jade.toml").write_text(
            f"""[hosts.soak]
host = "127.0.0.1"
port = {sshd.port}
user = "{sshd.user}"
key = "{sshd.user_key}"
fingerprint = "{sshd.fingerprint}"
folder = "{self.there(case)}"
python = "{self.python}"
"""
        )
        return {
            "JADE_CONFIG_DIR": str(config),
            "JADE_STATE_DIR": str(self.folder / f"state-{case.number}"),
            # Each attempt as if from another machine's disk: only what is published counts.
            "JADE_CACHE_DIR": str(self.folder / f"cache-{case.number}-{case.attempts}"),
            "JADE_S3_ENDPOINT_URL": self.proxy.url,
            "JADE_S3_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def run(self, case: Case) -> None:
        """Start a run, let the fault happen, and start it again until it ends well; then look at what is left."""
        started = time.monotonic()
        address = f"s3://{BUCKET}/case-{case.number}"
        log = self.folder / f"log-{case.number}"
        while True:
            case.attempts += 1
            flow = self.processes.Process(target=run_flow, args=(self.environment(case), address, str(log)))
            flow.start()
            if case.attempts == 1:
                while case.while_training and flow.is_alive() and not self._has_checkpoint(case):
                    time.sleep(0.05)
                flow.join(case.at_s)
                self.faults[case.fault](case, flow)
            flow.join(ATTEMPT_LIMIT_S)
            if flow.is_alive():
                flow.kill()
                flow.join()
                case.problems.append(f"attempt {case.attempts} did not end in {ATTEMPT_LIMIT_S:g} s")
            self.proxy.faults = []
            if flow.exitcode == 0 or case.attempts == MOST_ATTEMPTS:
                break
        case.seconds = time.monotonic() - started
        if flow.exitcode != 0:
            case.problems.append(f"not done after {case.attempts} attempts: {log.read_text()[-600:]}")
        else:
            case.problems += self._look(case, address)

    def _look(self, case: Case, address: str) -> list[str]:
        os.environ.update(self.environment(case))
        os.environ["JADE_CACHE_DIR"] = str(self.folder / f"cache-{case.number}-look")
        place = open_place(address)
        complete = [run_id for run_id in place.store.runs() if place.store.manifest(run_id).complete]
        if len(complete) != 1:
            return [f"{len(complete)} complete runs"]
        (run_id,) = complete
        problems = [f"{item.path}: {item.detail}" for item in verify(place.store, run_id)]
        if place.store.pointers() != {"latest": run_id}:
            problems.append(f"pointers: {place.store.pointers()}")
        problems += [f"{run} still counts as running" for run in place.store.runs() if running(place.records, run)]
        if not problems:
            problems += self._compare_bytes(place, run_id)
        if left := self._processes(case):
            problems.append(f"processes left: {left}")
        there = [path.name for path in self.there(case).glob("*/*") if path.parent.name != "code"]
        if there:
            problems.append(f"left on the host: {there}")
        return problems

    def _compare_bytes(self, place: ArtifactPlace, run_id: str) -> list[str]:
        layout = place.find_run(run_id)
        problems = []
        for training in load_job(layout.job_json).trainings:
            key, epochs = training.run_key, cheap_trainer.EPOCHS
            expected = cheap_trainer.content(key, epochs, cheap_trainer.weights(key, epochs))
            if files_of(training, layout.root).last.read_bytes() != expected:
                problems.append(f"{training.title}: other bytes than an undisturbed training's")
        return problems

    def _has_checkpoint(self, case: Case) -> bool:
        return any((self.there(case) / "runs").glob("**/manifest.json"))

    def _processes(self, case: Case) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                if (entry / "cwd").readlink().is_relative_to(self.there(case)):
                    found.append(int(entry.name))
        return found

    def _cut(self) -> None:
        for _ in range(self.random.randint(1, 3)):
            self.sshd.cut()
            time.sleep(self.random.uniform(0.1, 1.0))

    def _kill_there(self, case: Case) -> None:
        for process in self._processes(case):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _refuse(self) -> None:
        method = self.random.choice(["PUT", "GET", "HEAD", "PUT"])
        times = self.random.randint(1, 12)
        self.proxy.faults = [Fault("answer", method, "", times=times, status=self.random.choice([500, 503]))]

    def _corrupt(self, case: Case) -> None:
        files = [path for path in (self.there(case) / "runs").glob("**/*.pt") if not path.name.startswith(".")]
        where = self.random.choice(["host", "to the bucket", "from the bucket"])
        if where == "host" and files:
            with contextlib.suppress(OSError), self.random.choice(files).open("r+b") as file:
                file.seek(self.random.randrange(cheap_trainer.CHECKPOINT_BYTES))
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 1]))
        elif where == "from the bucket":
            self.proxy.faults = [Fault("flip answer", "GET", "blobs", times=self.random.randint(1, 3))]
        else:
            self.proxy.faults = [Fault("flip upload", "PUT", "blobs", times=self.random.randint(1, 3))]


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """An S3 endpoint as a process of its own: flows are forked, and threads do not survive that."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", f"from moto.server import main; main(['-p', '{port}', '-H', '127.0.0.1'])"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        url = f"http://127.0.0.1:{port}"
        credentials = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=url, **credentials)  # type: ignore[call-overload]
        for _ in range(300):
            try:
                client.create_bucket(Bucket=BUCKET)
                break
            except Exception:
                time.sleep(0.2)
        try:
            yield url
        finally:
            server.kill()


def soak(runs: int, seed: int) -> list[Case]:
    """Run so many cases; print each as it ends."""
    cases = []
    with tempfile.TemporaryDirectory(prefix="jade-soak-") as name, s3_server() as endpoint:
        folder = Path(name)
        with running_sshd(folder / "sshd") as sshd, faulty_proxy(endpoint) as proxy:
            world = World(folder, sshd, proxy, endpoint, seed)
            for number in range(runs):
                fault = list(world.faults)[number % len(world.faults)]
                while_training = world.random.random() < 0.8
                case = Case(number, fault, world.random.uniform(0.0, SPREAD_S), while_training)
                world.run(case)
                cases.append(case)
                when = "the first checkpoint" if while_training else "the start"
                where = f"{case.at_s:3.1f} s after {when}"
                took = f"{case.attempts} attempts, {case.seconds:5.1f} s"
                print(f"{number:3d} {fault:22s} {where}: {took} {'; '.join(case.problems) or 'ok'}", flush=True)
    return cases


def table(cases: list[Case]) -> str:
    """One row a fault."""
    rows = [
        "| fault | runs | attempts (mean, most) | seconds (mean) | whole, once, nothing left |",
        "|---|---|---|---|---|",
    ]
    for fault in dict.fromkeys(case.fault for case in cases):
        those = [case for case in cases if case.fault == fault]
        attempts = [case.attempts for case in those]
        good = sum(not case.problems for case in those)
        seconds = sum(case.seconds for case in those) / len(those)
        mean = sum(attempts) / len(attempts)
        rows.append(
            f"| {fault} | {len(those)} | {mean:.2f}, {max(attempts)} | {seconds:.1f} | {good} of {len(those)} |"
        )
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the cases here")
    options = parser.parse_args()
    cases = soak(options.runs, options.seed)
    print(table(cases))
    if options.json:
        options.json.write_text(json.dumps([vars(case) for case in cases], indent=2))
    return 1 if any(case.problems for case in cases) else 0


if __name__ == "__main__":
    sys.exit(main())
