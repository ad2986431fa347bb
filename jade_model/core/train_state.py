"""Everything that changes while one model trains: set up from a seed, or from a checkpoint of the same training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jade_model.core.adamw import AdamW
from jade_model.core.checkpoint import Checkpoint, build_model
from jade_model.core.config import TASKS, Recipe
from jade_model.core.errors import CheckpointError, ConfigError
from jade_model.core.network import JadeCompact
from jade_model.core.training_data import PreparedWindows
from jade_model.core.validation import evaluate


@dataclass(eq=False)
class TrainState:
    """One model, its optimiser and its sources of chance.

    Attributes:
        device: Where all tensors but the generators' states lie.
        model: What is trained.
        optimizer: Of the model's weights.
        generator: Of dropout, on the device.
        order_generator: Of the windows' order and views, on the CPU: without dropout a GPU then sees the same batches.
            On the CPU it is `generator` itself, and dropout moves on what order and views are drawn from.
        loss_scale_4: What each task's loss is divided by.
    """

    device: torch.device
    model: JadeCompact
    optimizer: AdamW
    generator: torch.Generator
    order_generator: torch.Generator
    loss_scale_4: Tensor


def initial_state(
    recipe: Recipe,
    data: PreparedWindows,
    train_rows: NDArray[np.intp],
    *,
    seed: int,
    device: torch.device,
) -> TrainState:
    """Set up a training before its first step.

    Args:
        recipe: What to train and how.
        data: From prepare() with the same recipe.
        train_rows: Windows to fit, intp.
        seed: Of weights, order, views and dropout.
        device: Where to.
    """
    config = recipe.training
    model = build_model(recipe, seed=seed).to(device)
    model.head.start_from(data.labels.num_spans_B[torch.from_numpy(train_rows)])
    loss_scale_4 = torch.ones(len(TASKS), device=device)
    if config.normalise_losses:
        rows = torch.as_tensor(train_rows, dtype=torch.int64, device=device)
        first_4 = evaluate(model, data.x_VNTF[0].to(device), data.labels.to(device), rows, config).losses_4
        loss_scale_4 = torch.where(first_4 > 0, first_4, 1.0)
    generator = torch.Generator(device).manual_seed(seed)
    is_cpu = device.type == "cpu"
    own = model.head_parameter_names
    return TrainState(
        device=device,
        model=model,
        optimizer=AdamW(
            model.parameters(),
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            rate_factors=[config.span_layer_rate if name in own else 1.0 for name, _ in model.named_parameters()],
        ),
        generator=generator,
        order_generator=generator if is_cpu else torch.Generator().manual_seed(seed),
        loss_scale_4=loss_scale_4,
    )


def training_state(state: TrainState) -> dict[str, Any]:
    """Copy what resuming needs to the CPU."""
    moments = enumerate(state.optimizer.moments)
    saved = {
        "weights": copied(state.model.state_dict()),
        "optimizer": {str(index): copied(of_parameter) for index, of_parameter in moments},
        "generator": state.generator.get_state(),
        "loss_scale": state.loss_scale_4.cpu().clone(),
    }
    if state.order_generator is not state.generator:
        saved["order_generator"] = state.order_generator.get_state()
    return saved


def restore_state(state: TrainState, checkpoint: Checkpoint, recipe: Recipe, *, seed: int, run_key: str) -> None:
    """Put a checkpoint's state in place.

    Raises:
        CheckpointError: It belongs to another training, holds weights only, or was written on another kind of device.
    """
    if checkpoint.training_state is None:
        raise CheckpointError("this checkpoint holds weights only: it can predict, not go on training")
    for what, theirs, ours in (
        ("recipe", checkpoint.recipe, recipe),
        ("seed", checkpoint.seed, seed),
        ("run key", checkpoint.run_key, run_key),
    ):
        if theirs != ours:
            raise CheckpointError(
                f"the checkpoint's {what} is {theirs}, this training's is {ours}: not the same training"
            )
    saved = checkpoint.training_state
    of_gpu = "order_generator" in saved
    if of_gpu != (state.device.type != "cpu"):
        raise CheckpointError(
            f"the checkpoint was written on a {'GPU' if of_gpu else 'CPU'} and this training runs on "
            f"{state.device.type}, which draws other dropout: go on where it began, or start over without --resume"
        )
    state.model.load_state_dict(saved["weights"])
    state.optimizer.load({int(index): value for index, value in saved["optimizer"].items()})
    state.generator.set_state(saved["generator"])
    if of_gpu:
        state.order_generator.set_state(saved["order_generator"])
    state.loss_scale_4 = saved["loss_scale"].to(state.device)


def remember(state: TrainState) -> dict[str, Any]:
    """Copy all that a step changes, on its device."""
    return {
        "weights": [value.detach().clone() for value in state.model.parameters()],
        "moments": {
            index: {name: value.clone() for name, value in moments.items()}
            for index, moments in enumerate(state.optimizer.moments)
        },
        "generator": state.generator.get_state(),
    }


@torch.no_grad()
def undo(state: TrainState, before: dict[str, Any]) -> None:
    """Put back what remember() copied, in place: whoever holds the addresses sees the old values."""
    for value, old in zip(state.model.parameters(), before["weights"], strict=True):
        value.copy_(old)
    state.optimizer.load(before["moments"])
    state.generator.set_state(before["generator"])


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU."""
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


def torch_seed(seed: int, fold: int) -> int:
    """Return the seed of torch's generators, unrelated for unlike seeds and folds."""
    return int(np.random.SeedSequence((seed, fold)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def usable_device(name: str) -> torch.device:
    """Return the device of that name, a GPU with its number.

    Raises:
        ConfigError: There is no such device, or this torch can't use it.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{name!r} is no device; choose cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here"
        )
    if device.type not in {"cpu", "cuda"}:
        raise ConfigError(f"device {name!r} is not supported; choose cpu, cuda or cuda:N")
    if name == "cuda":
        try:
            return torch.device("cuda", torch.cuda.current_device())
        except RuntimeError as error:
            raise ConfigError(f"device {name!r} can't be used by torch {torch.__version__}: {error}") from error
    return device
