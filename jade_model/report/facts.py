"""What follows from `comparison.json` by arithmetic alone, and is needed in more than one place.

Legend: E epochs, R runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from jade_model.comparison.model import Arm, Calibration, Comparison, Decoder, TaskName
from jade_model.report.inputs import ReportInput
from jade_model.report.naming import ArmStyle, arm_styles, in_order
from jade_model.report.numbers import mean, median, plural
from jade_model.statistics.pool import RULE

Curves = NDArray[np.float64]

NO_SEPARATION = 0.05
CLEAR_SEPARATION = 0.4
OVERFITTING_RISE = 0.05


@dataclass(frozen=True, eq=False)
class ArmFacts:
    """One arm's numbers over its runs.

    Attributes:
        style: Name and colour.
        arm: Its part of the comparison.
        all_positive: F1 of marking every bar.
    """

    style: ArmStyle
    arm: Arm
    all_positive: float

    @property
    def key(self) -> str:
        """The arm's name in the comparison."""
        return self.style.key

    @property
    def name(self) -> str:
        """The arm's name for people."""
        return self.style.name

    @property
    def best_decoder(self) -> str:
        """Chosen without the scored windows."""
        return self.arm.summary.best_decoder

    @property
    def decoder(self) -> Decoder:
        """The best decoder's scores."""
        return self.arm.summary.decoders[self.arm.summary.best_decoder]

    @property
    def epochs(self) -> int:
        """Of the longest run."""
        return max(run.epochs for run in self.arm.runs)

    @cached_property
    def train_RE(self) -> Curves:
        """Training loss; NaN after a run's last epoch."""
        return _losses([run.train_loss for run in self.arm.runs])

    @cached_property
    def validation_RE(self) -> Curves:
        """Validation loss; NaN where there is none."""
        return _losses([run.validation_loss for run in self.arm.runs])

    @property
    def has_validation(self) -> bool:
        """Whether any validation loss was recorded."""
        return self.validation_RE.size > 0

    @property
    def watched_E(self) -> Curves:
        """Mean over runs of the validation loss, of the training loss where there is none."""
        return mean_curve(self.validation_RE if self.has_validation else self.train_RE)

    @property
    def best_epoch(self) -> float | None:
        """Median over runs, 1-based, or None without validation losses."""
        return median([run.best_epoch for run in self.arm.runs])

    @property
    def reduction(self) -> float | None:
        """Mean over runs of the fraction by which the validation loss fell, first to last epoch."""
        return mean([run.validation_loss_reduction for run in self.arm.runs])

    @property
    def rise_since_best(self) -> float | None:
        """Mean over runs of the fraction by which the validation loss rose after its best epoch."""
        return mean([run.validation_loss_rise_since_best for run in self.arm.runs])

    @property
    def diverged(self) -> bool:
        """Whether the training loss ended above where it began."""
        curve_E = mean_curve(self.train_RE)
        return bool(curve_E[-1] > curve_E[0])

    @property
    def overfits(self) -> bool:
        """Whether the validation loss rose notably after its best epoch, while the training loss fell."""
        return (self.rise_since_best or 0.0) > OVERFITTING_RISE and not self.diverged

    @property
    def settled_epoch(self) -> float | None:
        """Median epoch by which 90 % of the fall to the best validation loss was done."""
        return median([_settled(run.validation_loss) for run in self.arm.runs])

    @property
    def wobble(self) -> float | None:
        """Mean relative change of the validation loss from epoch to epoch over the last half."""
        return mean([_wobble(run.validation_loss) for run in self.arm.runs])

    @property
    def weights(self) -> dict[str, float]:
        """Mean final task weight, shares of 1, in the reports' order."""
        return _mean_by_task([run.task_weight for run in self.arm.runs])

    @property
    def sigmas(self) -> dict[str, float]:
        """Mean final sigma by task."""
        return _mean_by_task([run.sigma for run in self.arm.runs])

    @property
    def heaviest(self) -> tuple[str, float]:
        """The task that weighs most, and its share."""
        return max(self.weights.items(), key=lambda item: item[1])

    @property
    def seconds_train(self) -> float:
        """All runs together."""
        return sum(run.seconds.train for run in self.arm.runs)

    @property
    def calibration(self) -> Calibration:
        """Do its probabilities mean what they say."""
        return self.arm.summary.calibration

    @property
    def separation(self) -> float | None:
        """Mean probability in-span minus out-of-span."""
        return self.arm.summary.separation.separation

    @property
    def beats_all_positive(self) -> bool:
        """Whether the whole interval of F1 lies above what marking every bar scores."""
        return self.decoder.confidence_interval[0] > self.all_positive

    @property
    def is_weak(self) -> bool:
        """Whether probabilities in a span and outside hardly differ."""
        return self.separation is not None and self.separation < NO_SEPARATION

    @property
    def low_separation(self) -> str:
        """How little a weak arm's probabilities differ, in words."""
        return "about 0" if (self.separation or 0.0) > -NO_SEPARATION else "below 0"

    @property
    def is_blind(self) -> bool:
        """Whether it tells bars in a span from others not at all: where spans are rare, a weak one may."""
        return self.is_weak and not self.beats_all_positive

    @property
    def is_clear(self) -> bool:
        """Whether it tells bars in a span from others clearly."""
        return self.separation is not None and self.separation >= CLEAR_SEPARATION


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
    def all_positive(self) -> float:
        """F1 of marking every bar."""
        return self.numbers.baselines.all_positive.f1

    @property
    def rule(self) -> float:
        """F1 of the untrained rule."""
        return self.numbers.baselines.largest_move.f1

    @property
    def rule_move(self) -> str:
        """What the untrained rule marks: `5-bar move`; the length is a mean where folds chose differently."""
        return f"{round(self.numbers.baselines.largest_move.bars, 1):g}-bar move"

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
            f"{plural(self.num_straddling, 'group')} of windows that share bars "
            f"{'stands' if self.num_straddling == 1 else 'stand'} on both sides of the split"
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
    def training_share(self) -> float:
        """Share of the variance of the verdict's difference that is training noise; 0 where it is not known."""
        verdict = self.numbers.verdict
        sought = (verdict.first, verdict.second, verdict.metric, None)
        found = [
            item.training_share
            for item in self.numbers.differences
            if (item.first, item.second, item.metric, item.dataset) == sought
        ]
        return (found[0] if found else None) or 0.0

    @property
    def is_training_luck(self) -> bool:
        """Whether training noise is the larger part of the doubt."""
        return self.training_share > 0.5

    def beats_rule(self, arm: str) -> bool | None:
        """Whether the arm beats the untrained rule; None if that was not tested."""
        return self.numbers.verdict.beats_baseline.get(arm)

    def falls_short_of_rule(self, arm: str) -> bool:
        """Whether the untrained rule is shown to be better than the arm, in bar F1 over all data."""
        return any(
            item.outcome == "winner" and item.difference < 0
            for item in self.numbers.differences
            if (item.first, item.second, item.metric, item.dataset) == (arm, RULE, "f1", None)
        )

    def against_rule(self, arm: str) -> str:
        """Say in three or four words how the arm stands against the untrained rule."""
        match self.beats_rule(arm):
            case None:
                return "not tested against the untrained rule"
            case True:
                return "beats the untrained rule"
        short = "falls short of" if self.falls_short_of_rule(arm) else "not shown to beat"
        return f"{short} the untrained rule"

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
    arms = tuple(ArmFacts(styles[name], arm, numbers.baselines.all_positive.f1) for name, arm in numbers.arms.items())
    return Facts(report, numbers, arms, styles, in_span / sum(num_bars))


def mean_curve(table_RE: Curves) -> Curves:
    """Return the mean over runs of each epoch that a run has, shape [E]."""
    return np.asarray(np.nanmean(table_RE, axis=0))


def _losses(runs: Sequence[Sequence[float]]) -> Curves:
    return np.array(list(itertools.zip_longest(*runs, fillvalue=np.nan))).T


def _mean_by_task(runs: Sequence[Mapping[TaskName, float]]) -> dict[str, float]:
    means = {str(task): float(np.mean([by_task[task] for by_task in runs])) for task in runs[0]}
    return {task: means[task] for task in in_order(means)}


def _settled(losses: Sequence[float]) -> float | None:
    if len(losses) < 2 or min(losses) >= losses[0]:
        return None
    target = losses[0] - 0.9 * (losses[0] - min(losses))
    return next(epoch for epoch, loss in enumerate(losses, 1) if loss <= target)


def _wobble(losses: Sequence[float]) -> float | None:
    tail = np.array(losses[len(losses) // 2 :])
    if tail.size < 2 or not (tail[:-1] > 0).all():
        return None
    return float(np.mean(np.abs(np.diff(tail)) / tail[:-1]))
