"""A document as one HTML page: style and figures are inside, nothing is fetched, nothing runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import assert_never

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from jade_model.report.canvas import css_variables
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
from jade_model.report.facts import ArmFacts, Facts
from jade_model.report.figure import FigureFile
from jade_model.report.headline import badge as verdict_badge
from jade_model.report.naming import ArmStyle
from jade_model.report.numbers import interval, is_number, number

TEMPLATES = Path(__file__).parent / "templates"
SEVERITY_NAMES = {"critical": "Critical", "warning": "Warning", "note": "Note", "good": "Good"}

# No HTML and no links from data: whatever stands in a window's name stays text.
_INLINE = MarkdownIt("commonmark", {"html": False}).disable(["link", "image", "autolink"])


def to_html(document: Document, facts: Facts, figures: Mapping[str, FigureFile]) -> str:
    """Return a comparison's document as a page.

    Args:
        document: What to say.
        facts: For the score tiles beside the verdict.
        figures: By name; those that are missing are left out with their captions.

    Returns:
        HTML without scripts and without references to anything outside.
    """
    label, kind = verdict_badge(facts)
    title = _unbroken(plain_text(document.title), facts)
    tiles = [_tile(facts, arm) for arm in facts.arms]
    return render_page(document, figures, title=title, badge=label, kind=kind, tiles=tiles, styles=facts.styles)


def render_page(
    document: Document,
    figures: Mapping[str, FigureFile],
    *,
    title: str,
    badge: str,
    kind: str,
    tiles: Sequence[Mapping[str, object]] = (),
    styles: Mapping[str, ArmStyle],
) -> str:
    """Return a document as a page.

    Args:
        document: What to say.
        figures: By name; those that are missing are left out with their captions.
        title: Of the page.
        badge: The verdict in two or three words.
        kind: Of the verdict, for its colour: winner, equivalent, undecided or alone.
        tiles: Scores beside the verdict.
        styles: Of the arms that figures show.

    Returns:
        HTML without scripts and without references to anything outside.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    variables = css_variables(styles.values())
    return environment.get_template("page.html.j2").render(
        title=title,
        badge=badge,
        kind=kind,
        headline=[inline(line) for line in document.headline],
        facts=[(name, inline(value)) for name, value in document.facts],
        tiles=tiles,
        contents=[(section.anchor, section.short or section.title) for section in document.sections],
        closing=[(name, inline(value)) for name, value in document.closing],
        body=Markup("").join(_section(section, 2, figures) for section in document.sections),
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        light={name: colours[0] for name, colours in variables.items()},
        dark={name: colours[1] for name, colours in variables.items()},
    )


def inline(text: str) -> Markup:
    """Return inline markup as HTML; raw HTML in it comes out as text."""
    return Markup(_INLINE.renderInline(text))  # noqa: S704 - markdown-it escapes


def plain_text(text: str) -> str:
    """Return inline markup without its marks."""
    return Markup(_INLINE.renderInline(text)).striptags()  # noqa: S704


def _unbroken(title: str, facts: Facts) -> str:
    """Keep the names of arms whole at the end of a line."""
    for arm in facts.arms:
        title = title.replace(arm.name, arm.name.replace(" ", "\u00a0"))
    return title


def _tile(facts: Facts, arm: ArmFacts) -> dict[str, object]:
    f1 = arm.decoder["f1"]
    bounds = arm.decoder["confidence_interval"]
    known = bounds is not None and len(bounds) == 2 and all(is_number(bound) for bound in bounds)
    low, high = (bounds[0] or 0.0, bounds[1] or 0.0) if bounds is not None and known else (0.0, 0.0)
    return {
        "name": arm.name,
        "f1": number(f1),
        "interval": interval(bounds),
        "colour": f"var(--c{arm.style.colour.removeprefix('#')})",
        "is_winner": facts.numbers["verdict"]["winner"] == arm.key,
        "position": None if f1 is None or not is_number(f1) else _share(f1),
        "low": _share(low),
        "width": _share(high - low),
        "rule": None if facts.rule is None or not is_number(facts.rule) else _share(facts.rule),
        "against_rule": facts.against_rule(arm.key),
    }


