"""How far each feature has moved, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jade_model.data.checks import DataLimits
from jade_model.report.canvas import INK, MUTED, SOFT, export, few_ticks, for_figure, panels
from jade_model.report.figure import FigureFile
from jade_model.report.numbers import number
from jade_model.report.view.closing import drift_figure

LIMIT_COLOUR = "#b23a6c"


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
