"""What several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for scripts.")

artifacts_option = click.option(
    "--artifacts",
    metavar="PLACE",
    help="What keeps the runs: a folder or s3://bucket/prefix.  [default: the settings', else `artifacts`]",
)


def print_json(value: Any) -> None:
    """Print a value as indented JSON on standard output."""
    click.echo(json.dumps(value, indent=2))


def print_table(title: str | None, columns: list[str], rows: list[list[str]], *, numeric_from: int = 1) -> None:
    """Print a table on standard output.

    Args:
        title: Line above, or None.
        columns: Headings.
        rows: Cells as text.
        numeric_from: First column that is set flush right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index >= numeric_from else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    # A pipe has no width of its own: let the table have what it needs instead of folding at 80.
    Console(width=console.width if console.is_terminal else 160).print(table)
