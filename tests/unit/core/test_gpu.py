"""The training loop on a CUDA device, against the CPU and against itself; `pytest -m gpu` where there is one.

Tolerances: without dropout, 60 steps in float32 end within 1e-4 of the CPU's weights (sums are taken in another order;
two ways to take them on a CPU end within 1e-6); a captured step gives the eager step's numbers, and trainings side by
side each alone's, bit for bit in deterministic mode.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training_windows import random_windows, rows, shortened
from test_job import make_job, train_in

import jade_model.core.step
from jade_model.__main__ import free_gpu_bytes
from jade_model.core.checkpoint import Checkpoint, load_checkpoint
from jade_model.core.config import LOSSES, Recipe
from jade_model.core.recipes import recipe
from jade_model.core.step import CapturedStep, Step
from jade_model.core.targets import fitted_recipe
from jade_model.core.train import prepare, steps_of_training, train
from jade_model.core.train_state import initial_state
from jade_model.core.training_files import files_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # A step that can't be recorded runs launch by launch, which would pass nearly all of this.
    pytest.mark.filterwarnings("default", "error:no CUDA graph"),
    pytest.mark.timeout(300),  # the first to come loads CUDA's libraries
]

SEVERAL = "several spans"
CASES = (*LOSSES, SEVERAL)


@pytest.fixture(autouse=True)
def as_a_training_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What job_runner.prepare_process sets; cuBLAS reads the variable when the first test uses the device."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def deterministic(as_a_training_process: None) -> None:
    torch.use_deterministic_algorithms(True)


def chosen(case: str, *, dropout: bool, epochs: int = 12, **changes: Any) -> Recipe:
    short = shortened(recipe(f"jade_{'single_span' if case == SEVERAL else case}"), epochs=epochs)
    changes = {"batch_size": 4, **changes}
    short = dataclasses.replace(short, training=dataclasses.replace(short.training, **changes))
    if not dropout:
        short = dataclasses.replace(short, model=dataclasses.replace(short.model, input_dropout=0.0, head_dropout=0.0))
    return fitted_recipe(short, windows_of(case))


def windows_of(case: str):
    several = [[(2, 5), (9, 12)], [(4, 7)], []] * 8
    return random_windows(24, spans_of=several if case == SEVERAL else None)


# 18 windows in fours: the last batch has two.
SPLIT = {"train_rows": rows(0, 18), "validation_rows": rows(18, 24)}


def trained(case: str, of: Recipe, *, seed: int = 4, **options: Any) -> Checkpoint:
    return train(of, prepare(windows_of(case), of), seed=seed, **SPLIT, **options)


def new_step(case: str, of: Recipe, *, capture: bool, seed: int = 0) -> Step:
    device = torch.device("cuda", torch.cuda.current_device())
    data = prepare(windows_of(case), of)
    state = initial_state(of, data, rows(0, 18), seed=seed, device=device)
    x_RTF, labels = data.x_VNTF.to(device).flatten(0, 1), data.labels.to(device)
    if capture:
        return CapturedStep(state, x_RTF, labels, of.training, sizes=[4, 2])
    return Step(state, x_RTF, labels, of.training)


def batches() -> list[torch.Tensor]:
    return [torch.arange(size, device="cuda") for size in (4, 2)]


def assert_close(first: Checkpoint, second: Checkpoint, tolerance: float) -> None:
    torch.testing.assert_close(first.weights, second.weights, rtol=0, atol=tolerance)
    losses = [[record["validation_loss"] for record in each.history] for each in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=0, abs=10 * tolerance) if tolerance else losses[0] == losses[1]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("capture", [True, False])
def test_without_dropout_a_gpu_agrees_with_the_cpu(case, capture):
    of = chosen(case, dropout=False)
    assert_close(trained(case, of, device="cuda", capture=capture), trained(case, of, device="cpu"), 1e-4)


@pytest.mark.parametrize("case", CASES)
def test_deterministic_mode_agrees_with_the_cpu_too(case, deterministic):
    of = chosen(case, dropout=False)
    assert_close(trained(case, of, device="cuda"), trained(case, of, device="cpu"), 1e-4)


def test_windows_as_long_as_the_sample_s_agree_with_the_cpu():
    """Sizes at which libraries choose other kernels: a network of the recipe's size, batches of 32."""
    for loss in LOSSES:
        of = recipe(f"jade_{loss}")
        of = dataclasses.replace(
            of,
            model=dataclasses.replace(of.model, input_dropout=0.0, head_dropout=0.0),
            training=dataclasses.replace(of.training, epochs=3),
        )
        data = prepare(random_windows(80, 60), of)
        split = {"train_rows": rows(0, 72), "validation_rows": rows(72, 80)}
        assert_close(
            train(of, data, seed=1, device="cuda", **split), train(of, data, seed=1, device="cpu", **split), 1e-4
        )


