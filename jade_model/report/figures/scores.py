"""Scores with their intervals: the forest plot, the differences, the folds, the trend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from jade_model.comparison.model import DataSetScore, Decoder, FoldScore
from jade_model.report.facts import Facts
from jade_model.report.figures.canvas import (
    INK,
    MUTED,
    SOFT,
    SURFACE,
    export,
    few_ticks,
    for_figure,
    note,
    panels,
    point,
)
from jade_model.report.markup import FigureFile
from jade_model.report.naming import ArmStyle, metric_name
from jade_model.report.numbers import number, plural
from jade_model.scoring.parts import Score

METRICS = ("f1", "span_f1_iou50")
MOST_ROWS = 24


def forest(facts: Facts) -> FigureFile:
    """Draw every arm's F1 and event F1 with intervals, baselines as lines."""
    rows = _forest_rows(facts)
    figure, grid = panels(1, 2, panel_height=0.2 + 0.38 * len(rows), left=1.3, right=0.2, top=0.5, gap_x=0.35)
    for axes, metric in zip(grid[0], METRICS, strict=True):
        _baseline_lines(facts, axes, metric)
        for y, (_, style, scores, untrained) in enumerate(rows):
            value, bounds = getattr(scores, metric), scores.confidence_interval
            if metric != "f1":
                bounds = scores.span_confidence_interval if isinstance(scores, Decoder) else (value, value)
            if untrained is not None:
                before = getattr(untrained, metric)
                axes.plot([before], [y], marker=style.marker, ms=5, mfc="none", mec=style.colour, ls="none")
            point(axes, y, value, bounds, style.colour, style.marker, size=4.5 if untrained is None else 8)
            note(axes, number(value), (bounds[1], y), (6, 0), va="center", fontsize=8, color=INK)
        axes.set_ylim(len(rows) - 0.5, -0.6)
        low, high = axes.get_xlim()
        axes.set_xlim(low, high + 0.19 * (high - low))  # room for the labels
        axes.set_yticks(range(len(rows)), [row[0] if metric == "f1" else "" for row in rows])
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


def _forest_rows(facts: Facts) -> list[tuple[str, ArmStyle, Decoder | DataSetScore, Score | None]]:
    """Return a line for every arm, with what it scored untrained, and one for each of its data sets."""
    rows: list[tuple[str, ArmStyle, Decoder | DataSetScore, Score | None]] = []
    for arm in facts.arms:
        rows.append((arm.name, arm.style, arm.decoder, arm.arm.summary.untrained))
        parts = list(arm.decoder.per_dataset.items())[: max(1, MOST_ROWS // len(facts.arms))]
        if len(arm.decoder.per_dataset) > 1:
            rows += [(f"· {for_figure(name, 22)}", arm.style, part, None) for name, part in parts]
    return rows


def _baseline_lines(facts: Facts, axes: Axes, metric: str) -> None:
    rule, everything = facts.numbers.baselines.largest_move, facts.numbers.baselines.all_positive
    if metric == "f1":
        axes.axvspan(*rule.confidence_interval, color=SOFT, alpha=0.25, lw=0)
    lines = [("rule", getattr(rule, metric), "--"), ("mark every bar", getattr(everything, metric), ":")]
    highest = max(rule.f1, everything.f1, *(arm.decoder.f1 for arm in facts.arms))
    is_close = abs(lines[0][1] - lines[1][1]) < 0.3 * highest
    for index, (label, value, dashes) in enumerate(lines):
        axes.axvline(value, color=MUTED, ls=dashes, lw=1.2)
        # Names that would meet stand on two lines.
        lift = 15.5 if is_close and index == 1 else 4.0
        place = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom", "annotation_clip": False}
        note(axes, f"{label} {number(value)}", (value, 1), (0, lift), **place)


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
    return {(part.dataset, part.seed, part.fold): getattr(part, metric) for part in parts}
