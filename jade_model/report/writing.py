"""Writes a report: Markdown, HTML and figures, each whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jade_model.core.files import write_atomically
from jade_model.report.beside import DrawingProcess
from jade_model.report.facts import ArmFacts, Facts, gather
from jade_model.report.inputs import ReportInput
from jade_model.report.markup import FigureFile, Source, render, to_markdown
from jade_model.report.numbers import interval, number
from jade_model.report.view.context import report_context
from jade_model.report.view.first_screen import badge

MARKDOWN_NAME = "SOFT_SPAN_VS_CRF_COMPARISON.md"
HTML_NAME = "index.html"
ARTIFACT_BYTES = 500_000


@dataclass(frozen=True)
class ReportFiles:
    """Where a report lies.

    Attributes:
        markdown: For GitHub; refers to the figures beside it.
        html: Self-contained.
        figures: PNGs, in the order of the report.
    """

    markdown: Path
    html: Path
    figures: tuple[Path, ...]


def report_source(facts: Facts) -> Source:
    """Return a comparison's report, without figures."""
    return render("report.md.j2", report_context(facts))


def report_page(facts: Facts, source: Source, figures: Mapping[str, FigureFile]) -> str:
    """Return a comparison's report as one HTML page."""
    from jade_model.report.page import to_page

    tiles = [_tile(facts, arm) for arm in facts.arms]
    return to_page(source, figures, badge=badge(facts), tiles=tiles, styles=facts.styles.values())


def write_report(report: ReportInput, folder: Path, beside: DrawingProcess | None = None) -> ReportFiles:
    """Write a report into a folder; the same input gives the same bytes.

    Args:
        report: The numbers.
        folder: Made if missing; files of an earlier report in it are replaced.
        beside: Another process that takes half of the drawing.

    Raises:
        UserError: The comparison breaks its contract; every field is named.
        OSError: A file cannot be written.
    """
    # Matplotlib takes a second to import, and `markdown_for_artifact` does without.
    from jade_model.report.figures import draw_figures

    facts = gather(report)
    source = report_source(facts)
    figures = draw_figures(facts, beside)
    return write_files(folder, MARKDOWN_NAME, source, figures, report_page(facts, source, figures))


def write_files(
    folder: Path, markdown_name: str, source: Source, figures: Mapping[str, FigureFile], page: str
) -> ReportFiles:
    """Write figures, page and Markdown, in this order; the folder is made if it is missing."""
    files = ReportFiles(
        folder / markdown_name, folder / HTML_NAME, tuple(folder / figure.file_name for figure in figures.values())
    )
    for figure, path in zip(figures.values(), files.figures, strict=True):
        write_atomically(path, figure.png)
    write_atomically(files.html, page)
    write_atomically(files.markdown, to_markdown(source, figures))
    return files


def markdown_for_artifact(report: ReportInput) -> str:
    """Return the report as Markdown without figures, at most 500 kB, for a place that shows neither files nor pages.

    Long tables go first if it would be longer, then whole sections from the end; what was left out is said.

    Raises:
        UserError: The comparison breaks its contract; every field is named.
    """
    source = report_source(gather(report))
    text = to_markdown(source, {})
    if len(text.encode()) <= ARTIFACT_BYTES:
        return text
    note = "\n*Shortened: the rest is in the full report of this run.*\n"
    sections = source.sections
    while True:
        text = to_markdown(dataclasses.replace(source, sections=sections), {}, with_details=False) + note
        if len(text.encode()) <= ARTIFACT_BYTES or not sections:
            return text
        sections = sections[:-1]


def _tile(facts: Facts, arm: ArmFacts) -> dict[str, object]:
    f1, bounds = arm.decoder.f1, arm.decoder.confidence_interval
    return {
        "name": arm.name,
        "f1": number(f1),
        "interval": interval(bounds),
        "colour": f"var(--c{arm.style.colour.removeprefix('#')})",
        "is_winner": facts.numbers.verdict.winner == arm.key,
        "position": _share(f1),
        "low": _share(bounds[0]),
        "width": _share(bounds[1] - bounds[0]),
        "rule": _share(facts.rule),
        "against_rule": facts.against_rule(arm.key),
    }


def _share(value: float) -> str:
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%"
