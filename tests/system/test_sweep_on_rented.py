"""`jade sweep --host runpod:2`: RunPod's fake, each pod a real SSH server that trains for real."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.fakes.runpod_server import running_runpod
from tests.fakes.sshd import SSHD
from tests.helpers.command_line import CommandLine

pytestmark = [pytest.mark.slow_system, pytest.mark.skipif(SSHD is None, reason="no sshd here")]

SWEEP = """
data = "{data}"
seeds = 1
folds = 2
epochs = 1
[grid]
recipe = ["seed_soft_span"]
training.learning_rate = [0.001, 0.01]
"""


def test_a_sweep_on_two_rented_pods_says_what_they_cost_and_leaves_none(
    database: Path, small_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP.format(data=small_file))
    with running_runpod(tmp_path / "pods") as runpod:
        runpod.add_foreign("somebody-elses")
        settings = f'[runpod]\npython = "{sys.executable}"\ndevice = "cpu"\n'
        jade = CommandLine(tmp_path, database, settings, RUNPOD_API_KEY=runpod.api_key, JADE_RUNPOD_URL=runpod.url)
        kept = tmp_path / "artifacts"
        flags = [str(tmp_path / "sweep.toml"), "--artifacts", str(kept), "--host", "runpod:2", "--json"]
        flags += ["--gpu", "L4", "--max-price", "0.5", "--max-hours", "1", "--budget", "5"]
        flags += ["--workers", "1"]
        refused = jade("sweep", *flags, expect=2)
        assert "--accept-unreaped" in refused.stderr
        planned = json.loads(jade("sweep", *flags, "--accept-unreaped", "--dry-run").stdout)
        assert planned["candidates"][0]["title"] == "L4"
        assert runpod.count("POST") == 0
        assert not kept.exists()
        done = json.loads(jade("sweep", *flags, "--accept-unreaped").stdout)
        assert runpod.costing == []
        assert json.loads(jade("rented", "--json").stdout)["machines"] == []
        assert (runpod.violations, runpod.touched_others) == ([], [])
    folder = Path(done["folder"])
    assert pq.read_table(folder / "results.parquet", columns=["state"])["state"].to_pylist() == ["done"] * 4
    rental = json.loads((folder / "run.json").read_text())["rental"]
    assert done["rental"] == rental
    assert [machine["state"] for machine in rental["machines"]] == ["terminated"] * 2
    assert 0 < rental["cost_usd"] < 2 * 0.39
    assert "Rented machines" in (folder / "report" / "SWEEP.md").read_text()
    where = {json.loads(line)["where"] for line in (folder / "units.jsonl").read_text().splitlines()}
    assert where <= {"runpod-1", "runpod-2"}
    for path in (path for path in tmp_path.rglob("*") if path.is_file() and "pods" not in path.parts):
        assert runpod.api_key.encode() not in path.read_bytes(), path
