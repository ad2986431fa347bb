"""`python -m jade_model.comparison`: the JSON Schema of comparison.json; with `--docs FILE`, the tables of its page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jade_model.comparison.model import SCHEMA_VERSION, Comparison

BEGIN, END = "<!-- made from jade_model/comparison/model.py -->", "<!-- end -->"


def schema() -> dict[str, Any]:
    """Return comparison.json as JSON Schema, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:jade:comparison:{SCHEMA_VERSION}",
        **Comparison.model_json_schema(),
    }


def tables() -> str:
    """Return a Markdown table of the fields of every object, each under its place in the file."""
    whole = schema()
    return "\n".join(_sections(whole, whole, "")).rstrip() + "\n"


def with_tables(page: str) -> str:
    """Return the page with the tables between its marks made anew."""
    before, rest = page.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{tables()}{END}{rest.split(END, 1)[1]}"


def _sections(whole: dict[str, Any], item: dict[str, Any], place: str) -> Iterator[str]:
    yield f"\n### {f'`{place}`' if place else 'Top level'}\n\n| field | type | meaning |\n|---|---|---|"
    for name, field in item["properties"].items():
        optional = "" if name in item["required"] else " (optional)"
        meaning = field.get("description", "").replace("|", r"\|")
        yield f"| `{name}` | {_type(whole, field)} | {meaning}{optional} |"
    for name, field in item["properties"].items():
        inner, suffix = _object(whole, field)
        if inner is not None and _is_described(inner):
            yield from _sections(whole, inner, f"{place}.{name}{suffix}".removeprefix("."))


def _is_described(item: dict[str, Any]) -> bool:
    """Whether an object has a table of its own: others are named by their fields alone."""
    return all("description" in field for field in item["properties"].values())


def _object(whole: dict[str, Any], field: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the object that a field holds, or holds many of, and how its place goes on."""
    if "$ref" in field:
        return whole["$defs"][field["$ref"].rpartition("/")[2]], ""
    if "anyOf" in field:
        return _object(whole, field["anyOf"][0])
    if isinstance(field.get("items"), dict):
        return _object(whole, field["items"])[0], "[]"
    if isinstance(field.get("additionalProperties"), dict):
        return _object(whole, field["additionalProperties"])[0], ".<name>"
    return None, ""


def _type(whole: dict[str, Any], field: dict[str, Any]) -> str:
    match field:
        case {"$ref": _}:
            inner = _object(whole, field)[0] or {}
            return "object" if _is_described(inner) else f"{{{', '.join(inner['properties'])}}}"
        case {"anyOf": options}:
            return " or ".join(_type(whole, option) for option in options)
        case {"const": value}:
            return f"`{value}`"
        case {"enum": values}:
            return r" \| ".join(f"`{value}`" for value in values)
        case {"prefixItems": _}:
            return "[low, high]"
        case {"type": "array", "items": items}:
            return f"list of {_type(whole, items)}"
        case {"type": "object", "additionalProperties": values}:
            return f"map to {_type(whole, values)}"
        case {"type": "number", "minimum": 0, "maximum": 1}:
            return "0..1"
    named: str = field["type"]
    return {"integer": "int", "string": "text", "boolean": "bool"}.get(named, named)


def main() -> None:
    """Print the schema, or make a page's tables anew."""
    parser = argparse.ArgumentParser(prog="python -m jade_model.comparison", description=__doc__)
    parser.add_argument("--docs", type=Path, metavar="FILE", help="make the tables of docs/comparison.md anew")
    page = parser.parse_args().docs
    if page is None:
        print(json.dumps(schema(), indent=2))
    else:
        page.write_text(with_tables(page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
