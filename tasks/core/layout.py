"""Where everything of a run lies. The one home of these names; documented in docs/runs.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REMOTE_LOG_NAME = "remote.log"
REPORT_NAME = "SOFT_SPAN_VS_CRF_COMPARISON.md"
MEMBER_SEED_STEP = 1_000_000
"""Seeds of an ensemble's members lie this far apart, out of the way of the runs' own."""


def training_folder(arm: str, dataset: str | None, seed: int, fold: int, member: int = 0) -> str:
    """Return a training's folder relative to the run.

    The first training of an arm lies in the arm's own folder, so that a run with one training an arm has the plain
    `<arm>/checkpoint_<loss>_<epochs>.pt`; the others lie below it.

    Args:
        arm: The arm's name.
        dataset: The data set's name if the run has several, else None.
        seed: Seed of the training.
        fold: Fold that is held out.
        member: Member of an ensemble.
    """
    parts = [arm] if dataset is None else [arm, dataset]
    if seed or fold:
        parts.append(f"seed{seed}-fold{fold}")
    if member:
        parts.append(f"member{member}")
    return "/".join(parts)


@dataclass(frozen=True)
class RunLayout:
    """Paths of one run.

    Attributes:
        root: The run's folder.
    """

    root: Path

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.root.name

    @property
    def run_json(self) -> Path:
        """Parameters, data, code, versions, host and times."""
        return self.root / "run.json"

    @property
    def job_json(self) -> Path:
        """What `python -m jade_model train` reads."""
        return self.root / "job.json"

    @property
    def comparison_json(self) -> Path:
        """The result, as a contract."""
        return self.root / "comparison.json"

    @property
    def sweep_json(self) -> Path:
        """The result of a sweep; documented in docs/sweeps.md."""
        return self.root / "sweep.json"

    @property
    def results_parquet(self) -> Path:
        """A sweep's trainings as a table."""
        return self.root / "results.parquet"

    @property
    def failed_json(self) -> Path:
        """Where and why the run failed; absent otherwise."""
        return self.root / "FAILED.json"

    @property
    def remote_log(self) -> Path:
        """All that a job on another host wrote; absent if the trainings ran here."""
        return self.root / REMOTE_LOG_NAME

    def arrays(self, dataset: str) -> Path:
        """Return the windows of a data set as arrays."""
        return self.root / "arrays" / f"{dataset}.npz"

    def split(self, dataset: str, seed: int, fold: int) -> Path:
        """Return the rows of one split of a data set."""
        return self.root / "splits" / f"{dataset}-seed{seed}-fold{fold}.npz"

    def predictions(self, arm: str) -> Path:
        """Return an arm's predictions on the scored windows."""
        return self.root / "predictions" / f"{arm}.npz"

    def thresholds(self, arm: str) -> Path:
        """Return an arm's threshold curves."""
        return self.root / "thresholds" / f"{arm}.csv"

    @property
    def data_checks_json(self) -> Path:
        """What was asked of the data before anything was trained."""
        return self.root / "data_checks.json"

    @property
    def trend_json(self) -> Path:
        """The comparisons before this one, this one, and what was expected of it."""
        return self.root / "trend.json"

    @property
    def roles(self) -> Path:
        """Which windows a retraining held out, from all of its models or from one."""
        return self.root / "roles.npz"

    @property
    def card_json(self) -> Path:
        """A retrained model's card."""
        return self.root / "card.json"

    @property
    def gallery_json(self) -> Path:
        """The windows that the report draws."""
        return self.root / "predictions" / "gallery.json"

    @property
    def report(self) -> Path:
        """The report's folder."""
        return self.root / "report"
