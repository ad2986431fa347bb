"""What earlier runs of a place say: read where they are published, without fetching them whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jade_model.comparison.files import upgrade_comparison
from jade_model.core.config import LOSSES, Loss
from jade_model.core.errors import UserError
from jade_model.core.recipes import recipe
from jade_model.statistics.trend import TrendPoint
from tasks.artifacts.errors import StoreError
from tasks.artifacts.repository import ArtifactPlace
from tasks.core.errors import BadRequest
from tasks.core.layout import RunLayout


def run_names(place: ArtifactPlace, flow: str) -> list[str]:
    """Return the published runs of a flow, the newest first: names begin with their UTC time."""
    return sorted((name for name in place.store.runs() if f"-{flow}-" in name), reverse=True)


def read_json(place: ArtifactPlace, run_id: str, path: str) -> Any:
    """Return a small JSON file of a published run; None where it is not there or is not readable."""
    try:
        if place.is_local:
            return json.loads((place.layout(run_id).root / path).read_text("utf-8"))
        file = place.store.manifest(run_id).file(path)
        return json.loads(b"".join(place.store.read(run_id, file))) if file is not None else None
    except (OSError, ValueError, StoreError):
        return None


def past_comparisons(place: ArtifactPlace, *, before: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield `comparison.json` of finished comparisons, the newest first, brought up to this version.

    What cannot be read any more, or a newer Jade wrote, is passed over: history is a help, not a condition.

    Args:
        place: That keeps them.
        before: Only runs older than the one of this name.
    """
    for run_id in run_names(place, "compare"):
        if before is not None and run_id >= before:
            continue
        found = read_json(place, run_id, "comparison.json")
        try:
            if found is not None:
                yield upgrade_comparison(found, f"{place.address}/{run_id}/comparison.json")
        except UserError:
            continue


def preferred_arm(comparison: dict[str, Any]) -> str:
    """Return the arm that a comparison prefers: its winner, or of those that it cannot tell apart the best scored."""
    if comparison["verdict"]["winner"] is not None:
        return str(comparison["verdict"]["winner"])
    scores = {
        name: arm["summary"]["decoders"][arm["summary"]["best_decoder"]]["f1"]
        for name, arm in comparison["arms"].items()
    }
    return str(max(scores, key=lambda name: scores[name]))


def choose_arm(place: ArtifactPlace, family: str, epochs: int | None) -> Loss:
    """Return the arm that the last comparison of a place preferred.

    Comparisons by other recipes or epochs than those of the training that is to come say nothing of it; those of too
    few trainings for a verdict count only where there are no others.

    Args:
        place: That keeps them.
        family: Of the recipes: `jade` or `seed`.
        epochs: Of the training; None: the recipe's.

    Raises:
        BadRequest: There is no comparison to ask, or it prefers an arm of somebody's own.
    """
    passed_over, weak = 0, None
    for found in past_comparisons(place):
        if any(
            arm["recipe"] != f"{family}_{arm['loss']}"
            or any(run["epochs"] != (epochs or recipe(arm["recipe"]).training.epochs) for run in arm["runs"])
            for arm in found["arms"].values()
            if arm["loss"] in LOSSES
        ):
            passed_over += 1
        elif found["verdict"].get("lack") is None:
            return _loss(found)
        else:
            weak = weak or found
    if weak is not None:
        return _loss(weak)
    others = f"; {passed_over} by other recipes or epochs don't count" if passed_over else ""
    raise BadRequest(
        f"{place.address} holds no comparison that could prefer an arm{others}: name one, or run `jade compare` first"
    )


def _loss(comparison: dict[str, Any]) -> Loss:
    arm = preferred_arm(comparison)
    loss: Loss = comparison["arms"][arm]["loss"]
    if loss not in LOSSES:
        raise BadRequest(
            f"the comparison {comparison['run_id']} prefers {arm}, an arm of your own: retraining trains "
            f"{', '.join(LOSSES)} alone. Name one of them with --arm"
        )
    return loss


def read_checks(layout: RunLayout) -> list[Mapping[str, Any]]:
    """Return the answers of a run's data checks; none where nothing was asked."""
    if not layout.data_checks_json.is_file():
        return []
    found: list[Mapping[str, Any]] = json.loads(layout.data_checks_json.read_text("utf-8"))
    return found


def read_trend(layout: RunLayout) -> dict[str, Any]:
    """Return what record_trend wrote, points as TrendPoint; nothing where it was not written."""
    if not layout.trend_json.is_file():
        return {"points": [], "bands": [], "regressions": [], "nights": {}}
    content: dict[str, Any] = json.loads(layout.trend_json.read_text("utf-8"))
    points = []
    for item in content["points"]:
        bounds = item["confidence_interval"]
        points.append(TrendPoint(**{**item, "confidence_interval": tuple(bounds) if bounds else None}))
    return {"nights": {}, **content, "points": points}
