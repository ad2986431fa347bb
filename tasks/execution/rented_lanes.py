"""Lanes of rented machines: each has one at a time, replaced when it is lost, and freed whatever happens.

What a lane rents is written to the ledger first: `jade reap` frees what a process that was killed has left, unless the
same run comes again before, attaches to it, and goes on with what trains there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from jade_model.core.job import Job
from tasks.artifacts.training_cache import say
from tasks.execution.base import pending_trainings
from tasks.execution.lanes import Lane, Station
from tasks.execution.placement import Placement, Where
from tasks.hosts.errors import HostError
from tasks.provisioning.entries import LeaseState
from tasks.provisioning.errors import ClaimLost, HoursSpent, InstanceLost, LedgerError
from tasks.provisioning.lease import Lease
from tasks.provisioning.ledger import Purpose
from tasks.provisioning.registry import Registry
from tasks.provisioning.rental_record import save_rental
from tasks.provisioning.renter import Renter

IDLE_S = 120.0
"""Another minute or two of a machine costs less than a new one takes to start."""
MOST_IN_VAIN = 3
"""Machines one after the other that were lost before they had done anything."""
GOING_S = 30.0
"""A job that ends oddly on a spot machine may be the first sign that the machine goes: watch it for so long."""
LOOK_EVERY_S = 3.0

_ATTACHING = threading.Lock()
"""Held by the lane that attaches: two of a run must not take the same machine for theirs."""


class RentedLane(Lane):
    """Machines that are rented, one at a time.

    Args:
        name: For people, and for the queue.
        renter: Rents for this lane alone.
        folder: The run's; what was rented is written there.
        where: What trains there, and how many at once.
        renters: Of all lanes of the run, this one among them; None: this one alone.
    """

    idle_s = IDLE_S

    def __init__(
        self,
        name: str,
        renter: Renter,
        folder: Path,
        where: Where,
        *,
        renters: Sequence[Renter] | None = None,
    ) -> None:
        self.name = name
        self._renter, self._folder, self._where = renter, folder, where
        self._renters = renters or (renter,)
        self._lease: Lease | None = None
        self._in_vain, self._may_attach = 0, True
        # Renting happens on the lane's thread; the end waits for it.
        self._renting = threading.RLock()

    @property
    def lease(self) -> Lease | None:
        """The machine that is ours now, lost or not."""
        return self._lease

    def open(self, is_over: Callable[[], bool]) -> Station:
        """Attach to the machine that an earlier process of the run left, else rent one; a lost one is let go first."""
        with self._renting:
            self._renter.is_over = is_over
            if self._lease is not None and self._lease.over is not None:
                self._let_go("it was lost")
            if self._lease is None:
                self._renter.pause(0.0)
                self._begin(self._attached() or self._renter.rent())
            lease = self._lease
            assert lease is not None  # noqa: S101 -- it has begun
        return Station(
            self.name,
            lease,
            self._where.applied_to(lease.place),
            costs=lease.entry.price_usd_per_hour > 0,
            is_rented=True,
            must_leave=lambda: lease.preempted,
        )

    def is_lost(self, error: Exception) -> bool:
        """Ask the provider whether the machine is gone; a spot machine for a while, for its processes end first."""
        lease = self._lease
        if lease is None or lease.over is not None or isinstance(error, InstanceLost):
            return True
        if not isinstance(error, HostError):
            return False
        # A machine that is taken away ends its processes first: their end sounds like anything.
        looks = int(GOING_S / LOOK_EVERY_S) if lease.entry.spot else 1
        for look in range(looks):
            if look:
                self._renter.sleep(LOOK_EVERY_S)
            try:
                lease.look()
            except InstanceLost:
                return True
        return False

    def retire(self, why: str, *, has_worked: bool) -> bool:
        """End the machine; another may be rented while the claim holds, hours are left and machines do something."""
        over = self._lease.over if self._lease is not None else None
        self._let_go(why)
        if isinstance(over, ClaimLost | HoursSpent):
            self._renter.note(f"{self.name}: {over}")
            return False
        self._in_vain = 0 if has_worked else self._in_vain + 1
        if self._in_vain >= MOST_IN_VAIN:
            self._renter.note(f"{self.name}: {MOST_IN_VAIN} machines in a row have done nothing; no other is rented")
            return False
        hours = self._renter.hours_left()
        self._renter.note(
            f"{self.name}: {why} Another machine goes on from the last checkpoint; {hours:.2f} h are left."
        )
        return True

    def rest(self, why: str, *, is_over: bool) -> None:
        """End the machine if it is not needed; between rounds it is kept."""
        if not is_over:
            self._let_go(why)

    def close(self) -> None:
        """End the machine, and whatever else was requested for this lane; returns once the provider denies it."""
        with self._renting:
            self._let_go("the run is over")
            self._renter.release_rest("the run is over")
            self._save()

    def _attached(self) -> Lease | None:
        """Return the machine that an earlier process of the same run has left, once; None if there is none."""
        if not self._may_attach:
            return None
        self._may_attach = False
        with _ATTACHING:
            return self._renter.attach([item for each in self._renters for item in each.requests])

    def _begin(self, lease: Lease) -> None:
        self._lease = lease
        if self._renter.ledger.entry(lease.entry.request_id).state is LeaseState.READY:
            self._renter.ledger.advance(lease.entry.request_id, LeaseState.BUSY)
        lease.start_heartbeat()
        self._save()

    def _let_go(self, why: str) -> None:
        """Free the machine that is ours now; silent if none is."""
        with self._renting:
            lease, self._lease = self._lease, None
            if lease is None:
                return
            self._renter.end(lease, why)
            self._save()

    def _save(self) -> None:
        try:
            save_rental(self._folder, self._renters)
        except (LedgerError, OSError) as error:
            self._renter.note(f"what was rented could not be written to {self._folder}: {error}")


def rented_lanes(
    placement: Placement, registry: Registry, folder: Path, job: Job, *, flow_run_id: str
) -> list[RentedLane]:
    """Return as many lanes as the placement asks for; nothing is rented before they are opened.

    Args:
        placement: What is rented, and how it trains there.
        registry: Who rents out.
        folder: The run's.
        job: What the run trains.
        flow_run_id: The run in Prefect, by which its machines can be found.

    Raises:
        BadRequest, ProviderRefused: As `Registry.provider`.
    """
    provider = placement.provider
    if provider is None:
        return []
    purpose = Purpose(folder.name, flow_run_id, tuple(pending_trainings(job.trainings, folder)))
    renters = [registry.renter(provider, placement.rental, purpose, note=say) for _ in range(placement.machines)]
    return [
        RentedLane(f"{provider}-{number}", renter, folder, placement, renters=renters)
        for number, renter in enumerate(renters, start=1)
    ]
