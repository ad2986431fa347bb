"""Runs outlive their Prefect server, and end as Cancelled, without a traceback, when somebody asks for it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.deployments import Deployments, working
from helpers.processes import wait_until
from helpers.servers import PrefectServer, serving
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.operations.dead_runs import end_dead_runs, name_waiting_runs, start_again
from tasks.operations.watch import look_at_data

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("outages")]

LONG = 9000
"""Epochs that nobody waits for."""


class Site:
    """A server that may be killed, a worker, and comparisons of two arms on small data."""

    def __init__(self, server: PrefectServer, data: Path, artifacts: Path) -> None:
        self.server, self.data, self.artifacts = server, data, artifacts
        self.up = Deployments.of(server)

    def begin(self, epochs: int) -> str:
        """Start a comparison; return its id once it trains."""
        parameters = {"data": [str(self.data)], "arms": ["soft_span", "crf"], "seeds": 1, "folds": 2, "fresh": True}
        parameters |= {"epochs": epochs, "artifacts": str(self.artifacts)}
        run = self.up.start("compare/on-demand", parameters)
        wait_until(lambda: bool(self.artifacts_of(run, "train-")), 300, lambda: self.up.told(run))
        return run

    def artifacts_of(self, run: str, key: str) -> dict[str, Any]:
        """Return the newest content of each artifact of a run whose key begins so."""
        body = {"flow_runs": {"id": {"any_": [run]}}, "artifacts": {"key": {"like_": key}}}
        return {item["key"]: item["data"] for item in self.up.ask("POST", "artifacts/filter", body)}

    def tasks_of(self, run: str) -> set[str]:
        """Return the states of a run's trainings."""
        found = self.up.ask("POST", "task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {item["state_type"] for item in found if item["name"].startswith("train-")}

    def ask(self, run: str, **state: Any) -> None:
        """Set a run's state as the UI does."""
        self.up.ask("POST", f"flow_runs/{run}/set_state", {"state": state})

    def process(self) -> psutil.Process:
        """The process of the one run that goes on."""
        home = self.server.env["PREFECT_HOME"]
        (found,) = [
            process
            for process in psutil.process_iter(["cmdline", "environ"])
            if (process.info["cmdline"] or [])[1:3] == ["-m", "prefect.engine"]
            and (process.info["environ"] or {}).get("PREFECT_HOME") == home
        ]
        return found

    def lines(self, run: str) -> list[str]:
        """Return the run's log."""
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in self.up.ask("POST", "logs/filter", body)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, database: Path, small_file: Path) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("prefect")
    with serving(home, database, PREFECT_WORKER_QUERY_SECONDS="2") as server, working(server):
        yield Site(server, small_file, tmp_path_factory.mktemp("runs"))


def is_cancelled_without_a_traceback(site: Site, run: str) -> bool:
    ended = site.up.wait(run)
    assert (ended["state_type"], ended["state"]["message"][:25]) == ("CANCELLED", "The run was asked to end ")
    wait_until(lambda: site.tasks_of(run) == {"CANCELLED"}, 200, lambda: str(site.tasks_of(run)))
    return not [line for line in site.lines(run) if "Traceback" in line]


def test_a_suspended_run_stops_training_goes_on_when_it_is_resumed_and_heeds_ctrl_c(site: Site) -> None:
    run = site.begin(LONG)
    process = site.process()
    site.ask(run, type="PAUSED", name="Suspended", state_details={"pause_reschedule": True})
    process.wait(200)
    assert site.up.run(run)["state_name"] == "Suspended"
    wait_until(lambda: site.tasks_of(run) == {"CANCELLED"}, 200, lambda: str(site.tasks_of(run)))
    site.up.ask("POST", f"flow_runs/{run}/resume", {})
    wait_until(lambda: "RUNNING" in site.tasks_of(run), 300, lambda: site.up.told(run))
    site.process().send_signal(signal.SIGINT)
    assert is_cancelled_without_a_traceback(site, run)


def test_a_run_that_was_called_dead_says_that_it_goes_on_and_heeds_its_worker(site: Site) -> None:
    run = site.begin(LONG)
    site.up.ask("POST", f"flow_runs/{run}/set_state", {"state": {"type": "CRASHED"}, "force": True})
    wait_until(lambda: site.up.run(run)["state_type"] == "RUNNING", 300, lambda: site.up.told(run))
    site.process().send_signal(signal.SIGTERM)
    assert is_cancelled_without_a_traceback(site, run)


def test_a_run_trains_through_an_outage_shows_itself_afterwards_and_heeds_cancel(site: Site) -> None:
    run = site.begin(LONG)
    before = site.artifacts_of(run, "train-")
    site.server.kill()
    time.sleep(40)  # Prefect's observer gives up after some 30 s
    site.server.start()
    wait_until(
        lambda: all(site.artifacts_of(run, "train-")[key] > shown for key, shown in before.items()),
        300,
        lambda: str(before) + site.up.told(run),
    )
    assert site.up.run(run)["state_type"] == "RUNNING"
    site.ask(run, type="CANCELLING")
    assert site.up.wait(run)["state_type"] == "CANCELLED"


