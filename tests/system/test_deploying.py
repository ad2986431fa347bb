"""Deploying again takes nothing back that somebody has changed on the server since."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.deployments import Deployments
from helpers.servers import ROOT, PrefectServer, serving

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("deploying")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[PrefectServer]:
    with serving(tmp_path_factory.mktemp("prefect"), database) as server:
        server.deploy()
        yield server


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A copy of the checkout, with another description of a deployment."""
    for package in ("flows", "tasks", "jade_model", "deployments"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "prefect.yaml").read_text()
    (tmp_path / "prefect.yaml").write_text(text.replace("all but a fixed hold-out", "all of it but a hold-out"))
    return tmp_path


def deploy_from(folder: Path, server: PrefectServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tasks.operations.deploy", *arguments]
    env = server.env | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900, check=False)


def test_what_somebody_changed_stays_until_a_reset(server: PrefectServer, other: Path) -> None:
    up = Deployments.of(server)
    assert server.deploy().stdout.strip() == "", "nothing had changed"

    nightly = up.find("compare/nightly")["parameters"]
    up.change("compare/nightly", parameters=nightly | {"seeds": 7})
    up.change("retrain/weekly", paused=True)
    up.ask("DELETE", f"deployments/{up.find('prune/weekly')['id']}")
    watch = up.find("watch-data/every-10-minutes")
    up.ask("PATCH", f"deployments/{watch['id']}/schedules/{watch['schedules'][0]['id']}", {"active": False})
    up.ask("PATCH", "work_pools/jade", {"is_paused": True, "concurrency_limit": 3})
    (silence,) = (item for item in up.ask("POST", "automations/filter", {}) if "silence" in item["name"])
    up.ask("PATCH", f"automations/{silence['id']}", {"enabled": False})

    refused = deploy_from(other, server)
    assert refused.returncode == 2
    assert f"run from another checkout, {ROOT}" in refused.stderr

    # Moved rather than copied: the deployments' folder is gone.
    for name in ("compare/nightly", "retrain/weekly", "watch-data/every-10-minutes", "reap/every-10-minutes"):
        step = {"prefect.deployments.steps.set_working_directory": {"directory": "/nonexistent/jade"}}
        up.change(name, pull_steps=[step])
    for name in ("compare/on-demand", "compare/on-new-data", "sweep/on-demand"):
        up.ask("DELETE", f"deployments/{up.find(name)['id']}")
    moved = deploy_from(other, server)
    assert moved.returncode == 0, moved.stderr
    retrain = up.find("retrain/weekly")
    assert "all of it but a hold-out" in retrain["description"]
    assert retrain["paused"]
    assert up.find("compare/nightly")["parameters"] == nightly | {"seeds": 7}
    assert not up.find("watch-data/every-10-minutes")["schedules"][0]["active"]
    pool = up.ask("GET", "work_pools/jade")
    assert (pool["is_paused"], pool["concurrency_limit"]) == (True, 3)
    enabled = {item["name"]: item["enabled"] for item in up.ask("POST", "automations/filter", {})}
    assert enabled == {"jade reap after a crash": True, "jade reap after silence": False}
    names = {item["name"] for item in up.ask("POST", "deployments/filter", {})}
    assert names == {"nightly", "weekly", "every-10-minutes"}, "what was deleted stays deleted"

    server.deploy("--reset")
    assert len(up.ask("POST", "deployments/filter", {})) == 8
    assert up.find("compare/nightly")["parameters"] == nightly
    assert not up.find("retrain/weekly")["paused"]
