"""Progress of several trainings on a terminal: one bar an arm and seed, or a line now and then where there is none."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


def terminal_is_live() -> bool:
    """Whether standard error is a terminal that bars can be drawn on."""
    return Console(file=sys.stderr).is_terminal


class TrainingBars:
    """Bars by name; draws nothing where standard error is no terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(file=sys.stderr),
            disable=not terminal_is_live(),
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def expect(self, name: str, epochs: int) -> None:
        """Add a bar of so many epochs."""
        self._bars[name] = self._progress.add_task(name, total=epochs, note="")

    def show(self, name: str, epochs_done: int, note: str) -> None:
        """Set a bar."""
        self._progress.update(self._bars[name], completed=epochs_done, note=note)
