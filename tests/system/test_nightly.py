"""`jade up`, and what runs by itself from then on: prefect.yaml as it stands, a real server and worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from helpers.deployments import Deployments, Inbox, inbox, installed
from helpers.processes import wait_until
from prefect.settings import PREFECT_API_URL, temporary_settings

from jade_model.data.sample import sample_windows
from jade_model.data.schema import write_windows
from tasks.artifacts.repository import open_place
from tasks.experiments.champion import champion_history, current_champion
from tasks.operations.watch import look_at_data

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("nightly")]

QUICK = {"epochs": 2, "seeds": 1, "folds": 2, "recipe": "seed", "arms": ["soft_span", "crf"]}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, artifacts: Path) -> Iterator[Deployments]:
    with installed(tmp_path_factory.mktemp("home"), artifacts) as found:
        found.pause_schedules()
        yield found


@pytest.fixture(scope="module")
def told(up: Deployments) -> Iterator[Inbox]:
    """A webhook that `jade notify add` has made known."""
    with inbox() as found:
        added = up.jade("notify", "add", "webhook", "tests", "--json", text=f"{found.url}\n")
        assert added.returncode == 0, added.stderr
        assert found.url not in added.stdout + added.stderr
        yield found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "grown.parquet"
    write_windows(sample_windows(num_bases=24), path)
    return path


@pytest.fixture(scope="module")
def compared(up: Deployments, data: Path) -> dict[str, Any]:
    run = up.start("compare/on-demand", {**QUICK, "data": [str(data)]})
    return up.completed(run)


@pytest.fixture(scope="module")
def retrained(up: Deployments, told: Inbox, data: Path, compared: dict[str, Any]) -> dict[str, Any]:
    """Retrain on the arm that the comparison preferred."""
    parameters = {"data": [str(data)], "recipe": "seed", "epochs": 2, "folds": 2, "holdout": 0.3}
    return up.completed(up.start("retrain/weekly", parameters))


def test_up_again_starts_nothing_and_a_taken_port_is_named(up: Deployments, tmp_path: Path) -> None:
    port = str(up.port)
    env = {**up.env, "JADE_STATE_DIR": str(tmp_path / "another")}
    taken = Deployments(up.port, env).jade("up", "--port", port)
    assert taken.returncode == 2
    assert f"port {port} on 127.0.0.1" in taken.stderr
    assert "is taken by another program" in taken.stderr


def test_a_comparison_is_named_after_its_day_and_data(compared: dict[str, Any]) -> None:
    assert compared["name"].startswith(f"compare-grown-{compared['start_time'][:10]}-")
    assert set(compared["tags"]) == {"jade", "compare", "on-demand"}


def test_a_comparison_shows_checks_trend_figures_and_a_link_that_is_served(
    up: Deployments, compared: dict[str, Any]
) -> None:
    import httpx

    listed = up.ask("POST", "artifacts/filter", {"flow_runs": {"id": {"any_": [compared["id"]]}}})
    found = {item["key"]: item for item in listed}
    assert {"data-checks", "comparison", "trend", "figure-forest", "comparison-report", "html-report"} <= set(found)
    address = found["html-report"]["data"].rpartition("(")[2].rstrip(")")
    page = httpx.get(address, timeout=60)
    assert page.status_code == 200
    assert "Data Checks" in page.text


def test_the_retrained_model_is_judged_carded_and_told_of(
    up: Deployments, told: Inbox, retrained: dict[str, Any], artifacts: Path
) -> None:
    (run,) = artifacts.glob("*-retrain-*")
    card = json.loads((run / "card.json").read_text())
    store = open_place(artifacts).store
    listed = up.ask("POST", "artifacts/filter", {"flow_runs": {"id": {"any_": [retrained["id"]]}}})
    (champion,) = (item for item in listed if item["key"] == "champion")
    assert f"[{run.name}](/runs/flow-run/{retrained['id']})" in champion["data"]
    if card["decision"]["promote"]:
        assert current_champion(store) == run.name
        assert told.wait_for("promoted")[0]["message"].startswith(f"{run.name} is champion")
    else:
        assert store.pointers()["challenger"] == run.name
        forced = up.jade("promote", "challenger", "--force", "--json")
        assert forced.returncode == 0, forced.stderr
    assert champion_history(store)[-1].run_id == run.name
    shown = up.jade("champion", "--verify", "--history", "--json")
    assert shown.returncode == 0, shown.stderr
    assert all(json.loads(shown.stdout)["verified"].values())


def test_the_champion_predicts(up: Deployments, retrained: dict[str, Any], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "spans.csv"
    up.jade("promote", "challenger", "--force")
    done = up.jade("predict", "--model-path", "champion", "--data-path", str(data), "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_windows"] == sample_windows(num_bases=24).num_windows


def test_on_new_data_starts_once_for_each_change(up: Deployments, data: Path, tmp_path: Path) -> None:
    watched = tmp_path / "watched.parquet"
    shutil.copy(data, watched)
    # They go on until they are cancelled.
    up.change("compare/on-new-data", parameters={**QUICK, "data": [str(watched)], "epochs": 9000})
    up.completed(up.start("watch-data/every-10-minutes", {"deployment": "compare/on-new-data", "settle_s": 0}))
    (first,) = up.runs_of("compare/on-new-data")
    assert "new-data" in first["tags"]
    with temporary_settings({PREFECT_API_URL: up.api}):
        assert not look_at_data("compare/on-new-data", settle_s=0)[1]
        write_windows(sample_windows(num_bases=26), watched)
        assert look_at_data("compare/on-new-data", settle_s=0)[1]
    (second,) = {run["id"] for run in up.runs_of("compare/on-new-data")} - {first["id"]}
    for run in (second, first["id"]):
        up.ask("POST", f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
        assert up.wait(run)["state_type"] == "CANCELLED"


def test_prune_runs_to_its_end(up: Deployments, compared: dict[str, Any], retrained: dict[str, Any]) -> None:
    up.completed(up.start("prune/weekly", {"keep_last": 50}))


def test_a_crash_starts_the_reaper(up: Deployments) -> None:
    deployment = up.find("compare/on-demand")["id"]
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    body = {"parameters": QUICK, "state": later}
    run = up.ask("POST", f"deployments/{deployment}/create_flow_run", body)
    up.ask("POST", f"flow_runs/{run['id']}/set_state", {"state": {"type": "CRASHED"}, "force": True})

    wait_until(lambda: bool(reaped_by_automations(up)), 200)
    up.completed(reaped_by_automations(up)[0])


def test_silence_starts_the_reaper(up: Deployments) -> None:
    (found,) = (item for item in up.ask("POST", "automations/filter", {}) if item["name"] == "jade reap after silence")
    path, before = f"automations/{found['id']}", len(reaped_by_automations(up))
    told = {name: value for name, value in found.items() if name not in {"id", "created", "updated"}}
    hung = {"prefect.resource.id": f"prefect.flow-run.{uuid.uuid4()}", "prefect.resource.name": "hung"}
    flow = {"prefect.resource.id": f"prefect.flow.{uuid.uuid4()}", "prefect.resource.role": "flow"}
    heartbeat = {
        "id": str(uuid.uuid4()),
        "event": "prefect.flow-run.heartbeat",
        "occurred": datetime.now(UTC).isoformat(),
        "resource": hung,
        "related": [flow | {"prefect.resource.name": "compare"}],
    }
    # Ten seconds, the least that Prefect takes, instead of nine minutes.
    up.ask("PUT", path, told | {"trigger": found["trigger"] | {"within": 10}})
    try:
        up.ask("POST", "events", [heartbeat])
        wait_until(lambda: len(reaped_by_automations(up)) > before, 200)
    finally:
        up.ask("PUT", path, told)
    up.completed(reaped_by_automations(up)[0])


def reaped_by_automations(up: Deployments) -> list[str]:
    """Return the reaper's runs that no schedule and no person has started, the newest first."""
    runs = up.runs_of("reap/every-10-minutes")
    return [item["id"] for item in runs if (item["created_by"] or {}).get("type") == "AUTOMATION"]


