"""Numbers to a report that one can act on: Markdown, a self-contained page, and figures."""

from __future__ import annotations

from jade_model.report.beside import DrawingProcess
from jade_model.report.inputs import Curve, GalleryWindow, ReportInput
from jade_model.report.writing import ReportFiles, markdown_for_artifact, write_report
from jade_model.statistics.trend import TrendPoint

__all__ = [
    "Curve",
    "DrawingProcess",
    "GalleryWindow",
    "ReportFiles",
    "ReportInput",
    "TrendPoint",
    "markdown_for_artifact",
    "write_report",
]
