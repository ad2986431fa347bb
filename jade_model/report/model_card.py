"""The card of a retrained model: what it is, what it was trained on, what it is worth, and why it is (not) in use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jade_model.report.markup import Rows, Source, code, plain, render, to_markdown
from jade_model.report.numbers import count, interval, with_interval
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
        "score_rows": _score_rows(card["judgement"]),
        "difference_rows": _difference_rows(card["judgement"]),
        "digest_rows": _digest_rows(card),
        **PARTS,
    }
    return render("model_card.md.j2", context)


def _data_line(item: Mapping[str, Any]) -> str:
    return (
        f"{plain(item['name'])} ({count(item['num_windows'])} windows in {count(item['num_groups'])} groups; "
        f"{count(item['num_holdout'])} windows held out)"
    )


def _score_rows(judgement: Mapping[str, Any]) -> Rows:
    return [
        [
            NAMES.get(item["arm"], plain(item["arm"])),
            plain(item["dataset"] or "all windows"),
            with_interval(item["value"], item["confidence_interval"]),
        ]
        for item in judgement["scores"]
        if item["metric"] == "f1"
    ]


def _difference_rows(judgement: Mapping[str, Any]) -> Rows:
    return [
        [
            f"{NAMES[item['first']]} - {NAMES[item['second']]}",
            plain(item["dataset"] or "all windows"),
            f"{item['difference']:+.3f} {interval(item['confidence_interval'], with_sign=True)}",
            plain(item["outcome"]),
        ]
        for item in judgement["differences"]
        if item["metric"] == "f1"
    ]


def _digest_rows(card: Mapping[str, Any]) -> Rows:
    chain, code_of = card["chain"], card["chain"]["code"]
    return [
        *[[f"Data {plain(item['name'])}", code(item["sha256"])] for item in card["data"]],
        ["Windows as arrays", code(chain["arrays_sha256"])],
        ["Rows that were fitted", code(chain["rows_sha256"])],
        ["Training code", code(code_of["digest"])],
        ["Commit", code(code_of["commit"] or "not recorded")],
        ["Run key of the training", code(chain["run_key"])],
        *[[f"Checkpoint {plain(path)}", code(digest)] for path, digest in chain["checkpoints"].items()],
    ]
