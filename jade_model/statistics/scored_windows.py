"""Windows that several arms were scored on: F1s with their intervals, differences with their tests.

Legend: A arms, P pairs, S seeds, N windows; 3 is (tp, fp, fn).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jade_model.scoring.metrics import f1_of
from jade_model.scoring.parts import METRICS, Interval, Metric
from jade_model.statistics.intervals import FEWEST_TRAININGS, ROUNDING, Estimates
from jade_model.statistics.power import Needed, detectable_difference, needed
from jade_model.statistics.variance import Design, estimate
from jade_model.statistics.verdict import THE_USUAL, Difference, Question, outcome_of

FEW_GROUPS = 30
"""Below this many groups, intervals come out somewhat too narrow now and then, and a caveat says so."""

_LARGEST_LOGIT = 500.0  # beyond, the exponential overflows; 1e-200 is 0 to any reader


@dataclass(frozen=True, eq=False)
class ArmCounts:
    """What one arm got right and wrong in each window, out of fold.

    Attributes:
        name: Of the arm.
        bar_counts_SN3: Bars, int64; 0 where a window was not scored in a seed.
        span_counts_SN3: Spans matched at IoU 0.5, likewise.
    """

    name: str
    bar_counts_SN3: NDArray[np.int64]
    span_counts_SN3: NDArray[np.int64]

    def counts(self, metric: Metric) -> NDArray[np.int64]:
        """Return the counts that the metric is made of, [S, N, 3]."""
        return self.bar_counts_SN3 if metric == "f1" else self.span_counts_SN3


@dataclass(frozen=True)
class ArmScore:
    """One arm's F1.

    Attributes:
        arm: Its name.
        metric: Which F1.
        dataset: Name, or None for all pooled.
        value: Micro-averaged within a seed, averaged over seeds, [0, 1].
        confidence_interval: Of the value, for this arm alone.
        standard_error: Groups and training noise together.
        training_share: Share of the variance that is training noise, [0, 1].
    """

    arm: str
    metric: Metric
    dataset: str | None
    value: float
    confidence_interval: Interval
    standard_error: float
    training_share: float


def score_of(scores: Iterable[ArmScore], arm: str, metric: Metric = "f1", dataset: str | None = None) -> ArmScore:
    """Return one arm's score.

    Raises:
        KeyError: There is none.
    """
    for score in scores:
        if (score.arm, score.metric, score.dataset) == (arm, metric, dataset):
            return score
    raise KeyError((arm, metric, dataset))


@dataclass(frozen=True)
class Effect:
    """A weighted sum of arms' F1s, such as what a setting is worth on average over the others.

    Attributes:
        value: Of the F1s.
        confidence_interval: Simultaneous over the family.
        adjusted_p_value: Two-sided, of the value 0, for the family.
    """

    value: float
    confidence_interval: Interval
    adjusted_p_value: float


class ScoredWindows:
    """The windows that all arms were scored on, and how they hang together."""

    def __init__(
        self,
        group_N: NDArray[np.int64],
        training_SN: NDArray[np.int64],
        *,
        dataset_N: NDArray[np.int64] | None = None,
        dataset_names: Sequence[str] = ("",),
        seeds: Sequence[int] | None = None,
        given_models: bool = False,
    ) -> None:
        """Keep the design that everything on these windows shares.

        Args:
            group_N: Windows of one group share bars; unique over the data sets.
            training_SN: Which training scored window n in seed s: the fold, or data set and fold as one
                number where each data set is trained alone; -1 where the window was not scored. Without
                folds: 0 and -1.
            dataset_N: Index into dataset_names; None: all of one.
            dataset_names: Of the data sets.
            seeds: What the seeds are called; None: from 0.
            given_models: Whether the question is about these very models, so that other trainings don't matter.

        Raises:
            ValueError: The shapes differ, or no window was scored.
        """
        self.dataset_N = np.zeros(len(group_N), dtype=np.int64) if dataset_N is None else dataset_N
        if self.dataset_N.shape != group_N.shape or training_SN.ndim != 2 or training_SN.shape[1:] != group_N.shape:
            raise ValueError(
                f"shapes differ: group_N {group_N.shape}, dataset_N {self.dataset_N.shape}, "
                f"training_SN {training_SN.shape}; expected [N], [N] and [S, N]"
            )
        self.scored_SN = training_SN >= 0
        if not self.scored_SN.any():
            raise ValueError("no window was scored: training_SN is -1 everywhere")
        self.group_N, self.training_SN = group_N, training_SN
        self.dataset_names, self.given_models = tuple(dataset_names), given_models
        self.seeds = tuple(range(len(training_SN)) if seeds is None else seeds)
        self.num_groups = len(np.unique(group_N[self.scored_SN.any(axis=0)]))
        self._designs: dict[int | None, Design] = {}

    @property
    def views(self) -> list[tuple[int | None, str | None]]:
        """All data sets pooled, and where there are several, each: index and name."""
        each = list(enumerate(self.dataset_names)) if len(self.dataset_names) > 1 else []
        return [(None, None), *each]

    def scores(
        self, arms: Sequence[ArmCounts], *, confidence: float = 0.95, metrics: Sequence[Metric] = METRICS
    ) -> list[ArmScore]:
        """Return every arm's F1s with intervals, pooled and by data set.

        Args:
            arms: Any number, each on its own: several decoders of one arm are arms here.
            confidence: Of each interval.
            metrics: Which F1s.
        """
        found: list[ArmScore] = []
        for (view, dataset), metric in itertools.product(self.views, metrics):
            estimates = self.estimates(arms, np.eye(len(arms)), metric, view)
            low_A, high_A = _score_intervals(estimates, confidence)
            found += [
                ArmScore(
                    arm=arm.name,
                    metric=metric,
                    dataset=dataset,
                    value=float(estimates.value_P[row]),
                    confidence_interval=(float(low_A[row]), float(high_A[row])),
                    standard_error=float(estimates.standard_error_P[row]),
                    training_share=float(estimates.training_share_P[row]),
                )
                for row, arm in enumerate(arms)
            ]
        return found

    def differences(
        self,
        arms: Sequence[ArmCounts],
        pairs: Sequence[tuple[int, int]],
        question: Question = THE_USUAL,
        *,
        metrics: Sequence[Metric] = METRICS,
        views: bool = True,
    ) -> list[Difference]:
        """Test pairs of arms as one family, in each metric, pooled and by data set.

        Args:
            arms: On these windows.
            pairs: Indices into `arms`: first, second.
            question: Margin, and the confidence that all intervals of one metric and view hold together.
            metrics: Which F1s.
            views: Whether also by data set.
        """
        contrasts_PA = np.zeros((len(pairs), len(arms)))
        for row, (first, second) in enumerate(pairs):
            contrasts_PA[row, first], contrasts_PA[row, second] = 1, -1
        found: list[Difference] = []
        for (view, dataset), metric in itertools.product(self.views if views else self.views[:1], metrics):
            seen = self.estimates(arms, contrasts_PA, metric, view)
            estimates = seen.refused()
            quantile = estimates.normal_quantile(question.confidence, jointly=True)
            critical_P = estimates.critical_values(question.confidence, jointly=True)
            low_P, high_P = _difference_intervals(estimates, critical_P)
            alone_P, adjusted_P = estimates.p_values(jointly=False), estimates.p_values(jointly=True)
            for row, (first, second) in enumerate(pairs):
                error = float(estimates.standard_error_P[row])
                value = float(estimates.value_P[row])
                interval = (float(low_P[row]), float(high_P[row]))
                outcome = outcome_of(interval, question.margin)
                detectable = detectable_difference(error, float(critical_P[row]), float(estimates.degrees_P[row]))
                more = needed(seen, row, quantile, question.margin) if outcome == "undecided" else Needed(None, None)
                found.append(
                    Difference(
                        first=arms[first].name,
                        second=arms[second].name,
                        metric=metric,
                        dataset=dataset,
                        difference=value,
                        confidence_interval=interval,
                        p_value=float(alone_P[row]),
                        adjusted_p_value=float(adjusted_P[row]),
                        outcome=outcome,
                        standard_error=error,
                        training_share=float(estimates.training_share_P[row]),
                        detectable_difference=detectable,
                        groups_needed=more.groups,
                        seeds_needed=more.seeds,
                        lack=estimates.lack,
                    )
                )
        return found

    def effects(self, arms: Sequence[ArmCounts], contrasts_PA: NDArray[np.float64], question: Question) -> list[Effect]:
        """Estimate weighted sums of the arms' F1s as one family, all data sets pooled.

        Args:
            arms: On these windows.
            contrasts_PA: Weights; those of a difference sum up to 0, its positive ones to 1.
            question: Which F1, and the confidence that all intervals hold together.
        """
        estimates = self.estimates(arms, contrasts_PA, question.metric, None).refused()
        low_P, high_P = _difference_intervals(estimates, estimates.critical_values(question.confidence, jointly=True))
        adjusted_P = estimates.p_values(jointly=True)
        return [
            Effect(float(value), (float(low), float(high)), float(adjusted))
            for value, low, high, adjusted in zip(estimates.value_P, low_P, high_P, adjusted_P, strict=True)
        ]

    def what_decides(self, arms: Sequence[ArmCounts], first: int, second: int, metric: Metric) -> str:
        """Say what makes the doubt about a difference, and which data set or training moves it most.

        Args:
            arms: On these windows.
            first: Index of the arm.
            second: Index of the one that is taken from it.
            metric: Which F1.
        """
        pair_PA = np.zeros((1, len(arms)))
        pair_PA[0, first], pair_PA[0, second] = 1, -1
        estimates = self.estimates(arms, pair_PA, metric, None)
        if estimates.lack is not None:
            return ""
        own, noise, luck = (round(100 * share) for share in estimates.shares(0))
        said = (
            f"Of the doubt, {own} % is which base windows were drawn, {luck} % the luck of whole trainings, and "
            f"{noise} % what either more base windows or more seeds would lessen."
        )
        whole = float(estimates.value_P[0])
        shifts = {
            name: self._without(arms, pair_PA, metric, left_out_SN) - whole
            for name, left_out_SN in self._parts()
            if (self.scored_SN & ~left_out_SN).any()
        }
        if len(shifts) < 2:
            return said
        name = max(shifts, key=lambda part: abs(shifts[part]))
        return f"{said} Without {name} the lead would be {whole + shifts[name]:.3f} instead of {whole:.3f}."

    def _parts(self) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Yield each data set, and each training, by name, and where it scored."""
        for index, name in self.views[1:]:
            yield f"data set {name}", np.broadcast_to(self.dataset_N == index, self.training_SN.shape)
        for index, row_N in enumerate(self.training_SN):
            place_N = np.zeros_like(self.dataset_N) if len(self.views) == 1 else self.dataset_N
            for dataset in np.unique(place_N[row_N >= 0]).tolist():
                on = f" on {self.dataset_names[dataset]}" if len(self.views) > 1 else ""
                for fold, training in enumerate(np.unique(row_N[(row_N >= 0) & (place_N == dataset)]).tolist()):
                    is_row = np.zeros(self.training_SN.shape, dtype=bool)
                    is_row[index] = row_N == training
                    yield f"fold {fold} of seed {self.seeds[index]}{on}", is_row

    def _without(
        self, arms: Sequence[ArmCounts], pair_PA: NDArray[np.float64], metric: Metric, left_out_SN: NDArray[np.bool_]
    ) -> float:
        """Return the difference with some scores left out."""
        kept_SN = self.scored_SN & ~left_out_SN
        values = []
        for arm in arms:
            counts_S3 = np.stack(
                [
                    counts_N3[kept_N].sum(axis=0)
                    for counts_N3, kept_N in zip(
                        np.broadcast_to(arm.counts(metric), (*kept_SN.shape, 3)), kept_SN, strict=True
                    )
                    if kept_N.any()
                ]
            )
            values.append(f1_of(counts_S3).mean() if len(counts_S3) else 0.0)
        return float((pair_PA @ np.array(values))[0])

    def caveats(self) -> list[str]:
        """Return what is to be said of these windows and trainings whatever the arms score."""
        found: list[str] = []
        if self.num_groups < FEW_GROUPS:
            found.append(f"Only {self.num_groups} base windows were scored: take the intervals as rough.")
        if self.given_models:
            return found
        num_trainings = sum(len(np.unique(row[row >= 0])) for row in self.training_SN)
        if num_trainings < FEWEST_TRAININGS:
            found.append(
                f"Each arm was trained {'once' if num_trainings == 1 else 'twice'}: the intervals of the scores take "
                "training noise to be as large as that between base windows."
            )
        elif len(self.training_SN) == 1:
            found.append("One seed only: training noise is judged by the spread between its folds.")
        return found

    def estimates(
        self,
        arms: Sequence[ArmCounts],
        contrasts_PA: NDArray[np.float64],
        metric: Metric,
        dataset: int | None,
    ) -> Estimates:
        """Estimate linear combinations of the arms' F1s; an arm with one seed stands for all seeds.

        Args:
            arms: On these windows.
            contrasts_PA: Weights of the arms.
            metric: Which F1.
            dataset: Index, or None for all pooled.

        Raises:
            ValueError: An arm's counts have another shape, or the data set has no scored window.
        """
        shape = (*self.training_SN.shape, 3)
        for arm in arms:
            if arm.counts(metric).shape not in {shape, (1, *shape[1:])}:
                found = arm.counts(metric).shape
                raise ValueError(f"{metric} counts of {arm.name}: found {found}; expected {shape}, or one seed")
        if dataset not in self._designs:
            scored_SN = self.scored_SN if dataset is None else self.scored_SN & (self.dataset_N == dataset)
            if not scored_SN.any():
                raise ValueError(f"data set {dataset} has no scored window")
            self._designs[dataset] = Design(self.group_N, self.dataset_N, self.training_SN, scored_SN)
        counts_ASN3 = np.stack([np.broadcast_to(arm.counts(metric), shape) for arm in arms])
        return estimate(self._designs[dataset], counts_ASN3, contrasts_PA, given_models=self.given_models)


