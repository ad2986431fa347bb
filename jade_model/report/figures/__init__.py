"""All figures of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from jade_model.report.beside import DrawingProcess
from jade_model.report.facts import Facts
from jade_model.report.figures import gallery, probability, scores, training, trend
from jade_model.report.figures.canvas import drawing
from jade_model.report.markup import FigureFile

# In the order of the report.
DRAWERS: dict[str, Callable[[Facts], FigureFile | Sequence[FigureFile] | None]] = {
    "forest": scores.forest,
    "folds": scores.folds,
    "losses": training.losses,
    "probabilities": probability.probabilities,
    "thresholds": probability.thresholds,
    "gallery": gallery.gallery,
    "trend": trend.trend,
    "drift": lambda facts: trend.drift_figures(facts.report.data_checks),
}
# Half of the work; whoever asks has also to read the run and to lay out the page.
_BESIDE = ("thresholds", "gallery")


def draw_figures(facts: Facts, beside: DrawingProcess | None = None) -> dict[str, FigureFile]:
    """Draw what there are numbers for.

    Args:
        facts: Of the report.
        beside: Another process that takes half of them.

    Returns:
        Figures by name; the same facts give the same bytes, whoever draws.
    """
    theirs = beside.draw(facts, _BESIDE) if beside else None
    drawn = draw_some(facts, [name for name in DRAWERS if theirs is None or name not in _BESIDE])
    if theirs is not None:
        drawn |= theirs.result() or draw_some(facts, _BESIDE)
    return {figure.name: figure for figure in chain.from_iterable(drawn[name] for name in DRAWERS)}


def draw_some(facts: Facts, names: Sequence[str]) -> dict[str, list[FigureFile]]:
    """Return the figures of some drawers."""
    with drawing():
        return {name: _listed(DRAWERS[name](facts)) for name in names}


def _listed(drawn: FigureFile | Sequence[FigureFile] | None) -> list[FigureFile]:
    if drawn is None:
        return []
    return [drawn] if isinstance(drawn, FigureFile) else list(drawn)
