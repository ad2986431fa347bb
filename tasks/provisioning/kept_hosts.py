"""A rented machine while it trains: kept by signs of life; given up when lost, out of time, or somebody else's.

A spot machine is also asked whether its provider is about to take it away: who follows its job then has a moment left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tasks.hosts.errors import HostError, HostUnreachable
from tasks.hosts.host import CommandResult, FileEntry, Host, Progress
from tasks.provisioning import deadman
from tasks.provisioning.claims import TOUCH_EVERY_S
from tasks.provisioning.connect import CONNECT_S, Connector, RentedMachine
from tasks.provisioning.costs import HOUR_S
from tasks.provisioning.ledger_errors import ClaimLost, LedgerError
from tasks.provisioning.provider_errors import HoursSpent, MachineGoing, MachineLost, ProviderError
from tasks.provisioning.provisioner import InstanceState

T = TypeVar("T")
NOTICE_EVERY_S = 5.0
"""What a provider announces comes two minutes before; AWS advises to look this often."""
NOTICE_CALL_S = 20.0


class LeasedHost:
    """The `Host` of a rented machine.

    Once it is over, every call raises why; until then calls are those of the connection to it, which is made anew where
    the machine has moved.

    Args:
        rented: Ready to train.
        connector: How it was reached.
        note: Told what a person should know.
    """

    def __init__(self, rented: RentedMachine, connector: Connector, note: Callable[[str], None]) -> None:
        self.rented = rented
        self.over: ClaimLost | HoursSpent | MachineLost | None = None
        self.going: MachineGoing | None = None
        self._reaching, self._note = connector, note
        self._host: Host = rented.host
        self._address = rented.rental.address
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._keep, daemon=True, name=f"keep-{rented.rental.request_id}")]
        if rented.rental.spot and connector.lender.provisioner.scripts.notice:
            watcher = threading.Thread(target=self._watch, daemon=True, name=f"watch-{rented.rental.request_id}")
            self._threads.append(watcher)

    @property
    def name(self) -> str:
        """See `Host`."""
        return self._host.name

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        """See `Host`."""
        return self._call(lambda host: host.run(command, timeout_s=timeout_s, stdin=stdin, check=check))

    def put(
        self, files: Mapping[str, Path], folder: str, *, timeout_s: float, progress: Progress | None = None
    ) -> tuple[FileEntry, ...]:
        """See `Host`."""
        return self._call(lambda host: host.put(files, folder, timeout_s=timeout_s, progress=progress))

    def get(
        self,
        entries: Sequence[FileEntry],
        folder: str,
        into: Path,
        *,
        timeout_s: float,
        progress: Progress | None = None,
    ) -> None:
        """See `Host`."""
        self._call(lambda host: host.get(entries, folder, into, timeout_s=timeout_s, progress=progress))

    def close(self) -> None:
        """See `Host`."""
        self._host.close()

    def start_keeping(self) -> None:
        """Give signs of life from now on, and ask a spot machine whether it is about to go."""
        for thread in self._threads:
            thread.start()

    def stop_keeping(self) -> None:
        """Give no more signs of life; returns when none is under way."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(2 * deadman.CALL_S)

    def give_up(self, why: MachineLost) -> None:
        """Let every call fail from now on: the machine is lost, or as good as lost."""
        self._end(why)

    def look(self) -> None:
        """Ask the provider how the machine stands: it may be lost, or have moved.

        Raises:
            MachineLost: It does not run any more.
        """
        rental = self.rented.rental
        assert rental.instance_id is not None  # noqa: S101 -- it is ready
        try:
            machine = self._reaching.lender.provisioner.describe(rental.instance_id)
        except ProviderError:
            return  # nobody can tell: the connection alone counts
        if machine.state not in {InstanceState.RUNNING, InstanceState.STARTING}:
            detail = f"{machine.state.value} {machine.detail}".rstrip()
            raise self._end(MachineLost(rental.provider, rental.instance_id, detail))
        with self._lock:
            if machine.address is not None and machine.address != self._address:
                self._note(f"{self.name}: it is at {machine.address} now")
                self._reaching.ledger.correct(rental.request_id, machine)
                self._host.close()
                self._host = self._reaching.lender.open(
                    rental,
                    machine.address,
                    self._reaching.keys(rental),
                    rental.fingerprint,
                    connect_timeout_s=CONNECT_S,
                )
                self._address = machine.address

    def keep_once(self) -> None:
        """Give one sign of life to the ledger and to the machine's switch, and see whether it is over."""
        rental, ledger = self.rented.rental, self._reaching.ledger
        assert rental.instance_id is not None  # noqa: S101 -- it is ready
        try:
            ledger.touch(rental.request_id, self._reaching.claim)
        except ClaimLost as error:
            self._end(error)
            return
        except LedgerError as error:
            self._note(f"{error} The machine is kept, and the ledger tried again.")
        if ledger.now() - rental.intended_at >= rental.max_age_s:
            self._end(HoursSpent(rental.provider, rental.instance_id, rental.max_age_s / HOUR_S))
            return
        try:
            if rental.spot:
                self.look()
            self._beat()
        except (HostError, ValueError):
            return  # whoever follows the job notices, too, and decides

    def ask_for_notice(self) -> None:
        """Ask the machine whether its provider has said that it takes it away; if so, `going` says it."""
        rental = self.rented.rental
        assert rental.instance_id is not None  # noqa: S101 -- it is ready
        script = f"# jade: ask for a notice\n{self._reaching.lender.provisioner.scripts.notice}"
        try:
            told = self._host.run(script, timeout_s=NOTICE_CALL_S).text
        except HostError:
            return  # whoever follows the job notices, too, and decides
        shown = "".join(character for character in told if character.isprintable()).strip()
        if shown:
            self.going = MachineGoing(rental.provider, rental.instance_id, shown)

    def _beat(self) -> None:
        rental, place = self.rented.rental, self.rented.place
        if not self._reaching.lender.provisioner.scripts.end:
            return
        if deadman.beat(self._host, place.folder, rental.request_id) is deadman.Switch.MISSING:
            self._note(f"{self.name}: its dead-man switch was gone; armed anew")
            self._reaching.arm(rental, self._host)

    def _keep(self) -> None:
        while not self._stop.wait(TOUCH_EVERY_S) and self.over is None:
            self.keep_once()

    def _watch(self) -> None:
        while not self._stop.wait(NOTICE_EVERY_S) and self.over is None and self.going is None:
            self.ask_for_notice()

    def _end(self, why: ClaimLost | HoursSpent | MachineLost) -> ClaimLost | HoursSpent | MachineLost:
        self.over = self.over or why
        return self.over

    def _call(self, action: Callable[[Host], T]) -> T:
        if self.over is not None:
            raise self.over
        try:
            return action(self._host)
        except HostError as error:
            if self.over is not None:
                raise self.over from error
            if isinstance(error, HostUnreachable):
                # We may have another address by now, as laptops do that travel.
                self._reaching.admit_us(self.rented.rental)
            if error.is_transient:
                self.look()
            raise
