"""What can go wrong in the model package.

JadeError
├── UserError            the person who called can put it right; exit code 2
│   ├── DataError        a data file breaks the contract; carries every Violation found
│   ├── DataRefused      windows are not fit for training (data_checks); carries every check
│   ├── ConfigError      a setting is out of range or contradicts another
│   └── CheckpointError  a checkpoint is not one, is damaged, or belongs to something else
├── CaptureFailed        a CUDA graph of the training step can't be recorded here; training goes on without, and says so
└── TrainingDiverged     the loss stopped being a number; exit code 1
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


class JadeError(Exception):
    """Base of all errors that are raised on purpose."""

    exit_code = 1
    is_transient = False


class UserError(JadeError):
    """Something that the caller gave is wrong; the message says what to do."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is out of range or contradicts another one."""


class CheckpointError(UserError):
    """A checkpoint is not one, is damaged, or was made for something else."""


@dataclass(frozen=True)
class Violation:
    """One place where a data file breaks the contract.

    Attributes:
        file: Path as given.
        row: 0-based row, or None if the whole file or column is meant.
        column: Column name, or None.
        found: What stands there.
        expected: What should stand there, or what to do.
        window_id: The row's identifier, where it could be read.
        line: Of a text file instead of a row, counted from 1, as an editor shows it.
    """

    file: str
    row: int | None
    column: str | None
    found: str
    expected: str
    window_id: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = self.file
        if self.line is not None:
            place += f", line {self.line}"
        if self.row is not None:
            place += f", row {self.row}"
        if self.window_id is not None:
            place += f" ({self.window_id})"
        if self.column is not None:
            place += f", column {self.column}"
        return f"{place}: found {self.found}; expected {self.expected}"


class DataError(UserError):
    """A data file breaks the contract.

    Attributes:
        violations: All that was found, in file order.
    """

    shown = 20

    def __init__(self, violations: list[Violation]) -> None:
        self.violations = violations
        lines = [str(violation) for violation in violations[: self.shown]]
        kinds = Counter((violation.column, violation.expected) for violation in violations[self.shown :])
        if kinds:
            lines.append(f"... and {kinds.total()} more (`jade validate --json` lists all), by kind:")
            for (column, expected), count in kinds.most_common(self.shown):
                place = "" if column is None else f" in column {column}"
                lines.append(f"    {count}{place}, expected {expected}")
        super().__init__("\n".join(lines))


class CaptureFailed(JadeError):
    """This device, driver or torch can't record the training step as a CUDA graph."""


class TrainingDiverged(JadeError):
    """A loss or gradient stopped being finite.

    Attributes:
        epoch: 1-based epoch.
        step: 0-based optimiser step within the epoch.
        values: The offending quantities by name.
    """

    def __init__(self, epoch: int, step: int, values: dict[str, float]) -> None:
        self.epoch, self.step, self.values = epoch, step, values
        shown = ", ".join(f"{name}={value:g}" for name, value in values.items())
        super().__init__(
            f"Training diverged in epoch {epoch}, step {step}: {shown}. "
            "Lower the learning rate (recipe field training.learning_rate) or set training.gradient_clip."
        )
