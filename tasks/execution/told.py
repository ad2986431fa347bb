"""What `python -m jade_model train --progress json` writes, read line by line: an event, or something for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jade_model.core.job import Training
from tasks.execution.base import OWN_FAULTS, Event, failed

BIGGEST_LOSS = 1e100
"""What is bigger, or no number, no trainer goes on with."""

LONGEST_NAME = 60


@dataclass(frozen=True)
class Told:
    """An event of the trainer.

    Attributes:
        what: `epoch`, `checkpoint`, `training_done`, `training_skipped`, `failed`, `resume_refused`, `gpu`, or another.
        training: Whose; None for one of the whole job.
        data: All of it.
    """

    what: str
    training: Training | None
    data: dict[str, Any]


class Trainer:
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
        for item in trainings:
            self._by_name[item.arm, item.dataset, item.seed, item.fold] = item
            self._by_folder[item.output_dir] = item

    def read(self, line: str) -> Told | None:
        """Return the event that a line is; None if it is for people."""
        try:
            event = json.loads(line)
            what, told = event["event"], event.get("arm") is not None
            if not isinstance(what, str):
                return None
            if what == "failed" and event["training"]:
                if not isinstance(event["kind"], str) or not isinstance(event["error"], str):
                    return None
                return Told(what, self._by_folder[event["training"]], event)
            if not told:
                return Told(what, None, event)
            training = self._by_name[tuple(event[name] for name in ("arm", "dataset", "seed", "fold"))]
            if what == "epoch" and not _is_epoch(event, training):
                return None
            if what in {"training_done", "training_skipped"}:
                event["seconds"] = float(event.get("seconds", 0.0))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return Told(what, training, event)

    def line(self, text: str, told: Told | None) -> Event:
        """Return the event of a line."""
        shown: str | None = text if told is None else None
        if told is not None and told.what == "resume_refused" and told.training is not None:
            shown = f"{told.training.title} starts over: {told.data.get('reason')}"
        run_key = told.training.run_key if told is not None and told.training is not None else ""
        data: dict[str, Any] = {"text": text if self._is_remote else None, "shown": shown}
        if told is not None and told.what == "gpu":
            data["gpu"] = printable(str(told.data.get("name")))[:LONGEST_NAME]
        return Event("line", run_key, self._where, data)

    def event(self, told: Told) -> Event | None:
        """Return what an event of the trainer is, where it needs nothing of ours; None otherwise."""
        if told.training is None:
            return None
        run_key = told.training.run_key
        if told.what == "epoch":
            return Event("epoch", run_key, self._where, told.data)
        if told.what == "failed":
            is_own_fault = told.data["kind"] in OWN_FAULTS
            return failed(run_key, self._where, told.data["error"], is_own_fault=is_own_fault)
        return None


def _is_epoch(event: dict[str, Any], training: Training) -> bool:
    number, losses = event["epoch"], (event["train_loss"], event["validation_loss"] or 0.0)
    in_range = isinstance(number, int) and 0 <= number <= training.recipe.training.epochs
    return in_range and all(isinstance(loss, int | float) and abs(loss) < BIGGEST_LOSS for loss in losses)


def printable(line: str) -> str:
    """Return a line of another host with nothing in it that could take over a terminal or a log."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
