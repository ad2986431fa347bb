"""RunPod's provisioner with the fake service behind it, as the contract suite wants it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from tasks.provisioning.provisioner import CallLimits, Timing
from tasks.provisioning.runpod import RunPodProvisioner, RunPodSettings
from tasks.provisioning.runpod_api import RunPodApi
from tests.fakes.runpod_server import Fault, RunPodServer, running_runpod

QUICK = CallLimits(pause_s=0.004, longest_wait_s=2.0)


class RunPodWorld:
    """The pauses are those of a test; nothing else is special."""

    def __init__(self, server: RunPodServer, **timing: float) -> None:
        self.server, self.timing = server, Timing(**{"settle_s": 60.0, "release_s": 60.0, "look_s": 0.01, **timing})
        self.secrets = (server.api_key,)
        self.provisioner = self.connect()
        self._others: set[str] = set()
        for name in ("training", "jade", "jade-0", "jade_of_somebody"):
            self.add_other(name)

    def connect(self, api_key: str | None = None, **settings: Any) -> RunPodProvisioner:
        key = SecretStr(self.server.api_key if api_key is None else api_key)
        api = RunPodApi(key, self.server.url, QUICK)
        return RunPodProvisioner(api, RunPodSettings(**settings))

    def add_other(self, name: str, **wanted: Any) -> None:
        """A pod of somebody else."""
        self._others.add(self.server.add_foreign(name, **wanted).id)

    def costing(self) -> int:
        return len(self.server.costing)

    def lose_answer_to_create(self) -> None:
        self.server.faults.append(Fault("lose answer", "POST"))

    def lose_create(self) -> None:
        self.server.faults.append(Fault("lose request", "POST"))

    def sell_out(self, kind: str) -> None:
        self.server.sold_out.add(kind)

    def refuse_key(self) -> None:
        self._all("answer", status=401, detail="invalid bearer token")

    def go_down(self) -> None:
        self._all("answer", status=503, detail="upstream is away")

    def come_back(self) -> None:
        self.server.faults.clear()

    def stumble(self, times: int) -> None:
        self.server.faults.append(Fault("answer", "GET", times=times, status=502))

    def delay_end(self) -> None:
        self.server.looks_to_vanish = 10**6

    def hurry_end(self) -> None:
        self.server.looks_to_vanish = 0
        for pod in self.server.costing:
            pod.looks_to_vanish = 0

    def others_untouched(self) -> bool:
        return not self.server.touched_others and {pod.id for pod in self.server.others} == self._others

    def _all(self, kind: Any, **what: Any) -> None:
        self.server.faults += [Fault(kind, method, times=10**6, **what) for method in ("GET", "POST", "DELETE")]


@contextlib.contextmanager
def runpod_world(machines: Path | None = None, **timing: float) -> Iterator[RunPodWorld]:
    with running_runpod(machines) as server:
        yield RunPodWorld(server, **timing)
