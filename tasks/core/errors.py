"""What is raised on purpose: one base, with what the command line, retries and Prefect ask of every error.

A class stands here because somebody catches it by its name, or because its exit code is another one; the rest are
messages. Hosts, artifacts and provisioning have branches of their own.

TaskError                message, exit_code, is_transient, facts
├── EvidencedError       made of evidence: what goes wrong with hosts and artifacts
└── RunError             the run, or what was asked for, failed; exit code 1
    ├── RunNotFound      no such run folder, or it lacks what is needed; exit code 2
    ├── BadRequest       the person who called can put it right, and the message says how; exit code 2
    │   ├── SettingsError  a jade.toml or a variable says something that makes no sense
    │   └── HostNotReady   the host lacks what a training needs
    ├── RentingCancelled the run ended while a machine was being rented for it
    ├── LeaseLost        another run may train the same by now, so this one stopped
    ├── TrainingFailed   the training job ended without its results
    ├── TrainingsFailed  some of a run's trainings could not be run, through no fault of their own
    └── UnitError        a training failed on a worker of a cluster
"""

from __future__ import annotations

from string import Formatter
from typing import Any, ClassVar


class TaskError(Exception):
    """Base of all errors that are raised on purpose outside of the model package.

    Args:
        message: What went wrong, where, and what to do.
        facts: The same for programs, as JSON values; `--json` prints them.
    """

    exit_code = 1
    is_transient = False
    was_asked_for = False
    """Whether a person wanted what happened: nobody needs to be alarmed."""

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts

    def __reduce__(self) -> tuple[Any, ...]:
        # Task runners pickle errors, and some are made of facts, not of a message alone.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[TaskError], args: tuple[Any, ...], evidence: dict[str, Any]) -> TaskError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(evidence)
    return error


class EvidencedError(TaskError):
    """An error that is made of evidence, which becomes its attributes, its facts and its message.

    Args:
        evidence: What `text` names, in the order in which it first names it; what is left out at the end is empty.
    """

    text: ClassVar[str] = "{message}"

    def __init__(self, *evidence: Any) -> None:
        names = dict.fromkeys((name for _, name, _, _ in Formatter().parse(self.text) if name), "")
        told = names | dict(zip(names, evidence, strict=False))
        self.__dict__.update(told)
        super().__init__(self.text.format(**told).strip(), **({} if "message" in told else told))


class RunError(TaskError):
    """The run, or what was asked for, failed."""


class RunNotFound(RunError):
    """There is no such run, or it does not hold what was asked for."""

    exit_code = 2


class BadRequest(RunError):
    """The parameters contradict each other, the data or the settings; the message says what to do."""

    exit_code = 2


class SettingsError(BadRequest):
    """A settings file or a variable is unreadable, or says something that makes no sense."""


class HostNotReady(BadRequest):
    """The host lacks what a training needs."""


class RentingCancelled(RunError):
    """The run ended while a machine was being rented for it."""


class LeaseLost(RunError):
    """Another run may train the same by now, so this one stopped."""

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(
            f"{run_id} lost its claim on its trainings: {reason}. It stopped; the same command goes on from the "
            "newest published checkpoints.",
            run_id=run_id,
            reason=reason,
        )


class TrainingFailed(RunError):
    """The training job ended without all of its results; `exit_status` is None if it was killed."""

    def __init__(self, what: str, exit_status: int | None, stderr_tail: str) -> None:
        is_killed = exit_status is None or exit_status < 0 or exit_status == 137
        ended = "was killed" if is_killed else f"exited with {exit_status}"
        super().__init__(
            f"{what}: the training process {ended}. The end of its output:\n{stderr_tail or '(nothing)'}",
            exit_status=exit_status,
            stderr_tail=stderr_tail,
        )


class TrainingsFailed(RunError):
    """Some of a run's trainings could not be run; `reasons` are different ones, each with training and place."""

    def __init__(self, failed: int, planned: int, reasons: list[str]) -> None:
        shown = "\n".join(["The same command goes on with what is missing.", *reasons[:5]])
        super().__init__(
            f"{failed} of {planned} trainings could not be run. {shown}",
            failed=failed,
            planned=planned,
            reasons=reasons,
        )


class UnitError(RunError):
    """A training failed on a worker of a cluster, with an error named `kind` over there."""

    def __init__(self, kind: str, reason: str, where: str) -> None:
        self.kind, self.reason, self.where = kind, reason, where
        super().__init__(f"{where}: {kind}: {reason}")
