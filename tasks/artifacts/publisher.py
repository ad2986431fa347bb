"""Checkpoints published as they appear, off the thread that follows the training."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from time import monotonic

from jade_model.core.job import Training
from tasks.artifacts.errors import StoreError
from tasks.artifacts.training_cache import KeptTrainings
from tasks.core.layout import RunLayout

Note = Callable[[str], None]


def say(message: str) -> None:
    """Tell the person at the terminal; results go to standard output, this does not."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


class Mirror:
    """Publishes what a run's trainings leave, the newest of each; a training counts only from then on.

    A place that does not answer holds up no training: what could not be published is tried again with the next
    checkpoint, and in the end with the whole run.

    Args:
        kept: Where to.
        layout: The run.
        note: Told what could not be published yet.
    """

    def __init__(self, kept: KeptTrainings, layout: RunLayout, note: Note = say) -> None:
        self._kept, self._layout, self._note = kept, layout, note
        self._changed = threading.Condition()
        # Of each run key: the training, and whether it need not wait until the last publication is old enough.
        self._waiting: dict[str, tuple[Training, bool]] = {}
        self._published_at: dict[str, float] = {}
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"mirror-{layout.run_id}")
        self._thread.start()

    def publish(self, training: Training, *, at_once: bool) -> None:
        """Publish a training's newest checkpoint at once, or once the last publication is old enough."""
        with self._changed:
            _, is_urgent = self._waiting.get(training.run_key, (training, False))
            self._waiting[training.run_key] = (training, at_once or is_urgent)
            self._changed.notify_all()

    def close(self) -> None:
        """Publish what waits, and return when that is done."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while (training := self._next()) is not None:
            try:
                self._kept.remember(training, self._layout)
            except StoreError as error:
                self._note(f"{training.title}: not published yet: {error}")
            self._published_at[training.run_key] = monotonic()

    def _next(self) -> Training | None:
        """Wait for a training that is due; None once all is done and this is to end."""
        with self._changed:
            while True:
                due_in_s = {key: self._due_in_s(key) for key in self._waiting}
                ready = [key for key, wait_s in due_in_s.items() if wait_s <= 0]
                if ready:
                    return self._waiting.pop(ready[0])[0]
                if self._is_closing:
                    return None
                self._changed.wait(min(due_in_s.values(), default=None))

    def _due_in_s(self, key: str) -> float:
        _, at_once = self._waiting[key]
        if at_once or self._is_closing or key not in self._published_at:
            return 0.0
        return self._published_at[key] + self._kept.every_s - monotonic()
