"""Lanes of rented machines: each has one at a time, replaced when it is lost, and freed whatever happens.

What a lane rents is written to the ledger first: `jade reap` frees what a process that was killed has left, unless the
same run comes again before, attaches to it, and goes on with what trains there.
"""

from __future__ import annotations

import threading
from pathlib import Path

from jade_model.core.job import Job
from tasks.artifacts.publisher import Note, say
from tasks.execution.base import pending_trainings
from tasks.execution.lanes import Station
from tasks.execution.placement import Placement
from tasks.execution.rented_trainings import RentedRun
from tasks.provisioning.errors import ClaimLost, HoursSpent
from tasks.provisioning.ledger import Purpose
from tasks.provisioning.registry import Registry
from tasks.settings.models import Workers

IDLE_S = 120.0
"""Another minute or two of a machine costs less than a new one takes to start."""
MOST_IN_VAIN = 3
"""Machines one after the other that were lost before they had done anything."""


class Siblings:
    """The lanes of one run, which must not attach to the same machine.

    Attributes:
        attaching: Held by the one that attaches.
        runs: Of each lane.
    """

    def __init__(self) -> None:
        self.attaching = threading.Lock()
        self.runs: list[RentedRun] = []


class RentedLane:
    """See `Lane`.

    Args:
        name: For people, and for the queue.
        run: Rents, one machine after the other.
        device: Where it trains there; None: as the provider's machines do.
        workers: Trainings at once; None: as many as a machine does by itself.
        note: Told what a person should know.
        siblings: All lanes of the run, this one among them; they attach one after the other.
        idle_s: See `Lane`.
    """

    def __init__(
        self,
        name: str,
        run: RentedRun,
        *,
        device: str | None,
        workers: Workers,
        note: Note = say,
        siblings: Siblings | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        self.name, self.workers, self.idle_s = name, workers, idle_s
        self._run, self._device, self._note = run, device, note
        self._in_vain, self._may_attach = 0, True
        self._siblings = siblings or Siblings()
        self._siblings.runs.append(run)

    def open(self) -> Station:
        """See `Lane.open`."""
        kept = self._run.at_hand
        if self._may_attach:
            self._may_attach = False
            with self._siblings.attaching:
                others = [request for run in self._siblings.runs if run is not self._run for request in run.requests]
                kept = self._run.attach(others)
        if kept is None or kept.over is not None:
            if kept is not None:
                self._run.let_go("it was lost")
            kept = self._run.another()
        return Station(
            kept,
            kept.place,
            self._device or kept.device,
            costs=kept.entry.price_usd_per_hour > 0,
            is_ready=True,
            is_ours_alone=True,
            must_leave=self._run.going,
        )

    def is_lost(self, error: Exception) -> bool:
        """See `Lane`."""
        return self._run.is_lost(error)

    def retire(self, why: str, *, has_worked: bool) -> bool:
        """See `Lane`."""
        kept = self._run.at_hand
        over = kept.over if kept is not None else None
        self._run.let_go(why)
        if isinstance(over, ClaimLost | HoursSpent):
            self._note(f"{self.name}: {over}")
            return False
        self._in_vain = 0 if has_worked else self._in_vain + 1
        if self._in_vain >= MOST_IN_VAIN:
            self._note(f"{self.name}: {MOST_IN_VAIN} machines in a row have done nothing; no other is rented")
            return False
        self._note(f"{self.name}: {why} Another machine takes its place.")
        return True

    def rest(self, *, is_over: bool) -> None:
        """See `Lane`."""
        if not is_over:
            self._run.let_go("there is nothing more for it")

    def cancel(self) -> None:
        """See `Lane`."""
        self._run.cancel()

    def close(self) -> None:
        """See `Lane`."""
        self._run.end()


def rented_lanes(
    placement: Placement, registry: Registry, folder: Path, job: Job, *, flow_run_id: str, note: Note = say
) -> list[RentedLane]:
    """Return as many lanes as the placement asks for; nothing is rented before they are opened.

    Args:
        placement: What is rented, and how it trains there.
        registry: Who rents out.
        folder: The run's.
        job: What the run trains.
        flow_run_id: The run in Prefect, by which its machines can be found.
        note: Told what a person should know.

    Raises:
        BadRequest, ProviderRefused: As `Registry.provider`.
    """
    provider = placement.provider
    if provider is None:
        return []
    served = Purpose(folder.name, flow_run_id, tuple(pending_trainings(job, folder)))
    renters = [registry.renter(provider, placement.rental, served, note=note) for _ in range(placement.machines)]
    siblings = Siblings()
    return [
        RentedLane(
            f"{provider}-{number}",
            RentedRun(renter, folder, note=note, renters=renters),
            device=placement.device,
            workers=placement.workers,
            note=note,
            siblings=siblings,
        )
        for number, renter in enumerate(renters, start=1)
    ]
