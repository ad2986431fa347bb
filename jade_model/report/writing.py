"""Writes a report: Markdown, HTML and figures, each whole or not at all."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from jade_model.core.files import write_atomically
from jade_model.report.beside import DrawingProcess
from jade_model.report.building import build_document
from jade_model.report.facts import gather
from jade_model.report.inputs import ReportInput
from jade_model.report.markdown import to_markdown

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
    from jade_model.report.html import to_html

    facts = gather(report)
    document = build_document(facts)
    figures = draw_figures(facts, beside)
    files = ReportFiles(
        folder / MARKDOWN_NAME, folder / HTML_NAME, tuple(folder / figure.file_name for figure in figures.values())
    )
    for figure, path in zip(figures.values(), files.figures, strict=True):
        write_atomically(path, figure.png)
    write_atomically(files.html, to_html(document, facts, figures))
    write_atomically(files.markdown, to_markdown(document, figures))
    return files


def markdown_for_artifact(report: ReportInput) -> str:
    """Return the report as Markdown without figures, at most 500 kB, for a place that shows neither files nor pages.

    Long tables go first if it would be longer, then whole sections from the end; what was left out is said.

    Raises:
        UserError: The comparison breaks its contract; every field is named.
    """
    document = build_document(gather(report))
    text = to_markdown(document, {})
    if len(text.encode()) <= ARTIFACT_BYTES:
        return text
    note = "\n*Shortened: the rest is in the full report of this run.*\n"
    sections = list(document.sections)
    while True:
        text = to_markdown(dataclasses.replace(document, sections=tuple(sections)), {}, with_details=False) + note
        if len(text.encode()) <= ARTIFACT_BYTES or not sections:
            return text
        sections.pop()
