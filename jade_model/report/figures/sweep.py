"""A sweep in three drawings: the ranking, what each setting is worth, and settings against scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from jade_model.report.figures.canvas import (
    INK,
    MUTED,
    SOFT,
    SURFACE,
    drawing,
    export,
    few_ticks,
    for_figure,
    note,
    panels,
    point,
    rows_of,
)
from jade_model.report.markup import FigureFile
from jade_model.report.naming import ArmStyle, metric_name
from jade_model.report.numbers import interval, number, signed

STYLES = {
    "best": ArmStyle("best", "best", "#0072b2", "#5ab4ec", "o"),
    "equal": ArmStyle("equal", "cannot be told from the best", "#00805d", "#2fc79b", "s"),
}
"""Colours stand for where an arm came in: there are more arms than colours that can be told apart."""

MOST_ROWS = 32
FAR_APART = 10.0
"""Positive values whose largest is this many times the smallest are drawn on a logarithmic axis."""


def draw_sweep(content: Mapping[str, Any]) -> dict[str, FigureFile]:
    """Draw what there are numbers for.

    Args:
        content: `sweep.json`.

    Returns:
        Figures by name; the same content gives the same bytes.
    """
    with drawing():
        drawn = [draw(content) for draw in (_ranking, _worth, _coordinates)]
    return {figure.name: figure for figure in drawn if figure is not None}


def look_of(content: Mapping[str, Any], entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return an arm's colour and marker."""
    verdict = content["verdict"]
    if entry["arm"] == verdict["best"]:
        return STYLES["best"].colour, STYLES["best"].marker
    if entry["arm"] in verdict["equals"]:
        return STYLES["equal"].colour, STYLES["equal"].marker
    return (MUTED, "D") if entry["state"] == "finished" else (SOFT, "v")


