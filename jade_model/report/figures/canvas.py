"""The look that all figures share, and how a drawn one becomes PNG and themeable SVG.

Sizes are in inches at 72 SVG units each; a page shows a figure about 900 pixels wide.
"""

from __future__ import annotations

import io
import itertools
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jade_model.report.markup import FigureFile
from jade_model.report.naming import ArmStyle

WIDTH = 9.0
DPI = 120

INK = "#1d2434"
MUTED = "#667084"
GRID = "#e3e6ec"
SURFACE = "#fefefe"
TRUTH = "#e8b93c"
SOFT = "#c3c9d4"

_DARK = {
    INK: "#e6e9f0",
    MUTED: "#9aa4b8",
    GRID: "#2c3444",
    SURFACE: "#161b26",
    TRUTH: "#b8912f",
    SOFT: "#4a5468",
    "#b23a6c": "#e987b0",
}

RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    # Fixed: else every text above the axes is measured to see whether the title has to make room.
    "axes.titley": 1.0,
    "axes.labelsize": 8.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": SOFT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 1.8,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "jade",
    "svg.id": None,
    "path.simplify": True,
}


# Matplotlib's settings belong to the process: two reports at once would mix them.
_SETTINGS = threading.Lock()


@contextmanager
def drawing() -> Iterator[None]:
    """Draw inside this block: with the look that all figures share, and nobody else drawing meanwhile."""
    with _SETTINGS, mpl.rc_context():
        mpl.rcdefaults()
        with mpl.rc_context(cast("Any", RC)):
            yield


def css_variables(styles: Iterable[ArmStyle]) -> dict[str, tuple[str, str]]:
    """Return CSS variable name -> colours on light and on dark, for every colour that figures use."""
    pairs = {**_DARK, **{style.colour: style.colour_on_dark for style in styles}}
    return {f"--c{light.removeprefix('#')}": (light, dark) for light, dark in pairs.items()}


def panels(
    rows: int,
    columns: int,
    *,
    panel_height: float,
    left: float = 0.65,
    right: float = 0.2,
    top: float = 0.4,
    bottom: float = 0.5,
    gap_x: float = 0.6,
    gap_y: float = 0.7,
    share_y: bool = False,
    height_ratios: Sequence[float] | None = None,
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure of equal panels; all lengths in inches.

    A fixed lay-out instead of matplotlib's own: measuring every text would cost more than the drawing.
    """
    height = top + bottom + rows * panel_height + (rows - 1) * gap_y
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    FigureCanvasAgg(figure)
    panel_width = (WIDTH - left - right - (columns - 1) * gap_x) / columns
    axes = figure.subplots(
        rows,
        columns,
        squeeze=False,
        sharey="row" if share_y else False,
        gridspec_kw={
            "left": left / WIDTH,
            "right": 1 - right / WIDTH,
            "top": 1 - top / height,
            "bottom": bottom / height,
            "wspace": gap_x / panel_width,
            "hspace": gap_y / panel_height,
            "height_ratios": height_ratios,
        },
    )
    return figure, [list(row) for row in axes]


def columns_for(count: int) -> int:
    """Return the columns for a number of panels: a lone one takes half of the width, or its slopes would look flat."""
    return min(max(count, 2), 3)


def cells(count: int, columns: int | None = None, **layout: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many panels, row by row; the lay-out as for `panels`."""
    columns = columns or columns_for(count)
    figure, grid = panels(-(-count // columns), columns, **layout)
    every = [axes for row in grid for axes in row]
    for axes in every[count:]:
        axes.set_axis_off()
    return figure, every[:count]


def note(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **look: Any) -> None:
    """Write a small text beside a point; the offset is in points."""
    axes.annotate(text, at, xytext=offset, textcoords="offset points", **{"fontsize": 7.5, "color": MUTED, **look})


def point(
    axes: Axes, y: float, value: float, bounds: Sequence[float], colour: str, marker: str, *, size: float = 6.0
) -> None:
    """Draw a value with its interval on a line of its own."""
    axes.plot(bounds, [y, y], color=colour, lw=0.28 * size, solid_capstyle="butt")
    axes.plot([value], [y], marker=marker, ms=size, color=colour, mec=SURFACE, mew=0.7, ls="none")


def rows_of(axes: Axes, labels: Sequence[str]) -> None:
    """Give a panel one line a label, the first on top."""
    axes.set_ylim(len(labels) - 0.4, -0.7)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(visible=False, axis="y")


def few_ticks(axes: Axes, *, x: int | None = None, y: int | None = None, whole_x: bool = False) -> None:
    """Limit the number of ticks: each is several texts and lines to draw."""
    if x is not None:
        axes.xaxis.set_major_locator(MaxNLocator(x, integer=whole_x, steps=[1, 2, 2.5, 5, 10]))
    if y is not None:
        axes.yaxis.set_major_locator(MaxNLocator(y, steps=[1, 2, 2.5, 5, 10]))


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move label positions apart until neighbours are at least a gap apart, each as little as possible downwards."""
    order = np.argsort(positions)
    moved = np.asarray(positions, dtype=float).copy()
    for lower, upper in itertools.pairwise(order):
        moved[upper] = max(moved[upper], moved[lower] + gap)
    drift = float(np.mean(moved - positions)) if len(moved) else 0.0
    return [float(value - drift) for value in moved]


def for_figure(text: str, limit: int = 34) -> str:
    """Return text from data so that it can be drawn: printable in the font, and short."""
    flat = "".join(char if char.isprintable() and ord(char) < 0x250 else "?" for char in text)
    keep = (limit - 1) // 2
    return flat if len(flat) <= limit else f"{flat[:keep]}…{flat[-keep:]}"


def export(figure: Figure, name: str, alt: str, caption: str, styles: Mapping[str, ArmStyle]) -> FigureFile:
    """Render a figure as PNG on white and as SVG whose colours are CSS variables."""
    png = io.BytesIO()
    # The quickest compression: files are a seventh larger, and take half the time.
    quick = {"compress_level": 1}
    figure.savefig(png, format="png", dpi=DPI, facecolor="white", metadata={"Software": None}, pil_kwargs=quick)
    svg = io.StringIO()
    figure.savefig(svg, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    return FigureFile(name, alt, caption, png.getvalue(), _inline(svg.getvalue(), name, alt, styles))


def _inline(svg: str, name: str, alt: str, styles: Mapping[str, ArmStyle]) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    if box is None:
        raise AssertionError("matplotlib wrote an SVG without a viewBox")
    # Several drawings share one page: their ids must not.
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r'(font: (?:[a-z0-9]+ )?[\d.]+px )[^;"]+', r"\1var(--sans)", body)
    for variable, (light, _dark) in css_variables(styles.values()).items():
        body = body.replace(light, f"var({variable})")
    body = re.sub(r'\bd="[^"]+"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path.group()), body)
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg viewBox="{box.group(1)}" role="img" aria-label="{_attribute(alt)}">{body}'


def _attribute(text: str) -> str:
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(char, entity)
    return text
