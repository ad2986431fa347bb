"""How far a sweep's round is, as engines tell of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jade_model.core.windows import Windows
from tasks.core.layout import RunLayout
from tasks.execution.base import UnitDone, UnitFailed
from tasks.execution.progress import TrainingBars
from tasks.experiments.plan import Plan, write_job
from tasks.experiments.sweep_progress import RoundProgress


class Bars(TrainingBars):
    """Remembers what was drawn last."""

    last: tuple[int, str] = (0, "")

    def show(self, name: str, epochs_done: int, note: str) -> None:
        self.last = (epochs_done, note)


def test_epochs_count_as_they_come_and_only_those_that_make_sense(small_windows: Windows, tmp_path: Path) -> None:
    plan = Plan({"a": "seed_soft_span"}, 10, seeds=1, folds=2, split="grouped", ensemble=1)
    first, second = write_job(RunLayout(tmp_path), [small_windows], plan).trainings
    bars, published = Bars(), list[float]()
    progress = RoundProgress("seeds 0", [first, second], bars, published.append)

    def told(number: Any, **other: Any) -> dict[str, Any]:
        return {"arm": "a", "dataset": first.dataset, "seed": 0, "fold": first.fold, "epoch": number} | other

    progress.epoch(told(4))
    # A copy that is behind, a training that is none of ours, and nonsense.
    for event in (told(2), told(9, arm="b"), told("9"), told(99), {}):
        progress.epoch(event)
    assert bars.last[0] == 4
    assert progress.percent == 20.0
    progress.ended(UnitDone(first.run_key, "x", 1.0))
    progress.ended(UnitFailed(second.run_key, "y", "diverged", is_own_fault=True))
    assert bars.last == (20, "2 of 2 trainings; y: failed")
    assert published == [50.0, 100.0]
