"""What a step promises a GPU, held on a machine that has none: torch's `meta` device has shapes and no values, so
whatever would make the host wait for a device raises there; and on the CPU, where the very same step runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from helpers.training_windows import random_windows, rows, shortened
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jade_model.core.adamw import AdamW
from jade_model.core.config import LOSSES, TASKS, Recipe
from jade_model.core.losses import Labels
from jade_model.core.recipes import recipe
from jade_model.core.step import STEP_VALUES, Step
from jade_model.core.targets import fitted_recipe
from jade_model.core.train import prepare, steps_of_training, train
from jade_model.core.train_state import TrainState, initial_state, remember, undo
from jade_model.core.training_data import PreparedWindows
from jade_model.core.validation import evaluate

# What a GPU in deterministic mode refuses, or has a way for that copies from the host; and what always waits.
UNFIT = {"scatter_add", "scatter_reduce", "cumsum", "nonzero", "masked_select", "median", "kthvalue", "bincount", "put"}
HOST_TENSORS = (torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor, torch.Tensor.tolist)


class NothingFromTheHost(TorchDispatchMode):
    """Refuses operations on tensors of the host beside the device's: a copy that waits, and that no graph can hold."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, torch.Tensor)]
        kinds = {leaf.device.type for leaf in given}
        if "cpu" in kinds:
            raise AssertionError(f"{func} takes tensors of {kinds}")
        if func._schema.name.removeprefix("aten::").rstrip("_") in UNFIT:
            raise AssertionError(f"{func} can't be captured in deterministic mode")
        return func(*args, **(kwargs or {}))


class NoHostTensors(TorchFunctionMode):
    """Refuses to turn the host's numbers into tensors, for which torch goes past all dispatch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in HOST_TENSORS:
            raise AssertionError(f"{func.__name__} copies from the host")
        return func(*args, **(kwargs or {}))


class Descent(AdamW):
    """AdamW without its kernel, which exists on devices only."""

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.sub_(parameter.grad)


def meta_state(chosen: Recipe, data: PreparedWindows) -> TrainState:
    on_cpu = initial_state(chosen, data, rows(0, 14), seed=0, device=torch.device("cpu"))
    meta = torch.device("meta")
    return TrainState(
        device=meta,
        model=on_cpu.model.to(meta),
        optimizer=Descent(on_cpu.model.parameters(), learning_rate=0.1, weight_decay=0.0),
        generator=None,
        order_generator=torch.Generator(),
        loss_scale_4=torch.ones(4, device=meta),
    )


def varied(loss: str, **changes: Any) -> Recipe:
    chosen = shortened(recipe(f"jade_{loss}"), epochs=2)
    return dataclasses.replace(chosen, training=dataclasses.replace(chosen.training, **changes))


@pytest.mark.parametrize(("loss", "several"), [*((loss, False) for loss in LOSSES), ("single_span", True)])
def test_a_step_neither_waits_for_its_device_nor_copies_from_the_host(loss, several):
    windows = random_windows(14, 16, spans_of=[[(2, 5), (9, 12)], []] * 7 if several else None)
    chosen = fitted_recipe(varied(loss, positive_weight=3.0), windows)
    assert chosen.model.several_spans == several
    data = prepare(windows, chosen)
    meta = torch.device("meta")
    labels: Labels = data.labels.to(meta)
    x_RTF = data.x_VNTF.to(meta).flatten(0, 1)
    state = meta_state(chosen, data)
    state.model.train()
    step = Step(state, x_RTF, labels, chosen.training)
    batch = torch.arange(8, device=meta)
    with NothingFromTheHost(), NoHostTensors():
        values = step(batch, learning_rate=0.1)
        evaluate(state.model, x_RTF, labels, batch, chosen.training)
    assert values.shape == (len(STEP_VALUES),)
    assert values.device.type == "meta"


def test_the_watch_catches_a_step_that_would_wait():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(3, device="meta").sum().item()
    of_host = torch.tensor(1.0)
    with NothingFromTheHost(), pytest.raises(AssertionError, match="add"):
        torch.ones(3, device="meta") + of_host
    places = torch.zeros(3, 1, dtype=torch.int64, device="meta")
    with NothingFromTheHost(), pytest.raises(AssertionError, match="scatter_add"):
        torch.ones(3, 2, device="meta", requires_grad=True).gather(1, places).sum().backward()
    with NoHostTensors(), pytest.raises(AssertionError, match="new_tensor"):
        torch.ones(3, device="meta").new_tensor(1.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_trainings_that_take_turns_give_what_each_gives_alone(loss):
    chosen = varied(loss)
    data = prepare(random_windows(20), chosen)
    given = {"train_rows": rows(0, 14), "validation_rows": rows(14, 20)}
    alone = [train(chosen, data, seed=seed, **given) for seed in (1, 2)]
    running = {seed: steps_of_training(chosen, data, seed=seed, **given) for seed in (1, 2)}
    together = {}
    while running:
        for seed, steps in list(running.items()):
            try:
                next(steps)
            except StopIteration as end:
                together[seed] = end.value
                del running[seed]
    for seed, checkpoint in zip((1, 2), alone, strict=True):
        torch.testing.assert_close(together[seed].weights, checkpoint.weights, rtol=0, atol=0)


def test_a_step_tells_the_losses_before_it():
    chosen = varied("soft_span", normalise_losses=False)
    chosen = dataclasses.replace(chosen, model=dataclasses.replace(chosen.model, input_dropout=0.0, head_dropout=0.0))
    data = prepare(random_windows(20), chosen)
    state = initial_state(chosen, data, rows(0, 14), seed=0, device=torch.device("cpu"))
    batch = torch.arange(8)
    expected = evaluate(state.model, data.x_VNTF[0], data.labels, batch, chosen.training).losses_4
    state.model.train()
    step = Step(state, data.x_VNTF.flatten(0, 1), data.labels, chosen.training)
    told = step(batch, learning_rate=1e-3)
    torch.testing.assert_close(told[: len(TASKS)], expected)
    assert not torch.allclose(step(batch, learning_rate=1e-3)[: len(TASKS)], expected)


@pytest.mark.parametrize("steps_before", [0, 2])
def test_steps_that_are_undone_leave_nothing(steps_before):
    chosen = varied("soft_span")
    data = prepare(random_windows(20), chosen)
    batch = torch.arange(8)

    def weights(*, undone: bool) -> list[torch.Tensor]:
        state = initial_state(chosen, data, rows(0, 14), seed=0, device=torch.device("cpu"))
        state.model.train()
        step = Step(state, data.x_VNTF.flatten(0, 1), data.labels, chosen.training)
        for _ in range(steps_before):
            step(batch, learning_rate=1e-3)
        if undone:
            before = remember(state)
            step(batch, learning_rate=0.5)
            undo(state, before)
        for _ in range(2):
            step(batch, learning_rate=1e-3)
        return list(state.model.parameters())

    torch.testing.assert_close(weights(undone=True), weights(undone=False), rtol=0, atol=0)
