"""Options of the commands that read raw bars from text files, and paths that are written to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click

from flows.commands.common import FunctionT
from jade_model.data.text.columns import PROFILES, Reading, parse_columns

_OPTIONS = [
    click.option(
        "--format", type=click.Choice(list(PROFILES)), help="Whose export the bars are, where they have no header."
    ),
    click.option(
        "--columns",
        multiple=True,
        metavar="open=NAME,...",
        help="Names of the columns time, open, high, low, close (labels: start, end, label); numbers from 1 without a "
        "header.",
    ),
    click.option("--timezone", metavar="ZONE", help="Of times without a zone: Europe/Berlin, UTC, +02:00."),
    click.option("--day-first/--month-first", default=None, help="Whether 03/04/2024 is in April or in March."),
    click.option("--unit", type=click.Choice(["s", "ms", "us", "ns"]), help="Of numbers since 1970."),
    click.option("--decimal", type=click.Choice([".", ","]), help="The decimal mark of prices; the other one groups."),
    click.option("--by", metavar="COLUMN", help="Cut each of this column's values on its own, such as symbol."),
]


def reading_options(function: FunctionT) -> FunctionT:
    """Add the options that say how text files are to be read; the command gets them as keywords for reading_of."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def reading_of(flags: dict[str, Any]) -> Reading:
    """Return the `Reading` that the options of reading_options give."""
    columns = parse_columns(flags["columns"])
    named = {name: flags[name] for name in ("format", "day_first", "unit", "decimal", "by")}
    return Reading(columns=columns, zone=flags["timezone"], **named)


def refuse(why: str, **flags: Any) -> None:
    """Refuse flags that were given and would change nothing.

    Raises:
        click.UsageError: One was given, that is, is neither None nor empty.
    """
    given = [
        (option.secondary_opts if flags[name] is False else option.opts)[0]
        for option in click.get_current_context().command.params
        if (name := str(option.name)) in flags and flags[name] not in (None, (), "")
    ]
    if given:
        raise click.UsageError(f"{', '.join(given)}: {why}; leave it out")


def tell_notes(notes: Sequence[str]) -> None:
    """Say on standard error what was understood of files."""
    for note in notes:
        click.echo(f"note: {note}", err=True)


def check_output(out: Path, *, inputs: Sequence[str | Path | None], formats: Sequence[str] = (".parquet",)) -> Path:
    """Return where a command may write, or refuse before anything is read.

    Args:
        out: As given.
        inputs: What the command reads: files, folders or patterns; None is left alone.
        formats: Endings that it can write.

    Raises:
        click.UsageError: It is an address, has another ending, is a folder, lies below a file, is one of the inputs,
            or lies among them, where it would be read as one of them.
    """
    shown = str(out)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", shown):
        raise click.UsageError(f"{shown}: results are written to this machine's disk; give a path such as ./{out.name}")
    if out.suffix.lower() not in formats:
        raise click.UsageError(f"{shown}: the ending decides the format; use {' or '.join(formats)}")
    target = out.expanduser()
    if target.is_dir():
        raise click.UsageError(f"{shown} is a folder; name a file in it")
    blocking = next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None)
    if blocking is not None:
        raise click.UsageError(f"{shown}: {blocking} is a file, not a folder")
    resolved = target.resolve()
    for part in (Path(part).expanduser() for part in inputs if part is not None):
        if part.is_dir() and resolved.is_relative_to(part.resolve()):
            raise click.UsageError(f"{shown} lies in {part}, which is read; write it elsewhere")
        if resolved == part.resolve() or (part.exists() and target.exists() and part.samefile(target)):
            raise click.UsageError(f"{shown} is read and would be overwritten; write to another file")
        if not part.exists() and fnmatch(str(resolved), str(part.absolute())):
            raise click.UsageError(f"{shown} is one of {part}, which are read; write it elsewhere")
    return target
