"""Every deployment of prefect.yaml runs to Completed on small data, with Prefect's history in PostgreSQL or SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.deployments import Deployments, worker_log, working
from helpers.servers import ROOT, PrefectServer

pytestmark = pytest.mark.slow_system

SMALL = {"epochs": 1, "seeds": 1, "folds": 2}
COMPARE = {**SMALL, "recipe": "seed", "arms": ["soft_span", "crf"]}

# What trains takes minutes; the others have nothing to do here, and end at once.
QUICK = ("reap/every-10-minutes", "watch-data/every-10-minutes", "prune/weekly")
TRAINING: dict[str, dict[str, Any]] = {
    "compare/nightly": COMPARE,
    "compare/on-demand": COMPARE,
    "compare/on-new-data": COMPARE,
    "sweep/on-demand": {**SMALL, "grid": {"recipe": ["seed_soft_span", "seed_crf"]}},
    "retrain/weekly": {"arm": "crf", "recipe": "seed", "epochs": 1, "folds": 2},
}


@pytest.fixture(scope="module")
def on_postgresql(postgres_server: PrefectServer) -> Iterator[Deployments]:
    # Two workers share the pool, as on two machines; neither may have all of the runs that are started at once.
    with working(postgres_server, 3, 3):
        yield Deployments.of(postgres_server)


def test_what_trains_nothing_ends_on_postgresql(on_postgresql: Deployments, tmp_path: Path) -> None:
    assert len(on_postgresql.ask("POST", "deployments/filter", {})) == len(QUICK) + len(TRAINING), "none is left out"
    given = {"prune/weekly": {"artifacts": str(tmp_path)}}
    for run in [on_postgresql.start(name, given.get(name)) for name in QUICK]:
        on_postgresql.completed(run)


def test_what_trains_ends_on_postgresql_shared_by_two_workers(
    on_postgresql: Deployments, postgres_server: PrefectServer, small_file: Path, tmp_path: Path
) -> None:
    run_all(on_postgresql, small_file, tmp_path)
    assert all("submitting flow run" in worker_log(postgres_server, number).read_text() for number in (0, 1))


def test_what_trains_ends_on_sqlite(deployed: PrefectServer, small_file: Path, tmp_path: Path) -> None:
    run_all(Deployments.of(deployed), small_file, tmp_path)


def run_all(deployments: Deployments, data: Path, artifacts: Path) -> None:
    """Start everything that trains at once, and see it through."""
    common = {"data": [str(data)], "artifacts": str(artifacts)}
    for run in [deployments.start(name, common | parameters) for name, parameters in TRAINING.items()]:
        deployments.completed(run, 900)


def test_documented_prefect_commands_do_what_the_pages_say(deployed: PrefectServer) -> None:
    pages = (ROOT / "docs" / "operations.md").read_text() + (ROOT / "docs" / "sweeps.md").read_text()
    up = Deployments.of(deployed)

    def follow(line: str) -> None:
        assert f"prefect {line}" in pages, line
        deployed.prefect(*line.split())

    follow("work-pool pause jade")
    assert up.ask("GET", "work_pools/jade")["is_paused"]
    follow("work-pool resume jade")
    assert not up.ask("GET", "work_pools/jade")["is_paused"]
    # Deploying as here has set it; where containers or systemd's units run, the page has people set it.
    up.ask("DELETE", "v2/concurrency_limits/provider-runpod")
    follow("gcl create provider-runpod --limit 8")
    assert up.ask("GET", "v2/concurrency_limits/provider-runpod")["limit"] == 8
    before = up.find("compare/on-demand")
    try:
        follow("work-pool create gpu-h100 --type process")
        follow("deploy --name compare/on-demand --pool gpu-h100")
        moved = up.find("compare/on-demand")
        assert (moved["id"], moved["work_pool_name"]) == (before["id"], "gpu-h100")
        assert moved["parameters"] == before["parameters"]
        assert up.find("compare/nightly")["work_pool_name"] == "jade"
    finally:
        deployed.deploy("--reset")
    assert up.find("compare/on-demand")["work_pool_name"] == "jade"
