"""Reads reports back: their tables as text, and everything in a page that could reach outside or run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from markdown_it import MarkdownIt

from jade_model.report import ReportInput
from jade_model.report.facts import gather
from jade_model.report.markup import to_markdown
from jade_model.report.writing import report_page, report_source


class Page(HTMLParser):
    """Tables as text, and everything that could reach outside or run."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[list[list[str]]] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self._cell: list[str] | None = None
        self._heading = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self._cell = []
        elif tag in {"h2", "h3"}:
            self._heading = True
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"} and self._cell is not None:
            self.tables[-1][-1].append("".join(self._cell).strip())
            self._cell = None
        elif tag in {"h2", "h3"}:
            self._heading = False

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        if self._heading:
            self.headings[-1] += data


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Parse Markdown with somebody else's parser, tables only."""
    return Page(MarkdownIt("commonmark").enable("table").render(text)).tables


def table_with(tables: list[list[list[str]]], *titles: str) -> list[list[str]]:
    found = [table for table in tables if set(titles) <= set(table[0])]
    assert len(found) == 1, (titles, [table[0] for table in tables])
    return found[0]


def rendered(report: ReportInput) -> tuple[str, str]:
    """Markdown and HTML without figures, which cost most of the time."""
    facts = gather(report)
    source = report_source(facts)
    return to_markdown(source, {}), report_page(facts, source, {})


def changed(report: ReportInput, change: Callable[[dict[str, Any]], object]) -> ReportInput:
    comparison = copy.deepcopy(dict(report.comparison))
    change(comparison)
    return replace(report, comparison=comparison)