def test_a_schedule_fires(up: Deployments) -> None:
    deployment = up.find("watch-data/every-10-minutes")["id"]
    before = len(up.runs_of("watch-data/every-10-minutes"))
    now = datetime.now(UTC).isoformat()
    soon = [{"schedule": {"interval": 20.0, "anchor_date": now, "timezone": "UTC"}, "active": True}]
    made = up.ask("POST", f"deployments/{deployment}/schedules", soon)
    try:
        wait_until(
            lambda: any(
                run["auto_scheduled"]
                for run in up.runs_of("watch-data/every-10-minutes")[: -before or None]
                if run["state_type"] == "COMPLETED"
            ),
            300,
        )
    finally:
        for schedule in made:
            up.ask("DELETE", f"deployments/{deployment}/schedules/{schedule['id']}")


def test_a_second_nightly_is_cancelled_and_the_first_goes_on_after_the_worker_was_killed(
    up: Deployments, told: Inbox, data: Path
) -> None:
    parameters = {**QUICK, "data": [str(data)], "epochs": 100, "fresh": True}
    first = up.start("compare/nightly", parameters)
    wait_until(lambda: up.run(first)["state_type"] == "RUNNING", 300, lambda: up.told(first))
    second = up.start("compare/nightly", parameters)
    assert up.wait(second)["state_type"] == "CANCELLED"
    record = json.loads((Path(up.env["JADE_STATE_DIR"]) / "server" / "worker.json").read_text())
    os.kill(record["pid"], signal.SIGKILL)
    again = up.jade("up", "--port", str(up.port), "--json")
    assert json.loads(again.stdout)["started"] == ["worker"]
    assert up.wait(first)["state_type"] == "COMPLETED", up.told(first)


def test_bad_data_fail_before_anything_is_trained_and_are_told_of(
    up: Deployments, told: Inbox, tmp_path: Path, artifacts: Path
) -> None:
    bad = tmp_path / "bad.parquet"
    write_windows(sample_windows(num_bases=4), bad)
    run = up.wait(up.start("compare/on-demand", {**QUICK, "data": [str(bad)]}))
    assert run["state_type"] == "FAILED"
    assert any("bad: size" in item["message"] for item in told.wait_for("failed"))
    folder = max(artifacts.glob("*-compare-*"))
    assert "size" in json.loads((folder / "FAILED.json").read_text())["message"]
    assert not list(folder.glob("*/checkpoint_*"))


def test_the_story_of_a_run_is_told(up: Deployments, compared: dict[str, Any], artifacts: Path) -> None:
    name = min(artifacts.glob("*-compare-*")).name
    done = up.jade("runs", "show", name, "--json")
    assert done.returncode == 0, done.stderr
    told = [chapter["what"] for chapter in json.loads(done.stdout)["story"]]
    assert told[0].startswith("compare begins")
    assert any("epochs, train_loss" in what for what in told)
    assert told[-1] == "completed"
