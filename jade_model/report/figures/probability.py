"""Probabilities: where they lie, whether they come true, and what a threshold makes of them."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.figures.canvas import (
    INK,
    MUTED,
    SOFT,
    SURFACE,
    WIDTH,
    cells,
    export,
    few_ticks,
    note,
)
from jade_model.report.inputs import Curve
from jade_model.report.markup import FigureFile
from jade_model.report.naming import decoder_name
from jade_model.report.numbers import number

Shares = NDArray[np.float64]

MOST_POINTS = 400
BARS = 25


def probabilities(facts: Facts) -> FigureFile | None:
    """Draw how probabilities are spread inside and outside the labelled spans."""
    arms = [arm for arm in facts.arms if sum(arm.arm.summary.histogram.out_of_span) > 0]
    if not arms:
        return None
    figure, grid = cells(len(arms), panel_height=2.1, gap_x=0.45, top=0.5, left=0.6)
    reach = max(_reach(arm) for arm in arms)
    for axes, arm in zip(grid, arms, strict=True):
        _distribution(axes, arm, reach)
    alt = "; ".join(
        f"{arm.name}: in-span mean {number(arm.arm.summary.separation.in_span_mean)}, out-of-span "
        f"mean {number(arm.arm.summary.separation.out_of_span_mean)}"
        for arm in arms
    )
    caption = (
        "Share of bars by probability: coloured inside labelled spans, grey outside; the lines are the means. A model "
        "that knows makes two heaps apart."
    )
    return export(figure, "probabilities", f"Probability distributions. {alt}.", caption, facts.styles)


def _reach(arm: ArmFacts) -> float:
    histogram = arm.arm.summary.histogram
    total = np.asarray(histogram.in_span) + np.asarray(histogram.out_of_span)
    filled = np.flatnonzero(total > 0.002 * total.sum())
    return float(histogram.edges[int(filled[-1]) + 1]) if filled.size else 1.0


def _distribution(axes: Axes, arm: ArmFacts, reach: float) -> None:
    histogram, means = arm.arm.summary.histogram, arm.arm.summary.separation
    edges = np.asarray(histogram.edges, dtype=float)
    heights = []
    for counts, colour, alpha in (
        (histogram.out_of_span, MUTED, 0.35),
        (histogram.in_span, arm.style.colour, 0.5),
    ):
        shown, limits = _coarser(np.asarray(counts, dtype=float), edges, reach)
        share = 100 * shown / max(shown.sum(), 1)
        axes.stairs(share, limits, fill=True, color=colour, alpha=alpha, lw=0)
        axes.stairs(share, limits, color=colour, lw=1.2)
        heights.append(share)
    said = f"separation {number(means.separation)}"
    ceiling = _ceiling(heights[0], heights[1])
    if ceiling is not None:
        axes.set_ylim(0, ceiling)
        said += f"; tallest grey bar: {heights[0].max():.0f} %"
    for mean, colour, dashes in (
        (means.out_of_span_mean, MUTED, "--"),
        (means.in_span_mean, arm.style.colour, "-"),
    ):
        if mean is not None:
            axes.axvline(mean, color=colour, ls=dashes, lw=1.4)
    axes.set_title(f"{arm.name}\n", pad=4)
    note(axes, said, (0, 1), (0, 7), xycoords="axes fraction", fontsize=8, annotation_clip=False)
    axes.set_xlim(0, reach * 1.02)
    axes.set_xlabel("probability of being in a span")
    axes.set_ylabel("% of bars")
    few_ticks(axes, x=5, y=5)


def _ceiling(outside: Shares, inside: Shares) -> float | None:
    """Where to cut a heap of sure "no" outside spans that would flatten everything else, or None."""
    ceiling = 1.5 * float(inside.max())
    return ceiling if 0 < ceiling < 0.6 * float(outside.max()) else None


def _coarser(counts: Shares, edges: Shares, reach: float) -> tuple[Shares, Shares]:
    """Join neighbouring bins until some 25 are left in view."""
    in_view = int(np.searchsorted(edges, reach + 1e-9)) - 1
    factor = max(1, in_view // BARS)
    starts = np.arange(0, counts.size, factor)
    return np.add.reduceat(counts, starts), np.append(edges[starts], edges[-1])


def thresholds(facts: Facts) -> FigureFile | None:
    """Draw precision, recall and F1 over each decoder's threshold."""
    curves = [
        (arm, decoder, curve)
        for arm in facts.arms
        for decoder, curve in facts.report.curves.get(arm.key, {}).items()
        if len(curve.threshold) > 1
    ]
    if not curves:
        return None
    figure, grid = cells(len(curves), panel_height=1.9, gap_x=0.45, gap_y=0.95, top=0.65, left=0.55)
    for axes, (arm, decoder, curve) in zip(grid, curves, strict=True):
        _curve(axes, facts, arm, decoder, curve)
    height = figure.get_figheight()
    legend = (("F1", "-", 2.0), ("precision", ":", 1.3), ("recall", "--", 1.3), ("mark every bar", (0, (1, 3)), 1.0))
    for name, dashes, width in legend:
        grid[0].plot([], [], color=MUTED, ls=dashes, lw=width, label=name)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper left", ncols=4, bbox_to_anchor=(0.55 / WIDTH, 1 - 0.02 / height), borderaxespad=0.0
    )
    in_use = [item for item in curves if item[1] == item[0].best_decoder]
    alt = "; ".join(
        f"{arm.name} by {decoder_name(decoder)} {number(_f1_at(curve, curve.chosen))} at {number(curve.chosen)}"
        for arm, decoder, curve in in_use or curves
        if curve.chosen is not None
    )
    caption = (
        "The mark is the threshold in use. A broad hump forgives one that is a little off; along the dotted floor no "
        "threshold helps."
    )
    return export(figure, "thresholds", f"F1 at the threshold in use: {alt}.", caption, facts.styles)


