"""What the fleet serves: one place after the other where trainings go on, of one's own or rented."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from tasks.hosts.errors import HostError
from tasks.hosts.host import Host, RemotePlace

MustLeave = Callable[[], HostError | None]


@dataclass(frozen=True)
class Station:
    """A host that a lane has now.

    Attributes:
        name: Of the lane.
        host: Connects when it is first used.
        place: How it is used.
        costs: Whether it costs something while the lane has it.
        is_rented: Whether it was looked over when it was rented.
        must_leave: Says why it is lost in a moment, if it is.
    """

    name: str
    host: Host
    place: RemotePlace
    costs: bool = False
    is_rented: bool = False
    must_leave: MustLeave = lambda: None


class Lane(ABC):
    """A place for one host, which may be another one later. One thread at a time opens, replaces and rests it.

    Attributes:
        name: For people, and for the queue.
        idle_s: How long its host is kept when there is nothing for it, in case that others are lost.
    """

    name: str
    idle_s: float = 0.0

    @abstractmethod
    def open(self, is_over: Callable[[], bool]) -> Station:
        """Return the host that is at hand, or get one: the one that an earlier process of the same run has left first.

        Args:
            is_over: Tells whether it is wanted no more: what takes long ends soon then.

        Raises:
            HostError, RunError, LedgerError: There is none to be had.
        """

    def is_lost(self, error: Exception) -> bool:  # noqa: ARG002 - most come back
        """Whether the error means that the host will never answer again."""
        return False

    def retire(self, why: str, *, has_worked: bool) -> bool:  # noqa: ARG002 - most have no other
        """Give up the host that is lost or no good; return whether `open` may be asked for another."""
        return False

    @abstractmethod
    def rest(self, why: str, *, is_over: bool) -> None:
        """The host is not needed now; if the round is over, more may come soon. Silent if there is none."""

    def close(self) -> None:
        """Let go of the host for good. Returns once it costs nothing, or says what may still cost."""
        self.rest("the run is over", is_over=True)


@dataclass
class HostLane(Lane):
    """A host of the settings: it is there or not, it may come back, and there is no other.

    Attributes:
        name: Of the host.
        connect: Gives a connection that the lane closes.
        place: How the host is used.
    """

    name: str
    connect: Callable[[], Host]
    place: RemotePlace
    _host: Host | None = field(default=None, init=False, repr=False)

    def open(self, is_over: Callable[[], bool]) -> Station:  # noqa: ARG002 - it takes no time
        """Connect, the first time; afterwards the host is the same."""
        self._host = self._host or self.connect()
        return Station(self.name, self._host, self.place)

    def rest(self, why: str, *, is_over: bool) -> None:  # noqa: ARG002 - a connection is made anew at no cost
        """Close the connection: it is made anew at no cost."""
        host, self._host = self._host, None
        if host is not None:
            host.close()
