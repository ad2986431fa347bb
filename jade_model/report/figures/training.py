"""Training over epochs: losses, learned uncertainties, task weights.

Legend: E epochs, R runs.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from jade_model.report.facts import ArmFacts, Curves, Facts, mean_curve
from jade_model.report.figures.canvas import MUTED, columns_for, export, few_ticks, note, panels
from jade_model.report.markup import FigureFile
from jade_model.report.numbers import number, percent

MOST_LINES = 60


def losses(facts: Facts) -> FigureFile:
    """Draw each arm's validation loss and, below it, its training loss, every panel with an axis of its own."""
    arms = facts.arms
    columns = columns_for(len(arms))
    rows = -(-len(arms) // columns)
    figure, grid = panels(
        2 * rows,
        columns,
        panel_height=1.45,
        gap_x=0.55,
        gap_y=0.42,
        top=0.35,
        left=0.6,
        height_ratios=[1.5, 0.9] * rows,
    )
    for index in range(rows * columns):
        upper, lower = (grid[2 * (index // columns) + half][index % columns] for half in (0, 1))
        if index < len(arms):
            _arm_losses(upper, lower, arms[index])
        else:
            upper.set_axis_off()
            lower.set_axis_off()
    alt = "; ".join(_losses_in_words(arm) for arm in arms)
    several = " Thin lines are single runs." if facts.num_runs > len(facts.arms) else ""
    caption = (
        "Above: validation loss, with the best epoch; below: training loss. A validation curve that turns up while "
        f"the training loss falls is overfitting. **Heights are not comparable between panels.**{several}"
    )
    return export(figure, "losses", f"Loss curves. {alt}.", caption, facts.styles)


def _losses_in_words(arm: ArmFacts) -> str:
    if not arm.has_validation:
        return f"{arm.name}: training loss only"
    return f"{arm.name}: validation loss falls by {percent(arm.reduction)}, best at epoch {number(arm.best_epoch, 0)}"


def _arm_losses(upper: Axes, lower: Axes, arm: ArmFacts) -> None:
    upper.set_title(arm.name)
    if arm.has_validation:
        _loss_curve(upper, arm, arm.validation_RE, "validation")
        _loss_curve(lower, arm, arm.train_RE, "training")
        upper.tick_params(axis="x", labelbottom=False)
        lower.set_xlabel("epoch")
    else:
        _loss_curve(upper, arm, arm.train_RE, "training")
        upper.set_xlabel("epoch")
        lower.set_axis_off()
    if arm.best_epoch is not None:
        upper.axvline(arm.best_epoch, color=MUTED, ls=":", lw=1.1)
        is_late = arm.best_epoch > 0.6 * arm.epochs
        look = {"xycoords": ("data", "axes fraction"), "ha": "right" if is_late else "left", "va": "top"}
        note(upper, f"best {number(arm.best_epoch, 0)}", (arm.best_epoch, 0.98), (-4 if is_late else 4, 0), **look)


def _loss_curve(axes: Axes, arm: ArmFacts, table_RE: Curves, label: str) -> None:
    epochs_E = np.arange(1, table_RE.shape[1] + 1)
    if 1 < table_RE.shape[0] <= MOST_LINES:
        lines = [np.column_stack([epochs_E, row])[np.isfinite(row)] for row in table_RE]
        axes.add_collection(LineCollection(lines, colors=arm.style.colour, linewidths=0.5, alpha=0.3))
    axes.plot(epochs_E, mean_curve(table_RE), color=arm.style.colour, lw=1.9)
    axes.set_ylabel(label)
    axes.set_xlim(0.5, arm.epochs + 0.5)
    axes.margins(y=0.1)
    few_ticks(axes, x=5, y=4, whole_x=True)
