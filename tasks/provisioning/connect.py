"""From a machine that was just made to one that trains: reached, its key pinned, looked over, its switch armed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tasks.core.names import HostAddress
from tasks.core.retry import retry_transient
from tasks.hosts.errors import (
    AuthenticationFailed,
    CommandTimedOut,
    ConnectionLost,
    HostError,
    HostKeyMismatch,
    HostUnreachable,
)
from tasks.hosts.host import Host, RemotePlace
from tasks.hosts.keys import fingerprint_of_line
from tasks.hosts.preflight import check_ready
from tasks.provisioning import deadman
from tasks.provisioning.entries import TOUCH_EVERY_S, LeaseState, LedgerEntry
from tasks.provisioning.errors import InstanceLost, LedgerError, ProviderError, ProviderUnavailable
from tasks.provisioning.keys import RentalKeys
from tasks.provisioning.ledger import Ledger
from tasks.provisioning.provisioner import InstanceState, Provisioner, Timing

POLL_S = 3.0
SETTLE_S = 120.0
"""How long a server may refuse our key, or show another than ours, while a machine still sets itself up."""
CALL_S = 60.0

Note = Callable[[str], None]


class OpenInstance(Protocol):
    """Opens a connection to a rented machine."""

    def __call__(
        self, entry: LedgerEntry, address: HostAddress, keys: RentalKeys, pin: str | None, *, connect_timeout_s: float
    ) -> Host:
        """Return a host that connects when it is first used, to a server that shows the pinned key and no other."""
        ...


@dataclass(frozen=True)
class Provider:
    """A provisioner, and how its machines are used.

    Attributes:
        provisioner: Lends.
        open: Connects.
        place: How a machine is used, by the provider's identifier of it.
        timing: How long one waits.
        has_own_keys: Whether its machines show a host key of their own that is verified otherwise (static hosts).
        admit: Lets the address that we have now in to a machine, by the provider's identifier of it, where a machine
            admits only the address that it was made from.
    """

    provisioner: Provisioner
    open: OpenInstance
    place: Callable[[str], RemotePlace]
    timing: Timing = field(default_factory=Timing)
    has_own_keys: bool = False
    admit: Callable[[str], None] = lambda _: None


@dataclass
class Connector:
    """Takes a machine from `provisioning` to `ready`, or connects to one that is.

    Attributes:
        ledger: Where each step is written down.
        lender: Whose machines.
        keys_folder: Where requests' keys lie.
        claim: Of this process.
        note: Told what a person should know.
        sleep: Waits.
    """

    ledger: Ledger
    lender: Provider
    keys_folder: Path
    claim: str
    note: Note
    sleep: Callable[[float], None] = time.sleep

    def pause(self, seconds: float) -> None:
        """Wait, unless there is no more to wait for."""
        self.sleep(seconds)

    @contextlib.contextmanager
    def claimed(self, request_id: str) -> Iterator[None]:
        """Give signs of life for a request while the block lasts, however long its single calls take."""
        is_over = threading.Event()

        def touch() -> None:
            while not is_over.wait(TOUCH_EVERY_S):
                with contextlib.suppress(LedgerError):  # whoever takes the next step notices, too
                    self.ledger.touch(request_id, self.claim)

        thread = threading.Thread(target=touch, daemon=True, name=f"claim-{request_id}")
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def keys(self, entry: LedgerEntry) -> RentalKeys:
        """Return where a request's keys lie."""
        return RentalKeys(self.keys_folder / entry.request_id)

    def connect(self, entry: LedgerEntry) -> tuple[LedgerEntry, Host]:
        """Wait until a new machine lets us in, look it over and arm its switch.

        Raises:
            HostNotReady, HostError: It is no good, or was lost.
        """
        entry, host = self._reach(entry)
        try:
            check_ready(host, self.lender.place(entry.machine))
            self.arm(entry, host)
            return self.ledger.advance(entry.request_id, LeaseState.READY), host
        except BaseException:
            host.close()
            raise

    def connect_again(self, entry: LedgerEntry) -> tuple[LedgerEntry, Host]:
        """Connect to a machine that another process had made ready, and look after its switch from now on.

        Raises:
            HostError: It is no good any more, or was lost.
        """
        instance = retry_transient(lambda: self.lender.provisioner.describe(entry.machine), sleep=self.pause)
        if instance.state is not InstanceState.RUNNING or instance.address is None:
            raise HostError(f"it is {instance.state.value}")
        entry = self.ledger.correct(entry.request_id, instance)
        self.admit(entry)
        host = self.open(entry)
        try:
            self.arm(entry, host)
        except BaseException:
            host.close()
            raise
        return entry, host

    def open(self, entry: LedgerEntry, pin: str | None = None) -> Host:
        """Return a connection to a machine whose address is known; by default to the key that is pinned."""
        assert entry.address is not None  # noqa: S101 -- it runs
        return self.lender.open(
            entry,
            entry.address,
            self.keys(entry),
            pin or entry.fingerprint,
            connect_timeout_s=self.lender.timing.connect_s,
        )

    def admit(self, entry: LedgerEntry) -> None:
        """Let our present address in to a machine that was made from another; if that fails, connecting will tell."""
        with contextlib.suppress(ProviderError):
            self.lender.admit(entry.machine)

    def arm(self, entry: LedgerEntry, host: Host) -> None:
        """Arm a machine's dead-man switch, unless it is or the provider's machines need none.

        Raises:
            HostError: It does not come up; or it has fired, and the machine is about to go.
        """
        end = self.lender.provisioner.scripts.end
        if not end:
            return
        place = self.lender.place(entry.machine)
        left_s = entry.requested_at + entry.max_age_s - self.ledger.now()
        switch = retry_transient(
            lambda: deadman.arm(
                host,
                place.folder,
                place.jobs,
                entry.request_id,
                end=end,
                max_age_s=left_s,
                grace_s=entry.orphan_grace_s,
            ),
            sleep=self.pause,
        )
        if switch is deadman.Switch.ENDING:
            raise HostError("it is about to end itself")

    def _reach(self, entry: LedgerEntry) -> tuple[LedgerEntry, Host]:
        """Wait until a machine lets us in, and make sure that nobody else has seen the key that it shows."""
        pin = None if self.lender.has_own_keys else self.keys(entry).first_fingerprint
        entry, host = self._first_contact(entry, pin)
        try:
            renew = self.lender.provisioner.scripts.renew_host_key
            if pin is None:
                return entry, host
            if renew:
                # Whoever may read the request at the provider has seen this key: it serves this connection alone.
                script = f"# jade: make a new host key\n{renew}"
                answer = retry_transient(lambda: host.run(script, timeout_s=CALL_S).text, sleep=self.pause)
                host.close()
                line = answer.strip().rpartition("\n")[2]
                try:
                    pin = fingerprint_of_line(line)
                except ValueError as error:
                    raise HostError(f"it gave no new host key, but {line[:80]!r}") from error
            entry = self.ledger.correct(entry.request_id, fingerprint=pin)
            if renew:
                host = self.open(entry)
                retry_transient(lambda: host.run("exit 0", timeout_s=CALL_S), sleep=self.pause)
        except BaseException:
            host.close()
            raise
        return entry, host

    def _first_contact(self, entry: LedgerEntry, pin: str | None) -> tuple[LedgerEntry, Host]:
        began, limit_s = self.ledger.now(), self.lender.timing.start_limit_s
        problem, refused_since = "it has no address", None
        while self.ledger.now() - began < limit_s:
            self.ledger.touch(entry.request_id, self.claim)
            try:
                instance = self.lender.provisioner.describe(entry.machine)
            except ProviderUnavailable as error:
                problem = str(error)
                self.pause(POLL_S)
                continue
            if instance.state is InstanceState.GONE:
                raise InstanceLost(entry.provider, f"machine {instance.instance_id}", instance.detail)
            if instance.state not in {InstanceState.STARTING, InstanceState.RUNNING}:
                raise HostError(f"it did not start: {instance.state.value} {instance.detail}".rstrip())
            if instance.state is InstanceState.RUNNING and instance.address is not None:
                entry = self.ledger.correct(entry.request_id, instance)
                host = self.open(entry, pin)
                try:
                    host.run("exit 0", timeout_s=CALL_S)
                except (HostUnreachable, ConnectionLost, CommandTimedOut) as error:
                    problem = str(error)
                except (HostKeyMismatch, AuthenticationFailed) as error:
                    # Nothing was sent. A server that is up before the machine has read our keys sounds like this.
                    refused_since = refused_since or self.ledger.now()
                    if self.ledger.now() - refused_since > SETTLE_S:
                        raise
                    problem = str(error)
                else:
                    return entry, host
                host.close()
            self.pause(POLL_S)
        raise HostError(f"it did not let us in within {limit_s:.0f} s: {problem}")
