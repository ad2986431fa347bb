"""How the losses fell, and how the four tasks were weighed against each other."""

from __future__ import annotations

import math

import numpy as np

from jade_model.report.document import Block, Bullets, Code, Details, FigureBlock, Section, Table, Text, code, plain
from jade_model.report.facts import ArmFacts, Curves, Facts
from jade_model.report.insight import OVERFITTING_RISE
from jade_model.report.naming import task_name
from jade_model.report.numbers import ABSENT, duration, join, number, percent, plural

PLATEAU = 0.95


def loss_section(facts: Facts) -> Section:
    """Return each arm's losses as text and figure, with what characterises them."""
    blocks: list[Block] = [
        Text(
            "Each arm has its own units: the heights of two panels say nothing about which arm is better. "
            "Within an arm, the training loss is what is minimised (weighted by the learned "
            "uncertainties), the validation loss the plain sum of the four tasks' losses: compare their "
            "shapes, not their heights."
            + (" Losses are means over an arm's runs." if facts.num_runs > len(facts.arms) else "")
        ),
        FigureBlock("losses"),
    ]
    return Section(
        "Detailed Loss Trajectory Analysis", blocks, [_arm_losses(arm) for arm in facts.arms], short="Losses"
    )


def _arm_losses(arm: ArmFacts) -> Section:
    blocks: list[Block] = [Code(_trajectory(arm)), Text("**Key characteristics:**"), Bullets(_characteristics(arm))]
    if len(arm.arm["runs"]) > 1:
        blocks.append(Details(f"Every run of {arm.name}", [_runs_table(arm)]))
    return Section(arm.name, blocks)


def _trajectory(arm: ArmFacts) -> str:
    train_E, validation_E = mean_curve(arm.train_RE), mean_curve(arm.validation_RE)
    if train_E.size == 0:
        return "no epochs were recorded"
    has_validation = np.isfinite(validation_E).any()
    best = int(np.nanargmin(validation_E)) + 1 if has_validation else 0
    digits = len(str(train_E.size))
    lines = []
    for epoch in shown_epochs(train_E.size, best):
        line = f"Epoch {str(epoch) + ':':<{digits + 1}} train_loss={train_E[epoch - 1]:.4f}"
        if has_validation:
            line += f", val_loss={validation_E[epoch - 1]:.4f}"
            line += f"  ({_remark(validation_E, epoch, best)})"
        lines.append(line)
    return "\n".join(lines)


def _remark(validation_E: Curves, epoch: int, best: int) -> str:
    first, now = validation_E[0], validation_E[epoch - 1]
    if epoch == 1:
        return "baseline"
    if not (math.isfinite(now) and math.isfinite(first)) or first <= 0 or now <= 0:
        return "lowest" if epoch == best else "not comparable with epoch 1"
    change = f"↓ {first / now:.2f}x since epoch 1" if now <= first else f"↑ {now / first:.2f}x since epoch 1"
    if epoch == best:
        return f"{change}, lowest"
    since_best = now / validation_E[best - 1] - 1
    return f"{change}, {percent(since_best)} above the lowest" if epoch > best and since_best > 0.001 else change


def shown_epochs(num_epochs: int, best: int = 0) -> list[int]:
    """Return the epochs worth a line: the first, the fifth, round steps, the best and the last."""
    target = max(num_epochs / 5, 1)
    scale = 10 ** math.floor(math.log10(target))
    step = min((scale * factor for factor in (1, 2, 5, 10)), key=lambda s: abs(s - target))
    epochs = {1, num_epochs, *range(step, num_epochs + 1, step)}
    if num_epochs >= 20:
        epochs.add(5)
    if best:
        epochs.add(best)
    return sorted(epochs)


def mean_curve(table_RE: Curves) -> Curves:
    """Return the mean over runs of each epoch, NaN where no run has one, shape [E]."""
    there = np.isfinite(table_RE)
    total = np.where(there, table_RE, 0.0).sum(axis=0)
    num = there.sum(axis=0)
    return np.where(num > 0, total / np.maximum(num, 1), np.nan)


def _characteristics(arm: ArmFacts) -> list[str]:
    train_E, validation_E = mean_curve(arm.train_RE), mean_curve(arm.validation_RE)
    if train_E.size == 0:
        return ["No epochs were recorded."]
    items = []
    if arm.has_validation:
        first, last = validation_E[0], validation_E[-1]
        items.append(
            f"**Total reduction** of the validation loss, first to last epoch: {_fall(first, last, arm.reduction)}"
        )
        if validation_E.size >= 10 and first > 0:
            early = percent(1 - validation_E[4] / first)
            items.append(
                f"**Early drop** (epochs 1 to 5): {early}; from there to the last epoch "
                f"{percent(1 - last / validation_E[4])}"
            )
        items.append(_plateau(validation_E))
        rise = arm.rise_since_best
        if rise is not None and arm.best_epoch is not None:
            where = f"best at epoch {number(arm.best_epoch, 0)} of {arm.epochs}"
            where += " (median over runs)" if len(arm.arm["runs"]) > 1 else ""
            label = "Overfitting" if rise > OVERFITTING_RISE else "No overfitting to speak of"
            items.append(f"**{label}**: {where}, {percent(rise)} above it at the end")
        if arm.wobble is not None:
            items.append(
                f"**Stability**: the validation loss moves {percent(arm.wobble)} from epoch to epoch over the last half"
            )
    else:
        items.append("**No validation losses were recorded**, so neither overfitting nor the best epoch can be told")
        items.append(f"Training loss, first to last epoch: {_fall(train_E[0], train_E[-1], None)}")
    items.append(f"**Scale**: {_scale(arm)} in this loss's own units; not comparable between losses")
    return items


