"""The last comparisons in a row, and whether tonight's fell out of it.

What an arm may be expected to score is its mean so far, give or take what nights differ by. A handful of nights says
little of that: they are joined by two imaginary ones that differ by the margin, so that neither a row of equal
scores turns the next hair's breadth into an alarm, nor two lucky ones hide a fall.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from jade_model.report.inputs import TrendPoint

TREND_LENGTH = 30
FEWEST_EARLIER = 3
CONFIDENCE = 0.99
_IMAGINARY_NIGHTS = 2


@dataclass(frozen=True)
class Band:
    """What an arm was expected to score.

    Attributes:
        arm: Its name.
        expected: Mean of the earlier comparisons.
        low: Below it, a score is a regression.
        num_earlier: Comparisons that this is read off.
    """

    arm: str
    expected: float
    low: float
    num_earlier: int


@dataclass(frozen=True)
class Regression:
    """An arm that scored below its band.

    Attributes:
        arm: Its name.
        f1: What it scored.
        band: What was expected.
    """

    arm: str
    f1: float
    band: Band

    @property
    def message(self) -> str:
        """One sentence for people."""
        return (
            f"{self.arm} fell to an F1 of {self.f1:.3f}; {self.band.num_earlier} earlier comparisons make "
            f"{self.band.expected:.3f} expected, and nothing under {self.band.low:.3f}."
        )


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
            )
        )
    return points


def is_comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two comparisons belong in one row: the same data sets by name, and the same kind of split."""
    names = [sorted(item["name"] for item in comparison["data"]) for comparison in (one, other)]
    return names[0] == names[1] and one["settings"]["split"] == other["settings"]["split"]


def expected_band(arm: str, earlier: Sequence[float], margin: float) -> Band | None:
    """Return what an arm is expected to score, or None where too little is known.

    Args:
        arm: Its name.
        earlier: F1s of earlier comparisons.
        margin: F1 difference that counts as none; a fall by less is never a regression.
    """
    if len(earlier) < FEWEST_EARLIER:
        return None
    mean, degrees = float(np.mean(earlier)), len(earlier) - 1
    squares = float(np.sum((np.array(earlier) - mean) ** 2)) + _IMAGINARY_NIGHTS * margin**2
    degrees += _IMAGINARY_NIGHTS
    reach = float(stdtrit(degrees, CONFIDENCE)) * math.sqrt(squares / degrees * (1 + 1 / len(earlier)))
    return Band(arm, mean, max(mean - max(reach, margin), 0.0), len(earlier))


def find_regressions(points: Sequence[TrendPoint], run_id: str, margin: float) -> tuple[list[Band], list[Regression]]:
    """Compare one run's points with those before it.

    Args:
        points: Of several comparisons, oldest first.
        run_id: The one to look at; what comes after it does not count.
        margin: F1 difference that counts as none.

    Returns:
        The bands of its arms, and those arms that fell below.
    """
    first = next(index for index, point in enumerate(points) if point.run_id == run_id)
    bands, regressions = [], []
    for point in (point for point in points if point.run_id == run_id):
        earlier = [item.f1 for item in points[:first] if item.arm == point.arm]
        band = expected_band(point.arm, earlier, margin)
        if band is not None:
            bands.append(band)
            if point.f1 < band.low:
                regressions.append(Regression(point.arm, point.f1, band))
    return bands, regressions
