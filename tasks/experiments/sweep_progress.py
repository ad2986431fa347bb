"""How far a sweep's round is: a bar on the terminal, which moves with every epoch, and an artifact in Prefect."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jade_model.core.job import Training
from tasks.execution.base import Engine, Outcome, UnitDone, unheard
from tasks.execution.progress import TrainingBars
from tasks.operations.ui import show_progress

STEP_PERCENT = 5.0
"""Every update is a request to the server: a coarse step is smooth enough."""


class RoundProgress:
    """Counts a round's epochs.

    Args:
        name: Of the round, for people.
        trainings: What is trained.
        bars: To draw on.
        publish: Told percents now and then, from the thread that tells of outcomes.
    """

    def __init__(
        self, name: str, trainings: Sequence[Training], bars: TrainingBars, publish: Callable[[float], None]
    ) -> None:
        self._name, self._bars, self._publish = name, bars, publish
        self._note, self._shown = "", 0.0
        self._epochs = {item.run_key: item.recipe.training.epochs for item in trainings}
        self._key_of: dict[tuple[Any, ...], str] = {
            (item.arm, item.dataset, item.seed, item.fold): item.run_key for item in trainings
        }
        self._done: dict[str, int] = {}
        self._num_ended = 0
        # Epochs are told from the engine's threads.
        self._lock = threading.Lock()
        self.total = sum(self._epochs.values())
        bars.expect(name, self.total)

    @property
    def percent(self) -> float:
        """Epochs that are over, in percent of all; those of a training that failed count as over."""
        with self._lock:
            return 100.0 * sum(self._done.values()) / self.total if self.total else 100.0

    def epoch(self, event: dict[str, Any]) -> None:
        """See `Engine.on_epoch`; an event that makes no sense is passed over."""
        names = tuple(event.get(name) for name in ("arm", "dataset", "seed", "fold"))
        key, number = self._key_of.get(names), event.get("epoch")
        if key is not None and isinstance(number, int) and 0 <= number <= self._epochs[key]:
            with self._lock:
                # A copy elsewhere may be behind.
                self._done[key] = max(number, self._done.get(key, 0))
                self._show()

    def ended(self, outcome: Outcome) -> None:
        """A training is over."""
        with self._lock:
            self._num_ended += 1
            self._done[outcome.run_key] = self._epochs[outcome.run_key]
            how = "done" if isinstance(outcome, UnitDone) else "failed"
            self._note = f"{self._num_ended} of {len(self._epochs)} trainings; {outcome.where}: {how}"
            self._show()
        if self.percent - self._shown >= STEP_PERCENT:
            self._shown = self.percent
            self._publish(self._shown)

    def _show(self) -> None:
        self._bars.show(self._name, sum(self._done.values()), self._note)


@contextmanager
def round_shown(name: str, key: str, engine: Engine, trainings: Sequence[Training]) -> Iterator[RoundProgress]:
    """Show a round's progress while the block lasts."""

    def publish(percent: float) -> None:
        show_progress(key, percent, f"Epochs of {name}")

    publish(0.0)
    with TrainingBars() as bars:
        progress = RoundProgress(name, trainings, bars, publish)
        engine.on_epoch = progress.epoch
        try:
            yield progress
        finally:
            engine.on_epoch = unheard
            publish(progress.percent)
