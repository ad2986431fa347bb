from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.training_windows import random_windows, rows, shortened

from jade_model.__main__ import main, selected
from jade_model.core.checkpoint import load_checkpoint
from jade_model.core.errors import ConfigError
from jade_model.core.files import sha256_file
from jade_model.core.job import (
    Execution,
    Job,
    JobData,
    Training,
    code_digest,
    load_job,
    load_rows,
    run_key,
    save_job,
    save_rows,
)
from jade_model.core.job_runner import Emitter, Task, run_together
from jade_model.core.recipes import recipe, recipe_names
from jade_model.core.training_files import files_of, is_done
from jade_model.core.windows import save_arrays


def make_job(folder: Path, *, names=("jade_crf",), seeds=(0,), epochs=4, every=2, **changes) -> Job:
    windows = random_windows(16)
    save_arrays(windows, folder / "data" / "random.npz")
    save_rows(folder / "rows" / "fold0.npz", train_rows=rows(0, 12), validation_rows=rows(12, 16))
    trainings = []
    for name in names:
        short = shortened(recipe(name), epochs=epochs, checkpoint_every=every)
        short = dataclasses.replace(short, training=dataclasses.replace(short.training, **changes))
        for seed in seeds:
            key = run_key(
                data_sha256=windows.sha256,
                recipe=short,
                seed=seed,
                fold=0,
                train_rows=rows(0, 12),
                validation_rows=rows(12, 16),
            )
            trainings.append(
                Training(short.loss, windows.name, seed, 0, short, "rows/fold0.npz", f"{short.loss}/seed{seed}", key)
            )
    data = JobData(windows.name, "data/random.npz", windows.sha256, sha256_file(folder / "data" / "random.npz"))
    job = Job("run-1", (data,), tuple(trainings))
    save_job(job, folder / "job.json")
    return job


def events(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def train_in(folder, *arguments):
    return main(["train", str(folder / "job.json"), "--workers", "1", "--progress", "json", *arguments])


def test_a_job_comes_back_from_json_as_it_was(tmp_path):
    job = make_job(tmp_path, names=tuple(recipe_names())[3:], seeds=(0, 1))
    assert load_job(tmp_path / "job.json") == job


def test_a_job_names_no_host_and_no_absolute_path(tmp_path):
    make_job(tmp_path)
    text = (tmp_path / "job.json").read_text()
    assert str(tmp_path) not in text
    assert "host" not in text


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "", "C:\\x", "a\\b"])
@pytest.mark.parametrize("field", ["rows", "output_dir"])
def test_paths_that_leave_the_jobs_folder_are_refused(path, field, tmp_path):
    training = make_job(tmp_path).trainings[0]
    with pytest.raises(ConfigError, match="relative path inside"):
        dataclasses.replace(training, **{field: path})
    with pytest.raises(ConfigError, match="relative path inside"):
        JobData("a", path, "0", "0")


def changed(folder, change):
    content = json.loads((folder / "job.json").read_text())
    change(content)
    (folder / "job.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda job: job.update(schema_version=2), "schema_version 2"),
        (lambda job: job.update(extra=1), "unknown field extra"),
        (lambda job: job.pop("run_id"), "run_id"),
        (lambda job: job["trainings"][0].pop("seed"), "seed"),
        (lambda job: job["trainings"][0].update(host="x"), "unknown field host"),
        (lambda job: job["trainings"][0].update(dataset="other"), "no data set 'other'"),
        (lambda job: job["trainings"][0]["recipe"].update(loss="magic"), "magic"),
        (lambda job: job["trainings"][0]["recipe"]["training"].update(epochs=0), "training.epochs is 0"),
        (lambda job: job["trainings"].append(job["trainings"][0]), "share an output_dir"),
    ],
)
def test_a_malformed_job_is_refused_with_the_reason(change, message, tmp_path, capsys):
    make_job(tmp_path)
    changed(tmp_path, change)
    with pytest.raises(ConfigError, match=message):
        load_job(tmp_path / "job.json")
    assert train_in(tmp_path) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]"])
