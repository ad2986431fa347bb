"""Where trainings run, as the rest of the program sees it: given units, an engine tells of each how it ended.

The unit of work is one training. It is idempotent by its run key: an engine may try it several times, or in two places
at once, and what counts is the first result whose files are in the run's folder and agree with their manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jade_model.core.job import Training


@dataclass(frozen=True)
class UnitDone:
    """A training whose files are in the run's folder, verified.

    Attributes:
        run_key: Of the training.
        where: Host, worker or process that did it, for people.
        seconds: That the training itself took; 0 if it was kept from an earlier run.
    """

    run_key: str
    where: str
    seconds: float


@dataclass(frozen=True)
class UnitFailed:
    """A training that will not be done in this run.

    Attributes:
        run_key: Of the training.
        where: Where it was tried last.
        reason: For people.
        is_own_fault: Whether the training itself failed (it diverged, its recipe cannot be trained), so that it would
            fail anywhere; else whoever ran it did.
        attempts: How often it was tried.
    """

    run_key: str
    where: str
    reason: str
    is_own_fault: bool
    attempts: int = 1


Outcome = UnitDone | UnitFailed


OnEpoch = Callable[[dict[str, Any]], None]


def unheard(event: dict[str, Any]) -> None:
    """Nobody wants to know of epochs."""


class Engine(Protocol):
    """Runs trainings of one run's job; open one with `tasks.execution.opening.open_engine`, which also ends it.

    Attributes:
        on_epoch: Told of epochs as they end, from any thread, with the event as the trainer tells it; not of each where
            many end in a second. It must not raise.
    """

    on_epoch: OnEpoch

    def run(self, trainings: Sequence[Training]) -> Iterator[Outcome]:
        """Run trainings and tell of each how it ended, as they end, in any order, each once.

        When a `UnitDone` is given out, the training's files are in the run's folder and agree with their manifest; one
        that lies there already is not trained again. A training that fails does not stop the others. May be called
        again once the iterator is exhausted. An iterator that is closed early stops what it started.

        Raises:
            RunError, HostError: Nothing can run at all, such as no host that can train.
        """
        ...

    def stop(self) -> None:
        """End what runs. Returns once nothing of it does, or says what may still run. Silent if nothing does."""
        ...
