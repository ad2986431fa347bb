from __future__ import annotations

import dataclasses
import os
import pickle
import resource
import struct
import zipfile

import pytest
import torch
from helpers.training_windows import random_windows, rows, shortened

from jade_model.core.checkpoint import build_model, load_checkpoint, model_of, save_checkpoint
from jade_model.core.config import ModelConfig
from jade_model.core.errors import CheckpointError
from jade_model.core.recipes import recipe
from jade_model.core.train import prepare, train


@pytest.fixture(scope="module")
def checkpoint():
    short = shortened(recipe("jade_crf"), epochs=1)
    return train(
        short,
        prepare(random_windows(12), short),
        train_rows=rows(0, 8),
        validation_rows=rows(8, 12),
        seed=3,
        fold=2,
        run_key="k" * 64,
    )


def test_a_checkpoint_comes_back_whole(checkpoint, tmp_path):
    path = tmp_path / "deep" / "checkpoint.pt"
    save_checkpoint(checkpoint, path)
    loaded = load_checkpoint(path, feature_set_name="displacement-17")
    for field in dataclasses.fields(checkpoint):
        ours, theirs = getattr(checkpoint, field.name), getattr(loaded, field.name)
        if field.name in {"weights", "training_state", "train_rows", "validation_rows"}:
            torch.testing.assert_close(theirs, ours, rtol=0, atol=0)
        else:
            assert theirs == ours, field.name
    assert loaded.is_complete
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_the_rebuilt_model_says_the_same(checkpoint, tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(dataclasses.replace(checkpoint, training_state=None), path)
    x_BTF = torch.randn(2, 24, 17)
    first, second = model_of(checkpoint)(x_BTF), model_of(load_checkpoint(path))(x_BTF)
    assert torch.equal(first.span_scores_BTK, second.span_scores_BTK)


def test_another_feature_set_is_refused(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="trained on the feature set 'displacement-17'; 'relativity-12'"):
        load_checkpoint(tmp_path / "c.pt", feature_set_name="relativity-12")


def test_features_that_changed_since_are_refused(checkpoint, tmp_path):
    names = ("something_else", *checkpoint.feature_names[1:])
    save_checkpoint(dataclasses.replace(checkpoint, feature_names=names), tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="something_else"):
        load_checkpoint(tmp_path / "c.pt")


def test_weights_of_another_shape_are_refused(checkpoint):
    wider = dataclasses.replace(checkpoint.recipe, model=ModelConfig(hidden_size=9))
    with pytest.raises(CheckpointError, match="do not fit"):
        model_of(dataclasses.replace(checkpoint, recipe=wider))


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken zip"])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "c.pt")


def test_a_truncated_checkpoint_is_refused(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "c.pt")
    whole = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "c.pt")


def test_a_flipped_bit_among_the_weights_is_found(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "c.pt")
    content = bytearray((tmp_path / "c.pt").read_bytes())
    with zipfile.ZipFile(tmp_path / "c.pt") as archive:
        tensors = [record for record in archive.infolist() if "/data/" in record.filename]
    largest = max(tensors, key=lambda record: record.file_size)
    lengths = content[largest.header_offset + 26 : largest.header_offset + 30]  # of its name and its padding
    begin = largest.header_offset + 30 + sum(struct.unpack("<HH", lengths))
    content[begin + largest.file_size // 2] ^= 1
    (tmp_path / "c.pt").write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"damaged: its record .*/data/"):
        load_checkpoint(tmp_path / "c.pt")


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused_without_running_it(tmp_path):
    torch.save({"format": "jade-checkpoint", "weights": _Bomb(tmp_path / "ran")}, tmp_path / "c.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Bomb(tmp_path / "ran")))
    for name in ("c.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match="without running code"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_another_format_version_is_refused(tmp_path):
    torch.save({"format": "jade-checkpoint", "format_version": 99}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(tmp_path / "c.pt")


def test_a_failed_write_leaves_the_old_checkpoint(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    save_checkpoint(checkpoint, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_checkpoint(dataclasses.replace(checkpoint, history=({"epoch": float("nan")},)), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_a_disk_that_takes_no_more_is_the_reason_that_is_given(checkpoint, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(checkpoint, tmp_path / "a.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_seed_gives_the_same_weights_and_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    first = build_model(recipe("seed_crf"), seed=1)
    drawn = torch.rand(1)
    second = build_model(recipe("seed_crf"), seed=1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
