"""What has moved: scores over comparisons, and features since the model in use was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.collections import LineCollection

from jade_model.data.checks import DataLimits
from jade_model.report.facts import Facts
from jade_model.report.figures.canvas import INK, MUTED, SOFT, SURFACE, export, few_ticks, for_figure, panels
from jade_model.report.markup import FigureFile
from jade_model.report.naming import metric_name
from jade_model.report.numbers import moment, number
from jade_model.report.view.closing import drift_figure

LIMIT_COLOUR = "#b23a6c"


def trend(facts: Facts) -> FigureFile | None:
    """Draw F1 over the last comparisons."""
    points = list(facts.report.trend or ())
    runs = list(dict.fromkeys(point.run_id for point in points))[-30:]
    if len(runs) < 2:
        return None
    place = {run: index for index, run in enumerate(runs)}
    figure, grid = panels(1, 1, panel_height=2.2, left=0.6, bottom=0.5, top=0.35)
    axes = grid[0][0]
    for key, style in facts.styles.items():
        mine = [point for point in points if point.arm == key and point.run_id in place]
        if not mine:
            continue
        xs, ys = [place[point.run_id] for point in mine], [point.f1 for point in mine]
        bars = [
            [(place[p.run_id], p.confidence_interval[0]), (place[p.run_id], p.confidence_interval[1])]
            for p in mine
            if p.confidence_interval is not None
        ]
        axes.add_collection(LineCollection(bars, colors=style.colour, linewidths=1.2, alpha=0.6))
        axes.plot(xs, ys, color=style.colour, marker=style.marker, ms=5, mec=SURFACE, mew=0.6, label=style.name)
        for band in (band for band in facts.report.bands if band["arm"] == key):
            last = len(runs) - 1
            axes.plot([last - 0.35, last + 0.35], [band["low"]] * 2, color=style.colour, lw=1.2, ls=":")
    axes.legend(loc="lower left", ncols=len(facts.styles), bbox_to_anchor=(0, 1.0), borderaxespad=0.1)
    axes.margins(y=0.1)
    axes.set_ylabel(metric_name("f1"))
    when = {point.run_id: moment(point.created_at) for point in points}
    shown = 10 if len({when[run][:10] for run in runs}) == len(runs) else 16
    step = -(-len(runs) // 8)
    axes.set_xticks(range(0, len(runs), step), [for_figure(when[run][:shown]) for run in runs[::step]])
    few_ticks(axes, y=5)
    caption = (
        "F1 with its interval, comparison by comparison. Dotted: below it, the newest point (after ten, the weighted "
        "average of the last ones) would be a regression."
    )
    return export(figure, "trend", f"F1 over the last {len(runs)} comparisons.", caption, facts.styles)


def drift_figures(reports: Sequence[Mapping[str, Any]]) -> list[FigureFile]:
    """Draw the population stability index and the Kolmogorov-Smirnov statistic of every feature; inside `drawing`.

    Args:
        reports: As `DataReport.to_json` has them, one a data set; those without a reference are not drawn.
    """
    limits, several = DataLimits(), len(reports) > 1
    return [
        _draw(
            report["drift"],
            limits.psi_warning,
            limits.psi_failed,
            drift_figure(report["dataset"], several=several),
        )
        for report in reports
        if report["drift"]
    ]


def _draw(drift: Sequence[Mapping[str, Any]], warning: float, failed: float, name: str) -> FigureFile:
    figure, grid = panels(1, 2, panel_height=0.18 * len(drift) + 0.3, left=1.6, bottom=0.45, gap_x=0.3, share_y=True)
    rows = list(range(len(drift)))[::-1]
    for axes, key, title in zip(
        grid[0], ("psi", "ks"), ("Population stability index", "Kolmogorov-Smirnov statistic"), strict=True
    ):
        values = [float(item[key]) for item in drift]
        axes.hlines(rows, 0, values, color=SOFT, lw=1.6)
        axes.plot(values, rows, "o", color=INK, ms=4.5)
        axes.set_title(title)
        axes.set_xlim(0, 1.15 * max([*values, failed if key == "psi" else 0.0, 1e-3]))
        few_ticks(axes, x=5)
    psi = grid[0][0]
    for limit, style in ((warning, ":"), (failed, "--")):
        psi.axvline(limit, color=MUTED if limit == warning else LIMIT_COLOUR, lw=1.1, ls=style)
    psi.set_yticks(rows, [for_figure(str(item["feature"])) for item in drift])
    psi.set_ylim(-0.7, len(drift) - 0.3)
    worst = max(drift, key=lambda item: float(item["psi"]))
    caption = (
        f"New windows against those that the model in use was trained on. Dotted: worth a look ({warning:g}); "
        f"dashed: more than a model is expected to bear ({failed:g}), if chance does not explain it."
    )
    alt = f"Drift of {len(drift)} features; the largest is {worst['feature']} with an index of {number(worst['psi'])}."
    return export(figure, name, alt, caption, {})
