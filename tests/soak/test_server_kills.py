"""Comparisons whose Prefect server is killed, and started again, at a random moment between the order and the end.

Each must end as Completed, with the figures of an undisturbed one. `JADE_SOAK_KILLS` says how many there are.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.deployments import Deployments, working
from helpers.homes import make_database
from helpers.servers import PrefectServer, serving

from jade_model.comparison.files import read_comparison

pytestmark = pytest.mark.soak

KILLS = int(os.environ.get("JADE_SOAK_KILLS", "20"))
MOST_AWAY_S = 45.0
"""Longer than Prefect's own patience with a server, some 30 s."""
EPOCHS = 30


@dataclass
class Site:
    """A server that may be killed, a worker, and small comparisons."""

    server: PrefectServer
    data: Path
    artifacts: Path

    def order(self) -> tuple[str, Path]:
        """Ask for a comparison; return its run, and the folder that it keeps its files in."""
        artifacts = self.artifacts / str(len(list(self.artifacts.iterdir())))
        artifacts.mkdir()
        parameters = {"data": [str(self.data)], "arms": ["soft_span", "crf"], "recipe": "seed", "seeds": 1, "folds": 2}
        parameters |= {"epochs": EPOCHS, "artifacts": str(artifacts), "fresh": True}
        return Deployments.of(self.server).start("compare/on-demand", parameters), artifacts

    def figures(self, run: str, artifacts: Path) -> dict[str, Any]:
        """Return what a run that ends as Completed has found."""
        up = Deployments.of(self.server)
        ended = up.wait(run, 900)
        if ended["state_type"] == "CRASHED" and not ended["run_count"]:
            # Its process had only begun to start. The reaper's schedule would do this within ten minutes.
            up.completed(up.start("reap/every-10-minutes"), 300)
            print("started again by the reaper")
        up.completed(run, 900)
        (path,) = artifacts.glob("*/comparison.json")
        comparison = read_comparison(path)
        assert not list(artifacts.glob("*/FAILED.json"))
        found = {name: arm["summary"] for name, arm in comparison["arms"].items()}
        return found | {key: comparison[key] for key in ("differences", "verdict", "baselines")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, small_file: Path) -> Iterator[Site]:
    empty, home = tmp_path_factory.mktemp("database"), tmp_path_factory.mktemp("prefect")
    make_database(empty)
    with serving(home, empty / "prefect.db", PREFECT_WORKER_QUERY_SECONDS="2") as server, working(server):
        yield Site(server, small_file, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> tuple[dict[str, Any], float]:
    """What a comparison finds, and how long it takes from the order on."""
    began = time.monotonic()
    figures = site.figures(*site.order())
    return figures, time.monotonic() - began


@pytest.mark.parametrize("number", range(KILLS))
def test_a_comparison_survives_its_server(site: Site, undisturbed: tuple[dict[str, Any], float], number: int) -> None:
    figures, seconds = undisturbed
    chance = random.Random(number)
    moment, away = chance.uniform(0, seconds), chance.uniform(0, MOST_AWAY_S)
    run, artifacts = site.order()
    time.sleep(moment)
    before = Deployments.of(site.server).run(run)["state_name"]
    site.server.kill()
    time.sleep(away)
    site.server.start()
    print(f"{number}: killed after {moment:.0f} of {seconds:.0f} s ({before}), away for {away:.0f} s")
    assert site.figures(run, artifacts) == figures
