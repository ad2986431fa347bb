"""Seven nights in a minute: what happened, who was told, what was promoted; tests/soak has them with a real worker.

The flows, the server, the automations and the trainings are real; the windows are such that a dozen epochs learn them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from helpers.deployments import Inbox, inbox
from helpers.plain_windows import all_labelled, plain_windows, shuffled_spans
from helpers.processes import wait_until
from helpers.servers import ROOT, PrefectServer, kill_group

from jade_model.core.windows import Windows
from jade_model.data.schema import write_windows
from tasks.artifacts.repository import open_place
from tasks.experiments.champion import champion_history, current_champion
from tests.fakes.runpod_server import running_runpod

# In CI, the tests of nights, of the champion and of notifications show the parts.
pytestmark = pytest.mark.slow_system

PROGRAM = Path(__file__).parents[1] / "programs" / "nights.py"
EPOCHS = 12


@dataclass
class Scheduler:
    """The process that runs the flows."""

    env: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def send(self, flow: str, parameters: dict[str, Any]) -> None:
        """Start a flow."""
        if self.process is None:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, str(PROGRAM)],
                    cwd=ROOT,
                    env=self.env | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )
        self._pipe(self.process.stdin).write(json.dumps({"flow": flow, "parameters": parameters}).encode() + b"\n")
        self._pipe(self.process.stdin).flush()

    def run(self, flow: str, parameters: dict[str, Any]) -> str:
        """Run a flow to its end; return its state."""
        self.send(flow, parameters)
        assert self.process is not None
        line = self._pipe(self.process.stdout).readline()
        assert line, self.log.read_text()[-5000:]
        return str(json.loads(line)["state"])

    def kill(self) -> None:
        """Kill it, if it lives; the next flow starts another."""
        if self.process is not None:
            kill_group(self.process)
            for pipe in (self.process.stdin, self.process.stdout):
                self._pipe(pipe).close()
            self.process = None

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


@dataclass
class Nights:
    """What the nights work on."""

    scheduler: Scheduler
    told: Inbox
    data: Path
    artifacts: Path

    @property
    def parameters(self) -> dict[str, Any]:
        return {"data": [str(self.data)], "artifacts": str(self.artifacts), "epochs": EPOCHS, "folds": 2}

    @property
    def champion(self) -> str | None:
        return current_champion(open_place(self.artifacts).store)

    def compare(self, windows: Windows, **changes: Any) -> str:
        write_windows(windows, self.data)
        return self.scheduler.run("compare", self.compared | changes)

    @property
    def compared(self) -> dict[str, Any]:
        return self.parameters | {"arms": ["soft_span", "crf"]}

    def retrain(self) -> str:
        # So few windows say little of calibration, or of small differences.
        limits = {"holdout": 0.25, "margin": 0.1, "max_calibration_error": 0.2}
        return self.scheduler.run("retrain", self.parameters | limits)

    def failure(self) -> str:
        """Return what the newest run failed with."""
        (*_, folder) = sorted(self.artifacts.glob("*-compare-*"))
        assert not list(folder.glob("*/checkpoint_*"))
        return str(json.loads((folder / "FAILED.json").read_text())["message"])


@pytest.fixture
def nights(tmp_path: Path, postgres_server: PrefectServer) -> Iterator[Nights]:
    with running_runpod() as runpod, inbox() as told:
        runpod.sold_out |= {gpu["id"] for gpu in runpod.gpus}
        env = postgres_server.env | {
            "RUNPOD_API_KEY": runpod.api_key,
            "JADE_RUNPOD_URL": runpod.url,
            "JADE_STATE_DIR": str(tmp_path / "state"),
        }
        # A silence is told later than this test waits.
        occasions = [
            text for name in ("failed", "crashed", "regression", "promoted", "budget") for text in ("--on", name)
        ]
        notify(env, "add", "webhook", "nights", *occasions, address=told.url)
        scheduler = Scheduler(env, tmp_path / "flows.log")
        try:
            yield Nights(scheduler, told, tmp_path / "nightly.parquet", tmp_path / "artifacts")
        finally:
            scheduler.kill()
        notify(env, "remove", "nights")


def notify(env: dict[str, str], *arguments: str, address: str = "") -> None:
    command = [sys.executable, "-m", "flows.cli", "notify", *arguments]
    subprocess.run(command, cwd=ROOT, env=env, input=address, text=True, timeout=300, check=True)


def test_seven_nights(nights: Nights) -> None:
    """Nights in a row, for each stands on those before it."""
    # The first: something to begin with.
    assert nights.compare(plain_windows(24)) == "COMPLETED"
    assert nights.retrain() == "COMPLETED"
    first_champion = nights.champion
    assert first_champion is not None
    # The second: the data have grown.
    assert nights.compare(plain_windows(28)) == "COMPLETED"
    # The third: the data are bad. Nothing is trained on them.
    assert nights.compare(all_labelled(plain_windows(32))) == "FAILED"
    assert "in-span rate" in nights.failure()
    # The fourth: there is no machine to be had.
    rented = {"placement": {"host": ["runpod"]}, "rental": {"accept_unreaped": True, "max_price": 1.0}}
    assert nights.compare(plain_windows(32), **rented) == "FAILED"
    assert "none to be had" in nights.failure()
    # The fifth: whatever runs the flow is killed in the middle; the next one goes on.
    write_windows(plain_windows(36), nights.data)
    before = set(nights.artifacts.glob("*-compare-*"))
    nights.scheduler.send("compare", nights.compared)
    wait_until(lambda: any(set(nights.artifacts.glob("*-compare-*/*/history.jsonl")) - before), 60)
    nights.scheduler.kill()
    assert nights.compare(plain_windows(36)) == "COMPLETED"
    # The sixth: what is to be learned has become noise. A model of it is not promoted.
    assert nights.compare(shuffled_spans(plain_windows(40))) == "COMPLETED"
    assert nights.retrain() == "COMPLETED"
    assert nights.champion == first_champion
    # The seventh: all is well again, and the model has learned from more.
    assert nights.compare(plain_windows(44)) == "COMPLETED"
    assert nights.retrain() == "COMPLETED"
    assert nights.champion != first_champion

    nights.told.wait_for("promoted", 2)
    assert Counter(item["occasion"] for item in nights.told.received) == {"promoted": 2, "failed": 2, "regression": 2}
    refused, not_rented = nights.told.of("failed")
    assert "in-span rate: found 100.00% of bars in a span" in refused["message"]
    assert "none to be had" in not_rented["message"]
    assert {item["message"].partition(" fell to ")[0] for item in nights.told.of("regression")} == {"soft_span", "crf"}
    history = [entry.run_id for entry in champion_history(open_place(nights.artifacts).store)]
    assert history == [first_champion, nights.champion]
    assert [item["message"].partition(" is champion: ")[0] for item in nights.told.of("promoted")] == history
    # Neither the nights that failed nor the killed comparison stand in the trend.
    (*_, newest) = sorted(nights.artifacts.glob("*-compare-*/trend.json"))
    assert len({point["run_id"] for point in json.loads(newest.read_text())["points"]}) == 5
