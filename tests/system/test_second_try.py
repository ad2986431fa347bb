"""A test that is run once more, as `.ci/run` does, gets anew what it shares with others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.servers import ROOT

pytestmark = pytest.mark.system

SHARING = """
import pytest

made = []

@pytest.fixture(scope="session")
def server():
    made.append("server")
    yield
    made.append("end")

@pytest.fixture(scope="module")
def scene(server):
    made.append("scene")
    yield made.count("scene")
    if made.count("scene") == 1:
        raise ValueError("what went wrong need not end well")

def test_before(scene):
    assert scene == 1

def test_that_fails_once(scene):
    assert scene == 2

def test_after(scene):
    assert made == ["server", "scene", "end", "server", "scene"]
"""


def test_servers_and_scenes_are_made_anew_for_a_second_try_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.system.conftest import pytest_runtest_teardown")
    (tmp_path / "test_sharing.py").write_text(SHARING)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--reruns", "1", "--max-suite-reruns", "5"]
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    for name in [name for name in env if name.startswith("PYTEST_")]:
        del env[name]  # of the run that this test is part of
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    # What it failed by, and how its scene ended, are both told of.
    assert "3 passed, 2 rerun" in done.stdout, done.stdout + done.stderr