@pytest.mark.parametrize("case", CASES)
def test_a_captured_step_gives_the_eager_steps_numbers(case, deterministic):
    of = chosen(case, dropout=True)
    assert_close(trained(case, of, device="cuda"), trained(case, of, device="cuda", capture=False), 0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("capture", [True, False])
def test_deterministic_mode_repeats_itself_bit_for_bit(case, capture, deterministic):
    of = chosen(case, dropout=True)
    first, second = (trained(case, of, device="cuda", capture=capture) for _ in range(2))
    assert_close(first, second, 0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("is_deterministic", [True, False])
def test_no_step_waits_for_the_device(case, capture, is_deterministic):
    torch.use_deterministic_algorithms(is_deterministic)
    step, given = new_step(case, chosen(case, dropout=True), capture=capture), batches()
    for batch in given:
        step(batch, learning_rate=1e-3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in given:
            step(batch, learning_rate=1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("capture", [True, False])
def test_each_step_has_its_own_learning_rate_and_dropout(capture):
    step, (batch, last) = new_step("crf", chosen("crf", dropout=True), capture=capture), batches()

    def weights() -> list[torch.Tensor]:
        return [value.detach().clone() for value in step.parameters]

    start = weights()
    at_rest = [step(batch, learning_rate=0.0).clone() for _ in range(3)]
    torch.testing.assert_close(weights(), start, rtol=0, atol=0)
    assert len({float(values[4]) for values in at_rest}) == 3, "every step dropped the same"
    step(last, learning_rate=1e-2)
    moved = max(float((new - old).abs().max()) for new, old in zip(weights(), start, strict=True))
    assert 1e-3 < moved < 2e-2


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("capture", [True, False])
def test_resuming_on_a_gpu_gives_the_same_numbers_as_no_interruption(case, capture, deterministic):
    of, snapshots = chosen(case, dropout=True, epochs=4), []
    options = {"device": "cuda", "capture": capture}
    whole = trained(case, of, on_epoch=lambda _, snapshot: snapshots.append(snapshot()), **options)
    assert_close(trained(case, of, resume=snapshots[1], **options), whole, 0)


def test_a_checkpoint_holds_nothing_on_the_device():
    checkpoint = trained("crf", chosen("crf", dropout=True, epochs=1), device="cuda")
    state = checkpoint.training_state
    moments = [value for of_parameter in state["optimizer"].values() for value in of_parameter.values()]
    tensors = [*checkpoint.weights.values(), *state["weights"].values(), *moments, state["generator"]]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


def test_trainings_side_by_side_on_one_card_give_what_each_gives_alone(tmp_path: Path):
    """All arms and three seeds: one by one, three at a time as streams pass on, all at once."""
    found = {}
    for workers in ("1", "3", "9"):
        names = [f"jade_{loss}" for loss in LOSSES]
        job = make_job(tmp_path / workers, names=names, seeds=(0, 1, 2), epochs=6)
        arguments = ("--device", "cuda", "--deterministic", "--workers", workers)
        assert train_in(tmp_path / workers, *arguments) == 0
        found[workers] = [load_checkpoint(files_of(each, tmp_path / workers).last) for each in job.trainings]
    for workers in ("3", "9"):
        for together, alone in zip(found[workers], found["1"], strict=True):
            assert_close(together, alone, 0)


def test_a_training_goes_on_unharmed_when_those_beside_it_end(deterministic):
    """Graphs that are freed take their memory and their stream's workspace with them: only their own."""
    of = {epochs: chosen("single_span", dropout=True, epochs=epochs) for epochs in (1, 2, 12)}
    alone = {epochs: trained("single_span", recipe_, device="cuda") for epochs, recipe_ in of.items()}
    running = {
        epochs: (
            torch.cuda.Stream(),
            steps_of_training(recipe_, prepare(windows_of("single_span"), recipe_), seed=4, device="cuda", **SPLIT),
        )
        for epochs, recipe_ in of.items()
    }
    while running:
        for epochs, (stream, steps) in list(running.items()):
            try:
                with torch.cuda.stream(stream):
                    next(steps)
            except StopIteration as end:
                del running[epochs]
                assert_close(end.value, alone[epochs], 0)
                gc.collect()
                torch.cuda.empty_cache()
                torch.full((2**24,), torch.nan, device="cuda")  # whoever still uses what was freed reads this


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_a_card_that_is_not_the_current_one_trains_too(deterministic):
    of = chosen("crf", dropout=True)
    assert_close(trained("crf", of, device="cuda:1"), trained("crf", of, device="cuda:1", capture=False), 0)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_cards_free_memory_can_be_asked_for(device):
    assert 0 < free_gpu_bytes(device) <= torch.cuda.mem_get_info(0)[1]


# The last one: before torch 2.13 a process records nothing any more once a recording has failed.
@pytest.mark.filterwarnings("default:no CUDA graph")
def test_a_step_that_cannot_be_recorded_runs_eagerly_and_leaves_others_graphs_alone(deterministic, monkeypatch):
    of = chosen("crf", dropout=True, epochs=2)
    eager = trained("crf", of, device="cuda", capture=False)
    beside, expected = (new_step("soft_span", chosen("soft_span", dropout=True), capture=True) for _ in range(2))
    clip = jade_model.core.step.clip_grad_norm_
    with monkeypatch.context() as patched:
        patched.setattr(jade_model.core.step, "clip_grad_norm_", lambda *given: clip(*given) + 0 * float(clip(*given)))
        with pytest.warns(UserWarning, match="no CUDA graph"):
            fallen_back = trained("crf", of, device="cuda")
    torch.testing.assert_close(fallen_back.weights, eager.weights, rtol=0, atol=1e-3)
    for batch in batches():
        told = [step(batch, learning_rate=1e-3) for step in (beside, expected)]
        torch.testing.assert_close(told[0], told[1], rtol=0, atol=0)
    # What comes after trains too, recorded (torch 2.13) or not.
    assert_close(trained("crf", of, device="cuda"), eager, 0)
