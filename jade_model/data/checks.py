"""Is it worth paying for a host to train on these windows? Asked, and answered, before one is taken.

The files' schema has been checked by whoever loaded them; here windows are looked at together: copies, groups that
stand on two sides of a split, labels, and how far everything is from what the model in use was trained on.

Legend: N windows, T bars.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from jade_model.core.errors import UserError
from jade_model.core.features.relativity import MIN_RANGE
from jade_model.core.windows import TYPE_NAMES, Windows
from jade_model.data.drift import FeatureDrift, feature_drift
from jade_model.data.groups import Grouping, group_windows
from jade_model.data.splits import Split, straddling_groups

Status = Literal["passed", "warning", "failed"]


@dataclass(frozen=True)
class DataLimits:
    """Where a finding becomes a warning, or a failure.

    Attributes:
        fewest_groups: Independent base windows that a training needs.
        max_copies: Share of windows that may be copies of others, labels included.
        min_in_span_rate: Share of bars that must be in a span.
        max_in_span_rate: Share of bars that may be.
        max_rate_change: Factor by which the in-span rate may differ from the reference's.
        max_one_label: Share of labelled windows that one label may have.
        psi_warning: Population stability index of a feature that is worth a look.
        psi_failed: That a model trained on the reference cannot be expected to bear.
        drift_p_value: A shift also has to be this improbable, counted in groups, to fail.
    """

    fewest_groups: int = 8
    max_copies: float = 0.1
    min_in_span_rate: float = 0.005
    max_in_span_rate: float = 0.5
    max_rate_change: float = 3.0
    max_one_label: float = 0.98
    psi_warning: float = 0.1
    psi_failed: float = 0.25
    drift_p_value: float = 0.01


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        name: What was looked at.
        status: Of the answer.
        found: What is there.
        expected: What should be there.
    """

    name: str
    status: Status
    found: str
    expected: str


@dataclass(frozen=True)
class DataReport:
    """Everything that was asked of one data set.

    Attributes:
        dataset: Its name.
        checks: In the order asked.
        drift: Every feature against the reference; empty without one.
        reference: Run that the reference comes from, or None.
    """

    dataset: str
    checks: tuple[Check, ...]
    drift: tuple[FeatureDrift, ...] = ()
    reference: str | None = None

    @property
    def failed(self) -> list[Check]:
        """The checks that forbid a training."""
        return [check for check in self.checks if check.status == "failed"]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "dataset": self.dataset,
            "passed": not self.failed,
            "reference": self.reference,
            "checks": [asdict(check) for check in self.checks],
            "drift": [asdict(item) for item in self.drift],
        }


class DataRefused(UserError):
    """Data checks failed: nothing was trained, and no host was taken.

    Attributes:
        reports: Of every data set.
    """

    def __init__(self, reports: Sequence[DataReport]) -> None:
        self.reports = tuple(reports)
        problems = [
            f"{report.dataset}: {check.name}: found {check.found}; expected {check.expected}"
            for report in reports
            for check in report.failed
        ]
        super().__init__("the data are not fit for training, so no host was taken.\n" + "\n".join(problems))

    def __reduce__(self) -> tuple[Any, ...]:
        # Task runners pickle errors, and this one is made of evidence.
        return type(self), (self.reports,)


@dataclass(frozen=True, eq=False)
class Reference:
    """What the model in use was trained on.

    Attributes:
        run_id: The model's run.
        windows: Its data.
        feature_set: Name of its feature set.
    """

    run_id: str
    windows: Windows
    feature_set: str


def check_data(
    windows: Windows,
    grouping: Grouping,
    splits: Sequence[Split] = (),
    *,
    reference: Reference | None = None,
    limits: DataLimits = DataLimits(),
    feature_sets: Collection[str] = (),
) -> DataReport:
    """Ask everything of one labelled data set.

    Args:
        windows: Loaded, and so within the schema.
        grouping: Which of them share bars.
        splits: That trainings would use.
        reference: What the model in use was trained on, if there is one.
        limits: Where a finding becomes a warning or a failure.
        feature_sets: What the trainings read of the windows.
    """
    checks = [
        Check("schema", "passed", f"{windows.num_windows} windows of {windows.window_length} bars", "the contract"),
        _size(grouping, limits),
        _copies(windows, limits),
        *_leakage(grouping, splits),
        _labels(windows, limits),
        _in_span(windows, reference, limits),
        *_price_scale(windows, feature_sets),
    ]
    drift: list[FeatureDrift] = []
    if reference is not None:
        drift = feature_drift(
            windows, grouping, reference.windows, group_windows(reference.windows), reference.feature_set
        )
        checks.append(_drift(drift, reference, limits))
    return DataReport(windows.name, tuple(checks), tuple(drift), reference.run_id if reference else None)


def drift_status(item: FeatureDrift, limits: DataLimits) -> Status:
    """Return what one feature's drift amounts to."""
    if item.psi >= limits.psi_failed and item.p_value < limits.drift_p_value:
        return "failed"
    return "warning" if item.psi >= limits.psi_warning else "passed"


