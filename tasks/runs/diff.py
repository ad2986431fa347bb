"""What differs between two runs: data, settings, versions and results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jade_model.data.sample import NAME as SAMPLE
from tasks.core.errors import RunNotFound
from tasks.core.layout import RunLayout
from tasks.runs.record import read_run_record

# What differs between any two runs and says nothing about them.
_INCIDENTAL = (
    "run_id",
    "started_at",
    "finished_at",
    "seconds",
    "command",
    "created_at",
    "checkpoint",
    "run_key",
)

_GROUPS = {"scoring", "placement", "rental"}


@dataclass(frozen=True)
class Difference:
    """One field that is not the same.

    Attributes:
        section: `data`, `settings`, `code`, `versions`, `host` or `results`.
        field: Dotted path within the section.
        first: Value in the first run; None if it has none.
        second: Value in the second run.
    """

    section: str
    field: str
    first: Any
    second: Any


def diff_runs(first: RunLayout, second: RunLayout) -> list[Difference]:
    """Compare two runs field by field.

    Raises:
        RunNotFound: A run's `run.json` can't be read.
    """
    sections_first, sections_second = _sections(first), _sections(second)
    found = []
    for section, fields_first in sections_first.items():
        fields_second = sections_second[section]
        for name in sorted(fields_first | fields_second):
            value_first, value_second = fields_first.get(name), fields_second.get(name)
            if value_first != value_second:
                found.append(Difference(section, name, value_first, value_second))
    return found


def _sections(layout: RunLayout) -> dict[str, dict[str, Any]]:
    record = read_run_record(layout)
    comparison: dict[str, Any] = {}
    if layout.comparison_json.is_file():
        try:
            comparison = json.loads(layout.comparison_json.read_text())
        except ValueError as error:
            raise RunNotFound(f"{layout.comparison_json} is damaged: {error}") from error
    data = {item["name"]: item for item in comparison.get("data", record.get("data", []))}
    results = {
        "state": record.get("state"),
        "verdict": comparison.get("verdict"),
        "baselines": comparison.get("baselines"),
        "arms": {name: _arm_results(arm) for name, arm in comparison.get("arms", {}).items()},
    }
    return {
        "data": _flatten(data),
        "settings": _flatten({**_parameters(record), "recipes": _recipes(layout)}),
        "code": _flatten(record.get("code", {})),
        "versions": _flatten(record.get("versions", {})),
        "host": _flatten(record.get("host", {})),
        "results": _flatten(results),
    }


def _parameters(record: dict[str, Any]) -> dict[str, Any]:
    """The parameters by their own names: those of older runs stand in no groups, and name one host and no sample."""
    found: dict[str, Any] = {}
    for name, value in record.get("parameters", {}).items():
        found |= value if name in _GROUPS and isinstance(value, dict) else {name: value}
    if isinstance(found.get("host"), str):
        found["host"] = [found["host"]]
    if found.get("data") == []:
        found["data"] = [SAMPLE]
    return found


def _arm_results(arm: dict[str, Any]) -> dict[str, Any]:
    summary = arm.get("summary", {})
    kept = ("f1", "precision", "recall", "span_f1_iou50", "span_f1_iou50_95", "threshold")
    decoders = {name: {key: decoder.get(key) for key in kept} for name, decoder in summary.get("decoders", {}).items()}
    last_losses = [
        {"train_loss": run["train_loss"][-1], "validation_loss": (run["validation_loss"] or [None])[-1]}
        for run in arm.get("runs", [])
    ]
    return {
        "num_parameters": arm.get("num_parameters"),
        "separation": summary.get("separation"),
        "decoders": decoders,
        "last_epoch": last_losses,
    }


def _recipes(layout: RunLayout) -> dict[str, Any]:
    if not layout.job_json.is_file():
        return {}
    job = json.loads(layout.job_json.read_text())
    return {training["arm"]: training["recipe"] for training in job.get("trainings", [])}


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = [(str(name), item) for name, item in value.items() if name not in _INCIDENTAL]
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {prefix: value} if prefix else {}
    flat: dict[str, Any] = {}
    for name, item in items:
        flat |= _flatten(item, f"{prefix}.{name}" if prefix else name)
    return flat
