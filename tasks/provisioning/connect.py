"""From a machine that was just made to one that trains: reached, its key pinned, looked over, its switch armed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.core.names import HostAddress
from tasks.core.retry import retry_transient
from tasks.hosts.errors import (
    AuthenticationFailed,
    CommandTimedOut,
    ConnectionLost,
    HostKeyMismatch,
    HostUnreachable,
)
from tasks.hosts.host import Host
from tasks.hosts.keys import fingerprint_of_line
from tasks.hosts.place import RemotePlace, check_ready
from tasks.provisioning import deadman
from tasks.provisioning.costs import LedgerEntry
from tasks.provisioning.ledger import Ledger
from tasks.provisioning.ledger_states import LeaseState
from tasks.provisioning.provider_errors import MachineLost, ProviderError, ProviderUnavailable
from tasks.provisioning.provisioner import Instance, InstanceState, Provisioner
from tasks.provisioning.rental_keys import RentalKeys

POLL_S = 3.0
CONNECT_S = 15.0
"""Then the provider is asked how the machine stands. Whoever can wait longer tries again."""
SETTLE_S = 120.0
"""How long a server may refuse our key, or show another than ours, while a machine still sets itself up."""
CALL_S = 60.0


class OpenMachine(Protocol):
    """Opens a connection to a rented machine."""

    def __call__(
        self, rental: LedgerEntry, address: HostAddress, keys: RentalKeys, pin: str | None, *, connect_timeout_s: float
    ) -> Host:
        """Return a host that connects when it is first used, to a server that shows the pinned key and no other."""
        ...


@dataclass(frozen=True)
class Lender:
    """A provider, and how its machines are used.

    Attributes:
        provisioner: Lends.
        open: Connects.
        place: Where things lie on a machine, by the provider's identifier of it.
        device: What trains there, likewise.
        start_limit_s: How long a machine may take from being made to letting us in.
        has_own_keys: Whether its machines show a host key of their own that is verified otherwise (static hosts).
        admit: Lets the address that we have now in to a machine, by the provider's identifier of it, where a machine
            admits only the address that it was made from.
    """

    provisioner: Provisioner
    open: OpenMachine
    place: Callable[[str], RemotePlace]
    device: Callable[[str], str]
    start_limit_s: float = 900.0
    has_own_keys: bool = False
    admit: Callable[[str], None] = lambda _: None


class MachineUnfit(Exception):
    """This machine is no good: it is freed, and the next candidate tried."""


@dataclass
class RentedMachine:
    """A machine that is ours and ready to train.

    Attributes:
        rental: As the ledger has it.
        host: Connected to it.
        place: Where things lie there.
        device: What trains there.
        was_attached: Whether an earlier process had rented it.
    """

    rental: LedgerEntry
    host: Host
    place: RemotePlace
    device: str
    was_attached: bool = False


@dataclass(frozen=True)
class Connector:
    """See the module.

    Attributes:
        ledger: Where each step is written down.
        lender: Whose machines.
        keys_folder: Where requests' keys lie.
        claim: Of this process.
        sleep: Waits.
    """

    ledger: Ledger
    lender: Lender
    keys_folder: Path
    claim: str
    sleep: Callable[[float], None] = time.sleep

    def keys(self, rental: LedgerEntry) -> RentalKeys:
        """Return where a rental's keys lie."""
        return RentalKeys(self.keys_folder / rental.request_id)

    def make_ready(self, rental: LedgerEntry) -> RentedMachine:
        """Take a machine from `acquired` to `ready`.

        Raises:
            MachineUnfit, HostNotReady, HostError: It is no good, or was lost.
        """
        rental, host = self._reach(rental)
        try:
            place = self.lender.place(machine_id_of(rental))
            device = self.lender.device(machine_id_of(rental))
            check_ready(host, place, device=device)
            self.arm(rental, host)
            rental = self.ledger.advance(rental.request_id, LeaseState.READY)
        except BaseException:
            host.close()
            raise
        return RentedMachine(rental, host, place, device)

    def reach_again(self, rental: LedgerEntry) -> RentedMachine:
        """Connect to a machine that another process had made ready, and look after its switch from now on.

        Raises:
            MachineUnfit, HostError: It is no good any more, or was lost.
        """
        machine = retry_transient(lambda: self.describe(rental), sleep=self.sleep)
        address = machine.address
        if machine.state is not InstanceState.RUNNING or address is None:
            raise MachineUnfit(f"it is {machine.state.value}")
        self.ledger.correct(rental.request_id, machine)
        self.admit_us(rental)
        host = self.lender.open(rental, address, self.keys(rental), rental.fingerprint, connect_timeout_s=CONNECT_S)
        try:
            self.arm(rental, host)
        except BaseException:
            host.close()
            raise
        place = self.lender.place(machine.instance_id)
        device = self.lender.device(machine.instance_id)
        return RentedMachine(rental, host, place, device, was_attached=True)

    def describe(self, rental: LedgerEntry) -> Instance:
        """Return how a machine that was acquired stands."""
        return self.lender.provisioner.describe(machine_id_of(rental))

    def admit_us(self, rental: LedgerEntry) -> None:
        """Let our present address in to a machine that was made from another; if that fails, connecting will tell."""
        with contextlib.suppress(ProviderError):
            self.lender.admit(machine_id_of(rental))

    def _reach(self, rental: LedgerEntry) -> tuple[LedgerEntry, Host]:
        """Wait until a machine lets us in, and make sure that nobody else has seen the key that it shows."""
        pin = None if self.lender.has_own_keys else self.keys(rental).first_fingerprint
        host = self._first_contact(rental, pin)
        try:
            rental = self.ledger.rental(rental.request_id)
            renew = self.lender.provisioner.scripts.renew_host_key
            if not renew or pin is None:
                return self.ledger.advance(rental.request_id, LeaseState.REACHED, fingerprint=pin), host
            # Whoever may read the request at the provider has seen this key: it serves this connection alone.
            script = f"# jade: make a new host key\n{renew}"
            answer = retry_transient(lambda: host.run(script, timeout_s=CALL_S).text, sleep=self.sleep)
            host.close()
            line = answer.strip().rpartition("\n")[2]
            try:
                pin = fingerprint_of_line(line)
            except ValueError as error:
                raise MachineUnfit(f"it gave no new host key, but {line[:80]!r}") from error
            rental = self.ledger.advance(rental.request_id, LeaseState.REACHED, fingerprint=pin)
            address = rental.address
            assert address is not None  # noqa: S101 -- the first contact was there
            host = self.lender.open(rental, address, self.keys(rental), pin, connect_timeout_s=CONNECT_S)
            retry_transient(lambda: host.run("exit 0", timeout_s=CALL_S), sleep=self.sleep)
        except BaseException:
            host.close()
            raise
        return rental, host

    def _first_contact(self, rental: LedgerEntry, pin: str | None) -> Host:
        began = self.ledger.now()
        problem = "it has no address"
        refused_since: float | None = None
        while self.ledger.now() - began < self.lender.start_limit_s:
            self.ledger.touch(rental.request_id, self.claim)
            try:
                machine = self.describe(rental)
            except ProviderUnavailable as error:
                problem = str(error)
                self.sleep(POLL_S)
                continue
            if machine.state not in {InstanceState.STARTING, InstanceState.RUNNING}:
                if machine.state is InstanceState.GONE:
                    raise MachineLost(rental.provider, machine.instance_id, machine.detail)
                raise MachineUnfit(f"it did not start: {machine.state.value} {machine.detail}".rstrip())
            if machine.state is InstanceState.RUNNING and machine.address is not None:
                self.ledger.correct(rental.request_id, machine)
                keys = self.keys(rental)
                host = self.lender.open(rental, machine.address, keys, pin, connect_timeout_s=CONNECT_S)
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
                    return host
                host.close()
            self.sleep(POLL_S)
        raise MachineUnfit(f"it did not let us in within {self.lender.start_limit_s:.0f} s: {problem}")

    def arm(self, rental: LedgerEntry, host: Host) -> None:
        """Arm a machine's dead-man switch, unless it is or the provider's machines need none.

        Raises:
            MachineUnfit: It has fired: the machine is about to go.
            HostError: It does not come up.
        """
        end = self.lender.provisioner.scripts.end
        if not end:
            return
        place = self.lender.place(machine_id_of(rental))
        left_s = rental.intended_at + rental.max_age_s - self.ledger.now()
        switch = retry_transient(
            lambda: deadman.arm(
                host,
                place.folder,
                place.jobs,
                rental.request_id,
                end=end,
                max_age_s=left_s,
                grace_s=rental.orphan_grace_s,
            ),
            sleep=self.sleep,
        )
        if switch is deadman.Switch.ENDING:
            raise MachineUnfit("it is about to end itself")


def machine_id_of(rental: LedgerEntry) -> str:
    """Return the provider's identifier of a machine that was acquired."""
    if rental.instance_id is None:
        raise ValueError(f"rental {rental.request_id} has no machine")
    return rental.instance_id