def _size(grouping: Grouping, limits: DataLimits) -> Check:
    return Check(
        "size",
        "passed" if grouping.num_groups >= limits.fewest_groups else "failed",
        f"{grouping.num_groups} groups of windows that share no bars",
        f"at least {limits.fewest_groups}",
    )


def _copies(windows: Windows, limits: DataLimits) -> Check:
    """Look for windows of the same bars: copies if the labels agree too, contradictions if not."""
    same_bars: dict[bytes, list[int]] = {}
    for row in range(windows.num_windows):
        same_bars.setdefault(windows.bars_NT4[row].tobytes(), []).append(row)
    copies = contradictions = 0
    for rows in same_bars.values():
        labels = Counter(windows.spans_of(row).tobytes() for row in rows)
        copies += len(rows) - len(labels)
        contradictions += len(labels) - 1
    share = copies / windows.num_windows
    status: Status = "failed" if share > limits.max_copies else "warning" if copies or contradictions else "passed"
    return Check(
        "duplicates",
        status,
        f"{copies} copies, {contradictions} windows whose bars stand there again with other labels",
        f"none; up to {limits.max_copies:.0%} copies are borne",
    )


def _leakage(grouping: Grouping, splits: Sequence[Split]) -> list[Check]:
    if not splits:
        return []
    straddling = max(straddling_groups(split, grouping) for split in splits)
    by_design = all(split.kind == "seed" for split in splits)
    status: Status = "passed" if not straddling else "warning" if by_design else "failed"
    return [
        Check(
            "leakage",
            status,
            f"{straddling} groups on two sides of a split, {grouping.num_shared_bar_joins} joins by shared bars",
            "no group on two sides",
        )
    ]


def _labels(windows: Windows, limits: DataLimits) -> Check:
    counted = Counter(int(value) for value in windows.type_N if value >= 0)
    named = ", ".join(f"{counted[index]} {name}" for index, name in enumerate(TYPE_NAMES) if counted[index])
    empty = int((windows.num_spans_N == 0).sum())
    if empty == windows.num_windows:
        return Check("labels", "failed", "no window with a span", "spans to learn from")
    one_sided = bool(counted) and max(counted.values()) > limits.max_one_label * sum(counted.values())
    return Check(
        "labels",
        "warning" if one_sided else "passed",
        f"{named or 'no types'}; {empty} windows without a span",
        f"no label on more than {limits.max_one_label:.0%} of the windows",
    )


def _in_span(windows: Windows, reference: Reference | None, limits: DataLimits) -> Check:
    rate = float(windows.in_span_NT().mean())
    found = f"{rate:.2%} of bars in a span"
    expected = f"{limits.min_in_span_rate:.1%} to {limits.max_in_span_rate:.0%}"
    is_usual = limits.min_in_span_rate <= rate <= limits.max_in_span_rate
    if reference is not None:
        before = float(reference.windows.in_span_NT().mean())
        found += f", {before:.2%} in the reference"
        expected += f", and within a factor of {limits.max_rate_change:g} of the reference"
        is_usual = is_usual and before / limits.max_rate_change <= rate <= before * limits.max_rate_change
    return Check("in-span rate", "passed" if is_usual else "failed", found, expected)


def _price_scale(windows: Windows, feature_sets: Collection[str]) -> list[Check]:
    """Look for bars so small that relativity-12, whose least range is in units of price, reads them as flat."""
    if not any(name.startswith("relativity-12") for name in feature_sets):
        return []
    range_NT = windows.bars_NT4[:, :, 1] - windows.bars_NT4[:, :, 2]
    moving = range_NT[range_NT > 0]
    share = float((moving < MIN_RANGE).mean()) if len(moving) else 0.0
    return [
        Check(
            "price scale",
            "warning" if share > 0 else "passed",
            f"{share:.1%} of the bars that move have a range under {MIN_RANGE:g}",
            "none: relativity-12 reads those as flat, as the original does; multiply the prices",
        )
    ]


def _drift(drift: Sequence[FeatureDrift], reference: Reference, limits: DataLimits) -> Check:
    statuses = [drift_status(item, limits) for item in drift]
    worst = max(drift, key=lambda item: item.psi)
    status: Status = "failed" if "failed" in statuses else "warning" if "warning" in statuses else "passed"
    moved = [item.feature for item, found in zip(drift, statuses, strict=True) if found == "failed"]
    found = f"largest shift: {worst.feature}, PSI {worst.psi:.3f}, KS {worst.ks:.3f} (p = {worst.p_value:.2g})"
    if moved:
        found += f"; shifted: {', '.join(moved)}"
    return Check(
        "drift",
        status,
        found,
        f"PSI under {limits.psi_failed:g} against {reference.run_id}, or a shift that {_chance(limits)}",
    )


def _chance(limits: DataLimits) -> str:
    return f"chance explains (p at least {limits.drift_p_value:g})"
