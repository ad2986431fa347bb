"""The last comparisons of one row, and whether an arm fell out of it.

The first REFERENCE comparisons of a row say what an arm scores and how far nights differ. From then on the
exponentially weighted average of the nights (EWMA: Roberts, 1959) is held against them, with a limit below which it
comes with a chance of ERROR_RATE in a MONTH of comparisons, for all arms of the row together, as long as nothing
changes. The limit is simulated with the reference's own uncertainty. While the reference grows, each night alone is
held against it; nights are then taken to differ as their own intervals say, or as was seen if that is more. A night
that fell joins no reference: a fall that stays is told until it is over, or until somebody acknowledges it and the row
begins anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from scipy import special

TREND_LENGTH = 30
FEWEST_EARLIER = 3
REFERENCE = 10
MONTH = 30
ERROR_RATE = 0.05
_WEIGHT = 0.3  # of the newest night in the average
_SIMULATED = 40_000
_DATA_FAMILY = 2.0  # data of one name that have grown or shrunk by more are other data


@dataclass(frozen=True)
class TrendPoint:
    """One arm in one comparison.

    Attributes:
        run_id: The comparison.
        created_at: UTC, ISO 8601.
        arm: Its name.
        f1: Bar-level, of its best decoder.
        confidence_interval: Low and high at 95 %, or None.
        separation: Mean probability in-span minus out-of-span.
        seconds: Training, all runs together.
        cost_usd: What rented hosts cost, or None.
        seeds: Of the comparison; None in rows that an older Jade wrote, as the next two.
        folds: Likewise.
        epochs: Of the arm's trainings.
    """

    run_id: str
    created_at: str
    arm: str
    f1: float
    confidence_interval: tuple[float, float] | None = None
    separation: float | None = None
    seconds: float | None = None
    cost_usd: float | None = None
    seeds: int | None = None
    folds: int | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Band:
    """What an arm was expected to score.

    Attributes:
        arm: Its name.
        expected: Mean of the reference.
        low: Below it, `scored` is a regression.
        num_earlier: Comparisons in the reference.
        scored: What is held against it: the newest F1 while the reference grows, then the nights' average.
    """

    arm: str
    expected: float
    low: float
    num_earlier: int
    scored: float | None = None


@dataclass(frozen=True)
class Regression:
    """An arm that scored below its band.

    Attributes:
        arm: Its name.
        f1: What it scored.
        band: What was expected.
        since: The first comparison of the fall.
        nights: Comparisons since then, this one included.
    """

    arm: str
    f1: float
    band: Band
    since: str = ""
    nights: int = 1

    @property
    def message(self) -> str:
        """One sentence for people."""
        scored = self.f1 if self.band.scored is None else self.band.scored
        average = "" if abs(scored - self.f1) < 5e-4 else f" ({scored:.3f} in the weighted average of the last ones)"
        stays = "" if self.nights < 2 else f" It has been so since {self.since}, {self.nights} comparisons in a row."
        return (
            f"{self.arm} fell to an F1 of {self.f1:.3f}{average}; {self.band.num_earlier} earlier comparisons make "
            f"{self.band.expected:.3f} expected, and nothing under {self.band.low:.3f}.{stays}"
        )


@dataclass(frozen=True)
class ArmState:
    """What a row says of an arm so far; kept from night to night, so that the reference stays what it was.

    Attributes:
        scores: Of the reference, at most REFERENCE.
        errors: Their standard errors as their own intervals have them.
        average: Weighted average of the nights since the reference was whole; None before.
        since: First comparison of a fall that lasts, or "".
        nights: How long it has lasted.
    """

    scores: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    average: float | None = None
    since: str = ""
    nights: int = 0


State = dict[str, ArmState]


def points_of(comparison: Mapping[str, Any], cost_usd: float | None = None) -> list[TrendPoint]:
    """Return one point an arm from `comparison.json`.

    Args:
        comparison: Its content.
        cost_usd: What rented hosts cost in that run, if any.
    """
    points = []
    for name, arm in comparison["arms"].items():
        summary = arm["summary"]
        decoder = summary["decoders"][summary["best_decoder"]]
        low, high = decoder["confidence_interval"]
        points.append(
            TrendPoint(
                run_id=comparison["run_id"],
                created_at=comparison["created_at"],
                arm=name,
                f1=decoder["f1"],
                confidence_interval=(low, high),
                separation=summary["separation"]["separation"],
                seconds=sum(run["seconds"]["train"] for run in arm["runs"]),
                cost_usd=cost_usd,
                seeds=len(comparison["settings"]["seeds"]),
                folds=comparison["settings"]["num_folds"],
                epochs=_epochs(arm),
            )
        )
    return points


def row_of(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Return what comparisons of one row have in common: data by name, design, and of each arm all that shapes a score.

    A quick try, with fewer epochs or seeds, is in another row.
    """
    settings = {name: value for name, value in comparison["settings"].items() if name not in {"margin", "confidence"}}
    return {
        "data": sorted([item["name"], item["window_length"]] for item in comparison["data"]),
        "settings": settings | {"seeds": len(settings["seeds"])},
        "arms": {
            name: {
                **{key: arm.get(key) for key in ("loss", "recipe", "feature_set", "num_parameters", "ensemble_size")},
                "epochs": _epochs(arm),
                "decoder": arm["summary"]["best_decoder"],
            }
            for name, arm in comparison["arms"].items()
        },
    }


