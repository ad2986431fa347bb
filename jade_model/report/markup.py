"""From a template to a report: Markdown with two marks of our own, of which files and pages are made.

A template writes Markdown. A line `@figure NAME` stands where a figure goes; `::: details TITLE` and `:::` enclose what
an expert unfolds; `@nav NAME` below a heading is what lists of contents call it. Text from data goes through `plain`
or `code`, which leave nothing in it that Markdown, or these marks, would act on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from jade_model.report import numbers
from jade_model.report.naming import decoder_name, task_name

Rows = list[list[str]]
"""A table's cells, inline markup."""

CELLS = "⦙"
"""What parts the cells of a row in a template; no text that is escaped for Markdown tables needs it."""

Severity = Literal["critical", "warning", "note", "good"]
MARKS: dict[Severity, str] = {"critical": "❌", "warning": "⚠️", "note": "ℹ️", "good": "✅"}
TEMPLATES = Path(__file__).parent / "templates"

_RULES = {"l": ":---", "r": "---:", "c": ":---:"}
_BLOCK_STARTS = re.compile(r"^([#>+=@:-]|\d+(?=[.)](\s|$)))")


@dataclass(frozen=True)
class Section:
    """A part of a report below a heading of the second level.

    Attributes:
        title: The heading, inline markup.
        short: As lists of contents call it.
        body: All below it, in a template's Markdown.
    """

    title: str
    short: str
    body: str

    @property
    def anchor(self) -> str:
        """The heading's identifier in a page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Source:
    """What a template gave, taken apart.

    Attributes:
        title: The first heading.
        headline: The lines that say the most important in plain words.
        facts: Label and value below them.
        sections: The rest.
        closing: Label and value: status, what next.
    """

    title: str
    headline: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    closing: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class FigureFile:
    """One figure.

    Attributes:
        name: As sections refer to it.
        alt: What it shows, for those who cannot see it; carries the main numbers.
        caption: What to look for; inline markup.
        png: On white, for Markdown.
        svg: An `<svg>` element for HTML whose colours are CSS variables, so that it follows light and dark.
    """

    name: str
    alt: str
    caption: str
    png: bytes
    svg: str

    @property
    def file_name(self) -> str:
        """Of the PNG, beside the Markdown."""
        return f"{self.name}.png"


def render(template: str, context: Mapping[str, Any]) -> Source:
    """Fill a template in.

    Args:
        template: Name of a file below `templates`. Its text is a heading, a list, lines of facts, `---`, sections,
            `---` and closing lines.
        context: What the template names.
    """
    text = re.sub(r"\n{3,}", "\n\n", _environment().get_template(template).render(context))
    head, body, closing = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    title, *lines = [line for line in head.strip().splitlines() if line.strip()]
    return Source(
        title.removeprefix("# "),
        tuple(line.removeprefix("- ") for line in lines if line.startswith("- ")),
        _labelled(lines),
        tuple(_sections(body)),
        _labelled(closing.splitlines()),
    )


def to_markdown(source: Source, figures: Mapping[str, FigureFile], *, with_details: bool = True) -> str:
    """Return GitHub Markdown without any HTML, readable with and without its figures.

    Args:
        source: What to say.
        figures: By name; those that are missing are left out with their captions.
        with_details: Whether what an expert unfolds is written out.

    Returns:
        Text that ends with a newline; its first lines are the title and the headline.
    """
    parts = ["\n".join([f"# {source.title}", *[f"- {line}" for line in source.headline]]), _facts(source.facts), "---"]
    for section in source.sections:
        parts += [f"## {section.title}", *_blocks(section.body, figures, with_details=with_details)]
    return "\n\n".join([*[part for part in parts if part], "---", _facts(source.closing)]) + "\n"


def split_blocks(body: str) -> Iterator[tuple[Literal["text", "figure", "open", "close"], str]]:
    """Take a section's body apart at our own marks."""
    text: list[str] = []
    for line in [*body.splitlines(), "@end"]:
        kind: Literal["figure", "open", "close"] | None = None
        if line.startswith("@figure "):
            kind = "figure"
        elif line.startswith("::: details "):
            kind = "open"
        elif line == ":::":
            kind = "close"
        elif line != "@end":
            text.append(line)
            continue
        if joined := "\n".join(text).strip():
            yield "text", joined
        text = []
        if kind is not None:
            yield kind, line.removeprefix("@figure ").removeprefix("::: details ")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "lr") -> str:
    """Return a Markdown table.

    Args:
        header: Column titles, inline markup.
        rows: Cells, as many as titles, inline markup.
        align: A letter a column, l, r or c; short strings repeat their last letter.
    """
    rules = [_RULES[align[min(column, len(align) - 1)]] for column in range(len(header))]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in cells) + " |" for cells in (header, rules, *rows))