def _curve(axes: Axes, facts: Facts, arm: ArmFacts, decoder: str, curve: Curve) -> None:
    keep = _thinned(curve)
    x = curve.threshold[keep]
    if curve.chosen is not None and curve.chosen < x[0]:
        # Below the smallest value that occurs everything is marked, as at that value: the curve goes on to the mark.
        x, keep = np.append(curve.chosen, x), np.append(keep[:1], keep)
    # A threshold marks what the next value above it marks: between two values the scores stand still.
    axes.plot(x, curve.recall[keep], color=MUTED, ls="--", lw=1.1, drawstyle="steps-pre")
    axes.plot(x, curve.precision[keep], color=MUTED, ls=":", lw=1.3, drawstyle="steps-pre")
    axes.plot(x, curve.f1[keep], color=arm.style.colour, lw=2.0, drawstyle="steps-pre")
    if facts.all_positive is not None:
        axes.axhline(facts.all_positive, color=SOFT, ls=(0, (1, 3)), lw=1.2)
    if curve.chosen is not None:
        height = _f1_at(curve, curve.chosen)
        axes.plot([curve.chosen], [height], marker=arm.style.marker, ms=7, color=arm.style.colour, mec=SURFACE, mew=1.0)
        is_right = curve.chosen > x[0] + 0.6 * (x[-1] - x[0])
        look = {"fontsize": 8, "ha": "right" if is_right else "left", "color": INK, "fontweight": "bold"}
        note(axes, number(curve.chosen, 2), (curve.chosen, height), (-7 if is_right else 7, 5), **look)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(f"{arm.name}: {decoder_name(decoder).lower()}")
    axes.set_xlabel("threshold (nats)" if decoder == "score_margin" else "threshold")
    few_ticks(axes, x=5, y=4)


def _f1_at(curve: Curve, threshold: float) -> float:
    """Return what a threshold scores: what the next value above it does."""
    return float(curve.f1[min(int(np.searchsorted(curve.threshold, threshold)), len(curve.threshold) - 1)])


def _thinned(curve: Curve) -> NDArray[np.intp]:
    """Indices of at most some 400 points, evenly spread over the axis, the best one among them."""
    if len(curve.threshold) <= MOST_POINTS:
        return np.arange(len(curve.threshold))
    targets = np.linspace(curve.threshold[0], curve.threshold[-1], MOST_POINTS)
    indices = np.searchsorted(curve.threshold, targets).clip(0, len(curve.threshold) - 1)
    return np.unique(np.append(indices, np.nanargmax(curve.f1)))
