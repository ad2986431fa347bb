"""The learning rate over a training's steps."""

from __future__ import annotations

import math
from typing import assert_never

from jade_model.core.config import TrainingConfig

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
