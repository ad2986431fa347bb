"""`python -m jade_model train` in several processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.servers import ROOT

from jade_model.core.checkpoint import load_checkpoint
from jade_model.core.job import load_job
from jade_model.core.training_files import files_of
from tasks.core.layout import RunLayout

pytestmark = pytest.mark.system


@pytest.mark.parametrize("scratch", ["t", 2 * "longer than the path of a socket may be "], ids=["usual", "long"])
def test_parallel_processes_give_what_one_gives(small_run: RunLayout, tmp_path: Path, scratch: str) -> None:
    (tmp_path / scratch).mkdir()
    for name in ("arrays", "splits"):
        shutil.copytree(small_run.root / name, tmp_path / name)
    shutil.copy(small_run.job_json, tmp_path / "job.json")
    command = [sys.executable, "-m", "jade_model", "train", str(tmp_path / "job.json"), "--workers", "2"]
    env = os.environ | {"TMPDIR": str(tmp_path / scratch)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Epoch 2/2: train_loss=" in done.stdout
    trainings = load_job(small_run.job_json).trainings
    assert len(trainings) > 2
    for training in trainings:
        one, two = (files_of(training, root).last for root in (small_run.root, tmp_path))
        for name, weights in load_checkpoint(one).weights.items():
            assert weights.equal(load_checkpoint(two).weights[name]), (training.title, name)
