"""What follows from `comparison.json` by arithmetic alone, and is needed in more than one place.

Legend: E epochs, R runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jade_model.comparison.model import Arm, Calibration, Comparison, Decoder, Run
from jade_model.report.inputs import ReportInput
from jade_model.report.naming import ArmStyle, arm_styles, in_order
from jade_model.report.numbers import mean, median, plural
from jade_model.statistics.pool import RULE

Curves = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ArmFacts:
    """One arm's numbers over its runs.

    Attributes:
        style: Name and colour.
        arm: Its part of the comparison.
        best_decoder: Chosen without the scored windows.
        decoder: That decoder's scores.
        train_RE: Training loss; NaN after a run's last epoch.
        validation_RE: Validation loss; NaN where there is none.
        best_epoch: Median over runs, 1-based, or None without validation losses.
        reduction: Mean over runs of the fraction by which the validation loss fell, first to last epoch.
        rise_since_best: Mean over runs of the fraction by which it rose after its best epoch.
        settled_epoch: Median epoch by which 90 % of the fall to the best validation loss was done.
        wobble: Mean relative change of the validation loss from epoch to epoch over the last half.
        weights: Mean final task weight, shares of 1, in the reports' order.
        sigmas: Mean final sigma.
        seconds_train: All runs together.
    """

    style: ArmStyle
    arm: Arm
    best_decoder: str
    decoder: Decoder
    train_RE: Curves
    validation_RE: Curves
    best_epoch: float | None
    reduction: float | None
    rise_since_best: float | None
    settled_epoch: float | None
    wobble: float | None
    weights: dict[str, float]
    sigmas: dict[str, float]
    seconds_train: float | None

    @property
    def key(self) -> str:
        """The arm's name in the comparison."""
        return self.style.key

    @property
    def name(self) -> str:
        """The arm's name for people."""
        return self.style.name

    @property
    def epochs(self) -> int:
        """Of the longest run."""
        return max((run.epochs for run in self.arm.runs), default=0)

    @property
    def has_validation(self) -> bool:
        """Whether any validation loss was recorded."""
        return bool(np.isfinite(self.validation_RE).any())

    @property
    def calibration(self) -> Calibration:
        """Do its probabilities mean what they say."""
        return self.arm.summary.calibration

    @property
    def separation(self) -> float | None:
        """Mean probability in-span minus out-of-span."""
        return self.arm.summary.separation.separation


@dataclass(frozen=True, eq=False)
class Facts:
    """Everything a section or a rule may need.

    Attributes:
        report: As given.
        numbers: The comparison, checked.
        arms: In the comparison's order.
        styles: By arm.
        in_span_rate: Share of bars in a span over all data sets.
    """

    report: ReportInput
    numbers: Comparison
    arms: tuple[ArmFacts, ...]
    styles: dict[str, ArmStyle]
    in_span_rate: float

    @property
    def all_positive(self) -> float | None:
        """F1 of marking every bar."""
        return self.numbers.baselines.all_positive.f1

    @property
    def rule(self) -> float | None:
        """F1 of the untrained rule."""
        return self.numbers.baselines.largest_move.f1

    @property
    def rule_move(self) -> str:
        """What the untrained rule marks: `5-bar move`; the length is a mean where folds chose differently."""
        bars = self.numbers.baselines.largest_move.bars
        return "move" if bars is None else f"{round(bars, 1):g}-bar move"

    @property
    def num_groups(self) -> int:
        """Base windows over all data sets."""
        return sum(data.num_groups for data in self.numbers.data)

    @property
    def num_windows(self) -> int:
        """Windows over all data sets."""
        return sum(data.num_windows for data in self.numbers.data)

    @property
    def leaks(self) -> bool:
        """Whether the split lets windows that share bars stand on both sides."""
        return self.numbers.settings.split == "seed" or self.num_straddling > 0

    @property
    def leak_sentence(self) -> str:
        """Say how the split leaks; only where it does."""
        straddling = (
            f"{plural(self.num_straddling, 'group')} of windows that share bars stand on both sides of the split"
        )
        if self.numbers.settings.split != "seed":
            return straddling
        return f"{straddling}, and thresholds were chosen on the windows that they are scored on"

    @property
    def num_straddling(self) -> int:
        """Groups that stand on both sides, over all data sets."""
        return sum(data.num_straddling_groups for data in self.numbers.data)

    @property
    def num_runs(self) -> int:
        """Trainings over all arms."""
        return sum(len(facts.arm.runs) for facts in self.arms)

    @property
    def training_share(self) -> float | None:
        """Share of the variance of the verdict's difference that is training noise, where it is known."""
        verdict = self.numbers.verdict
        sought = (verdict.first, verdict.second, verdict.metric, None)
        for item in self.numbers.differences:
            if (item.first, item.second, item.metric, item.dataset) == sought:
                return item.training_share
        return None

    def beats_rule(self, arm: str) -> bool | None:
        """Whether the arm beats the untrained rule; None if that was not tested."""
        return self.numbers.verdict.beats_baseline.get(arm)

    def beats_all_positive(self, arm: ArmFacts) -> bool:
        """Whether the arm's whole interval lies above what marking every bar scores."""
        bounds, floor = arm.decoder.confidence_interval, self.all_positive or 0.0
        low = bounds[0] if bounds is not None and bounds[0] is not None else arm.decoder.f1
        return low is not None and low > floor

    def falls_short_of_rule(self, arm: str) -> bool:
        """Whether the untrained rule is shown to be better than the arm, in bar F1 over all data."""
        return any(
            item.outcome == "winner" and item.difference < 0
            for item in self.numbers.differences
            if (item.first, item.second, item.metric, item.dataset) == (arm, RULE, "f1", None)
        )

    def against_rule(self, arm: str) -> str:
        """Say in three or four words how the arm stands against the untrained rule."""
        if self.beats_rule(arm) is None:
            return "not tested against the untrained rule"
        if self.beats_rule(arm):
            return "beats the untrained rule"
        return (
            "falls short of the untrained rule"
            if self.falls_short_of_rule(arm)
            else "not shown to beat the untrained rule"
        )

    def ranking(self) -> list[ArmFacts]:
        """Return the arms, highest F1 first."""
        return sorted(self.arms, key=lambda facts: -facts.decoder.f1)


