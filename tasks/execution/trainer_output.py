"""How `python -m jade_model train` is called, and what it writes, read line by line: an event, or words for people."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jade_model.core.job import ARM_MODULE, Job, Training
from tasks.execution.base import OWN_FAULTS, Event, done, failed
from tasks.settings.models import Workers

BIGGEST_LOSS = 1e100
"""What is bigger, or no number, no trainer goes on with."""
TAIL_LINES = 40
LONGEST_NAME = 60


def trainer_command(python: str, job_json: Path, job: Job, *, device: str, workers: Workers) -> tuple[str, ...]:
    """Return what trains a job that was written to a file, a module of the user's arms beside it; it resumes."""
    command = [python, "-m", "jade_model", "train", str(job_json), "--device", device, "--resume", "--progress", "json"]
    if job.arm_module_sha256:
        command += ["--arm-module", str(job_json.with_name(ARM_MODULE))]
    if workers is not None:
        command += ["--workers", str(workers)]
    return tuple(command)


class TrainerOutput:
    """Reads what a process says that trains.

    What comes from another host need not make sense: what does not is a line for people, and nothing more.

    Args:
        trainings: That it was given.
        where: It runs, for people.
        is_remote: Whether all that it writes belongs into the run's log, and none of it is trusted with the terminal.
    """

    def __init__(self, trainings: Iterable[Training], where: str, *, is_remote: bool) -> None:
        self._where, self._is_remote = where, is_remote
        self._by_name: dict[tuple[Any, ...], Training] = {}
        self._by_folder: dict[Any, Training] = {}
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        for item in trainings:
            self._by_name[item.arm, item.dataset, item.seed, item.fold] = item
            self._by_folder[item.output_dir] = item

    @property
    def tail(self) -> str:
        """The last lines for people."""
        return "\n".join(self._tail)

    def read(self, line: str, *, may_tell: bool = True) -> tuple[Event, Event | None]:
        """Return the event of a line, and the one that it tells of, if it does.

        Args:
            line: Without its end.
            may_tell: Whether it was written where events are.
        """
        text = _printable(line) if self._is_remote else line
        try:
            told = json.loads(text) if may_tell else {}
            training = self._training_of(told)
            _check(told, training)
        except (ValueError, KeyError, TypeError, AttributeError):
            return self._line(text, "", text), None
        if told["event"] == "gpu":
            return self._line(text, "", None, gpu=_printable(str(told.get("name")))[:LONGEST_NAME]), None
        if training is None:
            return self._line(text, "", None), None
        is_refused = told["event"] == "resume_refused"
        shown = f"{training.title} starts over: {told.get('reason')}" if is_refused else None
        return self._line(text, training.run_key, shown), self._outcome(told, training)

    def _line(self, text: str, run_key: str, shown: str | None, **more: str) -> Event:
        if shown is not None:
            self._tail.append(shown)
        return Event("line", run_key, self._where, {"text": text if self._is_remote else None, "shown": shown, **more})

    def _training_of(self, told: dict[str, Any]) -> Training | None:
        """Whose event it is; None for one of the whole job."""
        if told["event"] == "failed" and told["training"]:
            return self._by_folder[told["training"]]
        if told.get("arm") is None:
            return None
        return self._by_name[tuple(told[name] for name in ("arm", "dataset", "seed", "fold"))]

    def _outcome(self, told: dict[str, Any], training: Training) -> Event | None:
        match told["event"]:
            case "epoch":
                return Event("epoch", training.run_key, self._where, told)
            case "checkpoint":
                return Event("checkpoint", training.run_key, self._where)
            case "training_done" | "training_skipped":
                return done(training.run_key, self._where, float(told.get("seconds", 0.0)))
            case "failed":
                is_own_fault = told["kind"] in OWN_FAULTS
                return failed(training.run_key, self._where, told["error"], is_own_fault=is_own_fault)
            case _:
                return None


def _check(told: dict[str, Any], training: Training | None) -> None:
    """Refuse an event that makes no sense."""
    match told["event"]:
        case "epoch" if training is not None:
            losses = (told["train_loss"], told["validation_loss"] or 0.0, told.get("validation_f1") or 0.0)
            number = told["epoch"]
            if not isinstance(number, int) or not 0 <= number <= training.recipe.training.epochs:
                raise ValueError(number)
            if not all(isinstance(loss, int | float) and abs(loss) < BIGGEST_LOSS for loss in losses):
                raise ValueError(losses)
        case "training_done" | "training_skipped":
            float(told.get("seconds", 0.0))
        case "failed" if training is not None and not (
            isinstance(told["kind"], str) and isinstance(told["error"], str)
        ):
            raise TypeError(told)
        case str():
            pass
        case other:
            raise TypeError(other)


def _printable(line: str) -> str:
    """The line of another host with nothing in it that could take over a terminal or a log."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
