"""Which Parquet files a source names: one rule, whether it is a folder, a pattern or a list."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from jade_model.core.errors import Violation

Source = str | Path | Sequence[str | Path]

_HIDDEN = (".", "_")
_TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi"}
_EMPTY_VALUE = "__HIVE_DEFAULT_PARTITION__"
_log = logging.getLogger(__name__)


def find_files(source: Source) -> tuple[list[str], list[Violation]]:
    """Return the Parquet files that a source names, and which parts of it name none.

    A folder stands for all files below it that end in .parquet, in any case, through links too. In folders and
    patterns, files and folders whose names start with . or _ are left out, as writers name what is not data, and a
    warning says so.

    Args:
        source: A file, a folder, a pattern, or several of these.

    Returns:
        Paths, those of one folder or pattern in sorted order; violations.
    """
    files: dict[Path, str] = {}
    violations = []
    for part in [source] if isinstance(source, (str, Path)) else source:
        found, left_out, violation = _expand(str(part))
        if violation is not None:
            violations.append(violation)
        if left_out:
            _say_left_out(str(part), tuple(left_out))
        # A folder and a pattern may name a file twice: its windows would only be duplicates of themselves.
        again = [file for file in found if _resolved(file) in files]
        violations += [Violation(file, None, None, "the same file twice", "each file once") for file in again]
        files |= {_resolved(file): file for file in found if file not in again}
    if not files and not violations:
        violations.append(Violation("", None, None, "an empty list of files", "at least one Parquet file"))
    return list(files.values()), violations


@cache
def _say_left_out(part: str, left_out: tuple[str, ...]) -> None:
    """Say it once a process: data are looked for more than once."""
    more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    _log.warning("%s: left out %s%s (names that start with . or _)", part, ", ".join(left_out[:3]), more)


def named_by_folders(file: str) -> dict[str, str]:
    """Return what the folders above a file say of all its rows, as Hive and Spark write it: `instrument=AAA`."""
    named = {}
    for folder in Path(file).parts[:-1]:
        name, equals, value = folder.partition("=")
        if equals and name:
            named[name] = "" if value == _EMPTY_VALUE else unquote(value)
    return named


def _resolved(file: str) -> Path:
    return Path(file).expanduser().resolve()


def _expand(part: str) -> tuple[list[str], list[str], Violation | None]:
    """Return the files that one part names, those it leaves out, and what is wrong with it."""
    path = Path(part).expanduser()
    if path.is_dir():
        found, root, expected = _below(path), path, "a folder with *.parquet files"
    elif path.exists():
        return [part], [], None
    elif glob.has_magic(part):
        plain = [folder for folder in path.parents if not glob.has_magic(str(folder))]
        root, expected = plain[0], "a pattern that matches a file"
        # Path.glob takes no pattern that starts at the root.
        matches = glob.glob(str(path), recursive=True, include_hidden=True)  # noqa: PTH207
        found = [Path(match) for match in matches if Path(match).is_file()]
    else:
        expected = "a Parquet file, a folder of them or a pattern such as 'data/*.parquet'"
        return [], [], Violation(part, None, None, _missing(path), expected)
    table = _table_above(root, found)
    if table is not None:
        removed = "files of older versions lie among those of the newest"
        expected = "the newest version as plain Parquet files (deltalake: `DeltaTable(path).to_pyarrow_dataset()`)"
        return [], [], Violation(part, None, None, f"a {table} table: {removed}", expected)
    is_hidden = {file: any(name.startswith(_HIDDEN) for name in file.relative_to(root).parts) for file in found}
    files = sorted(str(file) for file, hidden in is_hidden.items() if not hidden)
    left_out = sorted(str(file.relative_to(root)) for file, hidden in is_hidden.items() if hidden)
    nothing = "no file that ends in .parquet" if path.is_dir() else _missing(path)
    violation = None if files else Violation(part, None, None, nothing, expected)
    return files, left_out, violation


def _missing(path: Path) -> str:
    # A flow is somewhere else than whoever started it.
    return "no such file" if path.is_absolute() else f"no such file in {Path.cwd()}"


def _below(folder: Path) -> list[Path]:
    """Return all Parquet files below a folder, through links; each folder once."""
    found, seen = [], set()
    for root, names, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        found += [Path(root) / name for name in files if name.lower().endswith(".parquet")]
    return found


def _table_above(root: Path, files: Sequence[Path]) -> str | None:
    """Return the kind of table whose log lies beside or above the files; a pattern may reach into its folders."""
    for folder in {root, *root.parents, *(parent for file in files for parent in file.parents)}:
        for log, kind in _TABLES.items():
            if (folder / log).is_dir():
                return kind
        if (folder / "metadata").is_dir() and any((folder / "metadata").glob("*.metadata.json")):
            return "Iceberg"
    return None