def gather(report: ReportInput) -> Facts:
    """Compute the facts of a report.

    Raises:
        UserError: The comparison breaks its contract.
    """
    numbers = report.numbers
    styles = arm_styles(numbers.arms)
    num_bars = [data.num_windows * data.window_length for data in numbers.data]
    in_span = sum(bars * data.in_span_rate for bars, data in zip(num_bars, numbers.data, strict=True))
    return Facts(
        report=report,
        numbers=numbers,
        arms=tuple(_facts_of(arm, styles[name]) for name, arm in numbers.arms.items()),
        styles=styles,
        in_span_rate=in_span / max(sum(num_bars), 1),
    )


def _facts_of(arm: Arm, style: ArmStyle) -> ArmFacts:
    runs = arm.runs
    validation_RE = _losses([run.validation_loss or [] for run in runs])
    tasks = in_order({task for run in runs for task in run.task_weight})
    seconds = [run.seconds.train for run in runs]
    return ArmFacts(
        style=style,
        arm=arm,
        best_decoder=arm.summary.best_decoder,
        decoder=arm.summary.decoders[arm.summary.best_decoder],
        train_RE=_losses([run.train_loss for run in runs]),
        validation_RE=validation_RE,
        best_epoch=median([run.best_epoch for run in runs]),
        reduction=mean([run.validation_loss_reduction for run in runs]),
        rise_since_best=mean([run.validation_loss_rise_since_best for run in runs]),
        settled_epoch=median([_settled(losses_E) for losses_E in validation_RE]),
        wobble=mean([_wobble(losses_E) for losses_E in validation_RE]),
        weights={task: _mean_of(runs, "task_weight", task) for task in tasks},
        sigmas={task: _mean_of(runs, "sigma", task) for task in tasks},
        seconds_train=sum(s for s in seconds if s is not None) if any(s is not None for s in seconds) else None,
    )


def _mean_of(runs: Sequence[Run], field: str, task: str) -> float:
    values = [run.task_weight if field == "task_weight" else run.sigma for run in runs]
    return float(np.mean([by_task[task] for by_task in values if task in by_task] or [np.nan]))


def _losses(runs: Sequence[Sequence[float | None]]) -> Curves:
    longest = max((len(losses) for losses in runs), default=0)
    table_RE = np.full((len(runs), longest), np.nan)
    for row, losses in enumerate(runs):
        table_RE[row, : len(losses)] = [np.nan if loss is None else loss for loss in losses]
    return table_RE


def _settled(losses_E: Curves) -> float | None:
    there = losses_E[np.isfinite(losses_E)]
    if there.size < 2 or there.min() >= there[0]:
        return None
    target = there[0] - 0.9 * (there[0] - there.min())
    return float(np.flatnonzero(there <= target)[0] + 1)


def _wobble(losses_E: Curves) -> float | None:
    there = losses_E[np.isfinite(losses_E)]
    tail = there[there.size // 2 :]
    if tail.size < 2 or not (tail[:-1] > 0).all():
        return None
    return float(np.mean(np.abs(np.diff(tail)) / tail[:-1]))