def _fall(first: float, last: float, reduction: float | None) -> str:
    share = reduction if reduction is not None else (1 - last / first if first > 0 else None)
    return f"{number(first, 2)} → {number(last, 2)} = **{percent(share)}**"


def _plateau(validation_E: Curves) -> str:
    best = float(np.nanmin(validation_E))
    if not validation_E[0] > best:
        return "**No descent**: the validation loss never fell below its first value"
    reached = int(np.flatnonzero(validation_E <= validation_E[0] - PLATEAU * (validation_E[0] - best))[0]) + 1
    return (
        f"**Plateau**: {percent(PLATEAU, 0)} of the way to its lowest point ({number(best, 2)}) was done by "
        f"epoch {reached}"
    )


def _scale(arm: ArmFacts) -> str:
    bounds = arm.loss_range
    return ABSENT if bounds is None else f"{number(bounds[0], 2)} to {number(bounds[1], 2)}"


def _runs_table(arm: ArmFacts) -> Table:
    header = [
        "Data set",
        "Seed",
        "Fold",
        "Best epoch",
        "Reduction",
        "Rise since best",
        "Temperature",
        "Training",
        "Checkpoint",
    ]
    rows = [
        [
            plain(run["dataset"]),
            str(run["seed"]),
            str(run["fold"]),
            ABSENT if run.get("best_epoch") is None else str(run.get("best_epoch")),
            percent(run.get("validation_loss_reduction")),
            percent(run.get("validation_loss_rise_since_best")),
            number(run.get("temperature"), 2),
            duration(run["seconds"].get("train")),
            ABSENT if run["checkpoint"] is None else code(run["checkpoint"]),
        ]
        for run in arm.arm["runs"]
    ]
    return Table(header, rows, "lrrrrrrrl")


def weights_section(facts: Facts) -> Section:
    """Return the learned uncertainties and the shares of the loss that follow from them."""
    sigma = Section(
        "Auto-Learned σ Parameters",
        [
            Text(
                "σ is each task's learned uncertainty: the loss of a task is divided by 2σ², so a small σ "
                "makes it count more."
                + (" Means over runs, last epoch." if facts.num_runs > len(facts.arms) else " Last epoch.")
            ),
            _task_table(facts, "sigma"),
            FigureBlock("sigma"),
        ],
    )
    weights = Section(
        "Derived Task Weights (from σ Values)",
        [Text("Share of a task = (1/σ²) / Σ(1/σ²)."), _task_table(facts, "weight"), FigureBlock("weights")],
    )
    interpretation = Section("Interpretation", [Bullets(_interpretation(facts))])
    return Section(
        "Learned Task Weighting (Uncertainty Parameters)", [], [sigma, weights, interpretation], short="Task weights"
    )


def _tasks(facts: Facts) -> list[str]:
    return list(dict.fromkeys(task for arm in facts.arms for task in arm.weights))


def _task_table(facts: Facts, what: str) -> Table:
    def cell(arm: ArmFacts, task: str) -> str:
        return number(arm.sigmas.get(task), 4) if what == "sigma" else percent(arm.weights.get(task))

    head = "σ" if what == "sigma" else "Share of the loss"
    rows = [[task_name(task), *[cell(arm, task) for arm in facts.arms]] for task in _tasks(facts)]
    return Table([head, *[arm.name for arm in facts.arms]], rows, "lr")


def _interpretation(facts: Facts) -> list[str]:
    items = []
    for arm in facts.arms:
        if arm.weights:
            order = sorted(arm.weights, key=lambda task: -arm.weights[task])
            items.append(
                f"**{arm.name}**: {', '.join(f'{task_name(task)} {percent(arm.weights[task])}' for task in order)}"
                + (f"; {task_name(order[0])} takes half or more" if arm.weights[order[0]] >= 0.5 else "")
            )
    spans = [(arm.name, arm.weights["span"]) for arm in facts.arms if "span" in arm.weights]
    if len(spans) > 1:
        low, high = min(spans, key=lambda item: item[1]), max(spans, key=lambda item: item[1])
        if high[1] - low[1] >= 0.02:
            items.append(
                f"**{low[0]} gives the span {percent(low[1])}, {high[0]} {percent(high[1])}.** These shares "
                "follow the raw scale of each loss (a likelihood summed over a window is larger than a "
                "mean over its bars), so they do not by themselves say which arm attends to spans"
            )
        else:
            items.append(
                f"All arms give the span about the same share ({join([percent(share) for _, share in spans])})"
            )
    if not items:
        items.append(f"No task weights were recorded in {plural(facts.num_runs, 'run')}")
    return items
