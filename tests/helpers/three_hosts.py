"""Trainings on three SSH servers of this machine: one ten times slower than the others, one that dies half-way."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from jade_model.core.job import Job
from tasks.core.names import HostAddress
from tasks.execution.base import Event
from tasks.execution.fleet import FleetExecutor
from tasks.execution.lanes import HostLane
from tasks.hosts.access import SshAccess
from tasks.hosts.host import RemotePlace
from tasks.hosts.keys import HostTrust
from tasks.hosts.ssh import SshHost
from tests.fakes.sshd import Sshd, running_sshd
from tests.helpers.waiting_trainer import waiting_python

SLOWER = 10.0


@dataclass
class ThreeHosts:
    """What became of it.

    Attributes:
        outcomes: Of the trainings, as they came.
        seconds: When each came, since the beginning.
        died_s: When the third host died; some of its outcomes may have been on their way.
        died_after: How many outcomes had come by then.
        notes: What a person was told.
    """

    outcomes: list[Event] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    died_s: float = 0.0
    died_after: int = 0
    notes: list[str] = field(default_factory=list)

    def best_possible_s(self, unit_s: float) -> float:
        """When all would be done if nothing but units took time.

        The quick host does a unit in `unit_s` to the end, the lost one until it dies, the slow one in ten times that;
        nothing is done twice, nothing is begun in vain, and nobody waits.
        """
        return (len(self.outcomes) * unit_s - self.died_s) / (1 + 1 / SLOWER)


def train_on_three_hosts(job: Job, run: Path, folder: Path, unit_s: float) -> ThreeHosts:
    """Run a job's trainings; the third host dies when half of them are done, one of them there.

    Args:
        job: Written in `run`.
        run: The run's folder.
        folder: Of the servers.
        unit_s: What a training takes on a quick host: it waits, so that this machine's cores do not decide.
    """
    found, servers = ThreeHosts(), {}
    with ExitStack() as stack:
        lanes = []
        for name, factor in (("quick", 1.0), ("slow", SLOWER), ("doomed", 1.0)):
            sshd = servers[name] = stack.enter_context(running_sshd(folder / name))
            access = SshAccess(
                HostAddress("127.0.0.1", sshd.port, sshd.user),
                HostTrust(pins=(sshd.fingerprint,)),
                key_file=sshd.user_key,
                connect_timeout_s=10,
            )
            python = waiting_python(folder / f"{name}-python", factor * unit_s)
            place = RemotePlace(str(folder / f"{name}-there"), str(python), 600, workers=1)
            lanes.append(HostLane(name, lambda a=access, n=name: SshHost(a, name=n), place))  # type: ignore[misc]
        executor = FleetExecutor(run, job, lanes, note=found.notes.append)
        began = time.monotonic()
        for event in executor.run(job.trainings):
            if event.kind not in {"done", "failed"}:
                continue
            found.outcomes.append(event)
            found.seconds.append(time.monotonic() - began)
            has_worked = any(item.where == "doomed" for item in found.outcomes)
            if not found.died_after and has_worked and len(found.outcomes) >= len(job.trainings) // 2:
                found.died_s, found.died_after = time.monotonic() - began, len(found.outcomes)
                _kill(servers["doomed"])
        executor.stop()
    return found


def _kill(sshd: Sshd) -> None:
    """End a server: first the one that would answer, so that nothing connects anew."""
    serving = sshd.connections()
    os.kill(sshd.process_id, signal.SIGKILL)
    for process_id in serving:
        Sshd._signal_tree(process_id, signal.SIGKILL)
