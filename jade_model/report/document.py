"""A report as a tree of blocks, so that Markdown and HTML say the same.

Text is Markdown inline markup (`**bold**`, `` `code` ``); what comes from data goes through `plain` or `code` first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["critical", "warning", "note", "good"]
Align = Literal["left", "right", "center"]


@dataclass(frozen=True)
class Text:
    """One paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list; numbered if the order matters."""

    items: Sequence[str]
    numbered: bool = False


@dataclass(frozen=True)
class Code:
    """Preformatted text."""

    text: str
    language: str = "text"


@dataclass(frozen=True)
class Table:
    """Cells are inline markup; the first column labels the row.

    Attributes:
        header: Column titles.
        rows: Cells, as many as titles.
        align: One letter a column, `l`, `r` or `c`; short strings repeat their last letter.
        emphasis: Indices of rows that carry the answer.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = "lr"
    emphasis: frozenset[int] = frozenset()

    def alignment(self, column: int) -> Align:
        """Return a column's alignment."""
        letter = self.align[min(column, len(self.align) - 1)]
        return "left" if letter == "l" else "right" if letter == "r" else "center"


@dataclass(frozen=True)
class FigureBlock:
    """A figure by name, placed where it belongs; renderers that lack it skip it."""

    name: str


@dataclass(frozen=True)
class Callout:
    """Something that the reader must not miss."""

    severity: Severity
    title: str
    text: str


@dataclass(frozen=True)
class Details:
    """Blocks that an expert unfolds."""

    summary: str
    blocks: Sequence[Block]


Block = Text | Bullets | Code | Table | FigureBlock | Callout | Details


@dataclass(frozen=True)
class Section:
    """A heading with blocks, then sub-sections.

    Attributes:
        title: The heading.
        blocks: What stands below it.
        sections: Headings one level down.
        short: As it stands in a list of contents; the title if empty.
    """

    title: str
    blocks: Sequence[Block] = ()
    sections: Sequence[Section] = ()
    short: str = ""

    @property
    def anchor(self) -> str:
        """The heading's identifier in HTML."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        title: The first heading.
        headline: Four lines that say the verdict in plain words.
        facts: Label and value: date, data, model, training.
        sections: The rest.
        closing: Label and value: status, what next.
    """

    title: str
    headline: Sequence[str]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section] = field(default_factory=tuple)
    closing: Sequence[tuple[str, str]] = ()


def plain(value: object) -> str:
    """Return text from data with every Markdown mark in it made harmless."""
    flat = re.sub(r"\s+", " ", str(value)).strip()
    return re.sub(r"([\\`*_\[\]|<>~&$])", r"\\\1", flat)


def code(value: object) -> str:
    """Return text from data as a code span, whatever backticks it holds."""
    flat = re.sub(r"\s+", " ", str(value)).strip() or " "
    longest = max((len(run) for run in re.findall(r"`+", flat)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}"