def test_a_run_that_ends_while_the_server_is_away_is_reported_when_it_is_back(site: Site) -> None:
    run = site.begin(30)
    site.server.kill()
    done = site.artifacts
    wait_until(lambda: len(list(done.glob("*/comparison.json"))) > 0, 400)
    site.server.start()
    ended = site.up.completed(run)
    assert "soft_span" in ended["state"]["message"]
    assert set(site.artifacts_of(run, "train-").values()) == {100.0}
    assert set(site.artifacts_of(run, "comparison")) == {"comparison", "comparison-report"}
    assert str(site.artifacts) in site.artifacts_of(run, "run")["run"]


def test_runs_that_nobody_runs_any_more_are_ended(site: Site) -> None:
    ids = {}
    for kind in ("RUNNING", "PENDING", "CANCELLING"):
        later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
        deployment = site.up.find("compare/on-demand")["id"]
        run = site.up.ask("POST", f"deployments/{deployment}/create_flow_run", {"state": later})["id"]
        site.up.ask("POST", f"flow_runs/{run}/set_state", {"state": {"type": kind}, "force": True})
        ids[kind] = run
    time.sleep(25)
    with temporary_settings({PREFECT_API_URL: site.server.url}):
        ended_runs = end_dead_runs(dead_after_s=20)
    # The worker itself ends the one that was asked to end, if it looks first.
    assert len(ended_runs) in {2, 3}
    ended = {kind: site.up.run(run)["state_type"] for kind, run in ids.items()}
    assert ended == {"RUNNING": "CRASHED", "PENDING": "CRASHED", "CANCELLING": "CANCELLED"}


def test_a_run_that_is_due_later_gets_a_telling_name_unless_somebody_gave_one(site: Site) -> None:
    deployment = site.up.find("compare/on-demand")["id"]
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T02:00:00Z"}}
    body = {"state": later, "parameters": {"data": ["/data/btcusd.parquet"]}}
    runs = [
        site.up.ask("POST", f"deployments/{deployment}/create_flow_run", body | named)["id"]
        for named in ({}, {"name": "before-the-merge"})
    ]
    with temporary_settings({PREFECT_API_URL: site.server.url}):
        name_waiting_runs()
    names = [site.up.run(run)["name"] for run in runs]
    assert names == [f"compare-btcusd-2100-01-01-0200-{runs[0][-4:]}", "before-the-merge"]
    for run in runs:
        site.up.ask("DELETE", f"flow_runs/{run}")


def test_data_whose_comparison_crashed_are_compared_again_but_not_for_ever(site: Site) -> None:
    site.up.change("compare/on-new-data", parameters={"data": [str(site.data)]})
    told = []
    # A run that the worker had begun would say that it lives.
    site.up.ask("PATCH", "work_pools/jade", {"is_paused": True})
    for _ in range(4):
        with temporary_settings({PREFECT_API_URL: site.server.url}):
            told.append(look_at_data("compare/on-new-data", settle_s=0)[0])
        for run in site.up.runs_of("compare/on-new-data"):
            if run["state_type"] != "CRASHED":
                body = {"state": {"type": "CRASHED"}, "force": True}
                site.up.ask("POST", f"flow_runs/{run['id']}/set_state", body)
    site.up.ask("PATCH", "work_pools/jade", {"is_paused": False})
    assert told[0].startswith("changed: started ")
    assert [line.startswith("not compared yet, for the last run crashed: started ") for line in told[1:3]] == [True] * 2
    assert "not compared: 3 runs crashed" in told[3]


def forget_crashed(site: Site) -> None:
    """Other tests' runs that crashed would be started again, too."""
    body = {"flow_runs": {"state": {"type": {"any_": ["CRASHED"]}}}}
    for run in site.up.ask("POST", "flow_runs/filter", body):
        site.up.ask("DELETE", f"flow_runs/{run['id']}")


def test_a_run_whose_server_goes_away_while_its_process_starts_begins_when_it_is_back(site: Site) -> None:
    forget_crashed(site)
    parameters = {"data": [str(site.data)], "arms": ["soft_span", "crf"], "recipe": "seed", "folds": 2, "epochs": 1}
    run = site.up.start("compare/on-demand", parameters | {"artifacts": str(site.artifacts), "fresh": True})
    # From here on its process imports what flows need, and has yet to ask the server.
    wait_until(lambda: any("pull step" in line for line in site.lines(run)), 200, lambda: site.up.told(run))
    site.server.kill()
    time.sleep(20)
    site.server.start()
    ended = site.up.wait(run)
    if ended["state_type"] == "CRASHED":
        # Sooner still: before any code of ours was there.
        with temporary_settings({PREFECT_API_URL: site.server.url}):
            assert start_again() == [ended["name"]]
    site.up.completed(run)


def test_a_run_that_crashed_before_it_began_is_started_again_but_not_for_ever(site: Site) -> None:
    forget_crashed(site)
    site.up.ask("PATCH", "work_pools/jade", {"is_paused": True})
    run = site.up.start("compare/on-demand", {"data": [str(site.data)]})
    told = []
    for _ in range(3):
        body = {"state": {"type": "CRASHED"}, "force": True}
        site.up.ask("POST", f"flow_runs/{run}/set_state", body)
        with temporary_settings({PREFECT_API_URL: site.server.url}):
            told.append(start_again())
    name = site.up.run(run)["name"]
    assert told == [[name], [name], []]
    assert site.up.run(run)["state_type"] == "CRASHED"
    site.up.ask("PATCH", "work_pools/jade", {"is_paused": False})
