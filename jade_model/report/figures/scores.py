"""Scores with their intervals: the forest plot, the differences, the folds, the trend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.transforms import blended_transform_factory

from jade_model.comparison.model import FoldScore
from jade_model.report.facts import Facts
from jade_model.report.figures.canvas import DPI, INK, MUTED, SOFT, SURFACE, export, few_ticks, for_figure, panels
from jade_model.report.markup import FigureFile
from jade_model.report.naming import ArmStyle, metric_name
from jade_model.report.numbers import is_number, number, plural
from jade_model.scoring.parts import Interval

METRICS = ("f1", "span_f1_iou50")
MOST_ROWS = 24


def forest(facts: Facts) -> FigureFile:
    """Draw every arm's F1 and event F1 with intervals, baselines as lines."""
    rows = _forest_rows(facts)
    figure, grid = panels(1, 2, panel_height=0.2 + 0.38 * len(rows), left=1.3, right=0.2, top=0.5, gap_x=0.35)
    for axes, metric in zip(grid[0], METRICS, strict=True):
        _baseline_lines(facts, axes, metric)
        for y, (label, style, values) in enumerate(rows):
            value, bounds, untrained = values[metric]
            is_part = not label.startswith(style.name)
            if untrained is not None and is_number(untrained):
                axes.plot([untrained], [y], marker=style.marker, ms=5, mfc="none", mec=style.colour, ls="none")
            _point(axes, value, bounds, y, style.colour, style.marker, size=4.5 if is_part else 8)
            _label(axes, number(value), value, bounds, y)
        axes.set_ylim(len(rows) - 0.5, -0.6)
        _room_for_labels(axes, on_both_sides=False)
        axes.set_yticks(range(len(rows)), [label for label, _, _ in rows] if metric == "f1" else [""] * len(rows))
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(visible=False, axis="y")
        few_ticks(axes, x=6)
        axes.set_xlabel(metric_name(metric))
    alt = "; ".join(f"{arm.name} {number(arm.decoder.f1)}" for arm in facts.arms)
    caption = (
        "Hollow: the same network before training; dashed: the untrained rule. "
        "Overlapping intervals do not mean equal arms: differences are measured window by window."
    )
    return export(
        figure, "forest", f"F1 with intervals: {alt}; untrained rule {number(facts.rule)}.", caption, facts.styles
    )


Values = dict[str, tuple[float | None, Interval | None, float | None]]


