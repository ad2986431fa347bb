"""One readable loop: windows as arrays -> a trained model, its history, and checkpoints to go on from.

Legend: N windows, T bars, F features. A vector of four is in the order of config.TASKS.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import ParamSpec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jade_model.core.checkpoint import Checkpoint, current_versions
from jade_model.core.config import SPAN_HEADS, TASKS, Recipe, TrainingConfig
from jade_model.core.errors import CaptureFailed, DataError, TrainingDiverged, Violation
from jade_model.core.features import feature_set
from jade_model.core.losses import Labels, sigmas, task_weights
from jade_model.core.step import STEP_VALUES, CapturedStep, Step, learning_rate_at
from jade_model.core.train_state import (
    TrainState,
    copied,
    initial_state,
    restore_state,
    torch_seed,
    training_state,
    usable_device,
)
from jade_model.core.training_data import PreparedWindows, prepare
from jade_model.core.validation import bar_f1, evaluate

__all__ = [
    "EpochRecord",
    "OnEpoch",
    "PreparedWindows",
    "evaluate",
    "learning_rate_at",
    "prepare",
    "steps_of_training",
    "torch_seed",
    "train",
    "usable_device",
]


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
        validation_f1: Of bars; see `bar_f1`. None without validation windows, and from before it was recorded.
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
    validation_f1: float | None = None


# Called after each epoch with its record and a function that takes a checkpoint of this moment.
OnEpoch = Callable[[EpochRecord, Callable[[], Checkpoint]], None]


def steps_of_training(
    recipe: Recipe,
    data: PreparedWindows,
    *,
    train_rows: NDArray[np.intp],
    validation_rows: NDArray[np.intp],
    seed: int,
    fold: int = 0,
    run_key: str = "",
    device: str = "cpu",
    capture: bool = True,
    resume: Checkpoint | None = None,
    on_epoch: OnEpoch | None = None,
) -> Generator[None, None, Checkpoint]:
    """Train one model from a seed, or go on from a checkpoint of the same training.

    Pauses after each step, and before an epoch's numbers are waited for: several trainings can so share one thread, and
    on a GPU each fills the gaps that the others leave. `train` does not pause.

    On the CPU, with one thread, the same arguments give the same weights bit for bit, interrupted or not. A GPU
    starts from the same weights and draws other dropout; without dropout it sees the same batches.

    Args:
        recipe: What to train and how.
        data: From prepare() with the same recipe.
        train_rows: Windows to fit, intp, at least one.
        validation_rows: Windows whose loss is recorded, intp; may be empty.
        seed: With the fold, of the weights, the order of windows, mirroring and dropout.
        fold: 0-based. Folds of one seed are trainings of their own: what one draws says nothing of another.
        run_key: Recorded; a checkpoint to resume from must carry the same.
        device: "cpu", "cuda" or "cuda:N"; never replaced by another.
        capture: Whether a GPU replays each step as one CUDA graph; a CPU has none. The numbers are the same.
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
    on = usable_device(device)
    capture = capture and on.type == "cuda"
    history: list[EpochRecord] = []
    if resume is not None:
        history = [EpochRecord(**record) for record in resume.history]

    def new_state() -> TrainState:
        state = initial_state(recipe, data, train_rows, seed=torch_seed(seed, fold), device=on)
        if resume is not None:
            restore_state(state, resume, recipe, seed=seed, run_key=run_key)
        return state

    x_VNTF, labels = data.x_VNTF.to(on), data.labels.to(on)
    # Both views are rows of one array: mirroring a window is then an addition to its row number.
    x_RTF = x_VNTF.flatten(0, 1)
    steps_per_epoch = -(-len(train_rows) // config.batch_size)
    last = len(train_rows) - (steps_per_epoch - 1) * config.batch_size
    sizes = [last] if steps_per_epoch == 1 else [config.batch_size, last]
    state, take_step = _first_step(new_state, x_RTF, labels, config, sizes if capture else [])
    validation_rows_on_device = torch.as_tensor(validation_rows, dtype=torch.int64, device=on)

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
            weights=copied(state.model.state_dict()),
            training_state=training_state(state),
            arm_sha256=SPAN_HEADS[recipe.loss].sha256,
        )

    for epoch in range(len(history) + 1, config.epochs + 1):
        started = time.perf_counter()
        state.model.train()
        step_values = torch.zeros(steps_per_epoch, len(STEP_VALUES), device=on)
        for step, rows in enumerate(_batches(train_rows, data, state, config)):
            done = (epoch - 1) * steps_per_epoch + step
            learning_rate = learning_rate_at(done, steps_per_epoch * config.epochs, config)
            # Read once an epoch: reading here would stall a GPU at every step.
            step_values[step] = take_step(rows, learning_rate=learning_rate)
            yield
        validation = validation_f1 = None
        if len(validation_rows) > 0:
            evaluated = evaluate(state.model, x_VNTF[0], labels, validation_rows_on_device, config)
            yield
            validation = dict(zip(TASKS, evaluated.losses_4.tolist(), strict=True))
        means = _finite_means(step_values, epoch)
        # The last step's own losses are those from before it: where it led shows only here.
        _require_finite(epoch, steps_per_epoch - 1, validation or {}, "validation loss of")
        _require_finite(epoch, steps_per_epoch - 1, sigmas(state.model), "sigma of")
        if validation is not None:
            validation_f1 = bar_f1(state.model, evaluated.span_scores_NTK, labels, validation_rows_on_device)
        history.append(
            EpochRecord(
                epoch=epoch,
                train_loss=means["total"],
                validation_loss=None if validation is None else sum(validation.values()),
                train_losses={task: means[task] for task in TASKS},
                validation_losses=validation,
                sigma=sigmas(state.model),
                task_weight=task_weights(state.model),
                learning_rate=learning_rate,
                gradient_norm=means["gradient_norm"],
                seconds=time.perf_counter() - started,
                validation_f1=validation_f1,
            )
        )
        if on_epoch is not None:
            on_epoch(history[-1], snapshot)
    return snapshot()