def test_a_job_file_that_is_no_job_is_refused(content, tmp_path):
    (tmp_path / "job.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"job\.json"):
        load_job(tmp_path / "job.json")


def test_the_run_key_changes_with_everything_that_decides_the_result():
    base = {
        "data_sha256": "a",
        "recipe": recipe("seed_crf"),
        "seed": 0,
        "fold": 0,
        "train_rows": [1, 2],
        "validation_rows": [3],
    }
    others = {
        "data_sha256": "b",
        "recipe": recipe("jade_crf"),
        "seed": 1,
        "fold": 1,
        "train_rows": [2, 1],
        "validation_rows": [],
    }
    keys = {run_key(**base)} | {run_key(**{**base, name: value}) for name, value in others.items()}
    assert len(keys) == len(others) + 1
    assert run_key(**base) == run_key(**{**base, "train_rows": rows(1, 3)})
    assert len(code_digest()) == 64


def test_the_code_digest_covers_what_a_training_imports_and_that_is_light():
    heavy = {"pandas", "pyarrow", "scipy", "sklearn", "matplotlib"}
    code = (
        "import sys, jade_model.core.worker\n"
        "print(*{name.split('.')[1] for name in sys.modules if name.startswith('jade_model.')})\n"
        "import jade_model.scoring.predict\n"
        f"print(*({heavy} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == ["core", ""]


def test_training_leaves_its_files_and_tells_what_it_does(tmp_path, capsys):
    job = make_job(tmp_path, names=("jade_crf",))
    assert train_in(tmp_path) == 0
    folder = tmp_path / "crf" / "seed0"
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint_crf_4.pt", "best_crf_4.pt", "training_crf_4.log", "history.jsonl", "manifest.json",
    }  # fmt: skip
    told = events(capsys)
    assert [event["event"] for event in told] == [
        "job_started", "training_started", "epoch", "epoch", "checkpoint", "epoch", "epoch", "training_done",
        "job_done",
    ]  # fmt: skip
    assert told[-2]["checkpoint"] == "crf/seed0/checkpoint_crf_4.pt"
    checkpoint = load_checkpoint(folder / "checkpoint_crf_4.pt")
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert tuple(history) == checkpoint.history
    assert checkpoint.run_key == job.trainings[0].run_key
    best = load_checkpoint(folder / "best_crf_4.pt")
    losses = [record["validation_loss"] for record in history]
    assert best.epoch == 1 + losses.index(min(losses))
    lines = (folder / "training_crf_4.log").read_text().splitlines()
    assert lines[3] == f"Epoch 4: train_loss={history[3]['train_loss']:.4f}, val_loss={losses[3]:.4f}"


def test_a_finished_training_is_skipped_and_a_damaged_one_done_again(tmp_path, capsys):
    job = make_job(tmp_path)
    train_in(tmp_path)
    files = files_of(job.trainings[0], tmp_path)
    before = files.last.stat().st_mtime_ns
    capsys.readouterr()
    assert train_in(tmp_path) == 0
    assert [event["event"] for event in events(capsys)] == ["job_started", "training_skipped", "job_done"]
    assert files.last.stat().st_mtime_ns == before
    files.last.write_bytes(files.last.read_bytes()[:-1])
    assert not is_done(job.trainings[0], files)
    assert train_in(tmp_path) == 0
    assert is_done(job.trainings[0], files)


class _Killed(BaseException):
    pass


def test_a_cut_off_training_goes_on_and_ends_as_if_nothing_had_happened(tmp_path, capsys, monkeypatch):
    for name in ("whole", "cut"):
        make_job(tmp_path / name, epochs=5)
    train_in(tmp_path / "whole")

    tell = Emitter.__call__

    def dies_in_epoch_4(self, event):
        if event["event"] == "epoch" and event["epoch"] == 4:
            raise _Killed
        tell(self, event)

    with monkeypatch.context() as patch:
        patch.setattr("jade_model.core.job_runner.Emitter.__call__", dies_in_epoch_4)
        with pytest.raises(_Killed):
            train_in(tmp_path / "cut")
    folder = tmp_path / "cut" / "crf" / "seed0"
    assert json.loads((folder / "manifest.json").read_text())["epoch"] == 2
    capsys.readouterr()
    assert train_in(tmp_path / "cut", "--resume") == 0
    told = events(capsys)
    assert told[1]["first_epoch"] == 3
    whole, cut = (
        load_checkpoint(tmp_path / name / "crf" / "seed0" / "checkpoint_crf_5.pt") for name in ("whole", "cut")
    )
    torch.testing.assert_close(cut.weights, whole.weights, rtol=0, atol=0)
    logs = [(tmp_path / name / "crf" / "seed0" / "training_crf_5.log").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]
    best = [load_checkpoint(tmp_path / name / "crf" / "seed0" / "best_crf_5.pt") for name in ("whole", "cut")]
    torch.testing.assert_close(best[0].weights, best[1].weights, rtol=0, atol=0)
    assert not (folder / "resume_crf_5.pt").exists()


def test_a_damaged_intermediate_checkpoint_starts_over_and_says_so(tmp_path, capsys):
    job = make_job(tmp_path)
    files = files_of(job.trainings[0], tmp_path)
    files.folder.mkdir(parents=True)
    files.resume.write_bytes(b"damaged")
    assert train_in(tmp_path, "--resume") == 0
    told = events(capsys)
    assert told[1]["event"] == "resume_refused"
    assert told[2]["first_epoch"] == 1


def test_damaged_data_stop_the_job_before_training(tmp_path, capsys):
    make_job(tmp_path)
    with (tmp_path / "data" / "random.npz").open("ab") as file:
        file.write(b"x")
    assert train_in(tmp_path) == 2
    assert "expected arrays with SHA-256" in capsys.readouterr().err


def test_rows_that_are_not_those_of_the_run_key_are_refused(tmp_path, capsys):
    make_job(tmp_path)
    save_rows(tmp_path / "rows" / "fold0.npz", train_rows=rows(0, 11), validation_rows=rows(12, 16))
    assert train_in(tmp_path) == 2
    assert "run key" in capsys.readouterr().err


def test_one_diverging_training_fails_the_job_but_not_the_others(tmp_path, capsys):
    job = make_job(tmp_path, names=("seed_crf",), seeds=(0, 1))
    wild = dataclasses.replace(
        job.trainings[0].recipe, training=dataclasses.replace(job.trainings[0].recipe.training, learning_rate=1e30)
    )
    windows = random_windows(16)
    key = run_key(
        data_sha256=windows.sha256, recipe=wild, seed=0, fold=0, train_rows=rows(0, 12), validation_rows=rows(12, 16)
    )
    first = dataclasses.replace(job.trainings[0], recipe=wild, run_key=key)
    save_job(dataclasses.replace(job, trainings=(first, job.trainings[1])), tmp_path / "job.json")
    assert train_in(tmp_path) == 1
    captured = capsys.readouterr()
    assert "Training diverged in epoch 1" in captured.err
    failed = [json.loads(line) for line in captured.out.splitlines() if '"failed"' in line]
    assert failed[0]["training"] == "crf/seed0"
    assert (tmp_path / "crf" / "seed1" / "checkpoint_crf_4.pt").exists()


def test_a_device_that_is_not_there_is_an_error_of_usage(tmp_path, capsys):
    make_job(tmp_path)
    assert train_in(tmp_path, "--device", "cuda:99") == 2
    assert "cuda:99" in capsys.readouterr().err


def test_trainings_are_selected_by_arm_seed_and_fold(tmp_path):
    job = make_job(tmp_path, names=("jade_crf", "jade_soft_span"), seeds=(0, 1))
    assert [t.title for t in selected(job, arm="crf", seed=1, fold=None)] == ["crf random seed 1 fold 0"]
    with pytest.raises(ConfigError, match="no training of the job matches arm x"):
        selected(job, arm="x", seed=None, fold=None)


def test_trainings_that_share_a_process_give_what_each_gives_alone_and_a_failing_one_stops_none(tmp_path, capsys):
    jobs = [make_job(tmp_path / name, seeds=(0, 1), epochs=2, every=1) for name in ("alone", "together")]
    train_in(tmp_path / "alone")
    broken = dataclasses.replace(jobs[1].trainings[0], run_key="0" * 64, output_dir="broken")
    tasks = [
        Task(jobs[1], training, tmp_path / "together", Execution(), as_json=True)
        for training in (broken, *jobs[1].trainings)
    ]
    capsys.readouterr()
    assert run_together(tasks, width=3) == 2
    told = events(capsys)
    assert [event["seed"] for event in told if event["event"] == "epoch"] == [0, 1, 0, 1]
    assert [event["training"] for event in told if event["event"] == "failed"] == ["broken"]
    for training in jobs[1].trainings:
        first, second = (
            load_checkpoint(tmp_path / name / training.output_dir / "checkpoint_crf_2.pt")
            for name in ("alone", "together")
        )
        torch.testing.assert_close(first.weights, second.weights, rtol=0, atol=0)


def test_rows_that_are_no_rows_are_refused(tmp_path):
    (tmp_path / "rows.npz").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="not a readable file of rows"):
        load_rows(tmp_path / "rows.npz")
    with pytest.raises(ConfigError, match="not a readable file of rows"):
        load_rows(tmp_path / "none.npz")


def test_an_unknown_recipe_is_answered_with_the_closest_name():
    with pytest.raises(ConfigError, match="did you mean 'jade_single_span'"):
        recipe("jade_singlespan")
