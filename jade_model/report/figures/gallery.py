"""Windows as candlesticks with what was labelled, what was found, and how probable each bar was held to be.

Legend: T bars.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from jade_model.report.facts import Facts
from jade_model.report.figures.canvas import INK, MUTED, SOFT, SURFACE, TRUTH, WIDTH, cells, export, for_figure, note
from jade_model.report.inputs import GalleryWindow
from jade_model.report.markup import FigureFile
from jade_model.report.numbers import number

KINDS = ("best", "median", "worst", "error", "disagreement")
MOST_OF_A_KIND = 2
MOST_BARS = 160
LANE = 0.24


def gallery(facts: Facts) -> FigureFile | None:
    """Draw the windows worth a look: the best, median and worst, sure mistakes, and disagreements."""
    windows = worth_a_look(facts.report.gallery)
    return _gallery(facts, windows) if windows else None


def _gallery(facts: Facts, windows: Sequence[GalleryWindow]) -> FigureFile:
    lanes = 1.05 + LANE * (len(facts.arms) + 1)
    layout = {
        "panel_height": 2.35,
        "left": 0.4,
        "right": 0.15,
        "top": 0.72,
        "bottom": 0.35,
        "gap_x": 0.45,
        "gap_y": 0.68,
    }
    figure, grid = cells(len(windows), min(2, len(windows)), **layout)
    for axes, window in zip(grid, windows, strict=True):
        _draw_window(facts, axes, window, lanes)
    height = figure.get_figheight()
    entries = [("■ labelled", TRUTH), *[(f"━ {arm.name}", arm.style.colour) for arm in facts.arms]]
    place = 0.4
    for label, colour in entries:
        figure.text(place / WIDTH, 1 - 0.2 / height, label, color=colour, fontsize=8.5, fontweight="bold")
        place += 0.3 + 0.085 * len(label)
    firsts = {window.kind: window for window in reversed(windows)}
    alt = "; ".join(
        f"{kind} {for_figure(firsts[kind].window_id)} {'/'.join(number(f1, 2) for f1 in firsts[kind].f1.values())}"
        for kind in KINDS
        if kind in firsts
    )
    caption = (
        "In the worst ones and the sure mistakes, ask whether the label or the model is wrong; in disagreements, "
        "which kind of span keeps coming back."
    )
    names = "/".join(facts.styles[arm].name for arm in windows[0].f1 if arm in facts.styles)
    return export(figure, "gallery", f"F1 of {names} by window: {alt}.", caption, facts.styles)


def _draw_window(facts: Facts, axes: Axes, window: GalleryWindow, lanes: float) -> None:
    first, last = _view(window)
    # One panel holds three things stacked on one axis: probabilities in [0, 1], a lane an arm, and the prices above.
    price_floor, price_height = lanes + 0.12, 2.6
    bars_T4 = np.asarray(window.bars_T4, dtype=float)[first:last]
    low, high = float(bars_T4[:, 2].min()), float(bars_T4[:, 1].max())
    scaled_T4 = price_floor + (bars_T4 - low) / (high - low if high > low else 1.0) * price_height
    top = price_floor + price_height + 0.1
    for start, end in window.true_spans:
        axes.axvspan(start - 0.5, end - 0.5, color=TRUTH, alpha=0.35, lw=0)
    _candles(axes, scaled_T4, first)
    axes.plot([first - 0.5, last - 0.5], [1.05, 1.05], color=SOFT, lw=0.6)
    for lane, arm in enumerate(facts.arms):
        y = 1.05 + LANE * (len(facts.arms) - lane)
        for start, end in window.predicted.get(arm.key, ()):
            axes.plot([start - 0.5, end - 0.5], [y, y], color=arm.style.colour, lw=4.0, solid_capstyle="butt")
        if arm.key in window.probability:
            probability_T = np.asarray(window.probability[arm.key], dtype=float)[first:last]
            axes.plot(np.arange(first, last), probability_T, color=arm.style.colour, lw=1.1)
    axes.set_xlim(first - 0.5, last - 0.5)
    axes.set_ylim(-0.05, top)
    axes.set_yticks([0, 1], ["0", "1"])
    axes.tick_params(axis="both", labelsize=7)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_title(_title(facts, window), fontsize=8.2, parse_math=False, pad=17)
    _scores(facts, axes, window)


def _title(facts: Facts, window: GalleryWindow) -> str:
    shown = for_figure(window.window_id)
    if window.kind != "error" or not window.f1:
        return f"{window.kind.capitalize()}: {shown}"
    arm, confidence = mistaken(window)
    return f"{facts.styles[arm].name if arm in facts.styles else arm}, {number(confidence, 2)} sure: {shown}"


def _scores(facts: Facts, axes: Axes, window: GalleryWindow) -> None:
    place = 0.0
    for arm in facts.arms:
        if arm.key in window.f1:
            label = f"{arm.name} F1 {number(window.f1[arm.key], 2)}"
            look = {"xycoords": "axes fraction", "color": arm.style.colour, "annotation_clip": False}
            note(axes, label, (0, 1), (place, 6), **look)
            place += 12 + 4.6 * len(label)


def _view(window: GalleryWindow) -> tuple[int, int]:
    """The bars to draw: all, or in long windows those around the spans."""
    length = len(window.bars_T4)
    if length <= MOST_BARS:
        return 0, length
    edges = [edge for spans in (window.true_spans, *window.predicted.values()) for span in spans for edge in span]
    middle = (min(edges) + max(edges)) // 2 if edges else length // 2
    first = max(0, min(middle - MOST_BARS // 2, length - MOST_BARS))
    return first, first + MOST_BARS


def _candles(axes: Axes, bars_T4: NDArray[np.float64], first: int) -> None:
    """Three paths instead of three artists a bar: drawing time and SVG size depend on their number."""
    x_T = first + np.arange(len(bars_T4))
    open_T, high_T, low_T, close_T = bars_T4.T
    wicks = np.stack([np.column_stack([x_T, low_T]), np.column_stack([x_T, high_T])], axis=1)
    axes.add_patch(_compound(wicks, [Path.MOVETO, Path.LINETO], facecolor="none", edgecolor=MUTED, linewidth=0.6))
    bottom_T, top_T = np.minimum(open_T, close_T), np.maximum(open_T, close_T)
    corners = np.stack(
        [
            np.column_stack([x_T - 0.35, bottom_T]),
            np.column_stack([x_T - 0.35, top_T]),
            np.column_stack([x_T + 0.35, top_T]),
            np.column_stack([x_T + 0.35, bottom_T]),
            np.column_stack([x_T - 0.35, bottom_T]),
        ],
        axis=1,
    )
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    for is_kind, face in ((close_T >= open_T, SURFACE), (close_T < open_T, INK)):
        if is_kind.any():
            axes.add_patch(_compound(corners[is_kind], codes, facecolor=face, edgecolor=INK, linewidth=0.5))


def _compound(
    points: NDArray[np.float64], codes: Sequence[np.uint8], *, facecolor: str, edgecolor: str, linewidth: float
) -> PathPatch:
    path = Path(points.reshape(-1, 2), np.tile(np.asarray(codes, dtype=np.uint8), len(points)))
    return PathPatch(path, facecolor=facecolor, edgecolor=edgecolor, linewidth=linewidth, zorder=2)


def worth_a_look(gallery: Sequence[GalleryWindow]) -> list[GalleryWindow]:
    """Return two windows of each kind at most: surest mistakes and widest disagreements first."""
    found = []
    for kind in KINDS:
        of_kind = [window for window in gallery if window.kind == kind]
        if kind == "error":
            of_kind.sort(key=lambda window: (-mistaken(window)[1], window.window_id))
        elif kind == "disagreement":
            of_kind.sort(key=lambda window: (-_gap(window), window.window_id))
        found += of_kind[:MOST_OF_A_KIND]
    return found


def mistaken(window: GalleryWindow) -> tuple[str, float]:
    """Return the arm that was wrong with the highest confidence, and that confidence."""
    wrong = [arm for arm, f1 in window.f1.items() if f1 < 0.5] or [min(window.f1, key=lambda arm: window.f1[arm])]
    arm = max(wrong, key=lambda name: window.confidence.get(name, 0.0))
    return arm, window.confidence.get(arm, 0.0)


def _gap(window: GalleryWindow) -> float:
    return max(window.f1.values()) - min(window.f1.values()) if window.f1 else 0.0
