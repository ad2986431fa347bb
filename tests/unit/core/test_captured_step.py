"""A captured step against an eager one where there is no card: graphs record operations and repeat them on the CPU.

What a graph would hold of Python's numbers, of gradients made anew or of moments undone shows here; streams that run at
the same time, and CUDA's own restrictions, only in test_gpu.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers.training_windows import random_windows, rows, shortened

import jade_model.core.crf.layer
import jade_model.core.segment.layer
import jade_model.core.step
import jade_model.core.train_state
import jade_model.core.worker
from jade_model.core.config import LOSSES, Recipe
from jade_model.core.crf import CRF
from jade_model.core.errors import CaptureFailed
from jade_model.core.job import Execution
from jade_model.core.job_runner import Task, run_together
from jade_model.core.recipes import recipe
from jade_model.core.step import CapturedStep, Step, learning_rate_at
from jade_model.core.targets import fitted_recipe
from jade_model.core.train import PreparedWindows, prepare
from jade_model.core.train_state import TrainState, initial_state
from tests.fakes.cuda_graphs import FakeCuda, FakeStream

SIZES = (8, 3)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A card that is none; and the CPU's own ways, which read values, left out."""
    monkeypatch.setattr(CRF, "_scannable", lambda *_: None)
    monkeypatch.setattr(jade_model.core.crf.layer, "check_tags", lambda *_: None)
    monkeypatch.setattr(jade_model.core.segment.layer, "check_spans", lambda *_: None)
    return FakeCuda().install(monkeypatch)


def chosen(loss: str, **changes: Any) -> Recipe:
    short = shortened(recipe(f"jade_{loss}"), epochs=2)
    return dataclasses.replace(short, training=dataclasses.replace(short.training, **changes))


def new_state(of: Recipe, data: PreparedWindows) -> TrainState:
    state = initial_state(of, data, rows(0, 14), seed=0, device=torch.device("cpu"))
    state.optimizer.keep_rates_on(torch.device("cpu"))  # as on a GPU
    return state


def new_step(of: Recipe, data: PreparedWindows, *, captured: bool) -> Step:
    given = new_state(of, data), data.x_VNTF.flatten(0, 1), data.labels, of.training
    return CapturedStep(*given, sizes=SIZES) if captured else Step(*given)


def take_steps(step: Step, first: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(first)
    told = []
    for number in range(first, first + 8):
        batch = torch.randint(len(step.x_RTF), (SIZES[number % 3 == 2],), generator=draw)
        rate = learning_rate_at(number, 20, step.config)
        told.append(step(batch, learning_rate=rate).clone())
    return [*told, *step.parameters]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_captured_step_gives_the_eager_steps_numbers(loss, cuda):
    of = chosen(loss)
    data = prepare(random_windows(20), of)
    eager, captured = (take_steps(new_step(of, data, captured=captured)) for captured in (False, True))
    torch.testing.assert_close(captured, eager, rtol=0, atol=0)


def test_windows_of_several_spans_are_captured_too(cuda):
    windows = random_windows(20, spans_of=[[(2, 5), (9, 12)], [(4, 7)], []] * 6 + [[(3, 5)], [(6, 9)]])
    of = fitted_recipe(chosen("single_span"), windows)
    assert of.model.several_spans
    data = prepare(windows, of)
    eager, captured = (take_steps(new_step(of, data, captured=captured)) for captured in (False, True))
    torch.testing.assert_close(captured, eager, rtol=0, atol=0)


def test_a_graph_goes_on_with_what_comes_from_outside(cuda):
    of = chosen("soft_span")
    data = prepare(random_windows(20), of)
    eager, captured = new_step(of, data, captured=False), new_step(of, data, captured=True)
    for step in (eager, captured):
        take_steps(step)
        step.state.model.eval()
        step.state.model.train()
        step.state.generator.manual_seed(9)
    torch.testing.assert_close(take_steps(captured, 8), take_steps(eager, 8), rtol=0, atol=0)


@pytest.mark.parametrize("own", [True, False])
def test_a_step_is_recorded_on_the_stream_that_replays_it_unless_that_cannot_record(own, cuda):
    of = chosen("soft_span")
    data = prepare(random_windows(20), of)
    stream = FakeStream("of the training") if own else cuda.default
    with cuda.on_stream(stream):
        new_step(of, data, captured=True)
    assert len(cuda.recorded_on) == len(SIZES)
    (used,) = {used for used, _ in cuda.recorded_on}
    assert (used is stream) == own
    assert stream in used.waited_for
    assert used in stream.waited_for
    assert {mode for _, mode in cuda.recorded_on} == {"thread_local"}  # other threads' work is left alone


def test_a_step_that_cannot_be_recorded_says_so_and_leaves_others_graphs_alone(cuda, monkeypatch):
    of = chosen("soft_span")
    data = prepare(random_windows(20), of)
    beside = new_step(of, data, captured=True)
    clip = jade_model.core.step.clip_grad_norm_
    monkeypatch.setattr(jade_model.core.step, "clip_grad_norm_", lambda *given: torch.tensor(float(clip(*given))))
    stream = FakeStream("of the other training")
    with cuda.on_stream(stream):
        with pytest.raises(CaptureFailed, match="_local_scalar_dense"):
            new_step(of, data, captured=True)
        assert cuda.current is stream
    take_steps(beside)


def test_trainings_that_run_together_never_share_a_stream_and_pass_theirs_on(cuda, monkeypatch, tmp_path):
    running: dict[int, FakeStream] = {}

    def trains(job: object, steps: int, *_: object) -> Iterator[None]:
        for _ in range(steps):
            running[steps] = torch.cuda.current_stream()
            assert len(set(map(id, running.values()))) == len(running)
            assert cuda.default not in running.values()
            yield
        del running[steps]

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # prepare_process sets it
    monkeypatch.setattr(jade_model.core.worker, "run_training", trains)
    monkeypatch.setattr(jade_model.core.train_state, "usable_device", torch.device)
    tasks = [Task(None, steps, tmp_path, Execution("cuda"), as_json=True) for steps in (3, 1, 7, 2, 5)]
    assert run_together(tasks, width=2) == 0
    assert cuda.num_streams == 2
