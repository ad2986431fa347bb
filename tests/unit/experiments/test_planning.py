"""What is trained follows from the data and the plan, and what was trained before is not trained again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.cli import run
from jade_model.core.job import load_job
from jade_model.core.windows import Windows
from jade_model.data.schema import write_windows
from jade_model.data.splits import group_windows, load_split, straddling_groups
from tasks.core.errors import BadRequest
from tasks.core.layout import MEMBER_SEED_STEP, RunLayout
from tasks.experiments.plan import Plan, load_data, make_splits, write_job

PLAN = Plan({"soft_span": "seed_soft_span", "crf": "seed_crf"}, 2, seeds=2, folds=3, split="grouped", ensemble=2)


def test_every_arm_seed_fold_and_member_is_trained_once_on_the_same_splits(
    small_windows: Windows, tmp_path: Path
) -> None:
    layout = RunLayout(tmp_path)
    job = write_job(layout, [small_windows], PLAN)
    assert load_job(layout.job_json) == job
    assert len(job.trainings) == 2 * 2 * 3 * 2
    assert len({training.run_key for training in job.trainings}) == len(job.trainings)
    rows = {}
    for training in job.trainings:
        rows.setdefault((training.seed % MEMBER_SEED_STEP, training.fold), set()).add(training.rows)
    assert all(len(paths) == 1 for paths in rows.values())
    assert {training.recipe.training.epochs for training in job.trainings} == {2}


def test_whole_seeds_come_before_the_next_seed(small_windows: Windows, tmp_path: Path) -> None:
    seeds = [item.seed % MEMBER_SEED_STEP for item in write_job(RunLayout(tmp_path), [small_windows], PLAN).trainings]
    assert seeds == sorted(seeds)


def test_each_window_is_scored_once_a_seed_and_no_group_straddles(small_windows: Windows) -> None:
    grouping = group_windows(small_windows)
    splits = make_splits(small_windows, grouping, PLAN)
    for seed in range(2):
        tested = np.concatenate([split.test_rows for split in splits if split.seed == seed])
        assert sorted(tested) == list(range(small_windows.num_windows))
    assert all(straddling_groups(split, grouping) == 0 for split in splits)


def test_splits_survive_the_disk(small_windows: Windows, tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    write_job(layout, [small_windows], PLAN)
    for split in make_splits(small_windows, group_windows(small_windows), PLAN):
        again = load_split(layout.split(small_windows.name, split.seed, split.fold))
        assert (again.seed, again.fold, again.kind) == (split.seed, split.fold, split.kind)
        for name in ("train_rows", "validation_rows", "test_rows"):
            np.testing.assert_array_equal(getattr(again, name), getattr(split, name))


def test_data_sets_of_one_name_are_told_apart_by_their_folders(small_windows: Windows, tmp_path: Path) -> None:
    paths = [str(tmp_path / folder / "same.parquet") for folder in ("a", "b/x", "c/x")]
    for path in paths:
        Path(path).parent.mkdir(parents=True)
        write_windows(small_windows, path)
    assert [windows.name for windows in load_data(paths)] == ["a-same", "b-x-same", "c-x-same"]
    assert [windows.name for windows in load_data(paths[:1])] == ["same"]
    with pytest.raises(BadRequest, match="named twice"):
        load_data([paths[0], f"{tmp_path}/b/../a/same.parquet"])


def test_data_without_any_span_are_refused_before_training(small_windows: Windows, tmp_path: Path) -> None:
    empty = replace(
        small_windows,
        span_offsets_N1=np.zeros_like(small_windows.span_offsets_N1),
        spans_S2=small_windows.spans_S2[:0],
    )
    write_windows(empty, tmp_path / "empty.parquet")
    with pytest.raises(BadRequest, match="no window of empty has a span"):
        load_data([str(tmp_path / "empty.parquet")])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere.parquet"], "no such file"),
        (["--data", "text.parquet"], "no Parquet file"),
        (["--data", "few.parquet", "--data", "./few.parquet"], "named twice"),
        (["--data", "few.parquet", "--folds", "50"], "too few"),
    ],
)
@pytest.mark.parametrize("command", ["compare", "sweep", "retrain", "train"])
def test_data_that_cannot_be_used_are_refused_before_anything_is_started(
    small_windows: Windows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_windows(small_windows.take(np.arange(4)), "few.parquet")
    Path("text.parquet").write_text("no data")
    Path("sweep.toml").write_text('[grid]\nrecipe = ["jade_crf", "seed_crf"]\n')
    for module in ("compare", "sweep", "retrain"):
        monkeypatch.setattr(f"flows.commands.{module}.run_flow", lambda *_, **__: pytest.fail("Prefect was started"))
    if command == "train":
        arguments = [part.replace("--data", "--data-path") for part in arguments if part not in {"--folds", "50"}]
    named = {"sweep": ["sweep.toml"], "train": ["--loss", "crf"]}.get(command, [])
    assert run([command, *named, *arguments]) == 2
    if command == "retrain":  # it pools its files, and needs more groups
        said = {"named twice": "the same file twice", "too few": "expected at least 8"}.get(said, said)
    assert said in capsys.readouterr().err
    assert not Path("artifacts").exists()
