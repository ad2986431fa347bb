"""A comparison in the row of those before it: gathered, kept in the run, told where it fell."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from jade_model.comparison.contract import read_comparison
from jade_model.core.files import write_atomically
from jade_model.report import TrendPoint
from jade_model.statistics.trend import TREND_LENGTH, Regression, find_regressions, is_comparable, points_of
from tasks.artifacts.repository import ArtifactPlace
from tasks.core.layout import RunLayout
from tasks.operations.events import REGRESSED, tell
from tasks.provisioning.rental_files import RENTAL_NAME, read_rental
from tasks.runs.past import past_comparisons, read_json

NOTHING = "–"
"""In a cell of a table for the UI that has no value: a hyphen would be shown as the bullet of an empty list."""


def record_trend(layout: RunLayout, place: ArtifactPlace) -> list[Regression]:
    """Write `trend.json`: the last comparisons of the same data, this one, and what was expected of it.

    Args:
        layout: Of a finished comparison.
        place: That keeps it and those before it.

    Returns:
        The arms that fell below what was expected.
    """
    comparison = read_comparison(layout.comparison_json)
    rows = [points_of(comparison, _cost(read_rental(layout.root)))]
    for earlier in past_comparisons(place, before=layout.run_id):
        if len(rows) == TREND_LENGTH:
            break
        if is_comparable(earlier, comparison):
            rows.append(points_of(earlier, _cost(read_json(place, earlier["run_id"], RENTAL_NAME))))
    points = [point for row in reversed(rows) for point in row]
    bands, regressions = find_regressions(points, layout.run_id, comparison["settings"]["margin"])
    content = {
        "points": [asdict(point) for point in points],
        "bands": [asdict(band) for band in bands],
        "regressions": [{**asdict(item), "message": item.message} for item in regressions],
    }
    write_atomically(layout.trend_json, json.dumps(content, indent=2) + "\n")
    return regressions


def tell_regressions(run_id: str, regressions: list[Regression]) -> None:
    """Emit an event for each arm that fell."""
    for item in regressions:
        tell(REGRESSED, "arm", item.arm, message=f"{item.message} Run {run_id}.", run_id=run_id, f1=item.f1)


def trend_table(points: list[TrendPoint]) -> list[dict[str, Any]]:
    """Return one row a comparison and arm, the newest first, for the UI."""
    return [
        {
            "comparison": point.run_id,
            "arm": point.arm,
            "F1": f"{point.f1:.3f}",
            "95 % interval": NOTHING
            if point.confidence_interval is None
            else f"{point.confidence_interval[0]:.3f} to {point.confidence_interval[1]:.3f}",
            "separation": NOTHING if point.separation is None else f"{point.separation:.3f}",
            "training, s": NOTHING if point.seconds is None else f"{point.seconds:.0f}",
            "cost, USD": NOTHING if point.cost_usd is None else f"{point.cost_usd:.2f}",
        }
        for point in reversed(points)
    ]


def _cost(rental: dict[str, Any] | None) -> float | None:
    return None if rental is None else float(rental["cost_usd"])
