"""Lanes of rented machines: each has one at a time, replaced when it is lost, and freed whatever happens.

What a lane rents is written to the ledger first, as for a comparison on one rented machine: `jade reap` frees what a
process that was killed has left. Nobody attaches to such a machine, for what it trains is decided batch by batch.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

from tasks.artifacts.publisher import Note, say
from tasks.execution.lanes import Station
from tasks.execution.placement import Placement
from tasks.execution.rented_trainings import RentedRun
from tasks.provisioning.errors import ClaimLost, HoursSpent
from tasks.provisioning.ledger import Purpose
from tasks.provisioning.registry import Registry
from tasks.settings.host_entries import Workers

IDLE_S = 120.0
"""Another minute or two of a machine costs less than a new one takes to start."""
LOOK_EVERY_S = 5.0
MOST_IN_VAIN = 3
"""Machines one after the other that were lost before they had done anything."""


class RentedLane:
    """See `Lane`.

    Args:
        name: For people, and for the queue.
        run: Rents, one machine after the other.
        device: Where it trains there; None: as the provider's machines do.
        workers: Trainings at once; None: as many as a machine does by itself.
        note: Told what a person should know.
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
        idle_s: float = IDLE_S,
    ) -> None:
        self.name, self.workers, self.idle_s = name, workers, idle_s
        self._run, self._device, self._note = run, device, note
        self._in_vain, self._looked_at = 0, -math.inf

    def open(self) -> Station:
        """See `Lane`."""
        kept = self._run.at_hand
        if kept is None or kept.over is not None:
            if kept is not None:
                self._run.let_go("it was lost")
            kept = self._run.another()
        price = kept.entry.price_usd_per_hour
        device = self._device or kept.device
        return Station(kept, kept.place, device, price, is_ready=True, must_leave=self._run.going)

    def look(self) -> None:
        """See `Lane`."""
        kept, now = self._run.at_hand, time.monotonic()
        if kept is not None and now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            kept.look()

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
    placement: Placement, registry: Registry, folder: Path, *, flow_run_id: str, note: Note = say
) -> list[RentedLane]:
    """Return as many lanes as the placement asks for; nothing is rented before they are opened.

    Raises:
        BadRequest, ProviderRefused: As `Registry.provider`.
    """
    provider = placement.provider
    if provider is None:
        return []
    served = Purpose(folder.name, flow_run_id)
    renters = [registry.renter(provider, placement.rental, served, note=note) for _ in range(placement.machines)]
    return [
        RentedLane(
            f"{provider}-{number}",
            RentedRun(renter, folder, "", note=note, renters=renters),
            device=placement.device,
            workers=placement.workers,
            note=note,
        )
        for number, renter in enumerate(renters, start=1)
    ]