def _first_step(
    new_state: Callable[[], TrainState], x_RTF: Tensor, labels: Labels, config: TrainingConfig, captured: list[int]
) -> tuple[TrainState, Step]:
    """Return a state and what takes its steps, recorded as CUDA graphs for batches of the sizes given."""
    if captured:
        try:
            state = new_state()
            return state, CapturedStep(state, x_RTF, labels, config, sizes=captured)
        except CaptureFailed as error:
            warnings.warn(f"no CUDA graph of the training step, it runs launch by launch: {error}", stacklevel=3)
    # Recording has moved the state.
    state = new_state()
    return state, Step(state, x_RTF, labels, config)


def _batches(
    train_rows: NDArray[np.intp], data: PreparedWindows, state: TrainState, config: TrainingConfig
) -> Iterator[Tensor]:
    """Yield each step's rows of all views, on the state's device."""
    order = torch.randperm(len(train_rows), generator=state.order_generator)
    batches = torch.split(torch.as_tensor(train_rows, dtype=torch.int64)[order], config.batch_size)
    shown = (_maybe_mirrored(rows, data, state.order_generator) for rows in batches)
    if state.device.type == "cpu":  # one generator serves all, in the order of use
        return shown
    return iter(torch.split(torch.cat(list(shown)).to(state.device), config.batch_size))


def _maybe_mirrored(rows: Tensor, data: PreparedWindows, generator: torch.Generator) -> Tensor:
    num_views = data.x_VNTF.shape[0]
    if num_views == 1:
        return rows
    return rows + torch.randint(num_views, rows.shape, generator=generator) * data.num_windows


def _require_finite(epoch: int, step: int, values: Mapping[str, float], what: str) -> None:
    if not all(map(math.isfinite, values.values())):
        raise TrainingDiverged(epoch, step, {f"{what} {name}": value for name, value in values.items()})


def _finite_means(step_values: Tensor, epoch: int) -> dict[str, float]:
    values = step_values.cpu()
    finite = values.isfinite().all(1)
    if not finite.all():
        step = int(finite.logical_not().nonzero()[0])
        raise TrainingDiverged(epoch, step, dict(zip(STEP_VALUES, values[step].tolist(), strict=True)))
    return dict(zip(STEP_VALUES, values.double().mean(0).tolist(), strict=True))


P = ParamSpec("P")


def _without_pauses(steps_of: Callable[P, Generator[None, None, Checkpoint]]) -> Callable[P, Checkpoint]:
    def train(*args: P.args, **kwargs: P.kwargs) -> Checkpoint:
        """Train as `steps_of_training` does, from beginning to end; return the last epoch's checkpoint."""
        steps = steps_of(*args, **kwargs)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                checkpoint: Checkpoint = end.value
                return checkpoint

    return train


train = _without_pauses(steps_of_training)
