"""Where trainings run, as the rest of the program sees it: given units, an engine tells of each how it ended.

The unit of work is one training. It is idempotent by its run key: an engine may try it several times, or in two places
at once, and what counts is the first result whose files are in the run's folder and agree with their manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from jade_model.core.job import Training
from tasks.core.errors import BadRequest
from tasks.provisioning.rental_wish import RentalWish
from tasks.settings.host_entries import LOCAL, PROVIDERS

EngineName = Literal["processes", "dask", "hosts"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)


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


@dataclass(frozen=True)
class EngineSettings:
    """Where and how trainings run.

    Attributes:
        engine: Which one.
        device: `cpu` or `cuda`; None: the host's own setting, the CPU on this machine.
        workers: Trainings at once, on each host; None: one a core, or one on a GPU.
        scheduler: Address of a Dask scheduler; None: a cluster on this machine for the time of the run.
        hosts: Names of hosts from the settings.
        rent: Machines that are rented beside them, at most so many at once.
        wish: What is rented, with limits that hold for each of them; its budget is for all. None: nothing.
    """

    engine: EngineName = "processes"
    device: str | None = None
    workers: int | None = None
    scheduler: str | None = None
    hosts: tuple[str, ...] = field(default_factory=tuple)
    rent: int = 0
    wish: RentalWish | None = None

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.engine != "dask":
            raise BadRequest(f"scheduler belongs to engine dask; the engine is {self.engine}")
        if self.hosts and self.engine != "hosts":
            raise BadRequest(f"hosts belong to engine hosts; the engine is {self.engine}")
        if self.rent and self.engine != "hosts":
            raise BadRequest(f"rent belongs to engine hosts; the engine is {self.engine}")
        if bool(self.rent) != (self.wish is not None):
            raise BadRequest(f"--rent N and --provider {' or '.join(PROVIDERS)} belong together")
        if self.engine == "hosts" and not self.hosts and not self.rent:
            raise BadRequest(
                "engine hosts needs hosts: --hosts a,b,c (`jade hosts list` shows them), or --rent N --provider runpod"
            )
        if len(set(self.hosts)) != len(self.hosts):
            raise BadRequest(f"a host is named twice: {', '.join(self.hosts)}")
        if LOCAL in self.hosts:
            raise BadRequest(f"{LOCAL!r} is this machine: engine processes trains on it; engine hosts goes over SSH")