def _forest_rows(facts: Facts) -> list[tuple[str, ArmStyle, Values]]:
    rows: list[tuple[str, ArmStyle, Values]] = []
    for arm in facts.arms:
        scores, untrained = arm.decoder, arm.arm.summary.untrained
        rows.append(
            (
                arm.name,
                arm.style,
                {
                    "f1": (scores.f1, scores.confidence_interval, untrained.f1),
                    "span_f1_iou50": (
                        scores.span_f1_iou50,
                        scores.span_confidence_interval,
                        untrained.span_f1_iou50,
                    ),
                },
            )
        )
        if len(scores.per_dataset) > 1:
            rows += [
                (
                    f"· {for_figure(name, 22)}",
                    arm.style,
                    {
                        "f1": (part.f1, part.confidence_interval, None),
                        "span_f1_iou50": (part.span_f1_iou50, None, None),
                    },
                )
                for name, part in list(scores.per_dataset.items())[: max(1, MOST_ROWS // len(facts.arms))]
            ]
    return rows


def _point(
    axes: Axes, value: float | None, bounds: Interval | None, y: float, colour: str, marker: str, size: float
) -> None:
    if bounds is not None and bounds[0] is not None and bounds[1] is not None:
        axes.plot([bounds[0], bounds[1]], [y, y], color=colour, lw=2.2 if size > 6 else 1.3, solid_capstyle="butt")
    if value is not None and is_number(value):
        axes.plot([value], [y], marker=marker, ms=size, color=colour, mec=SURFACE, mew=0.8, ls="none")


def _label(axes: Axes, text: str, value: float | None, bounds: Interval | None, y: float) -> None:
    """Beside the interval, on the side away from 0, where neither it nor the mark is crossed."""
    if value is None or not is_number(value):
        return
    low, high = (bounds[0] or value, bounds[1] or value) if bounds is not None else (value, value)
    end, offset, side = (high, 6, "left") if value >= 0 else (low, -6, "right")
    axes.annotate(
        text, (end, y), xytext=(offset, 0), textcoords="offset points", ha=side, va="center", fontsize=8, color=INK
    )


def _room_for_labels(axes: Axes, *, on_both_sides: bool) -> None:
    low, high = axes.get_xlim()
    room = 0.19 * (high - low)
    axes.set_xlim(low - room if on_both_sides else low, high + room)


def _baseline_lines(facts: Facts, axes: Axes, metric: str) -> None:
    baselines = facts.numbers.baselines
    rule, everything = baselines.largest_move, baselines.all_positive
    is_bars = metric == "f1"
    bounds = rule.confidence_interval if is_bars else None
    if bounds is not None and bounds[0] is not None and bounds[1] is not None:
        axes.axvspan(bounds[0], bounds[1], color=SOFT, alpha=0.25, lw=0)
    lines = [
        ("rule", rule.f1 if is_bars else rule.span_f1_iou50, "--"),
        ("mark every bar", everything.f1 if is_bars else everything.span_f1_iou50, ":"),
    ]
    shown = [(label, value, dashes) for label, value, dashes in lines if value is not None and is_number(value)]
    highest = max([value for _, value, _ in shown] + [arm.decoder.f1 for arm in facts.arms], default=1.0)
    is_close = len(shown) == 2 and abs(shown[0][1] - shown[1][1]) < 0.3 * highest
    above = blended_transform_factory(axes.transData, axes.transAxes)
    for index, (label, value, dashes) in enumerate(shown):
        axes.axvline(value, color=MUTED, ls=dashes, lw=1.2)
        lift = 0.16 if is_close and index == 1 else 0.0
        height = axes.get_window_extent().height / DPI
        axes.text(
            value,
            1 + (0.06 + lift) / height,
            f"{label} {number(value)}",
            transform=above,
            ha="center",
            va="bottom",
            fontsize=7.5,
            color=MUTED,
        )


def folds(facts: Facts) -> FigureFile | None:
    """Draw each scored part's F1 by arm, the same part joined by a line."""
    keys = sorted({(p.dataset, p.seed, p.fold) for arm in facts.arms for p in arm.decoder.per_fold})
    if len(keys) < 2:
        return None
    figure, grid = panels(1, 2, panel_height=2.5, left=0.6, gap_x=0.55, top=0.35, bottom=0.4)
    jitter = {key: 0.16 * np.sin(7.0 * index) for index, key in enumerate(keys)}
    for axes, metric in zip(grid[0], METRICS, strict=True):
        tables = [_by_part(arm.decoder.per_fold, metric) for arm in facts.arms]
        joins = [[(x + jitter[key], table[key]) for x, table in enumerate(tables) if key in table] for key in keys]
        axes.add_collection(LineCollection([join for join in joins if len(join) > 1], colors=SOFT, linewidths=0.8))
        for x, (arm, table) in enumerate(zip(facts.arms, tables, strict=True)):
            xs, ys = [x + jitter[key] for key in table], list(table.values())
            axes.plot(xs, ys, marker=arm.style.marker, ms=5, color=arm.style.colour, mec=SURFACE, mew=0.6, ls="none")
            if ys:
                axes.plot([x - 0.28, x + 0.28], [np.mean(ys)] * 2, color=arm.style.colour, lw=2.2)
        axes.set_xlim(-0.5, len(facts.arms) - 0.5)
        axes.set_xticks(range(len(facts.arms)), [arm.name for arm in facts.arms])
        axes.tick_params(axis="x", labelcolor=INK)
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.08)
        few_ticks(axes, y=6)
        axes.set_title(metric_name(metric))
    ranges = "; ".join(
        f"{arm.name} {number(min(scores))} to {number(max(scores))}"
        for arm in facts.arms
        if (scores := list(_by_part(arm.decoder.per_fold, "f1").values()))
    )
    caption = (
        "Lines join one scored part (data set, seed and fold): running the same way they mean a steady difference, "
        "crossing ones noise. The bar is the mean."
    )
    return export(figure, "folds", f"F1 of {plural(len(keys), 'scored part')}: {ranges}.", caption, facts.styles)


def _by_part(parts: Sequence[FoldScore], metric: str) -> dict[tuple[str, int, int], float]:
    scores = {(part.dataset, part.seed, part.fold): part.f1 if metric == "f1" else part.span_f1_iou50 for part in parts}
    return {key: score for key, score in scores.items() if score is not None and is_number(score)}