def _score_intervals(estimates: Estimates, confidence: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return low and high ends of F1s, on the logit scale.

    There the ends stay inside (0, 1), and near them the interval is as lopsided as it has to be: in simulations it
    holds in 94 to 96 % of cases where a symmetric one comes down to 86 % (poor arms, few groups).
    """
    value_P = estimates.value_P
    half_P = estimates.critical_values(confidence, jointly=False) * estimates.standard_error_P
    inside_P = np.clip(value_P, ROUNDING, 1 - ROUNDING)
    slope_P = inside_P * (1 - inside_P)
    logit_P, reach_P = np.log(inside_P / (1 - inside_P)), np.minimum(half_P / slope_P, _LARGEST_LOGIT)
    low_P, high_P = (1 / (1 + np.exp(-(logit_P + sign * reach_P))) for sign in (-1, 1))
    # Where hardly a group tells anything, the F1 is 0, 1 or next to it, and the logit scale has no end.
    plain_P = estimates.few_telling_P | (half_P <= 0)
    low_P = np.where(plain_P, np.clip(value_P - half_P, 0, 1), low_P)
    return low_P, np.where(plain_P, np.clip(value_P + half_P, 0, 1), high_P)


def _difference_intervals(
    estimates: Estimates, critical_P: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return low and high ends, within what a difference of two F1s can be."""
    half_P = critical_P * estimates.standard_error_P
    return np.clip(estimates.value_P - half_P, -1, 1), np.clip(estimates.value_P + half_P, -1, 1)
