"""How far a run's trainings are: counted from events, drawn as bars on a terminal, or told to whoever waits."""

from __future__ import annotations

import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from jade_model.core.job import Job, Training
from tasks.core.layout import MEMBER_SEED_STEP
from tasks.execution.base import Event

POLL_S = 1.0
RECORD_LINES = 200
RECORD_LINE_CHARACTERS = 500


def part_of(training: Training) -> str:
    """Return the part of a run that a training belongs to: one arm and seed, all folds and members, as `crf-seed0`.

    One Prefect task follows each.
    """
    return f"{training.arm.replace('_', '-')}-seed{training.seed % MEMBER_SEED_STEP}"


def parts_of(job: Job) -> list[str]:
    """Return the job's parts, in the order in which they are trained."""
    return list(dict.fromkeys(part_of(training) for training in job.trainings))


CURVES = {"train_loss": "training loss", "validation_loss": "validation loss", "validation_f1": "F1 of bars"}
"""What of an epoch's record is shown while it trains, and what people call it."""


@dataclass
class EpochMeans:
    """What one epoch did, each value of `CURVES` the mean over the trainings that have it."""

    means: dict[str, float] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one training's."""
        for name in CURVES:
            if (value := record.get(name)) is not None:
                self._counts[name] += 1
                before = self.means.get(name, 0.0)
                self.means[name] = before + (value - before) / self._counts[name]


@dataclass
class PartState:
    """How far some trainings are that people see together: a part, an arm, or a round of a sweep.

    Attributes:
        trainings: Epochs of each, by run key.
        done_by_training: Epochs of them that are over; all of those of one that failed.
        finished: Run keys of those that are done.
        failed: Of those that failed.
        epochs_trained: Epochs that were seen to end: what was kept from before is not among them.
        curve: Losses and F1 by epoch.
        latest: Line about what happened last.
    """

    trainings: dict[str, int] = field(default_factory=dict)
    done_by_training: dict[str, int] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    epochs_trained: int = 0
    curve: dict[int, EpochMeans] = field(default_factory=dict)
    latest: str = ""

    @property
    def is_begun(self) -> bool:
        """Whether any of them was heard of."""
        return bool(self.done_by_training)

    @property
    def num_under_way(self) -> int:
        """Trainings that were heard of and are not over."""
        return len(self.done_by_training) - len(self.finished | self.failed)

    @property
    def epochs(self) -> int:
        """Of all trainings together."""
        return sum(self.trainings.values())

    @property
    def epochs_done(self) -> int:
        """Of them."""
        return sum(self.done_by_training.values())

    @property
    def percent(self) -> float:
        """Epochs that are over, in percent of all."""
        return 100.0 * self.epochs_done / self.epochs if self.epochs else 100.0

    def take(self, event: Event, training: Training) -> None:
        """Count an event of one of the trainings."""
        key = event.run_key
        match event.kind:
            case "epoch":
                number, validation = event.data["epoch"], event.data["validation_loss"]
                known = self.done_by_training.setdefault(key, 0)
                # A copy elsewhere may be behind.
                if number > known:
                    self.done_by_training[key] = number
                    # One that goes on from a checkpoint begins in the middle.
                    self.epochs_trained += number - known if known else 1
                    self.curve.setdefault(number, EpochMeans()).add(event.data)
                shown = "" if validation is None else f", val_loss={validation:.4f}"
                loss = f"train_loss={event.data['train_loss']:.4f}"
                self.latest = f"fold {training.fold}: Epoch {event.data['epoch']}: {loss}{shown}"
            case "done":
                self.done_by_training[key] = self.trainings[key]
                self.finished.add(key)
                if not event.data["seconds"]:
                    self.latest = f"fold {training.fold}: kept from an earlier run"
            case "failed":
                self.done_by_training[key] = self.trainings[key]
                self.failed.add(key)
                self.latest = f"fold {training.fold}: failed on {event.where}"
            case _:
                pass


