"""Seven nights as `jade up` runs them: data grow, one night they are bad, one there is no machine to be had, one the
worker is killed, one the model really gets worse. What happened, who was told and what was promoted must be right.

tests/system/test_seven_nights.py has them without a worker, and so in a minute.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes.runpod_server import RunPodServer, running_runpod
from helpers.deployments import Deployments, Inbox, inbox, installed
from helpers.plain_windows import all_labelled, plain_windows, shuffled_spans
from helpers.processes import wait_until

from jade_model.core.windows import Windows
from jade_model.data.schema import write_windows
from tasks.artifacts.repository import open_place
from tasks.experiments.champion import champion_history, current_champion

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("seven nights")]

EPOCHS = 12


@dataclass
class Nights:
    """An installation, its data file, and what each night came to."""

    up: Deployments
    told: Inbox
    data: Path
    artifacts: Path
    runpod: RunPodServer
    log: list[dict[str, Any]] = field(default_factory=list)

    def night(self, windows: Windows, *, host: str = "local", kill_worker: bool = False) -> dict[str, Any]:
        """Let a comparison, and then a retraining, run as their schedules would start them."""
        write_windows(windows, self.data)
        before = {name: len(self.told.of(name)) for name in ("failed", "regression", "promoted")}
        common = {"data": [str(self.data)], "epochs": EPOCHS, "folds": 2, "placement": {"host": [host]}}
        common |= {"rental": {"accept_unreaped": True, "max_price": 1.0}} if host != "local" else {}
        compare = self.up.start("compare/nightly", {**common, "seeds": 1, "arms": ["soft_span", "crf"]})
        if kill_worker:
            self.kill_worker(compare)
        first = self.up.wait(compare, 900)
        entry: dict[str, Any] = {"compare": first["state_type"]}
        if first["state_type"] == "COMPLETED":
            # So few windows say little of calibration, or of small differences.
            limits = {"holdout": 0.25, "margin": 0.1, "max_calibration_error": 0.2}
            parameters = {**common, "arm": "crf", **limits}
            entry["retrain"] = self.up.wait(self.up.start("retrain/weekly", parameters), 900)["state_type"]
        entry["champion"] = current_champion(open_place(self.artifacts).store)
        entry["told"] = self.told_since(before, first)
        self.log.append(entry)
        return entry

    def told_since(self, before: dict[str, int], run: dict[str, Any]) -> set[str]:
        """Return what was told of this night; a failure is waited for, since it comes by way of the server's events."""
        if run["state_type"] != "COMPLETED":
            self.told.wait_for("failed", before["failed"] + 1)
        return {name for name, number in before.items() if len(self.told.of(name)) > number}

    def kill_worker(self, run: str) -> None:
        """Kill the worker in the middle of a run, and start it again as systemd would."""
        wait_until(lambda: self.up.run(run)["state_type"] == "RUNNING", 300, lambda: self.up.told(run))
        record = json.loads((Path(self.up.env["JADE_STATE_DIR"]) / "server" / "worker.json").read_text())
        os.kill(record["pid"], signal.SIGKILL)
        again = self.up.jade("up", "--port", str(self.up.port), "--json")
        assert json.loads(again.stdout)["started"] == ["worker"], again.stderr


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    artifacts, folder = tmp_path_factory.mktemp("artifacts"), tmp_path_factory.mktemp("nights")
    with running_runpod() as runpod, inbox() as told:
        runpod.sold_out |= {gpu["id"] for gpu in runpod.gpus}
        settings = {"RUNPOD_API_KEY": runpod.api_key, "JADE_RUNPOD_URL": runpod.url}
        with installed(tmp_path_factory.mktemp("home"), artifacts, **settings) as up:
            added = up.jade("notify", "add", "webhook", "nights", text=told.url)
            assert added.returncode == 0, added.stderr
            yield Nights(up, told, folder / "nightly.parquet", artifacts, runpod)


def test_seven_nights(nights: Nights) -> None:
    """Nights in a row, for each stands on those before it."""
    first = nights.night(plain_windows(24))
    assert (first["compare"], first["retrain"]) == ("COMPLETED", "COMPLETED")
    assert first["champion"] is not None
    assert "promoted" in first["told"]

    second = nights.night(plain_windows(28))
    assert (second["compare"], second["retrain"]) == ("COMPLETED", "COMPLETED")
    before_bad = second["champion"]

    bad = nights.night(all_labelled(plain_windows(32)))
    assert bad["compare"] == "FAILED"
    assert bad["champion"] == before_bad
    assert bad["told"] == {"failed"}
    folder = max(nights.artifacts.glob("*-compare-*"))
    assert "in-span rate" in json.loads((folder / "FAILED.json").read_text())["message"]
    assert not list(folder.glob("*/history.jsonl"))

    no_capacity = nights.night(plain_windows(32), host="runpod")
    assert no_capacity["compare"] == "FAILED"
    assert no_capacity["told"] == {"failed"}
    assert not nights.runpod._pods

    killed = nights.night(plain_windows(36), kill_worker=True)
    assert (killed["compare"], killed["retrain"]) == ("COMPLETED", "COMPLETED")

    before_regression = killed["champion"]
    worse = nights.night(shuffled_spans(plain_windows(40)))
    assert worse["compare"] == "COMPLETED"
    assert worse["champion"] == before_regression, "what got worse is never promoted"
    assert "regression" in {*worse["told"], *(["regression"] if nights.told.wait_for("regression") else [])}
    assert "crf" in nights.told.of("regression")[0]["message"] + nights.told.of("regression")[-1]["message"]

    last = nights.night(plain_windows(44))
    assert (last["compare"], last["retrain"]) == ("COMPLETED", "COMPLETED")

    history = champion_history(open_place(nights.artifacts).store)
    assert history[-1].run_id == last["champion"]
    assert [entry.number for entry in history] == list(range(1, len(history) + 1))
    assert len(nights.told.of("failed")) == 2
    trend = json.loads((max(nights.artifacts.glob("*-compare-*/comparison.json")).parent / "trend.json").read_text())
    assert len({point["run_id"] for point in trend["points"]}) == 5
