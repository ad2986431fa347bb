"""What the data checks found, for any report that stands on data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jade_model.report.document import Block, Details, FigureBlock, Section, Table, Text, plain
from jade_model.report.numbers import number, p_value

MARKS = {"passed": "passed", "warning": "**look at it**", "failed": "**failed**"}


def data_section(reports: Sequence[Mapping[str, Any]]) -> Section | None:
    """Return the checks as a table, and the drift of every feature; None if nothing was checked.

    Args:
        reports: As `DataReport.to_json` has them, one a data set.
    """
    if not reports:
        return None
    several = len(reports) > 1
    rows = [
        [
            *([plain(report["dataset"])] if several else []),
            plain(check["name"]),
            MARKS[check["status"]],
            plain(check["found"]),
            plain(check["expected"]),
        ]
        for report in reports
        for check in report["checks"]
    ]
    header = [*(["Data set"] if several else []), "Check", "Result", "Found", "Expected"]
    blocks: list[Block] = [
        Text("Asked before anything was trained, and before a host was taken."),
        Table(header, rows, "l"),
    ]
    for report in reports:
        if report["drift"]:
            blocks.append(FigureBlock(drift_figure(report["dataset"], several=several)))
            blocks.append(Details(f"Drift of every feature of {plain(report['dataset'])}", [_drift_table(report)]))
    return Section("Data Checks", blocks, short="Data")


def drift_figure(dataset: str, *, several: bool) -> str:
    """Return the name of a data set's drift figure."""
    return f"drift-{''.join(char if char.isalnum() else '-' for char in dataset)}" if several else "drift"


def _drift_table(report: Mapping[str, Any]) -> Table:
    rows = [
        [plain(item["feature"]), number(item["psi"]), number(item["ks"]), p_value(item["p_value"])]
        for item in report["drift"]
    ]
    return Table(["Feature", "PSI", "KS", "p (by groups)"], rows, "lr")