def _scored(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    metric = content["settings"]["metric"]
    return [entry for entry in content["ranking"] if entry.get(metric) is not None]


def _ranking(content: Mapping[str, Any]) -> FigureFile | None:
    metric, rows = content["settings"]["metric"], _scored(content)[:MOST_ROWS]
    if not rows:
        return None
    figure, grid = panels(1, 1, panel_height=0.25 + 0.24 * len(rows), left=3.4, top=0.35)
    axes = grid[0][0]
    rule = content["baseline"].get(metric)
    if rule is not None:
        axes.axvline(rule, color=MUTED, ls="--", lw=1.2)
        note(axes, f"rule {number(rule)}", (rule, 1), (0, 4), xycoords=("data", "axes fraction"), ha="center")
    for y, entry in enumerate(rows):
        colour, marker = look_of(content, entry)
        bounds = entry[f"{metric}_interval"]
        point(axes, y, entry[metric], bounds, colour, marker)
        note(axes, number(entry[metric]), (bounds[1], y), (5, 0), va="center", color=INK)
    rows_of(axes, [for_figure(entry["arm"], 52) for entry in rows])
    axes.margins(x=0.12)
    few_ticks(axes, x=7)
    axes.set_xlabel(metric_name(metric))
    alt = "; ".join(f"{item['arm']} {number(item[metric])} {interval(item[f'{metric}_interval'])}" for item in rows[:8])
    caption = (
        "Each arm's score with its interval, the dashed line is the untrained rule. Blue is the best arm, green "
        "cannot be told from it, grey is behind, light was stopped early and rests on fewer trainings."
    )
    return export(figure, "ranking", f"Ranking. {alt}.", caption, STYLES)


def _worth(content: Mapping[str, Any]) -> FigureFile | None:
    rows = content["ingredients"][:MOST_ROWS]
    if not rows:
        return None
    margin = content["settings"]["margin"]
    figure, grid = panels(1, 1, panel_height=0.25 + 0.26 * len(rows), left=3.4, top=0.35)
    axes = grid[0][0]
    axes.axvspan(-margin, margin, color=SOFT, alpha=0.3, lw=0)
    axes.axvline(0, color=MUTED, lw=1.0)
    for y, item in enumerate(rows):
        is_clear = item["outcome"] == "winner"
        colour = STYLES["best"].colour if is_clear else INK if item["outcome"] == "equivalent" else MUTED
        point(axes, y, item["difference"], item["confidence_interval"], colour, "o")
    rows_of(axes, [for_figure(_named(item), 52) for item in rows])
    axes.set_title("← the reference is better", fontsize=7.5, fontweight="normal", color=MUTED, loc="left")
    axes.set_title("this value is better →", fontsize=7.5, fontweight="normal", color=MUTED, loc="right")
    few_ticks(axes, x=7)
    axes.set_xlabel(f"difference in {metric_name(content['settings']['metric'])}")
    alt = "; ".join(
        f"{_named(item)} {signed(item['difference'])} {interval(item['confidence_interval'], with_sign=True)}"
        for item in rows[:8]
    )
    caption = (
        "What a value is worth against its setting's first one, averaged over arms that differ in nothing else. "
        f"All intervals hold together; one inside the band of ±{number(margin, 3)} hardly matters."
    )
    return export(figure, "worth", f"What settings are worth. {alt}.", caption, STYLES)


def _named(item: Mapping[str, Any]) -> str:
    return f"{short(item['key'])}: {shown(item['value'])} (not {shown(item['reference'])})"


def _coordinates(content: Mapping[str, Any]) -> FigureFile | None:
    """Draw one line an arm through its settings to its score."""
    metric, rows, varied = content["settings"]["metric"], _scored(content), content["varied"]
    if len(rows) < 2 or not varied:
        return None
    figure, grid = panels(1, 1, panel_height=3.4, left=0.7, right=0.7, top=0.45, bottom=0.45)
    axes = grid[0][0]
    scores = [entry[metric] for entry in rows]
    low, high = min(scores), max(scores)
    room = (high - low) or 1.0
    places = [_places(values) for values in varied.values()]
    # The best last, so that it lies on top.
    for index in reversed(range(len(rows))):
        entry = rows[index]
        colour, marker = look_of(content, entry)
        ys = [place[_key(entry["settings"][key])] for key, place in zip(varied, places, strict=True)]
        # Lines that share a value would hide each other: each goes through a spot of its own.
        nudge = 0.03 * ((index % 9) - 4) / 4
        line = [y + nudge for y in ys] + [(entry[metric] - low) / room]
        is_top = colour in {STYLES["best"].colour, STYLES["equal"].colour}
        axes.plot(range(len(line)), line, color=colour, lw=1.8 if is_top else 1.0, alpha=1.0 if is_top else 0.8)
        axes.plot([len(line) - 1], line[-1:], color=colour, marker=marker, ms=5, mec=SURFACE, mew=0.5, ls="none")
    for x, (values, place) in enumerate(zip(varied.values(), places, strict=True)):
        _axis(axes, x, [(place[_key(value)], shown(value)) for value in values])
    _axis(axes, len(varied), [(0.0, number(low)), (1.0, number(high))])
    axes.set_xlim(-0.35, len(varied) + 0.35)
    axes.set_ylim(-0.1, 1.1)
    axes.set_yticks([])
    axes.set_xticks(range(len(varied) + 1), [for_figure(short(key), 20) for key in varied] + [metric_name(metric)])
    axes.tick_params(axis="x", labelcolor=INK)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    best = rows[0]
    alt = f"{len(rows)} arms; the best is {best['arm']} with {number(best[metric])}."
    caption = (
        "One line an arm: left to right its settings, last its score. Where the blue and green lines bundle at one "
        "value, that value matters; where they spread, it does not. Colours as in the ranking."
    )
    return export(figure, "coordinates", f"Parallel coordinates. {alt}", caption, STYLES)


def _axis(axes: Axes, x: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([x, x], [-0.06, 1.06], color=SOFT, lw=1.0)
    for y, text in ticks:
        note(axes, for_figure(text, 18), (x, y), (4, 6), color=INK)


def _places(values: Sequence[Any]) -> dict[str, float]:
    """Return each value's height on its axis, in [0, 1]: numbers to scale, others evenly."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        is_logarithmic = low > 0 and high / low >= FAR_APART
        scale = math.log if is_logarithmic else float
        width = scale(high) - scale(low)
        return {_key(value): (scale(value) - scale(low)) / width for value in values}
    return {_key(value): index / max(1, len(values) - 1) for index, value in enumerate(values)}


def _key(value: Any) -> str:
    return repr(value)


def short(key: str) -> str:
    """Return a setting's name without the part of the recipe that it belongs to."""
    return key.rpartition(".")[2].replace("_", " ")


def shown(value: Any) -> str:
    """Return a setting's value for people."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
