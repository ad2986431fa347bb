"""All figures of a report."""

from __future__ import annotations

from jade_model.report.canvas import drawing
from jade_model.report.facts import Facts
from jade_model.report.figure import FigureFile
from jade_model.report.figures_drift import drift_figures
from jade_model.report.figures_gallery import galleries
from jade_model.report.figures_probability import probabilities, reliability, thresholds
from jade_model.report.figures_scores import differences, folds, forest, trend
from jade_model.report.figures_training import losses, sigma, weights


def draw_figures(facts: Facts) -> dict[str, FigureFile]:
    """Draw what there are numbers for.

    Returns:
        Figures by name; the same facts give the same bytes.
    """
    drawers = (forest, differences, folds, losses, sigma, weights, probabilities, reliability, thresholds, trend)
    with drawing():
        drawn = [figure for draw in drawers if (figure := draw(facts)) is not None]
        drawn += galleries(facts)
        drawn += drift_figures(facts.report.data_checks)
    return {figure.name: figure for figure in drawn}
