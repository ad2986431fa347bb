"""A comparison in the row of those before it: gathered, kept in the run, told where it fell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from jade_model.comparison.files import read_comparison
from jade_model.core.files import sha256_json, write_atomically
from jade_model.statistics.promotion import CHALLENGER
from jade_model.statistics.trend import (
    TREND_LENGTH,
    ArmState,
    Band,
    Regression,
    TrendPoint,
    follow,
    is_comparable,
    points_of,
    row_of,
)
from tasks.artifacts.repository import ArtifactPlace
from tasks.core.errors import RunNotFound
from tasks.core.layout import RunLayout
from tasks.experiments.champion import current_champion
from tasks.operations.events import REGRESSED, tell
from tasks.provisioning.rental_record import RENTAL_NAME, read_rental
from tasks.runs.past import past_comparisons, read_json
from tasks.runs.record import read_run_record


def record_trend(layout: RunLayout, place: ArtifactPlace) -> list[Regression]:
    """Write `trend.json`: the last comparisons of the same row, this one, and what was expected of it.

    Args:
        layout: Of a finished comparison.
        place: That keeps it and those before it.

    Returns:
        The arms that fell below what was expected.
    """
    comparison = read_comparison(layout.comparison_json)
    begins = place.store.pointers().get(_pointer(comparison), "")
    rows: list[list[TrendPoint]] = []
    for earlier in past_comparisons(place, before=layout.run_id):
        if len(rows) == TREND_LENGTH - 1:
            break
        if is_comparable(earlier, comparison):
            rows.insert(0, points_of(earlier, _cost(read_json(place, earlier["run_id"], RENTAL_NAME))))
    tonight, margin = points_of(comparison, _cost(read_rental(layout.root))), comparison["settings"]["margin"]
    kept = read_json(place, rows[-1][0].run_id, layout.trend_json.name) if rows else None
    if kept is not None and kept.get("begins") == begins and "state" in kept:
        state = {arm: ArmState(**entry) for arm, entry in kept["state"].items()}
    else:
        # The night before knew nothing of this row, or somebody has acknowledged since: from the oldest that counts.
        state = {}
        for row in rows:
            if row[0].run_id >= begins:
                state, _, _ = follow(state, row, margin)
    state, bands, regressions = follow(state, tonight, margin)
    nights = {} if kept is None else kept.get("nights", {})
    for row in rows:
        nights.setdefault(row[0].run_id, _night(read_json(place, row[0].run_id, layout.run_json.name) or {}))
    nights[layout.run_id] = _night(read_run_record(layout), bands, regressions)
    content = {
        "points": [asdict(point) for row in (*rows, tonight) for point in row],
        "bands": [asdict(band) for band in bands],
        "regressions": [{**asdict(item), "message": item.message} for item in regressions],
        "nights": {row[0].run_id: nights[row[0].run_id] for row in (*rows, tonight)},
        "begins": begins,
        "champion": _champion(place),
        "state": {arm: asdict(entry) for arm, entry in state.items()},
    }
    write_atomically(layout.trend_json, json.dumps(content, indent=2) + "\n")
    return regressions


def _champion(place: ArtifactPlace) -> dict[str, Any] | None:
    """Return the run of the model in use and its F1 when it was judged; None where there is none."""
    run_id = current_champion(place.store)
    card = None if run_id is None else read_json(place, run_id, place.layout(run_id).card_json.name)
    if card is None:
        return None
    scores = {(item["arm"], item["metric"], item["dataset"]): item["value"] for item in card["judgement"]["scores"]}
    return {"run_id": run_id, "f1": scores[CHALLENGER, "f1", None]}


def acknowledge(place: ArtifactPlace, name: str) -> str:
    """Let the row of a comparison begin with it: what it scores is what will be expected.

    Args:
        place: That keeps it.
        name: Of the comparison, or how `find_run` knows it.

    Returns:
        The run's name.

    Raises:
        RunNotFound: There is no such run, or it is no finished comparison.
    """
    layout = place.find_run(name)
    if not layout.comparison_json.is_file():
        raise RunNotFound(f"{layout.run_id} has no comparison.json: only a finished comparison stands in a trend")
    place.store.point(_pointer(read_comparison(layout.comparison_json)), layout.run_id)
    return layout.run_id


def _pointer(comparison: Mapping[str, Any]) -> str:
    """Name the pointer that says where a row begins."""
    return f"trend.{sha256_json(row_of(comparison))[:12]}"


def tell_regressions(run_id: str, regressions: list[Regression]) -> None:
    """Emit an event for each arm that fell."""
    for item in regressions:
        tell(REGRESSED, "arm", item.arm, message=f"{item.message} Run {run_id}.", run_id=run_id, f1=item.f1)


def _night(
    record: Mapping[str, Any], bands: Sequence[Band] = (), regressions: Sequence[Regression] = ()
) -> dict[str, Any]:
    """Return what a row keeps of a comparison beside its scores.

    That is its run in Prefect, how long it took, and what it was expected to score.

    Args:
        record: Its `run.json`, so far.
        bands: What was expected of its arms, as far as it is known.
        regressions: The arms that fell.
    """
    seconds = record.get("seconds", {}).get("total")
    if seconds is None and record.get("state") == "running":
        seconds = (datetime.now(UTC) - datetime.fromisoformat(record["started_at"])).total_seconds()
    return {
        "flow_run_id": record.get("flow_run_id"),
        "seconds": seconds,
        "expected": {band.arm: [band.expected, band.low] for band in bands},
        "fell": [item.arm for item in regressions],
    }


def _cost(rental: dict[str, Any] | None) -> float | None:
    return None if rental is None else float(rental["cost_usd"])
