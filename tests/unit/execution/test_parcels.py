"""A training as bytes: packed, trained elsewhere, and taken only if it is what its manifest says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jade_model.core.config import ModelConfig
from jade_model.core.errors import ConfigError
from jade_model.core.job import Job
from jade_model.core.training_files import MANIFEST_NAME, files_of, is_done
from jade_model.core.windows import Windows
from tasks.core.layout import RunLayout
from tasks.execution.dask import Files, pack, unpack
from tasks.execution.dask_worker import train_files
from tasks.experiments.plan import Plan, write_job
from tasks.hosts.errors import NameRefused, TransferCorrupted

PLAN = Plan({"a": "seed_soft_span"}, 1, seeds=1, folds=2, split="grouped", ensemble=1)


@pytest.fixture(scope="module")
def run(small_windows: Windows, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Job]:
    folder = tmp_path_factory.mktemp("run")
    tiny = replace(PLAN.recipe_of("a"), model=ModelConfig(hidden_size=2))
    return folder, write_job(RunLayout(folder), [small_windows], replace(PLAN, arms={"a": tiny}))


@pytest.fixture(scope="module")
def files(run: tuple[Path, Job], tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder, job = run
    arrays = (folder / job.data[0].arrays).read_bytes()
    parcel = pack(job, job.trainings[1], folder)
    return train_files(parcel, arrays, tmp_path_factory.mktemp("elsewhere") / "worker", device="cpu")


def test_what_was_trained_elsewhere_is_a_finished_training_here(
    run: tuple[Path, Job], files: Files, tmp_path: Path
) -> None:
    training = run[1].trainings[1]
    unpack(files, training, tmp_path)
    assert is_done(training, files_of(training, tmp_path))


def test_changed_missing_or_foreign_files_are_refused(run: tuple[Path, Job], files: Files, tmp_path: Path) -> None:
    first, training = run[1].trainings
    weights = next(name for name in files if name.startswith("checkpoint"))
    with pytest.raises(TransferCorrupted):
        unpack({**files, weights: files[weights][:-1] + b"!"}, training, tmp_path)
    with pytest.raises(TransferCorrupted):
        unpack({name: content for name, content in files.items() if name != weights}, training, tmp_path)
    with pytest.raises(TransferCorrupted):
        unpack(files, first, tmp_path)
    with pytest.raises(TransferCorrupted):
        unpack({}, training, tmp_path)
    manifest = json.loads(files[MANIFEST_NAME])
    manifest["files"].append({"path": "../../escape", "size": 1, "sha256": "0" * 64})
    with pytest.raises(NameRefused):
        unpack({**files, MANIFEST_NAME: json.dumps(manifest).encode()}, training, tmp_path)
    assert not is_done(training, files_of(training, tmp_path))


def test_arrays_that_are_not_the_jobs_are_refused(run: tuple[Path, Job], tmp_path: Path) -> None:
    folder, job = run
    parcel = pack(job, job.trainings[0], folder)
    with pytest.raises(ConfigError, match="expected SHA-256"):
        train_files(parcel, b"something else", tmp_path, device="cpu")
