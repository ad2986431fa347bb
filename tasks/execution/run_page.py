"""The artifact `run`: how far a run's trainings are, where, at what cost and until when; kept up to date in Prefect."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from jade_model.report.markup import code, plain, table
from jade_model.report.numbers import count, duration
from tasks.execution.placement import Placement
from tasks.execution.progress import CURVES, PartState, RunProgress
from tasks.operations.ui import run_logger, show_markdown
from tasks.provisioning.rental_record import cost_until, read_rental

UPDATE_EVERY_S = 15.0
PACE_OVER_S = 1800.0
"""The time that is left is guessed from the epochs of so long: hosts come and go."""
_HEAD = ("arm", "done", "under way", "epochs", *CURVES.values())
_LEVELS = "▁▂▃▄▅▆▇█"
_WIDTH = 8


@dataclass
class RunPage:
    """What a person sees of a run while it trains.

    Attributes:
        folder: The run's.
        placement: Where it trains.
        progress: Of its trainings; None until they are claimed.
        now: Seconds since 1970.
        is_over: Whether nothing trains any more.
    """

    folder: Path
    placement: Placement
    progress: RunProgress | None = None
    now: Callable[[], float] = time.time
    is_over: bool = False
    _began: float = field(init=False)
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._began = self.now()

    def markdown(self) -> str:
        """Return the page as it is now; each call is also a look at the pace."""
        now, progress = self.now(), self.progress
        arms = dict(progress.arms) if progress is not None else {}
        rows = [
            ("trainings", _counted(list(arms.values())) if arms else "none begun yet"),
            *([("epochs", self._epochs(list(arms.values())))] if arms else []),
            ("elapsed", duration(now - self._began)),
            *([] if self.is_over else [("time left", self._left(now, list(arms.values())))]),
            ("trains on", self._places(progress)),
            *_rented(read_rental(self.folder), now),
            ("folder", code(str(self.folder))),
            ("flow runs on", code(socket.gethostname())),
        ]
        parts = [table(("", ""), rows, "l")]
        if arms:
            parts.append(table(_HEAD, [_arm(name, state) for name, state in arms.items()], "lrrrl"))
            parts.append(
                "Curves go from the first epoch to the newest; each value is the mean of the trainings that came so "
                "far. F1 is that of the most probable labelling of the watched windows, before a threshold is chosen."
            )
        return "\n\n".join([*parts, f"As of {datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC."])

    def show(self) -> None:
        """Put the page among the run's artifacts as it is now; what goes wrong with it is only logged."""
        try:
            show_markdown("run", self.markdown(), "How far this run is, where it trains, and where it lies.")
        except Exception as error:  # it only shows
            run_logger().warning("the run's page was not brought up to date: %s: %s", type(error).__name__, error)

    @contextmanager
    def kept(self, every_s: float = UPDATE_EVERY_S) -> Iterator[None]:
        """Show it from a thread of its own, again and again, while the block lasts; and once more at its end."""
        stop = threading.Event()

        def work() -> None:
            while True:
                self.show()
                if stop.wait(every_s):
                    return

        thread = threading.Thread(target=copy_context().run, args=(work,), daemon=True, name="run-page")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.is_over = True
            self.show()

    def _epochs(self, states: Sequence[PartState]) -> str:
        done, planned = sum(_epochs_had(state) for state in states), sum(state.epochs for state in states)
        return f"{count(done)} of {count(planned)} ({100 * done // max(planned, 1)} %)"

    def _left(self, now: float, states: Sequence[PartState]) -> str:
        self._seen.append((now, sum(state.epochs_trained for state in states)))
        while now - self._seen[0][0] > PACE_OVER_S:
            self._seen.popleft()
        (since, before), (_, trained) = self._seen[0], self._seen[-1]
        if trained == before or now <= since:
            return "not known yet"
        missing = sum(state.epochs - state.epochs_done for state in states)
        return f"about {duration(missing * (now - since) / (trained - before))} of training at the pace so far"

    def _places(self, progress: RunProgress | None) -> str:
        device = f" ({self.placement.device})" if self.placement.device else ""
        found = Counter(progress.under_way()) if progress is not None else Counter()
        gpus = dict(progress.gpus) if progress is not None else {}
        # A host whose trainings are over, or whose job only begins, has a GPU, too.
        now = "; ".join(
            f"{plain(where)}{f' ({plain(gpus[where])})' if where in gpus else ''}: {found[where]} under way"
            for where in sorted({*found, *gpus})
        )
        return f"{plain(self.placement)}{device}" + (f" · {now}" if now else "")


def _counted(states: Sequence[PartState]) -> str:
    done, failed = sum(len(state.finished) for state in states), sum(len(state.failed) for state in states)
    begun, planned = sum(state.num_under_way for state in states), sum(len(state.trainings) for state in states)
    parts = [f"{done} done", f"{begun} under way", f"{planned - done - failed - begun} left"]
    return f"{', '.join([*parts, f'{failed} given up'] if failed else parts)}, of {planned}"


def _epochs_had(state: PartState) -> int:
    """Epochs of trainings that were not given up, as others are when the run is stopped."""
    return state.epochs_done - sum(state.trainings[key] for key in state.failed)


def _arm(name: str, state: PartState) -> tuple[str, ...]:
    epochs = [epoch.means for _, epoch in sorted(state.curve.items())]
    return (
        plain(name),
        f"{len(state.finished)} of {len(state.trainings)}",
        str(state.num_under_way),
        f"{count(_epochs_had(state))} of {count(state.epochs)}",
        *(sparkline([means[name] for means in epochs if name in means]) for name in CURVES),
    )


def sparkline(values: Sequence[float]) -> str:
    """Return the newest of some values, and how they went: `0.4821 █▅▃▂▁`; empty without any."""
    if not values:
        return ""
    number = min(len(values), _WIDTH)
    # The means of stretches of equal length; the last stretch ends with the newest value.
    edges = [len(values) * place // number for place in range(number + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
    lowest, extent = min(means), max(means) - min(means)
    levels = [round((mean - lowest) / extent * (len(_LEVELS) - 1)) if extent else 0 for mean in means]
    return f"{values[-1]:.4f} {''.join(_LEVELS[level] for level in levels)}"


def _rented(rental: dict[str, Any] | None, now: float) -> list[tuple[str, str]]:
    if rental is None:
        return []
    machines = rental["machines"]
    there = [
        f"{plain(machine['title'])}{' (spot)' if machine['spot'] else ''} at {machine['price_usd_per_hour']:.2f} USD/h"
        for machine in machines
        if machine["ended_at"] is None
    ]
    return [
        ("machines", f"{'; '.join(there) or 'none now'} · {len(machines)} so far, {rental['replaced']} replaced"),
        ("cost so far", f"{cost_until(rental, now):.2f} USD"),
    ]
