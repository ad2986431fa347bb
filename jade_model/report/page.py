"""A report as one HTML page: style and figures are inside, nothing is fetched, nothing runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from jade_model.report.figures.canvas import css_variables
from jade_model.report.markup import MARKS, TEMPLATES, FigureFile, Section, Source, split_blocks
from jade_model.report.naming import ArmStyle

SEVERITY_NAMES = {"critical": "Critical", "warning": "Warning", "note": "Note", "good": "Good"}
WIDE_TABLE = 7
"""Columns beyond which a table is set smaller."""


def to_page(
    source: Source,
    figures: Mapping[str, FigureFile],
    *,
    badge: tuple[str, str],
    tiles: Sequence[Mapping[str, object]] = (),
    styles: Iterable[ArmStyle] = (),
) -> str:
    """Return a report as a page.

    Args:
        source: What to say.
        figures: By name; those that are missing are left out with their captions.
        badge: The verdict in two or three words; and its kind, for its colour: winner, equivalent or undecided.
        tiles: Scores beside the verdict.
        styles: Of the arms that figures show; their names are not parted at the end of a line.

    Returns:
        HTML without scripts and without references to anything outside.
    """
    title = inline(source.title).striptags()
    for style in (listed := list(styles)):
        title = title.replace(style.name, style.name.replace(" ", "\u00a0"))
    variables = css_variables(listed)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        title=title,
        badge=badge[0],
        kind=badge[1],
        headline=[inline(line) for line in source.headline],
        facts=[(name, inline(value)) for name, value in source.facts],
        tiles=tiles,
        contents=[(section.anchor, section.short) for section in source.sections],
        closing=[(name, inline(value)) for name, value in source.closing],
        body=Markup("").join(_section(section, figures) for section in source.sections),
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        light={name: colours[0] for name, colours in variables.items()},
        dark={name: colours[1] for name, colours in variables.items()},
    )


def inline(text: str) -> Markup:
    """Return inline markup as HTML; raw HTML in it comes out as text."""
    return Markup(_markdown().renderInline(text))  # noqa: S704 - markdown-it escapes


def _section(section: Section, figures: Mapping[str, FigureFile]) -> Markup:
    parts = [Markup('<h2 id="{}">{}</h2>').format(section.anchor, inline(section.title).striptags())]
    for kind, text in split_blocks(section.body):
        match kind:
            case "text":
                parts.append(_text(text))
            case "figure":
                parts.append(_figure(figures[text]) if text in figures else Markup(""))
            case "open":
                parts.append(Markup("<details><summary>{}</summary>").format(inline(text).striptags()))
            case "close":
                parts.append(Markup("</details>"))
    inside = Markup("\n").join(parts)
    return Markup('<section aria-labelledby="{}">\n{}\n</section>\n').format(section.anchor, inside)


def _text(text: str) -> Markup:
    tokens = _markdown().parse(text)
    _label_rows(tokens)
    _mark_callouts(tokens)
    return Markup(_markdown().renderer.render(tokens, _markdown().options, {}))  # noqa: S704 - markdown-it escapes


@cache
def _markdown() -> MarkdownIt:
    # No HTML and no links from data: whatever stands in a window's name stays text.
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return markdown


def _label_rows(tokens: list[Token]) -> None:
    """Let tables scroll where they are too wide, and their first column label the rows."""
    is_body = is_first = False
    columns = 0
    for position, token in enumerate(tokens):
        match token.type:
            case "table_open":
                columns = sum(item.type == "th_open" for item in tokens[position : _closing(tokens, position)])
                kind = ' class="wide"' if columns > WIDE_TABLE else ""
                opening = f'<div class="scroll" tabindex="0"><table{kind}>\n'
                tokens[position] = Token("html_block", "", 0, content=opening)
            case "tbody_open":
                is_body = True
            case "tbody_close":
                is_body = False
            case "tr_open":
                is_first = True
            case "td_open" if is_body and is_first:
                token.tag = "th"
                token.attrSet("scope", "row")
            case "td_close":
                token.tag = "th" if is_body and is_first else "td"
                is_first = False
            case "th_open":
                token.attrSet("scope", "col")


def _closing(tokens: list[Token], opening: int) -> int:
    return next(place for place in range(opening, len(tokens)) if tokens[place].type == "table_close")


def _mark_callouts(tokens: list[Token]) -> None:
    """Give a quotation that begins with a severity's mark the look of what must not be missed."""
    for position, token in enumerate(tokens):
        if token.type == "blockquote_open":
            first = tokens[position + 2]
            for severity, mark in MARKS.items():
                if first.content.startswith(f"{mark} ") and first.children:
                    token.tag, token.attrs = "div", {"class": f"callout {severity}", "role": "note"}
                    tokens[position + 1].attrSet("class", "lead")
                    first.children[0].content = first.children[0].content.removeprefix(f"{mark} ")
                    tag = Token("html_block", "", 0, content=f'<b class="tag">{SEVERITY_NAMES[severity]}</b>')
                    tokens.insert(position + 1, tag)
                    _close(tokens, position)


def _close(tokens: list[Token], opening: int) -> None:
    level = tokens[opening].level
    for token in tokens[opening + 1 :]:
        if token.type == "blockquote_close" and token.level == level:
            token.tag = "div"
            return


def _figure(figure: FigureFile) -> Markup:
    # The drawing is ours: its texts were escaped when it was made.
    drawing = Markup(figure.svg)  # noqa: S704
    return Markup('<figure id="figure-{}">{}<figcaption>{}</figcaption></figure>').format(
        figure.name, drawing, inline(figure.caption)
    )