class SaidLines:
    """What training processes say that is no event: whole to the terminal, in batches to a log that takes its time.

    A process may say 20,000 lines a second. A terminal takes them written together; Prefect's log takes 2,000 records a
    second at best and drops a whole batch where one fails. So each look becomes one record there, with a bound on its
    lines and their length, and with the number of lines that were left out: those are in the run's log file. Safe to
    use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._for_terminal: list[str] = []
        self._for_log: deque[str] = deque(maxlen=RECORD_LINES)
        self._since_log = 0

    def add(self, line: str) -> None:
        """Take a line, without its end."""
        with self._lock:
            self._for_terminal.append(line)
            self._for_log.append(line)
            self._since_log += 1

    def take_for_terminal(self) -> str:
        """Return all that came since the last time, each line with its end."""
        with self._lock:
            taken, self._for_terminal = self._for_terminal, []
        return "".join(f"{line}\n" for line in taken)

    def take_for_log(self) -> str:
        """Return the newest lines that came since the last time, after the number of those left out; empty if none."""
        with self._lock:
            taken = [_cut(line) for line in self._for_log]
            left_out = self._since_log - len(taken)
            self._for_log.clear()
            self._since_log = 0
        if left_out:
            taken.insert(0, f"({left_out} lines left out here; the run's log file has them all)")
        return "\n".join(taken)


def _cut(line: str) -> str:
    return line if len(line) <= RECORD_LINE_CHARACTERS else line[: RECORD_LINE_CHARACTERS - 3] + "..."


class RunProgress:
    """The trainings of a run and what was told of them so far. Safe to use from several threads.

    Attributes:
        state: How far those are that people see together, by name, in order.
        arms: The same by arm.
        gpus: What the GPUs are called that trainings run on, by where.
        said: What the training processes say that is for people.
        changes: How many events there were; see `wait_for_change`.
        ended: Whether nothing more will happen.
    """

    def __init__(self) -> None:
        self.state: dict[str, PartState] = {}
        self.arms: dict[str, PartState] = {}
        self.gpus: dict[str, str] = {}
        self.said = SaidLines()
        self.changes = 0
        self.ended = False
        self._part_of: dict[str, tuple[str, Training]] = {}
        self._where: dict[str, str] = {}
        self._changed = threading.Condition()

    def expect(self, trainings: Iterable[Training], name_of: Callable[[Training], str]) -> None:
        """Count these trainings from now on, each with those of the same name."""
        with self._changed:
            for training in trainings:
                name = name_of(training)
                for states, by in ((self.state, name), (self.arms, training.arm)):
                    state = states.setdefault(by, PartState())
                    state.trainings[training.run_key] = training.recipe.training.epochs
                self._part_of[training.run_key] = (name, training)

    def take(self, event: Event) -> None:
        """Count an event."""
        if event.kind == "line":
            if "gpu" in event.data:
                self.gpus[event.where] = event.data["gpu"]
            if event.data["shown"] is not None:
                self.said.add(event.data["shown"])
        elif event.run_key in self._part_of:
            name, training = self._part_of[event.run_key]
            with self._changed:
                state = self.arms[training.arm]
                self.state[name].take(event, training)
                state.take(event, training)
                if event.run_key in state.finished | state.failed:
                    self._where.pop(event.run_key, None)
                else:
                    self._where[event.run_key] = event.where
        self.wake()

    def under_way(self) -> dict[str, int]:
        """Return how many trainings are under way, by where."""
        with self._changed:
            return dict(Counter(self._where.values()))

    def end(self) -> None:
        """Nothing more will happen."""
        self.ended = True
        self.wake()

    def wake(self) -> None:
        """Let all who wait look again."""
        with self._changed:
            self.changes += 1
            self._changed.notify_all()

    def wait_for_change(self, seen: int, timeout_s: float = POLL_S) -> None:
        """Return when something has happened since there were so many `changes`, or after the time."""
        with self._changed:
            self._changed.wait_for(lambda: self.changes != seen, timeout_s)

    def wait_for_end(self, timeout_s: float | None = None) -> bool:
        """Return once nothing more will happen, or after the time; whether it has ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended, timeout_s)


def terminal_is_live() -> bool:
    """Whether standard error is a terminal that bars can be drawn on."""
    return Console(file=sys.stderr).is_terminal


@contextmanager
def drawn(progress: RunProgress) -> Iterator[None]:
    """Show how far trainings are, and what they say, while the block lasts; a terminal that fails stops nothing."""
    stop_drawing = threading.Event()
    drawer = threading.Thread(target=_draw, args=(progress, stop_drawing), daemon=True, name="bars")
    drawer.start()
    try:
        yield
    finally:
        stop_drawing.set()
        progress.wake()
        drawer.join()


def _draw(progress: RunProgress, stop: threading.Event) -> None:
    """One bar for each name; nothing where standard error is no terminal."""
    bars: dict[str, TaskID] = {}
    screen = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(file=sys.stderr),
        disable=not terminal_is_live(),
    )
    with screen:
        is_last, seen = False, 0
        while not is_last:
            progress.wait_for_change(seen)
            is_last, seen = stop.is_set(), progress.changes
            # All at once, above the bars: neither the process nor the terminal is held up by single lines.
            if said := progress.said.take_for_terminal():
                sys.stderr.write(said)
                sys.stderr.flush()
            for name, state in list(progress.state.items()):
                if name not in bars:
                    bars[name] = screen.add_task(name, note="")
                screen.update(bars[name], completed=state.epochs_done, total=state.epochs, note=state.latest)
