"""The training loop on a CUDA device, against the CPU and against itself; `pytest -m gpu` where there is one.

Tolerances: without dropout, 60 steps in float32 end within 1e-3 of the CPU's weights (sums are taken in another
order); a captured step gives the eager step's numbers, bit for bit in deterministic mode.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_windows import random_windows, rows, shortened

from jade_model.checkpoint import Checkpoint
from jade_model.config import LOSSES, Recipe
from jade_model.recipes import recipe
from jade_model.train import prepare, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def full_precision() -> None:
    torch.backends.cudnn.allow_tf32 = False


def chosen(loss: str, *, dropout: bool, epochs: int = 12) -> Recipe:
    short = shortened(recipe(f"jade_{loss}"), epochs=epochs)
    short = dataclasses.replace(short, training=dataclasses.replace(short.training, batch_size=4, ema_decay=0.9))
    if dropout:
        return short
    return dataclasses.replace(short, model=dataclasses.replace(short.model, input_dropout=0.0, head_dropout=0.0))


def trained(of: Recipe, **options: object) -> Checkpoint:
    data = prepare(random_windows(24), of)
    # 18 windows in fours: the last batch has two.
    return train(of, data, train_rows=rows(0, 18), validation_rows=rows(18, 24), seed=4, **options)


def assert_close(first: Checkpoint, second: Checkpoint, tolerance: float) -> None:
    torch.testing.assert_close(first.weights, second.weights, rtol=0, atol=tolerance)
    losses = [[record["validation_loss"] for record in each.history] for each in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=0, abs=10 * tolerance) if tolerance else losses[0] == losses[1]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("capture", [True, False])
def test_without_dropout_a_gpu_agrees_with_the_cpu(loss, capture):
    of = chosen(loss, dropout=False)
    assert_close(trained(of, device="cuda", capture=capture), trained(of, device="cpu"), 1e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_captured_step_gives_the_eager_steps_numbers(loss, deterministic):
    of = chosen(loss, dropout=True)
    assert_close(trained(of, device="cuda", capture=True), trained(of, device="cuda", capture=False), 0)


@pytest.mark.parametrize("capture", [True, False])
def test_deterministic_mode_repeats_itself_bit_for_bit(capture, deterministic):
    of = chosen("crf", dropout=True)
    assert_close(trained(of, device="cuda", capture=capture), trained(of, device="cuda", capture=capture), 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_step_waits_for_the_device(loss):
    of = chosen(loss, dropout=True, epochs=2)
    data = prepare(random_windows(24), of)
    from jade_model.learner import start_learner
    from jade_model.step import CapturedStep, Step
    from jade_model.training_data import labels_to

    device = torch.device("cuda")
    for capture in (False, True):
        learner = start_learner(of, data, rows(0, 18), seed=0, device=device)
        x_RTF, labels = data.x_VNTF.to(device).flatten(0, 1), labels_to(data.labels, device)
        step = (
            CapturedStep(learner, x_RTF, labels, of.training, sizes=[4, 2])
            if capture
            else Step(learner, x_RTF, labels, of.training)
        )
        batches = [torch.arange(size, device=device) for size in (4, 2)]
        for batch in batches:
            step(batch, learning_rate=1e-3, step=0)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in batches:
                step(batch, learning_rate=1e-3, step=1)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_resuming_on_a_gpu_gives_the_same_numbers_as_no_interruption(deterministic):
    of = chosen("soft_span", dropout=True, epochs=4)
    snapshots = []
    whole = trained(of, device="cuda", on_epoch=lambda record, snapshot: snapshots.append(snapshot()))
    assert_close(trained(of, device="cuda", resume=snapshots[1]), whole, 0)


def test_trainings_side_by_side_on_one_card_give_what_each_gives_alone(tmp_path: Path):
    from test_job import make_job, train_in

    told = {}
    for workers in ("1", "3"):
        job = make_job(tmp_path / workers, seeds=(0, 1, 2), epochs=4)
        assert train_in(tmp_path / workers, "--device", "cuda", "--deterministic", "--workers", workers) == 0
        files = [tmp_path / workers / each.output_dir / "history.jsonl" for each in job.trainings]
        told[workers] = [[json.loads(line)["train_loss"] for line in file.open()] for file in files]
    assert told["1"] == told["3"]
