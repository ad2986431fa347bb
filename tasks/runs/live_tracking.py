"""MLflow is told of a run while it trains.

A tracking server that is slow or gone costs a run nothing: its calls are short, they are made beside the run, and what
could not be told is told later by `jade track RUN`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jade_model.core.job import Training
from tasks.core.layout import RunLayout
from tasks.runs.tracking import Teller, TrackingError, open_client, short, tell_run

PAUSE_S = 30.0
"""After a call that failed, nothing is told live for so long."""

CLOSE_S = 20.0
TELL_S = 120.0

Note = Callable[[str], None]


class Tracking:
    """Tells MLflow of a run as it goes on, from a thread of its own: whoever has news never waits.

    Args:
        layout: The run; its `run.json` is there.
        address: Of the place that keeps it.
        note: Told, once, that MLflow cannot be told.
    """

    def __init__(self, layout: RunLayout, address: str, note: Note) -> None:
        self._layout, self._address, self._note = layout, address, note
        self._news: queue.SimpleQueue[tuple[Training, Mapping[str, Any] | None] | None] = queue.SimpleQueue()
        self._has_complained = False
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"mlflow-{layout.run_id}")
        self._thread.start()

    def epoch(self, training: Training, record: Mapping[str, Any]) -> None:
        """Tell an epoch's metrics soon."""
        self._news.put((training, record))

    def trained(self, training: Training) -> None:
        """Tell what the files of a finished training say, soon."""
        self._news.put((training, None))

    def close(self) -> None:
        """Tell the rest from the run's files, which are as they will stay; gives up after a limit."""
        self._news.put(None)
        self._thread.join(CLOSE_S)
        error = attempt_in_time(lambda: tell_run(self._layout, self._address), TELL_S)
        if error is not None:
            self._note(f"{error}. `jade track {self._layout.run_id}` tells it later")

    def _work(self) -> None:
        teller: Teller | None = None
        silent_until = 0.0
        while (item := self._news.get()) is not None:
            if time.monotonic() < silent_until:
                continue  # the files keep it
            news, is_last = [item], False
            while not self._news.empty() and not is_last:
                following = self._news.get()
                is_last = following is None
                news += [] if following is None else [following]
            try:
                teller = teller or Teller(self._layout, self._address, open_client())
                _pass_on(teller, news)
            except Exception as error:
                silent_until = time.monotonic() + PAUSE_S
                self._complain(error)
            if is_last:
                return

    def _complain(self, error: Exception) -> None:
        if not self._has_complained:
            self._has_complained = True
            self._note(f"MLflow is not told live: {short(error)}. The run goes on")


def _pass_on(teller: Teller, news: Sequence[tuple[Training, Mapping[str, Any] | None]]) -> None:
    epochs: dict[str, tuple[Training, list[Mapping[str, Any]]]] = {}
    for training, record in news:
        if record is not None:
            epochs.setdefault(training.run_key, (training, []))[1].append(record)
    for training, records in epochs.values():
        teller.epochs(training, records)
    for training, record in news:
        if record is None:
            teller.training(training)


def attempt_in_time(work: Callable[[], Any], limit_s: float) -> Exception | None:
    """Do something beside this thread, and wait for it at most so long; return why it was not done, or None."""
    met: list[Exception] = []

    def attempt() -> None:
        try:
            work()
        except Exception as error:
            met.append(error)

    thread = threading.Thread(target=attempt, daemon=True, name="mlflow")
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        return TrackingError(f"MLflow did not take all of it within {limit_s:.0f} s")
    return met[0] if met else None
