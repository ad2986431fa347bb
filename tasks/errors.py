"""What can go wrong while a run is orchestrated.

RunError
├── RunNotFound        no such run folder, or it lacks what is needed; exit code 2
├── BadRequest         the parameters contradict each other or the data; exit code 2
└── TrainingFailed     the training job ended without its results; carries the end of its output; exit code 1
"""

from __future__ import annotations


class RunError(Exception):
    """Base of the errors that are raised on purpose here."""

    exit_code = 1
    is_transient = False


class RunNotFound(RunError):
    """There is no such run, or it does not hold what was asked for."""

    exit_code = 2


class BadRequest(RunError):
    """The parameters contradict each other or the data."""

    exit_code = 2


class TrainingFailed(RunError):
    """The training job ended without all of its results.

    Attributes:
        exit_status: The job's, or None if it was killed.
        stderr_tail: The last lines that it wrote.
    """

    def __init__(self, what: str, exit_status: int | None, stderr_tail: str) -> None:
        self.exit_status, self.stderr_tail = exit_status, stderr_tail
        ended = "was killed" if exit_status is None or exit_status < 0 else f"exited with {exit_status}"
        super().__init__(f"{what}: the training process {ended}. The end of its output:\n{stderr_tail or '(nothing)'}")
