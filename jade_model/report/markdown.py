"""A document as GitHub Markdown without any HTML, readable with and without its figures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

from jade_model.report.document import (
    Block,
    Bullets,
    Callout,
    Code,
    Details,
    Document,
    FigureBlock,
    Section,
    Table,
    Text,
)
from jade_model.report.figure import FigureFile

Figures = Mapping[str, FigureFile]

MARKS = {"critical": "❌", "warning": "⚠️", "note": "ℹ️", "good": "✅"}


def to_markdown(document: Document, figures: Figures, *, with_details: bool = True) -> str:
    """Return the document as Markdown.

    Args:
        document: What to say.
        figures: By name; those that are missing are left out with their captions.
        with_details: Whether what an expert unfolds is written out.

    Returns:
        Text that ends with a newline; its first five lines are the title and the verdict in plain words.
    """
    parts = ["\n".join([f"# {document.title}", *[f"- {line}" for line in document.headline]])]
    parts.append("\n".join(f"**{label}**: {value}  " for label, value in document.facts))
    parts.append("---")
    for section in document.sections:
        parts += _section(section, 2, figures, with_details=with_details)
    parts.append("---")
    parts.append("\n".join(f"**{label}**: {value}  " for label, value in document.closing))
    return "\n\n".join(parts) + "\n"


def _section(section: Section, level: int, figures: Figures, *, with_details: bool) -> Iterator[str]:
    yield f"{'#' * level} {section.title}"
    for block in section.blocks:
        yield from _block(block, figures, with_details=with_details)
    for inner in section.sections:
        yield from _section(inner, level + 1, figures, with_details=with_details)


def _block(block: Block, figures: Figures, *, with_details: bool) -> Iterator[str]:
    match block:
        case Text(text):
            yield text
        case Bullets(items, numbered):
            yield "\n".join(f"{f'{n}.' if numbered else '-'} {item}" for n, item in enumerate(items, start=1))
        case Code(text, language):
            yield f"```{language}\n{text}\n```"
        case Table():
            yield _table(block)
        case Callout(severity, title, text):
            yield f"> {MARKS[severity]} {title}\n>\n> {text}"
        case FigureBlock(name):
            if name in figures:
                figure = figures[name]
                yield f"![{_alt(figure.alt)}]({figure.file_name})"
                yield f"*{figure.caption}*"
        case Details(summary, blocks):
            if with_details:
                yield f"**{summary}:**"
                for inner in blocks:
                    yield from _block(inner, figures, with_details=with_details)
        case _:
            assert_never(block)


def _alt(text: str) -> str:
    return re.sub(r"([\[\]\\])", r"\\\1", text)


def _table(table: Table) -> str:
    rules = {"left": ":---", "right": "---:", "center": ":---:"}
    lines = [
        _row(table.header),
        _row([rules[table.alignment(column)] for column in range(len(table.header))]),
        *[_row(cells) for cells in table.rows],
    ]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in cells) + " |"
