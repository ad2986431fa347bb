"""What tests share: a small data file, and a small finished run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is loaded: one thread a process, as everywhere in Jade.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No settings, hosts or records of whoever runs the tests.
os.environ.update(dict.fromkeys(("JADE_CONFIG_DIR", "JADE_STATE_DIR", "JADE_CACHE_DIR"), "/nonexistent/jade"))
# Tests log outside of flows, which Prefect warns of once anything in the process has set its logging up.
os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"
os.environ.pop("JADE_HOST", None)
os.environ.pop("JADE_ARTIFACTS", None)

from helpers.runs import SMALL_PLAN, finished_run
from helpers.sharing import made_once
from hypothesis import HealthCheck, settings

from jade_model.core.windows import Windows
from jade_model.data.sample import sample_windows
from jade_model.data.schema import write_windows
from tasks.core.layout import RunLayout
from tasks.settings.environment import available_cores

# A deadline is a timed test, as is a check of how long examples take to make: on a busy machine it fails for nothing.
settings.register_profile("jade", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("jade")


def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are cores: the tests wait for a third of their time."""
    return available_cores() * 3 // 2


@pytest.fixture(scope="session")
def small_windows() -> Windows:
    """Some forty windows of twenty bases."""
    return sample_windows(num_bases=20)


@pytest.fixture(scope="session")
def small_file(small_windows: Windows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a Parquet file."""
    path = tmp_path_factory.mktemp("data") / "small.parquet"
    write_windows(small_windows, path)
    return path


@pytest.fixture(scope="session")
def small_run(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    """A finished comparison of two arms, two folds, two epochs; read only."""

    def make(folder: Path) -> None:
        finished_run(folder, [str(small_file)], SMALL_PLAN)

    (found,) = made_once(tmp_path_factory, "artifacts", make).glob("*/run.json")
    return RunLayout(found.parent)
