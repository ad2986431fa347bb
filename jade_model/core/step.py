"""One step of training, as Python runs it, or recorded once as a CUDA graph and replayed; and its learning rate.

Nothing in a step waits for the device: what the host must know of it, it reads once an epoch.

Legend: R rows of all views, B windows of a batch, T bars, F features. A vector of four is in the order of
config.TASKS.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import assert_never

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from jade_model.core.config import TASKS, TrainingConfig
from jade_model.core.errors import CaptureFailed
from jade_model.core.losses import Labels, task_losses, uncertainty_weighted
from jade_model.core.train_state import TrainState, remember, undo

STEP_VALUES = (*TASKS, "total", "gradient_norm")
_WARM_UP_STEPS = 3
_WARM_UP_SHARE, _INITIAL_DIVISOR, _FINAL_DIVISOR = 0.3, 25.0, 1e4


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


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


class Step:
    """Takes a step on a batch: forward, losses, backward, clipping, optimiser.

    Args:
        state: What changes.
        x_RTF: Features of all windows, view after view, on the state's device.
        labels: Of the windows, one view's, likewise.
        config: How to train.
    """

    def __init__(self, state: TrainState, x_RTF: Tensor, labels: Labels, config: TrainingConfig) -> None:
        self.state, self.x_RTF, self.labels, self.config = state, x_RTF, labels, config
        self.parameters = list(state.model.parameters())

    def __call__(self, rows_B: Tensor, *, learning_rate: float) -> Tensor:
        """Change the state by one step.

        Args:
            rows_B: Rows of x_RTF, int64, on the state's device.
            learning_rate: Of this step.

        Returns:
            STEP_VALUES before the step, float32 [6]; overwritten by the next call.
        """
        self.state.optimizer.set_learning_rate(learning_rate)
        return self._run(rows_B)

    def _run(self, rows_B: Tensor) -> Tensor:
        state, config = self.state, self.config
        num_windows = len(self.labels.type_B)
        output = state.model(self.x_RTF[rows_B], state.generator)
        labels = self.labels.take(rows_B % num_windows)
        losses_4 = task_losses(state.model, output, labels, config)
        total = uncertainty_weighted(losses_4 / state.loss_scale_4, state.model.log_sigma)
        state.optimizer.zero_grad()
        torch.autograd.backward(total)
        norm = clip_grad_norm_(self.parameters, config.gradient_clip or math.inf)
        state.optimizer.step()
        return torch.cat([losses_4.detach(), torch.stack([total.detach(), norm])])


class CapturedStep(Step):
    """The same step on a CUDA device, as one launch: a graph for each size of batch, full and last.

    Args:
        sizes: The sizes of batches that there will be.

    Raises:
        CaptureFailed: This device or torch can't record the step; the state must then be set up anew.
    """

    def __init__(
        self, state: TrainState, x_RTF: Tensor, labels: Labels, config: TrainingConfig, *, sizes: Iterable[int]
    ) -> None:
        super().__init__(state, x_RTF, labels, config)
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        try:
            self._capture(sorted(set(sizes), reverse=True))
        except RuntimeError as error:
            _after_failed_capture(state.device)
            raise CaptureFailed(str(_first_cause(error))) from error

    def _run(self, rows_B: Tensor) -> Tensor:
        graph, given_B, values_6 = self.graphs[len(rows_B)]
        given_B.copy_(rows_B)
        graph.replay()
        return values_6

    def _capture(self, sizes: list[int]) -> None:
        device = self.state.device
        outer = torch.cuda.current_stream(device)
        # A graph holds the address of cuBLAS's workspace, of which there is one a stream: recorded on the stream that
        # replays it, it shares that with nothing that runs at the same time. Only the default stream can't record.
        stream = torch.cuda.Stream(device) if outer == torch.cuda.default_stream(device) else outer  # type: ignore[no-untyped-call]
        stream.wait_stream(outer)
        try:
            with torch.cuda.stream(stream):
                given = {size: torch.arange(size, device=device) for size in sizes}
                self._warm_up(given)
                self._record(given, stream)
        finally:
            outer.wait_stream(stream)

    def _warm_up(self, given: dict[int, Tensor]) -> None:
        """Let libraries set themselves up, in steps that are then undone."""
        before = remember(self.state)
        for given_B in given.values():
            for _ in range(_WARM_UP_STEPS):
                super()._run(given_B)
        undo(self.state, before)

    def _record(self, given: dict[int, Tensor], stream: torch.cuda.Stream) -> None:
        pool = None
        for size, given_B in given.items():
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.state.generator)
            # Gradients are then made anew inside the graph, in its own memory.
            self.state.optimizer.zero_grad()
            # What other threads of the process do meanwhile is theirs.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                values_6 = super()._run(given_B)
            pool = graph.pool()
            self.graphs[size] = graph, given_B, values_6


def _after_failed_capture(device: torch.device) -> None:
    """Record something that works: until then torch's default generator, part of every graph, stays in capture.

    Graphs that trainings beside this one replay would fail for it; torch 2.13 keeps captures apart.
    """
    # Nothing can be done where this fails too, and what failed first is what is told.
    with suppress(RuntimeError), torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        torch.zeros((), device=device)
        graph.capture_end()


def _first_cause(error: BaseException) -> BaseException:
    """Return what went wrong inside a recording: its end then fails too, and says only that something did before."""
    while error.__context__ is not None:
        error = error.__context__
    return error