def rows(header: Sequence[str], align: str, *, caller: Callable[[], str]) -> str:
    """Return a Markdown table of a template's block: a line a row, its cells parted by CELLS."""
    lines = [line for line in caller().splitlines() if line.strip()]
    # A block that ends takes the end of its line with it.
    return table(header, [[cell.strip() for cell in line.split(CELLS)] for line in lines], align) + "\n"


def callout(severity: Severity, title: str, text: str) -> str:
    """Return something that the reader must not miss, as a quotation that begins with its mark."""
    return f"> {MARKS[severity]} {title}\n>\n> {text}"


def plain(value: object) -> str:
    """Return text from data with every mark in it made harmless."""
    flat = re.sub(r"\s+", " ", str(value)).strip()
    escaped = re.sub(r"([\\`*_\[\]|<>~&$])", r"\\\1", flat)
    return _BLOCK_STARTS.sub(lambda found: found[1] + "\\" if found[1].isdigit() else "\\" + found[1], escaped)


def code(value: object) -> str:
    """Return text from data as a code span, whatever backticks it holds."""
    flat = re.sub(r"\s+", " ", str(value)).strip() or " "
    longest = max((len(run) for run in re.findall(r"`+", flat)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


@cache
def _environment() -> Environment:
    environment = Environment(  # noqa: S701 - Markdown, in which `plain` and `code` escape what comes from data
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = ("count", "duration", "interval", "moment", "number", "p_value", "percent", "plural", "signed")
    environment.filters |= {name: getattr(numbers, name) for name in (*shown, "size", "with_interval")}
    environment.filters |= {"plain": plain, "code": code, "listed": numbers.join}
    environment.filters |= {"task_name": task_name, "decoder_name": decoder_name}
    environment.globals |= {"table": table, "rows": rows, "callout": callout}
    return environment


def _sections(body: str) -> Iterator[Section]:
    for part in re.split(r"^## ", body, flags=re.MULTILINE)[1:]:
        title, _, rest = part.partition("\n")
        lines = rest.splitlines()
        short = next((line.removeprefix("@nav ") for line in lines if line.startswith("@nav ")), title)
        yield Section(title, short, "\n".join(line for line in lines if not line.startswith("@nav ")).strip())


def _blocks(body: str, figures: Mapping[str, FigureFile], *, with_details: bool) -> Iterator[str]:
    is_shown = True
    for kind, text in split_blocks(body):
        if kind in {"open", "close"}:
            is_shown = with_details or kind == "close"
        if kind == "open" and is_shown:
            yield f"**{text}:**"
        elif kind == "text" and is_shown:
            yield text
        elif kind == "figure" and text in figures:
            figure = figures[text]
            alt = re.sub(r"([\[\]\\])", r"\\\1", figure.alt)
            yield f"![{alt}]({figure.file_name})\n\n*{figure.caption}*"


def _labelled(lines: Sequence[str]) -> tuple[tuple[str, str], ...]:
    found = (re.fullmatch(r"\*\*([^*]+)\*\*: (.*)", line.strip()) for line in lines)
    return tuple((match[1], match[2]) for match in found if match)


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"**{label}**: {value}  " for label, value in facts)


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)
