"""`jade compare` on machines that are rented for it: RunPod's fake, each pod a real SSH server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command_line import CommandLine, figures

from tasks.layout import RunLayout
from tests.fakes.runpod_server import RunPodServer, running_runpod
from tests.fakes.sshd import SSHD

pytestmark = [pytest.mark.slow_system, pytest.mark.skipif(SSHD is None, reason="no sshd here")]

SETTINGS = f"""
[runpod]
python = "{sys.executable}"
device = "cpu"
"""


@pytest.fixture
def runpod(tmp_path: Path) -> Iterator[RunPodServer]:
    with running_runpod(tmp_path / "pods") as server:
        server.add_foreign("somebody-elses")
        yield server
        assert server.violations == []
        assert server.touched_others == []


@pytest.fixture
def jade(tmp_path: Path, runpod: RunPodServer, database: Path) -> CommandLine:
    return CommandLine(tmp_path, database, SETTINGS, RUNPOD_API_KEY=runpod.api_key, JADE_RUNPOD_URL=runpod.url)


def test_a_comparison_on_a_rented_pod_gives_the_figures_of_a_local_one_and_leaves_nothing(
    jade: CommandLine, runpod: RunPodServer, small_run: RunLayout, small_file: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "artifacts"
    flags = ["--data", str(small_file), "--artifacts", str(kept), "--recipe", "seed", "--epochs", "2", "--folds", "2"]
    flags += ["--arms", "soft_span,crf", "--workers", "1", "--json"]
    rent = ["--host", "runpod", "--gpu", "L4", "--max-price", "0.5", "--max-hours", "1", "--budget", "5"]
    refused = jade("compare", *flags, *rent, expect=2)
    assert "--accept-unreaped" in refused.stderr
    done = jade("compare", *flags, *rent, "--accept-unreaped")
    (folder,) = (path.parent for path in kept.glob("*/comparison.json"))
    assert figures(json.loads((folder / "comparison.json").read_text())) == figures(
        json.loads(small_run.comparison_json.read_text())
    )
    assert runpod.costing == [pod for pod in runpod.costing if pod.is_foreign]
    record = json.loads((folder / "run.json").read_text())
    (machine,) = record["rental"]["machines"]
    assert machine["state"] == "released"
    assert 0 < record["rental"]["cost_usd"] < 0.39
    assert "renting L4 at 0.39 USD/h for at most 1 h: 0.39 USD at most" in done.stderr
    assert "is freed" in done.stderr
    assert json.loads(jade("rented", "--json").stdout)["machines"] == []
    # Nothing that was written anywhere, Prefect's database included, holds a key; keys to log in are gone with the pod.
    for path in (path for path in tmp_path.rglob("*") if path.is_file() and "pods" not in path.parts):
        content = path.read_bytes()
        assert runpod.api_key.encode() not in content, path
        assert b"OPENSSH PRIVATE KEY" not in content, path
    assert runpod.api_key not in done.stdout + done.stderr
