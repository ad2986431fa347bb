"""`comparison.json`: written whole or not at all, read with its version checked.

The fields are described in docs/comparison.md and, for machines, in comparison_schema.json beside this file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jade_model.core.errors import UserError
from jade_model.core.files import write_atomically

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).with_name("comparison_schema.json")

UPGRADES: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = ()
"""Entry i turns a file of version i + 1 into one of version i + 2; as many as SCHEMA_VERSION - 1."""


def write_comparison(path: str | Path, comparison: dict[str, Any]) -> None:
    """Write comparison.json atomically, keys in the order given.

    Args:
        path: Where to.
        comparison: As docs/comparison.md describes; plain JSON values only.

    Raises:
        ValueError: A field is missing, or a number is NaN or infinite; the place is given as a JSON path.
        TypeError: Something is not a JSON value: a NumPy object, a key that is not text.
        OSError: The file could not be written; what was at `path` is as it was.
    """
    if comparison.get("schema_version") != SCHEMA_VERSION:
        found = comparison.get("schema_version")
        raise ValueError(f"$.schema_version is {found!r}; what is written now has {SCHEMA_VERSION}")
    missing = _missing(comparison)
    if missing:
        raise ValueError(f"$ lacks {', '.join(missing)}")
    _check_values(comparison, "$")
    write_atomically(path, json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


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
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise UserError(f"{path}: found no schema_version; expected the comparison.json of a run")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version is {version}, and this Jade reads up to {SCHEMA_VERSION}; "
            "use the Jade that wrote it, or a newer one"
        )
    for upgrade in UPGRADES[version - 1 :]:
        content = upgrade(content)
    missing = _missing(content)
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; it is damaged, or no comparison.json")
    return dict(content)


def _missing(comparison: dict[str, Any]) -> list[str]:
    required: list[str] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))["required"]
    return [name for name in required if name not in comparison]


def _check_values(value: object, place: str) -> None:
    match value:
        case None | bool() | str():
            return
        case int() | float():
            if not math.isfinite(value):
                raise ValueError(f"{place} is {value}; expected a finite number or null")
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"{place} has the key {key!r}; expected text")
                _check_values(item, f"{place}.{key}" if key.isidentifier() else f"{place}[{key!r}]")
        case list() | tuple():
            for index, item in enumerate(value):
                _check_values(item, f"{place}[{index}]")
        case _:
            raise TypeError(f"{place} is a {type(value).__name__}; expected a JSON value")
