"""`comparison.json` written whole or not at all, and read with its version checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jade_model.comparison.model import SCHEMA_VERSION, Comparison
from jade_model.core.errors import UserError
from jade_model.core.files import write_atomically

UPGRADES: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = ()
"""Entry i turns a file of version i + 1 into one of version i + 2; as many as SCHEMA_VERSION - 1."""


def write_comparison(path: str | Path, comparison: Mapping[str, Any]) -> None:
    """Write comparison.json atomically, keys in the order given.

    Args:
        path: Where to.
        comparison: As docs/comparison.md describes; plain JSON values only.

    Raises:
        ValueError: A field is missing or wrong, or a number is NaN or infinite; all are named by their place.
        TypeError: Something is not a JSON value: a NumPy object, a set.
        OSError: The file could not be written; what was at `path` is as it was.
    """
    text = json.dumps(comparison, indent=2, ensure_ascii=False)
    try:
        Comparison.model_validate_json(text)
    except ValidationError as error:
        raise ValueError("\n".join(_problems(error))) from error
    write_atomically(path, text + "\n")


def read_comparison(path: str | Path) -> dict[str, Any]:
    """Read comparison.json; a file of an older version is brought up to this one.

    Args:
        path: Of the file.

    Returns:
        Its content, of version SCHEMA_VERSION. Fields that this version does not know are kept.

    Raises:
        UserError: There is no such file, it is no comparison.json, or a newer Jade wrote it.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; expected the comparison.json of a run") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); expected the comparison.json of a run") from error
    return upgrade_comparison(content, str(path))


def upgrade_comparison(content: Any, path: str) -> dict[str, Any]:
    """Return what a comparison.json says as this version writes it.

    Args:
        content: The parsed file.
        path: Where it was read from, for messages.

    Raises:
        UserError: It is no comparison.json, or a newer Jade wrote it.
    """
    version = content.get("schema_version") if isinstance(content, Mapping) else None
    if type(version) is not int or version < 1:
        raise UserError(f"{path}: found no schema_version; expected the comparison.json of a run")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version is {version}, and this Jade reads up to {SCHEMA_VERSION}; "
            "use the Jade that wrote it, or a newer one"
        )
    for upgrade in UPGRADES[version - 1 :]:
        content = upgrade(content)
    missing = [name for name in Comparison.model_fields if name not in content]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; it is damaged, or no comparison.json")
    return dict(content)


def parse_comparison(content: Mapping[str, Any], path: str = "comparison.json") -> Comparison:
    """Return the content of a comparison.json as a Comparison.

    Raises:
        UserError: It is of another version, or fields are missing or of another type; all are named.
    """
    try:
        return Comparison.model_validate(upgrade_comparison(content, path))
    except ValidationError as error:
        problems = _problems(error)
        more = f"\n... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UserError(f"{path} breaks its contract:\n" + "\n".join(problems[:20]) + more) from error


def _problems(error: ValidationError) -> list[str]:
    """Name every wrong field by its place: `data[0].name is missing`."""
    problems = []
    for item in error.errors(include_url=False):
        place = ""
        for key in item["loc"]:
            place += f"[{key}]" if isinstance(key, int) else f".{key}"
        place = place.removeprefix(".") or "the whole"
        found = repr(item["input"])
        shown = found if len(found) <= 60 else type(item["input"]).__name__
        problems.append(
            f"{place} is missing" if item["type"] == "missing" else f"{place}: {item['msg']}, found {shown}"
        )
    return problems
