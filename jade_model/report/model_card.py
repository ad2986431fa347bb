"""The card of a retrained model: what it is, what it was trained on, what it is worth, and why it is (not) in use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jade_model.report.markup import Source, plain, render, to_markdown
from jade_model.report.numbers import count
from jade_model.report.view.closing import PARTS
from jade_model.report.writing import ReportFiles, write_files

MARKDOWN_NAME = "MODEL_CARD.md"
NAMES = {"challenger": "this model", "champion": "the champion", "largest_move": "largest move (untrained)"}


def write_card(card: Mapping[str, Any], folder: Path) -> ReportFiles:
    """Write a card as Markdown and HTML with its figures.

    Args:
        card: `card.json`; docs/retraining.md describes it.
        folder: Made if missing.
    """
    from jade_model.report.figures.canvas import drawing
    from jade_model.report.figures.trend import drift_figures
    from jade_model.report.page import to_page

    with drawing():
        figures = {figure.name: figure for figure in drift_figures([card["data_checks"]])}
    source = _source(card)
    badge = ("Becomes champion", "winner") if card["decision"]["promote"] else ("Stays challenger", "undecided")
    return write_files(folder, MARKDOWN_NAME, source, figures, to_page(source, figures, badge=badge))


def card_markdown(card: Mapping[str, Any]) -> str:
    """Return a card as Markdown without figures."""
    return to_markdown(_source(card), {})


def _source(card: Mapping[str, Any]) -> Source:
    scores = card["judgement"]["scores"]
    context = {
        "card": card,
        "score": next(item for item in scores if (item["arm"], item["metric"]) == ("challenger", "f1")),
        "data_line": "; ".join(_data_line(item) for item in card["data"]),
        "called": NAMES,
        **PARTS,
    }
    return render("model_card.md.j2", context)


def _data_line(item: Mapping[str, Any]) -> str:
    return (
        f"{plain(item['name'])} ({count(item['num_windows'])} windows in {count(item['num_groups'])} groups; "
        f"{count(item['num_holdout'])} windows held out)"
    )
