"""Whether a `comparison.json` holds what a report reads; names everything that is missing or of another type."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from jade_model.comparison.contract import SCHEMA_VERSION
from jade_model.core.errors import UserError
from jade_model.report.contract import Comparison


def check_comparison(data: Mapping[str, Any]) -> Comparison:
    """Return the data as a Comparison.

    Args:
        data: The parsed `comparison.json`; fields that a report does not read may be there too.

    Raises:
        UserError: The version is another one, or fields are missing or of another type; all are named.
    """
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"comparison.json: schema_version is {version!r}, this report reads {SCHEMA_VERSION}; make the "
            "report with the version of jade that made the comparison, or compare again"
        )
    problems = [*_problems(data, Comparison, "")]
    if not problems and not data["arms"]:
        problems.append("arms is empty")
    if not problems:
        problems += [
            f"arms.{name}.summary.best_decoder is {arm['summary']['best_decoder']!r}, which is not among its decoders"
            for name, arm in data["arms"].items()
            if arm["summary"]["best_decoder"] not in arm["summary"]["decoders"]
        ]
    if problems:
        shown = "\n".join(problems[:20]) + (f"\n... and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise UserError(f"comparison.json cannot be reported:\n{shown}")
    return cast("Comparison", data)


def _problems(value: Any, hint: Any, path: str) -> list[str]:
    origin = get_origin(hint)
    if is_typeddict(hint):
        return _problems_of_fields(value, hint, path)
    if origin in {Union, types.UnionType}:
        options = get_args(hint)
        found = [_problems(value, option, path) for option in options]
        return min(found, key=len) if all(found) else []
    if origin is NotRequired:
        return _problems(value, get_args(hint)[0], path)
    if origin is Literal:
        allowed = get_args(hint)
        return [] if value in allowed else [f"{path}: found {value!r}, expected one of {', '.join(allowed)}"]
    if origin is list:
        if not isinstance(value, list):
            return [_wrong(path, value, "a list")]
        return [p for index, item in enumerate(value) for p in _problems(item, get_args(hint)[0], f"{path}[{index}]")]
    if origin is dict:
        if not isinstance(value, Mapping):
            return [_wrong(path, value, "an object")]
        return [p for key, item in value.items() for p in _problems(item, get_args(hint)[1], f"{path}.{key}")]
    accepted = (int, float) if hint is float else hint
    is_right = isinstance(value, accepted) and (hint is bool or not isinstance(value, bool))
    return [] if is_right else [_wrong(path, value, getattr(hint, "__name__", str(hint)))]


def _problems_of_fields(value: Any, hint: Any, path: str) -> list[str]:
    if not isinstance(value, Mapping):
        return [_wrong(path, value, "an object")]
    prefix = f"{path}." if path else ""
    problems = []
    for name, field in get_type_hints(hint, include_extras=True).items():
        if name in value:
            problems += _problems(value[name], field, prefix + name)
        elif get_origin(field) is not NotRequired:
            problems.append(f"{prefix}{name} is missing")
    return problems


def _wrong(path: str, value: Any, expected: str) -> str:
    return f"{path}: found {type(value).__name__}, expected {expected}"