def _share(value: float) -> str:
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%"


def _section(section: Section, level: int, figures: Mapping[str, FigureFile]) -> Markup:
    heading = Markup('<h{0} id="{1}">{2}</h{0}>').format(level, section.anchor, plain_text(section.title))
    if level > 2:
        # Sub-sections of different sections share names (one an arm): only top headings are linked to.
        heading = Markup("<h{0}>{1}</h{0}>").format(level, plain_text(section.title))
    blocks = Markup("\n").join(_block(block, figures) for block in section.blocks)
    inner = Markup("\n").join(_section(part, level + 1, figures) for part in section.sections)
    if level == 2:
        return Markup('<section aria-labelledby="{}">\n{}\n{}\n{}\n</section>\n').format(
            section.anchor, heading, blocks, inner
        )
    return Markup("{}\n{}\n{}").format(heading, blocks, inner)


def _block(block: Block, figures: Mapping[str, FigureFile]) -> Markup:
    match block:
        case Text(text):
            return Markup("<p>{}</p>").format(inline(text))
        case Bullets(items, numbered):
            tag = "ol" if numbered else "ul"
            rows = Markup("").join(Markup("<li>{}</li>").format(inline(item)) for item in items)
            return Markup("<{0}>{1}</{0}>").format(Markup(tag), rows)  # noqa: S704
        case Code(text, language):
            return Markup('<pre class="language-{}" tabindex="0"><code>{}</code></pre>').format(language, text)
        case Table():
            return _table(block)
        case Callout(severity, title, text):
            return Markup(
                '<div class="callout {0}" role="note"><b class="tag">{1}</b><p class="lead">{2}</p><p>{3}</p></div>'
            ).format(severity, SEVERITY_NAMES[severity], inline(title), inline(text))
        case FigureBlock(name):
            return _figure(figures[name]) if name in figures else Markup("")
        case Details(summary, blocks):
            inner = Markup("\n").join(_block(part, figures) for part in blocks)
            return Markup("<details><summary>{}</summary>\n{}\n</details>").format(summary, inner)
        case _:
            assert_never(block)


def _figure(figure: FigureFile) -> Markup:
    # The drawing is ours: its texts were escaped when it was made.
    drawing = Markup(figure.svg)  # noqa: S704
    return Markup('<figure id="figure-{}">{}<figcaption>{}</figcaption></figure>').format(
        figure.name, drawing, inline(figure.caption)
    )


def _table(table: Table) -> Markup:
    head = Markup("").join(
        Markup('<th scope="col" class="{}">{}</th>').format(table.alignment(column), inline(title))
        for column, title in enumerate(table.header)
    )
    body = Markup("\n").join(_row(table, index, cells) for index, cells in enumerate(table.rows))
    has_head = any(table.header)
    kind = Markup(' class="wide"') if len(table.header) > 7 else Markup("")
    return Markup('<div class="scroll" tabindex="0"><table{}>{}<tbody>\n{}\n</tbody></table></div>').format(
        kind, Markup("<thead><tr>{}</tr></thead>").format(head) if has_head else Markup(""), body
    )


def _row(table: Table, index: int, cells: Sequence[str]) -> Markup:
    parts = []
    for column, cell in enumerate(cells):
        alignment = table.alignment(column)
        if column == 0:
            parts.append(Markup('<th scope="row" class="{}">{}</th>').format(alignment, inline(cell)))
        else:
            parts.append(Markup('<td class="{}">{}</td>').format(alignment, inline(cell)))
    kind = Markup(' class="emphasis"') if index in table.emphasis else Markup("")
    return Markup("<tr{}>{}</tr>").format(kind, Markup("").join(parts))
