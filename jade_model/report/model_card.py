"""The card of a retrained model: what it is, what it was trained on, what it is worth, and why it is (not) in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jade_model.core.files import write_atomically
from jade_model.report.document import Block, Bullets, Code, Document, Section, Table, Text, code, plain
from jade_model.report.markdown import to_markdown
from jade_model.report.numbers import count, interval, moment, number, with_interval
from jade_model.report.section_data import data_section

MARKDOWN_NAME = "MODEL_CARD.md"
HTML_NAME = "index.html"
NAMES = {"challenger": "this model", "champion": "the champion", "largest_move": "largest move (untrained)"}


@dataclass(frozen=True)
class CardFiles:
    """Where a card lies.

    Attributes:
        markdown: Refers to the figures beside it.
        html: Self-contained.
    """

    markdown: Path
    html: Path


def write_card(card: Mapping[str, Any], folder: Path) -> CardFiles:
    """Write a card as Markdown and HTML with its figures.

    Args:
        card: `card.json`; docs/retraining.md describes it.
        folder: Made if missing.
    """
    from jade_model.report.canvas import drawing
    from jade_model.report.figures_drift import drift_figures
    from jade_model.report.html import render_page

    with drawing():
        figures = {figure.name: figure for figure in drift_figures([card["data_checks"]])}
    for figure in figures.values():
        write_atomically(folder / figure.file_name, figure.png)
    document = card_document(card)
    label = "Becomes champion" if card["decision"]["promote"] else "Stays challenger"
    kind = "winner" if card["decision"]["promote"] else "undecided"
    page = render_page(document, figures, title=document.title, badge=label, kind=kind, styles={})
    files = CardFiles(folder / MARKDOWN_NAME, folder / HTML_NAME)
    write_atomically(files.html, page)
    write_atomically(files.markdown, to_markdown(document, figures))
    return files


def card_markdown(card: Mapping[str, Any]) -> str:
    """Return a card as Markdown without figures."""
    return to_markdown(card_document(card), {})


def card_document(card: Mapping[str, Any]) -> Document:
    """Return a card's content."""
    model, decision, judgement = card["model"], card["decision"], card["judgement"]
    score = next(item for item in judgement["scores"] if (item["arm"], item["metric"]) == ("challenger", "f1"))
    verdict = "becomes champion" if decision["promote"] else "stays challenger"
    f1, against = with_interval(score["value"], score["confidence_interval"]), card["champion"]
    headline = [
        f"**Verdict**: it {verdict}, because {plain(decision['reason'])}.",
        f"**F1 (bars)**: {f1}; marking every bar gives {number(judgement['all_positive_f1'])}.",
        f"**Judged against**: {code(against) if against else 'no champion, there was none yet'}.",
    ]
    parameters = count(model["num_parameters"])
    facts = [
        ("Date", moment(card["created_at"])),
        ("Run", code(card["run_id"])),
        ("Data", "; ".join(_data_line(item) for item in card["data"])),
        ("Model", f"{plain(model['arm'])}, recipe {code(model['recipe'])}, {parameters} parameters"),
    ]
    sections = [
        _scores(card),
        Section(
            "Gates",
            [
                Table(
                    ["Gate", "Result", "Found", "Expected"],
                    [
                        [
                            plain(gate["name"]),
                            "passed" if gate["passed"] else "**failed**",
                            plain(gate["found"]),
                            plain(gate["expected"]),
                        ]
                        for gate in decision["gates"]
                    ],
                    "l",
                )
            ],
        ),
        data_section([card["data_checks"]]),
        _recipe(model),
        Section("Limits", [Bullets([plain(limit) for limit in card["limits"]])]),
        _chain(card),
        Section("Use It", [Code(_commands(card), "bash")], short="Use"),
    ]
    closing = [("Status", verdict), ("Created", moment(card["created_at"]))]
    title = f"Model card: {plain(model['arm'])} of {moment(card['created_at'])[:10]}"
    return Document(title, headline, facts, tuple(item for item in sections if item is not None), closing)


def _data_line(item: Mapping[str, Any]) -> str:
    return (
        f"{plain(item['name'])} ({count(item['num_windows'])} windows in {count(item['num_groups'])} groups; "
        f"{count(item['num_holdout'])} windows held out)"
    )


def _scores(card: Mapping[str, Any]) -> Section:
    judgement = card["judgement"]
    rows = [
        [
            NAMES.get(item["arm"], plain(item["arm"])),
            plain(item["dataset"] or "all windows"),
            with_interval(item["value"], item["confidence_interval"]),
        ]
        for item in judgement["scores"]
        if item["metric"] == "f1"
    ]
    differences = [
        [
            f"{NAMES[item['first']]} - {NAMES[item['second']]}",
            plain(item["dataset"] or "all windows"),
            f"{item['difference']:+.3f} {interval(item['confidence_interval'], with_sign=True)}",
            plain(item["outcome"]),
        ]
        for item in judgement["differences"]
        if item["metric"] == "f1"
    ]
    intro = (
        "Every window is scored by models that have not seen its group: out of fold by the folds' models, on the "
        "hold-out by the final ones. The hold-out is the same groups in every retraining."
    )
    blocks: list[Block] = [
        Text(intro),
        Table(["Who", "Scored", "F1 (bars)"], rows, "llr"),
        Table(["Difference", "Scored", "F1 difference", "Outcome"], differences, "llrl"),
        Text(
            f"Expected calibration error {number(judgement['calibration_error'])}. "
            f"{count(judgement['num_unjudged'])} windows were left out, because every model of the champion has seen "
            "some of their bars."
        ),
    ]
    if judgement["caveats"]:
        blocks.append(Bullets([plain(item) for item in judgement["caveats"]]))
    return Section("Scores", blocks)


def _recipe(model: Mapping[str, Any]) -> Section:
    rows = [
        ["Arm", plain(model["arm"])],
        ["Loss", code(model["loss"])],
        ["Recipe", code(model["recipe"])],
        ["Features", code(model["feature_set"])],
        ["Epochs, members", f"{count(model['epochs'])}, {count(model['ensemble'])}"],
        ["Decoder", code(model["decoder"])],
        ["Cut-off, temperature", f"{number(model['threshold'])}, {number(model['temperature'])}"],
        ["Files", code(model["folder"])],
    ]
    return Section("Model", [Table(["", ""], rows, "l")])


def _chain(card: Mapping[str, Any]) -> Section:
    chain, code_of = card["chain"], card["chain"]["code"]
    rows = [
        *[[f"Data {plain(item['name'])}", code(item["sha256"])] for item in card["data"]],
        ["Windows as arrays", code(chain["arrays_sha256"])],
        ["Rows that were fitted", code(chain["rows_sha256"])],
        ["Training code", code(code_of["digest"])],
        ["Commit", code(code_of["commit"] or "not recorded")],
        ["Run key of the training", code(chain["run_key"])],
        *[[f"Checkpoint {plain(path)}", code(digest)] for path, digest in chain["checkpoints"].items()],
    ]
    told = "`jade champion --verify` recomputes what can be recomputed and compares."
    return Section("Digests", [Text(told), Table(["What", "SHA-256"], rows, "l")])


def _commands(card: Mapping[str, Any]) -> str:
    model = f"{card['run_id']}/{card['model']['folder']}"
    return "\n".join(
        [
            f"jade predict --model-path {model} --data-path NEW.parquet --out spans.csv",
            f"jade promote {card['run_id']}        # make it the champion by hand",
            "jade rollback                # go back to the champion before",
        ]
    )
