"""One readable loop: windows as arrays -> a trained model, its history, and checkpoints to go on from.

Legend: N windows, T bars, F features. A vector of four is in the order of config.TASKS.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from jade_model.checkpoint import Checkpoint, build_model, current_versions
from jade_model.config import TASKS, Recipe, TrainingConfig
from jade_model.errors import CheckpointError, ConfigError, DataError, TrainingDiverged, Violation
from jade_model.features import feature_set
from jade_model.losses import Labels, sigmas, task_losses, task_weights, uncertainty_weighted
from jade_model.model import JadeCompact
from jade_model.training_data import PreparedWindows, fitted_recipe, labels_to, prepare, take_labels

__all__ = [
    "EpochRecord",
    "OnEpoch",
    "PreparedWindows",
    "evaluate",
    "fitted_recipe",
    "learning_rate_at",
    "prepare",
    "train",
    "usable_device",
]

EVALUATION_BATCH = 256
_WARM_UP_SHARE, _INITIAL_DIVISOR, _FINAL_DIVISOR = 0.3, 25.0, 1e4
_STEP_VALUES = (*TASKS, "total", "gradient_norm")


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did.

    Attributes:
        epoch: 1-based.
        train_loss: Mean over steps of the uncertainty-weighted total.
        validation_loss: Plain sum of the four validation losses; None without validation windows.
        train_losses: Each task's mean over steps, with dropout.
        validation_losses: Each task's, without dropout; None without validation windows.
        sigma: Each task's learned sigma after the epoch.
        task_weight: Each task's share of the weights, of 1.
        learning_rate: At the last step.
        gradient_norm: Mean over steps, before clipping.
        seconds: Wall time, validation included.
    """

    epoch: int
    train_loss: float
    validation_loss: float | None
    train_losses: dict[str, float]
    validation_losses: dict[str, float] | None
    sigma: dict[str, float]
    task_weight: dict[str, float]
    learning_rate: float
    gradient_norm: float
    seconds: float


# Called after each epoch with its record and a function that takes a checkpoint of this moment.
OnEpoch = Callable[[EpochRecord, Callable[[], Checkpoint]], None]