def is_comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two comparisons belong in one row, and neither's data are more than twice the other's."""
    if row_of(one) != row_of(other):
        return False
    sizes = [{item["name"]: item["num_groups"] for item in comparison["data"]} for comparison in (one, other)]
    return all(1 / _DATA_FAMILY <= size / sizes[1][name] <= _DATA_FAMILY for name, size in sizes[0].items())


def follow(
    state: Mapping[str, ArmState], points: Sequence[TrendPoint], margin: float
) -> tuple[State, list[Band], list[Regression]]:
    """Hold one comparison's points against the row so far.

    Args:
        state: Of the row before this comparison; empty for its first.
        points: One an arm, of one comparison.
        margin: F1 difference that counts as none; a fall by less is never a regression.

    Returns:
        The row with this comparison, the bands of its arms, and those arms that fell below.
    """
    found, bands, regressions = dict(state), [], []
    for point in points:
        before = state.get(point.arm, ArmState())
        after, band = _next(before, point, margin, ERROR_RATE / len(points))
        found[point.arm] = after
        if band is None:
            continue
        bands.append(band)
        if after.nights:
            regressions.append(Regression(point.arm, point.f1, band, after.since, after.nights))
    return found, bands, regressions


def _next(before: ArmState, point: TrendPoint, margin: float, error_rate: float) -> tuple[ArmState, Band | None]:
    count = len(before.scores)
    error = _error(point)
    if count < FEWEST_EARLIER:
        return replace(before, scores=(*before.scores, point.f1), errors=(*before.errors, error)), None
    expected, spread = float(np.mean(before.scores)), float(np.std(before.scores, ddof=1))
    said = max(float(np.mean(before.errors)), error)
    if count < REFERENCE:
        scored, a_night = point.f1, error_rate / MONTH
        # Without intervals, what was seen is all that is known.
        sure = float(-special.stdtrit(count - 1, a_night)) * spread if said <= 0 else 0.0
        reach = max(sure, float(-special.ndtri(a_night)) * max(said, spread)) * math.sqrt(1 + 1 / count)
    else:
        last = expected if before.average is None else before.average
        scored = _WEIGHT * point.f1 + (1 - _WEIGHT) * last
        of_average = math.sqrt(_WEIGHT / (2 - _WEIGHT) + 1 / count)
        reach = max(_limit(error_rate) * spread, float(-special.ndtri(error_rate / MONTH)) * said * of_average)
    band = Band(point.arm, expected, max(expected - max(reach, margin), 0.0), count, scored)
    if scored < band.low:
        after = replace(before, since=before.since or point.run_id, nights=before.nights + 1)
    else:
        after = replace(before, since="", nights=0)
        if count < REFERENCE:
            after = replace(after, scores=(*before.scores, point.f1), errors=(*before.errors, error))
    return (after if count < REFERENCE else replace(after, average=scored)), band


@cache
def _limit(error_rate: float) -> float:
    """Return how many of the reference's standard deviations the average may fall.

    Of many rows in which nothing changes, a share of `error_rate` falls further in a month.
    """
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((_SIMULATED, REFERENCE))
    mean, spread = reference.mean(axis=1), reference.std(axis=1, ddof=1)
    average, furthest = mean.copy(), np.zeros(_SIMULATED)
    for _ in range(MONTH):
        average = _WEIGHT * rng.standard_normal(_SIMULATED) + (1 - _WEIGHT) * average
        furthest = np.maximum(furthest, (mean - average) / spread)
    return float(np.quantile(furthest, 1 - error_rate))


def _error(point: TrendPoint) -> float:
    if point.confidence_interval is None:
        return 0.0
    low, high = point.confidence_interval
    return (high - low) / 2 / float(special.ndtri(0.975))


def _epochs(arm: Mapping[str, Any]) -> int:
    return max(int(run["epochs"]) for run in arm["runs"])
