"""Read what a run left, and write its report."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from jade_model.comparison.files import read_comparison
from jade_model.report import Curve, DrawingProcess, GalleryWindow, ReportFiles, ReportInput, write_report
from jade_model.report.model_card import write_card
from jade_model.report.sweep import SweepReport, write_sweep
from tasks.artifacts.manifest import MANIFEST_NAME
from tasks.core.errors import RunNotFound
from tasks.core.layout import RunLayout
from tasks.experiments.model_card import read_card
from tasks.runs.log import LOG_NAME
from tasks.runs.past import read_checks, read_trend
from tasks.runs.record import read_run_record

_WHAT = {
    "run.json": "parameters, data, code, versions, host and times",
    "job.json": "what was trained",
    "comparison.json": "the result, as a contract",
    "data_checks.json": "what was asked of the data before anything was trained",
    "trend.json": "the comparisons before this one, and what was expected of it",
    "log.jsonl": "what flow and tasks said, one JSON object a line",
    "remote.log": "what the trainings said on the hosts",
    "rental.json": "what was rented, and what it cost",
    "gallery.json": "the windows that the report draws",
    "arrays": "the windows as arrays",
    "splits": "which windows were fitted, watched and scored",
    "thresholds": "scores at every threshold",
    "predictions": "what each arm said of every scored window",
}


def write_run_report(layout: RunLayout, beside: DrawingProcess | None = None) -> ReportFiles:
    """Write the report of a comparison or a sweep, or the card of a retraining, from the run's files alone.

    Args:
        layout: Of the run.
        beside: Another process that takes half of a comparison's drawing.

    Raises:
        RunNotFound: The run has no result.
        UserError: `comparison.json` is of a newer version, or lacks fields.
    """
    if layout.card_json.is_file():
        return write_card(read_card(layout), layout.report)
    if layout.sweep_json.is_file():
        return write_sweep(SweepReport(read_sweep(layout), read_run_record(layout)), layout.report)
    return write_report(collect_report(layout), layout.report, beside)


def read_sweep(layout: RunLayout) -> dict[str, Any]:
    """Return `sweep.json`.

    Raises:
        RunNotFound: The run has none.
    """
    if not layout.sweep_json.is_file():
        raise RunNotFound(f"{layout.root} has no sweep.json; only a finished sweep has one")
    content: dict[str, Any] = json.loads(layout.sweep_json.read_text("utf-8"))
    return content


def collect_report(layout: RunLayout) -> ReportInput:
    """Gather what the report shows; errors as for write_run_report."""
    if not layout.comparison_json.is_file():
        raise RunNotFound(
            f"{layout.root} has no comparison.json, sweep.json or card.json: only a finished run has a report"
        )
    comparison = read_comparison(layout.comparison_json)
    trend = read_trend(layout)
    return ReportInput(
        comparison=comparison,
        run=read_run_record(layout),
        curves={arm: _curves(layout, arm) for arm in comparison["arms"]},
        gallery=_gallery(layout),
        files=_files(layout),
        trend=trend["points"] or None,
        bands=trend["bands"],
        data_checks=read_checks(layout),
        champion=trend.get("champion"),
        troubles=_troubles(layout),
    )


def _troubles(layout: RunLayout) -> list[str]:
    """Return the warnings and errors of the run's log; none where it was not written."""
    path = layout.root / LOG_NAME
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    said = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [str(line["message"]) for line in said if line.get("level") in {"warning", "error", "critical"}]


def _curves(layout: RunLayout, arm: str) -> dict[str, Curve]:
    """Return the first training's curve of each decoder: curves of several models have no thresholds in common."""
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    first: tuple[str, ...] | None = None
    with layout.thresholds(arm).open(newline="") as file:
        for row in csv.DictReader(file):
            key = (row["dataset"], row["seed"], row["fold"])
            first = first or key
            if key == first:
                rows[row["decoder"]].append(row)
    return {decoder: _curve(points) for decoder, points in rows.items()}


def _curve(points: Sequence[dict[str, str]]) -> Curve:
    columns = {
        name: np.array([float(point[name]) for point in points]) for name in ("threshold", "precision", "recall", "f1")
    }
    return Curve(**columns, chosen=float(points[0]["chosen"]), selected_on="the first training's own windows")


def _gallery(layout: RunLayout) -> list[GalleryWindow]:
    if not layout.gallery_json.is_file():
        return []
    return [_gallery_window(entry) for entry in json.loads(layout.gallery_json.read_text("utf-8"))]


def _gallery_window(entry: dict[str, Any]) -> GalleryWindow:
    return GalleryWindow(
        window_id=entry["window_id"],
        bars_T4=np.array(entry["bars"]),
        true_spans=[(start, end) for start, end in entry["true_spans"]],
        predicted={arm: [(start, end) for start, end in spans] for arm, spans in entry["predicted"].items()},
        probability={arm: np.array(values) for arm, values in entry["probability"].items()},
        confidence=entry["confidence"],
        f1=entry["f1"],
        kind=entry["kind"],
    )


def _files(layout: RunLayout) -> list[tuple[str, int, str]]:
    """Return the run's files, folders of many summed up."""
    found: list[tuple[str, int, str]] = []
    for path in sorted(layout.root.iterdir()):
        # The report itself, and what is written of all files after it.
        if path in {layout.report, layout.root / MANIFEST_NAME}:
            continue
        name = path.name if path.is_file() else f"{path.name}/"
        size = sum(item.stat().st_size for item in ([path] if path.is_file() else path.rglob("*")) if item.is_file())
        otherwise = "checkpoints, logs and histories of the arm" if path.is_dir() else "left by the run"
        found.append((name, size, _WHAT.get(path.name, otherwise)))
    return found
