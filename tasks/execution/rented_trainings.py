"""The training job of a run on rented machines: rented when there is something to train, freed whatever happens.

A machine that is taken away is replaced, and the job goes on from the last checkpoint that came here. A process that is
killed leaves its machine training for the orphan grace: the same command attaches to it, or the reaper frees it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.artifacts.publisher import Note, say
from tasks.hosts.errors import HostError
from tasks.hosts.host import Host
from tasks.hosts.place import RemotePlace
from tasks.provisioning.entries import LeaseState
from tasks.provisioning.errors import ClaimLost, HoursSpent, InstanceLost, LedgerError, Preempted
from tasks.provisioning.lease import Lease
from tasks.provisioning.rental_record import save_rental
from tasks.provisioning.renter import Renter

GOING_S = 30.0
"""A job that ends oddly on a spot machine may be the first sign that the machine goes: watch it for so long."""
LOOK_EVERY_S = 3.0


class RentedRun:
    """The machines of one run, one after the other.

    Args:
        renter: Rents.
        folder: The run's; what was rented is written there.
        note: Told what a person should know.
        sleep: Waits.
        renters: All that rent for the run, this one among them; None: this one alone.
    """

    def __init__(
        self,
        renter: Renter,
        folder: Path,
        *,
        note: Note = say,
        sleep: Callable[[float], None] = time.sleep,
        renters: Sequence[Renter] | None = None,
    ) -> None:
        self._renter, self._folder, self._note, self._sleep = renter, folder, note, sleep
        self._renters = renters or (renter,)
        self._kept: Lease | None = None
        # Renting happens on the follower's thread as well; the end waits for it.
        self._renting = threading.RLock()

    @contextmanager
    def machines(self) -> Iterator[RentedRun]:
        """Free every machine of the run in the end, whatever happens."""
        try:
            yield self
        finally:
            self.end()

    def end(self) -> None:
        """Rent no more, and free whatever this run still answers for."""
        self._renter.cancel()
        with self._renting:
            self._end_kept("the run is over")
            self._renter.release_rest("the run is over")
            self._save()

    @property
    def at_hand(self) -> Lease | None:
        """The machine that is ours now, lost or not."""
        return self._kept

    def let_go(self, why: str) -> None:
        """Free the machine that is ours now; silent if none is."""
        with self._renting:
            self._end_kept(why)
            self._save()

    def first(self) -> Lease:
        """Rent, or attach to what an earlier process of the same command has left."""
        with self._renting:
            return self._begin(self._renter.rent())

    def attach(self, beside: Collection[str]) -> Lease | None:
        """Return the machine that an earlier process of the same command has left, unless others of this run have it.

        Args:
            beside: Requests that others of this run answer for.

        Raises:
            RunError: Another process that is alive trains this on it.
        """
        with self._renting:
            lease = self._renter.attach(beside)
            if lease is not None:
                self._begin(lease)
            return self._kept

    @property
    def requests(self) -> tuple[str, ...]:
        """What this run answers for."""
        return tuple(self._renter.requests)

    def another(self) -> Lease:
        """Rent a machine that is new, in a run that may have been cancelled before.

        Raises:
            HostError, RunError, LedgerError: There is none to be had.
        """
        with self._renting:
            self._renter.resume()
            self._begin(self._renter.rent_another())
            assert self._kept is not None  # noqa: S101 -- it has begun
            return self._kept

    def cancel(self) -> None:
        """Let a renting that is under way in another thread end soon."""
        self._renter.cancel()

    def replacement(self, error: Exception) -> tuple[Host, RemotePlace] | None:
        """Return another machine if the error means that this one is lost; None if it does not.

        Raises:
            HostError, RunError: There is no other to be had.
        """
        kept = self._kept
        if kept is None or isinstance(kept.over, ClaimLost | HoursSpent) or not self.is_lost(error):
            return None
        with self._renting:
            rental = kept.entry
            self._note(f"{kept.name}: {kept.over or error} Another machine goes on from the last checkpoint.")
            if isinstance(error, Preempted):
                kept.give_up(error)
            self._end_kept("it was lost")
            self._save()
            self._note(f"{rental.provider}: {self._renter.hours_left():.2f} h are left for other machines of this run")
            lease = self._begin(self._renter.rent_another())
            return lease, lease.place

    def going(self) -> Preempted | None:
        """Return what its provider has said if the machine is about to be taken away."""
        return None if self._kept is None else self._kept.preempted

    def _begin(self, lease: Lease) -> Lease:
        self._kept = lease
        if self._renter.ledger.entry(lease.entry.request_id).state is LeaseState.READY:
            self._renter.ledger.advance(lease.entry.request_id, LeaseState.BUSY)
        lease.start_heartbeat()
        self._save()
        return lease

    def is_lost(self, error: Exception) -> bool:
        """Whether an error means that the machine that is ours now will not come back."""
        kept = self._kept
        if kept is None or kept.over is not None or isinstance(error, InstanceLost):
            return True
        if not isinstance(error, HostError):
            return False
        # A machine that is taken away ends its processes first: their end sounds like anything.
        looks = int(GOING_S / LOOK_EVERY_S) if kept.entry.spot else 1
        for look in range(looks):
            if look:
                self._sleep(LOOK_EVERY_S)
            try:
                kept.look()
            except InstanceLost:
                return True
        return False

    def _end_kept(self, why: str) -> None:
        kept, self._kept = self._kept, None
        if kept is None:
            return
        kept.stop_heartbeat()
        kept.close()
        rental = self._renter.ledger.entry(kept.entry.request_id)
        if isinstance(kept.over, ClaimLost):
            self._note(f"{kept.name}: {kept.over}")
            self._renter.forget(rental)
        elif isinstance(kept.over, InstanceLost):
            self._renter.settle_lost(rental, str(kept.over))
        else:
            self._renter.release(rental, str(kept.over or why))

    def _save(self) -> None:
        try:
            save_rental(self._folder, self._renters)
        except (LedgerError, OSError) as error:
            self._note(f"what was rented could not be written to {self._folder}: {error}")
