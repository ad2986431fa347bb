"""All figures of a report."""

from __future__ import annotations

import threading
from typing import Any, cast

import matplotlib as mpl

from jade_model.report.canvas import RC
from jade_model.report.facts import Facts
from jade_model.report.figure import FigureFile
from jade_model.report.figures_gallery import galleries
from jade_model.report.figures_probability import probabilities, reliability, thresholds
from jade_model.report.figures_scores import differences, folds, forest, trend
from jade_model.report.figures_training import losses, sigma, weights

# Matplotlib's settings belong to the process: two reports at once would mix them.
SETTINGS = threading.Lock()
"""Hold it while drawing."""


def draw_figures(facts: Facts) -> dict[str, FigureFile]:
    """Draw what there are numbers for.

    Returns:
        Figures by name; the same facts give the same bytes.
    """
    drawers = (forest, differences, folds, losses, sigma, weights, probabilities, reliability, thresholds, trend)
    with SETTINGS, mpl.rc_context():
        mpl.rcdefaults()
        with mpl.rc_context(cast("Any", RC)):
            drawn = [figure for draw in drawers if (figure := draw(facts)) is not None]
            drawn += galleries(facts)
    return {figure.name: figure for figure in drawn}
