"""A machine that is ours while it trains: kept by heartbeats, given up when lost or out of time, and ended.

A spot machine is also asked whether its provider is about to take it away: who follows its job then has a moment left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tasks.core.errors import RentingCancelled
from tasks.core.names import FileEntry
from tasks.hosts.errors import HostError, HostUnreachable
from tasks.hosts.host import CommandResult, Host
from tasks.provisioning import deadman
from tasks.provisioning.connect import Connector
from tasks.provisioning.entries import HOUR_S, TOUCH_EVERY_S, LeaseState, LedgerEntry
from tasks.provisioning.errors import ClaimLost, HoursSpent, InstanceLost, LedgerError, ProviderError
from tasks.provisioning.ledger import Ledger
from tasks.provisioning.provisioner import InstanceScripts, InstanceState, Provisioner, Timing, terminate_instance

NOTICE_CALL_S = 20.0

T = TypeVar("T")


class Lease:
    """The `Host` of a machine that is ours and ready to train.

    Once it is over, every call raises why; until then calls are those of the connection to it, which is made anew where
    the machine has moved.

    Args:
        connector: How it was reached.
        entry: As the ledger has it.
        host: Connected to it.
    """

    def __init__(self, connector: Connector, entry: LedgerEntry, host: Host) -> None:
        self.entry = entry
        self.place = connector.lender.place(entry.machine)
        self.over: ClaimLost | HoursSpent | InstanceLost | None = None
        self.preempted: InstanceLost | None = None
        self._connector, self._host = connector, host
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._keep, daemon=True, name=f"keep-{entry.request_id}")]
        if entry.spot and self._scripts.notice:
            self._threads.append(threading.Thread(target=self._watch, daemon=True, name=f"watch-{entry.request_id}"))

    @property
    def name(self) -> str:
        """What messages call it."""
        return self._host.name

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        """Run a command there."""
        return self._call(lambda host: host.run(command, timeout_s=timeout_s, stdin=stdin, check=check))

    def put(self, files: Mapping[str, Path], folder: str, *, timeout_s: float) -> tuple[FileEntry, ...]:
        """Send files."""
        return self._call(lambda host: host.put(files, folder, timeout_s=timeout_s))

    def get(self, entries: Sequence[FileEntry], folder: str, into: Path, *, timeout_s: float) -> None:
        """Fetch files."""
        self._call(lambda host: host.get(entries, folder, into, timeout_s=timeout_s))

    def close(self) -> None:
        """Let go of the connection; the machine stays."""
        self._host.close()

    def start_heartbeat(self) -> None:
        """Give signs of life from now on, and ask a spot machine whether it is about to go."""
        for thread in self._threads:
            thread.start()

    def stop_heartbeat(self) -> None:
        """Give no more signs of life; returns when none is under way."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(2 * deadman.CALL_S)

    def look(self) -> None:
        """Ask the provider how the machine stands: it may be lost, or have moved.

        Raises:
            InstanceLost: It does not run any more.
        """
        try:
            instance = self._connector.lender.provisioner.describe(self.entry.machine)
        except ProviderError:
            return  # nobody can tell: the connection alone counts
        if instance.state not in {InstanceState.RUNNING, InstanceState.STARTING}:
            detail = f"{instance.state.value} {instance.detail}".rstrip()
            raise self._end(InstanceLost(self.entry.provider, f"machine {self.entry.machine}", detail))
        with self._lock:
            if instance.address is not None and instance.address != self.entry.address:
                self._connector.note(f"{self.name}: it is at {instance.address} now")
                self.entry = self._connector.ledger.correct(self.entry.request_id, instance)
                self._host.close()
                self._host = self._connector.open(self.entry)

    def beat(self) -> None:
        """Give one sign of life to the ledger and to the machine's switch, and see whether it is over."""
        entry, ledger = self.entry, self._connector.ledger
        try:
            ledger.touch(entry.request_id, self._connector.claim)
        except ClaimLost as error:
            self._end(error)
            return
        except LedgerError as error:
            self._connector.note(f"{error} The machine is kept, and the ledger tried again.")
        if ledger.now() - entry.requested_at >= entry.max_age_s:
            self._end(
                HoursSpent(entry.provider, f"machine {entry.machine}", f"{entry.max_age_s / HOUR_S:.2f} h were allowed")
            )
            return
        try:
            if entry.spot:
                self.look()
            if self._scripts.end and self._beat_switch() is deadman.Switch.MISSING:
                self._connector.note(f"{self.name}: its dead-man switch was gone; armed anew")
                self._connector.arm(entry, self._host)
        except (HostError, RentingCancelled, ValueError):
            return  # whoever follows the job notices, too, and decides

    def ask_for_notice(self) -> None:
        """Ask the machine whether its provider has said that it takes it away; if so, `preempted` says it."""
        try:
            told = self._host.run(f"# jade: ask for a notice\n{self._scripts.notice}", timeout_s=NOTICE_CALL_S).text
        except HostError:
            return  # whoever follows the job notices, too, and decides
        shown = "".join(character for character in told if character.isprintable()).strip()
        if shown:
            what = f"machine {self.entry.machine}"
            self.preempted = InstanceLost(self.entry.provider, what, shown, summary="it is about to be taken away")

    @property
    def _scripts(self) -> InstanceScripts:
        return self._connector.lender.provisioner.scripts

    def _beat_switch(self) -> deadman.Switch:
        return deadman.beat(self._host, self.place.folder, self.entry.request_id)

    def _keep(self) -> None:
        while not self._stop.wait(TOUCH_EVERY_S) and self.over is None:
            self.beat()

    def _watch(self) -> None:
        while not self._stop.wait(self._connector.lender.timing.notice_s) and self.over is None and not self.preempted:
            self.ask_for_notice()

    def _end(self, why: ClaimLost | HoursSpent | InstanceLost) -> ClaimLost | HoursSpent | InstanceLost:
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
                self._connector.admit(self.entry)
            if error.is_transient:
                self.look()
            raise


def release(
    ledger: Ledger,
    provisioner: Provisioner,
    entry: LedgerEntry,
    why: str,
    timing: Timing,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> LedgerEntry:
    """End a machine, and prove it: written down, asked for until its provider confirms it, written down.

    Silent if that is done already.

    Raises:
        HostError: It is not proven; the request stays `terminating`, which the reaper takes up.
    """
    entry = ledger.entry(entry.request_id)
    if entry.state.is_over:
        return entry
    if entry.state is not LeaseState.TERMINATING:
        entry = _advanced(ledger, entry, LeaseState.TERMINATING, why)
    try:
        terminate_instance(provisioner, entry.machine, timing, sleep=sleep, clock=ledger.now)
    except HostError as error:
        ledger.correct(entry.request_id, reason=f"{why}; its end is not proven: {error}")
        raise
    return _advanced(ledger, entry, LeaseState.TERMINATED)


def _advanced(ledger: Ledger, entry: LedgerEntry, new: LeaseState, reason: str = "") -> LedgerEntry:
    """Take a step towards the end, which another process, such as the reaper, may take at the same time."""
    try:
        return ledger.advance(entry.request_id, new, reason=reason)
    except LedgerError:
        found = ledger.entry(entry.request_id)
        if found.state is not new and not found.state.is_over:
            raise
        return found