def train(
    recipe: Recipe,
    data: PreparedWindows,
    *,
    train_rows: NDArray[np.intp],
    validation_rows: NDArray[np.intp],
    seed: int,
    fold: int = 0,
    run_key: str = "",
    device: str = "cpu",
    resume: Checkpoint | None = None,
    on_epoch: OnEpoch | None = None,
) -> Checkpoint:
    """Train one model from a seed, or go on from a checkpoint of the same training.

    On the CPU, with one thread, the same arguments give the same weights bit for bit, interrupted or not.

    Args:
        recipe: What to train and how.
        data: From prepare() with the same recipe.
        train_rows: Windows to fit, intp, at least one.
        validation_rows: Windows whose loss is recorded, intp; may be empty.
        seed: With the fold, of the weights, the order of windows, mirroring and dropout.
        fold: 0-based. Folds of one seed are trainings of their own: what one draws says nothing of another.
        run_key: Recorded; a checkpoint to resume from must carry the same.
        device: "cpu", "cuda" or "cuda:N"; never replaced by another.
        resume: A checkpoint with training state.
        on_epoch: Called after every epoch.

    Returns:
        The checkpoint after the last epoch, its tensors on the CPU.

    Raises:
        ConfigError: The device is not there.
        CheckpointError: The checkpoint belongs to another training, or holds weights only.
        DataError: There is no window to fit.
        TrainingDiverged: A loss or gradient stopped being finite.
    """
    if len(train_rows) == 0:
        raise DataError([Violation(data.name, None, None, "no training windows", "a split that leaves some")])
    config = recipe.training
    state = _start(recipe, data, train_rows, seed=torch_seed(seed, fold), device=usable_device(device))
    history: list[EpochRecord] = []
    if resume is not None:
        history = _resume(state, resume, recipe, seed=seed, run_key=run_key)
    x_VNTF, labels = data.x_VNTF.to(state.device), labels_to(data.labels, state.device)
    # Both views are rows of one array: mirroring a window is then an addition to its row number.
    x_RTF = x_VNTF.flatten(0, 1)
    train_rows_on_device = torch.as_tensor(train_rows, dtype=torch.int64, device=state.device)
    validation_rows_on_device = torch.as_tensor(validation_rows, dtype=torch.int64, device=state.device)
    steps_per_epoch = -(-len(train_rows) // config.batch_size)

    def snapshot() -> Checkpoint:
        return Checkpoint(
            recipe=recipe,
            feature_names=feature_set(recipe.feature_set).names,
            window_length=int(x_RTF.shape[1]),
            dataset=data.name,
            data_sha256=data.sha256,
            train_rows=torch.as_tensor(train_rows, dtype=torch.int64),
            validation_rows=torch.as_tensor(validation_rows, dtype=torch.int64),
            seed=seed,
            fold=fold,
            epoch=len(history),
            history=tuple(dataclasses.asdict(record) for record in history),
            run_key=run_key,
            versions=current_versions(),
            weights=_copied(state.scored.state_dict()),
            training_state=_training_state(state),
        )

    for epoch in range(len(history) + 1, config.epochs + 1):
        started = time.perf_counter()
        state.model.train()
        order = train_rows_on_device[_permutation(len(train_rows), state)]
        step_values = torch.zeros(steps_per_epoch, len(_STEP_VALUES), device=state.device)
        for step, rows in enumerate(torch.split(order, config.batch_size)):
            learning_rate = learning_rate_at(
                (epoch - 1) * steps_per_epoch + step, steps_per_epoch * config.epochs, config
            )
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate
            x_BTF = x_RTF[_maybe_mirrored(rows, data, state)]
            output = state.model(x_BTF, state.generator)
            losses_4 = task_losses(state.model, output, take_labels(labels, rows), config)
            total = uncertainty_weighted(losses_4 / state.loss_scale_4, state.model.log_sigma)
            state.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(total)
            norm = clip_grad_norm_(state.model.parameters(), config.gradient_clip or math.inf, foreach=True)
            state.optimizer.step()
            _update_average(state, (epoch - 1) * steps_per_epoch + step, config)
            # Read once an epoch: reading here would stall a GPU at every step.
            step_values[step] = torch.cat([losses_4.detach(), torch.stack([total.detach(), norm])])
        means = _finite_means(step_values, epoch)
        validation = None
        if len(validation_rows) > 0:
            validation = evaluate(state.scored, x_VNTF[0], labels, validation_rows_on_device, config).tolist()
        history.append(
            EpochRecord(
                epoch=epoch,
                train_loss=means["total"],
                validation_loss=None if validation is None else sum(validation),
                train_losses={task: means[task] for task in TASKS},
                validation_losses=None if validation is None else dict(zip(TASKS, validation, strict=True)),
                sigma=sigmas(state.scored),
                task_weight=task_weights(state.scored),
                learning_rate=learning_rate,
                gradient_norm=means["gradient_norm"],
                seconds=time.perf_counter() - started,
            )
        )
        if on_epoch is not None:
            on_epoch(history[-1], snapshot)
    return snapshot()


def torch_seed(seed: int, fold: int) -> int:
    """Return the seed of torch's generators, unrelated for unlike seeds and folds."""
    return int(np.random.SeedSequence((seed, fold)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@torch.no_grad()
def evaluate(model: JadeCompact, x_NTF: Tensor, labels: Labels, rows: Tensor, config: TrainingConfig) -> Tensor:
    """Return the four losses of some windows without dropout, averaged over batches by size, float32 [4]."""
    was_training = model.training
    model.eval()
    sums_4 = torch.zeros(len(TASKS), device=x_NTF.device)
    for batch in torch.split(rows, EVALUATION_BATCH):
        sums_4 += task_losses(model, model(x_NTF[batch]), take_labels(labels, batch), config) * len(batch)
    model.train(was_training)
    return sums_4 / len(rows)


def learning_rate_at(step: int, num_steps: int, config: TrainingConfig) -> float:
    """Return the learning rate of a 0-based step out of num_steps.

    One-cycle (Smith and Topin 2018): cosine from 1/25 of the peak up to it over the first 30 % of the
    steps, then cosine down to 1/10,000 of the start.
    """
    match config.schedule:
        case "constant":
            return config.learning_rate
        case "one_cycle":
            start = config.learning_rate / _INITIAL_DIVISOR
            peak_step = max(_WARM_UP_SHARE * num_steps - 1, 1)
            if step <= peak_step:
                return _cosine(start, config.learning_rate, step / peak_step)
            done = (step - peak_step) / max(num_steps - 1 - peak_step, 1)
            return _cosine(config.learning_rate, start / _FINAL_DIVISOR, done)
        case unknown:
            assert_never(unknown)


def usable_device(name: str) -> torch.device:
    """Return the device of that name.

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
    return device


@dataclass(eq=False)
class _State:
    """Everything that changes while training. `scored` is `model` itself without an average of weights."""

    device: torch.device
    model: JadeCompact
    scored: JadeCompact
    optimizer: torch.optim.AdamW
    generator: torch.Generator
    loss_scale_4: Tensor


def _start(
    recipe: Recipe, data: PreparedWindows, train_rows: NDArray[np.intp], *, seed: int, device: torch.device
) -> _State:
    config = recipe.training
    model = build_model(recipe, seed=seed).to(device)
    model.lstm_in_bfloat16 = config.mixed_precision
    if model.single_span is not None:
        num_empty = int((data.labels.num_spans_B[torch.from_numpy(train_rows)] == 0).sum())
        model.single_span.set_none_rate((num_empty + 0.5) / (len(train_rows) + 1))
    loss_scale_4 = torch.ones(len(TASKS), device=device)
    if config.normalise_losses:
        rows = torch.as_tensor(train_rows, dtype=torch.int64, device=device)
        first_4 = evaluate(model, data.x_VNTF[0].to(device), labels_to(data.labels, device), rows, config)
        loss_scale_4 = torch.where(first_4 > 0, first_4, 1.0)
    return _State(
        device=device,
        model=model,
        scored=model if config.ema_decay is None else copy.deepcopy(model),
        optimizer=torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        ),
        generator=torch.Generator(device).manual_seed(seed),
        loss_scale_4=loss_scale_4,
    )


def _training_state(state: _State) -> dict[str, Any]:
    return {
        "weights": _copied(state.model.state_dict()),
        "optimizer": {str(index): _copied(moments) for index, moments in state.optimizer.state_dict()["state"].items()},
        "generator": state.generator.get_state(),
        "loss_scale": state.loss_scale_4.cpu().clone(),
    }


def _resume(state: _State, checkpoint: Checkpoint, recipe: Recipe, *, seed: int, run_key: str) -> list[EpochRecord]:
    """Put the checkpoint's state in place; returns its history."""
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
    state.model.load_state_dict(saved["weights"])
    state.scored.load_state_dict(checkpoint.weights)
    groups = state.optimizer.state_dict()["param_groups"]
    moments = {int(index): value for index, value in saved["optimizer"].items()}
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    state.generator.set_state(saved["generator"])
    state.loss_scale_4 = saved["loss_scale"].to(state.device)
    return [EpochRecord(**record) for record in checkpoint.history]


def _permutation(count: int, state: _State) -> Tensor:
    return torch.randperm(count, generator=state.generator, device=state.device)


def _maybe_mirrored(rows: Tensor, data: PreparedWindows, state: _State) -> Tensor:
    num_views = data.x_VNTF.shape[0]
    if num_views == 1:
        return rows
    views = torch.randint(num_views, rows.shape, generator=state.generator, device=state.device)
    return rows + views * data.num_windows


@torch.no_grad()
def _update_average(state: _State, step: int, config: TrainingConfig) -> None:
    if config.ema_decay is None:
        return
    # The first averages would otherwise hold the random weights of the start for 1 / (1 - decay) steps.
    decay = min(config.ema_decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(state.scored.parameters()), list(state.model.parameters()), 1 - decay)


def _finite_means(step_values: Tensor, epoch: int) -> dict[str, float]:
    values = step_values.cpu()
    finite = values.isfinite().all(1)
    if not finite.all():
        step = int(finite.logical_not().nonzero()[0])
        raise TrainingDiverged(epoch, step, dict(zip(_STEP_VALUES, values[step].tolist(), strict=True)))
    return dict(zip(_STEP_VALUES, values.double().mean(0).tolist(), strict=True))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}
