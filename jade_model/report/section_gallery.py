"""Windows worth looking at: the best, the middle, the worst, the confident mistakes, and where the arms disagree."""

from __future__ import annotations

from collections.abc import Sequence

from jade_model.report.document import Block, FigureBlock, Section, Table, Text, code
from jade_model.report.facts import Facts
from jade_model.report.inputs import GalleryWindow, Spans
from jade_model.report.numbers import ABSENT, number

EXAMPLE_KINDS = ("best", "median", "worst")


def examples(facts: Facts) -> list[GalleryWindow]:
    """Return the best, median and worst windows, in that order."""
    order = {kind: rank for rank, kind in enumerate(EXAMPLE_KINDS)}
    return sorted((w for w in facts.report.gallery if w.kind in order), key=lambda window: order[window.kind])


def errors(facts: Facts) -> list[GalleryWindow]:
    """Return the mistakes, most confident first."""
    return sorted((w for w in facts.report.gallery if w.kind == "error"), key=lambda w: (-mistaken(w)[1], w.window_id))


def disagreements(facts: Facts) -> list[GalleryWindow]:
    """Return windows where the arms differ, most first."""
    return sorted((w for w in facts.report.gallery if w.kind == "disagreement"), key=lambda w: (-_gap(w), w.window_id))


def mistaken(window: GalleryWindow) -> tuple[str, float]:
    """Return the arm that was wrong with the highest confidence, and that confidence."""
    wrong = [arm for arm, f1 in window.f1.items() if f1 < 0.5] or [min(window.f1, key=lambda arm: window.f1[arm])]
    arm = max(wrong, key=lambda name: window.confidence.get(name, 0.0))
    return arm, window.confidence.get(arm, 0.0)


def _gap(window: GalleryWindow) -> float:
    return max(window.f1.values()) - min(window.f1.values()) if window.f1 else 0.0


def gallery_section(facts: Facts) -> Section | None:
    """Return the galleries, or None if no windows were given."""
    sections = []
    for title, name, text, windows in (
        ("Best, Median and Worst", "gallery", "Ordered by F1 of the leading arm.", examples(facts)),
        (
            "Errors, Most Confident First",
            "errors",
            "Where an arm was sure of itself and wrong: either the model has something to learn, or the label has.",
            errors(facts),
        ),
        (
            "Where the Arms Disagree",
            "disagreements",
            "One arm finds the span, another does not.",
            disagreements(facts),
        ),
    ):
        if windows:
            blocks: list[Block] = [Text(text), FigureBlock(name), _table(facts, windows)]
            sections.append(Section(title, blocks))
    if not sections:
        return None
    intro = (
        "Prices as candlesticks; the labelled span is shaded, each arm's spans are bars in its colour, its "
        "probability the curve below."
    )
    return Section("Windows Worth a Look", [Text(intro)], sections, short="Windows")


def _table(facts: Facts, windows: Sequence[GalleryWindow]) -> Table:
    header = ["Window", "Kind", "Labelled bars", *[f"{arm.name}: marked; F1; confidence" for arm in facts.arms]]
    rows = [
        [
            code(window.window_id),
            window.kind,
            _bars(window.true_spans),
            *[_found(window, arm.key) for arm in facts.arms],
        ]
        for window in windows
    ]
    return Table(header, rows, "l")


def _found(window: GalleryWindow, arm: str) -> str:
    marked = _bars(window.predicted[arm]) if arm in window.predicted else ABSENT
    return f"{marked}; **{number(window.f1.get(arm), 2)}**; {number(window.confidence.get(arm), 2)}"


def _bars(spans: Spans) -> str:
    """First and last bar, both inclusive, as the data files count."""
    shown = [f"{start}-{end - 1}" for start, end in spans][:4]
    return ", ".join(shown) + (" ..." if len(spans) > 4 else "") if shown else "none"
