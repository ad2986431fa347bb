"""How the losses fell and the tasks were weighed.

Legend: E epochs, R runs.
"""

from __future__ import annotations

import numpy as np

from jade_model.report.facts import ArmFacts, Curves, Facts, mean_curve
from jade_model.report.naming import task_name
from jade_model.report.numbers import percent

FEWEST_EPOCHS = 10
QUICK_SHARE = 0.6


def convergence(_facts: Facts, arm: ArmFacts) -> str:
    """Say how an arm's validation loss fell."""
    if arm.diverged:
        return "diverged: the training loss ended above where it began"
    if not arm.has_validation:
        return "not known, as no validation losses were recorded"
    curve_E = arm.watched_E
    fall = curve_E[0] - curve_E.min()
    if not fall > 0:
        return "the validation loss never fell"
    early = max(1, curve_E.size // 10)
    share = float((curve_E[0] - curve_E[: early + 1].min()) / fall)
    shape = "aggressive at first, then a plateau" if share >= QUICK_SHARE else "gradual"
    # Of a few epochs, each is a large part of all.
    course = shape if curve_E.size >= FEWEST_EPOCHS else "too short to show a shape"
    end = f"overfits: {percent(arm.rise_since_best)} above its best at the end" if arm.overfits else "steady to the end"
    return f"{course} ({percent(share, 0)} of its fall by epoch {early + 1}), {end}"


def trajectory(_facts: Facts, arm: ArmFacts) -> str:
    """Return the losses of some epochs, a line each."""
    train_E = mean_curve(arm.train_RE)
    validation_E = mean_curve(arm.validation_RE) if arm.has_validation else None
    best = 0 if validation_E is None else int(np.argmin(validation_E)) + 1
    digits = len(str(train_E.size))
    lines = []
    for epoch in shown_epochs(train_E.size, best):
        line = f"Epoch {str(epoch) + ':':<{digits + 1}} train_loss={train_E[epoch - 1]:.4f}"
        if validation_E is not None:
            line += f", val_loss={validation_E[epoch - 1]:.4f}  ({_remark(validation_E, epoch, best)})"
        lines.append(line)
    return "\n".join(lines)


def _remark(validation_E: Curves, epoch: int, best: int) -> str:
    first, now = validation_E[0], validation_E[epoch - 1]
    if epoch == 1:
        return "baseline"
    if first <= 0 or now <= 0:
        return "lowest" if epoch == best else "not comparable with epoch 1"
    change = f"↓ {first / now:.2f}x" if now <= first else f"↑ {now / first:.2f}x"
    if epoch == best:
        return f"{change}, lowest"
    since_best = now / validation_E[best - 1] - 1
    return f"{change}, {percent(since_best)} above the lowest" if epoch > best and since_best > 0.001 else change


def shown_epochs(num_epochs: int, best: int = 0) -> list[int]:
    """Return the epochs worth a line: the first, some way down, the middle, the best and the last."""
    return sorted({1, max(num_epochs // 10, 1), max(num_epochs // 2, 1), best or num_epochs, num_epochs})


def heaviest(_facts: Facts, arm: ArmFacts) -> str:
    """Name the task that an arm weighs most, with its share."""
    task, share = arm.heaviest
    return f"{task_name(task)} {percent(share)}"
