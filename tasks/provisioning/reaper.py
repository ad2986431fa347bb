"""Freeing the machines that no live run claims: read from the ledger and the providers, never from anybody's memory.

Providers are asked first and the ledger is read afterwards: as every request is written down before it is made, each
machine that was listed is known by then, unless the ledger itself was lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tasks.core.retry import retry_transient
from tasks.hosts.errors import HostError
from tasks.provisioning.claims import CLAIM_S, is_certainly_dead, new_claim
from tasks.provisioning.costs import LedgerEntry
from tasks.provisioning.ledger import Ledger
from tasks.provisioning.ledger_states import LeaseState
from tasks.provisioning.provider_errors import ApiKeyMissing
from tasks.provisioning.provisioner import Instance, InstanceState, Provisioner, owner_and_request
from tasks.provisioning.release import free
from tasks.provisioning.rental_keys import RentalKeys

AGE_SLACK_S = 300.0
"""A run ends its machine at its age itself; the reaper only comes to help."""
VANISHED_AFTER_S = 600.0
"""A machine whose creation nobody has confirmed may still show up in a provider's list for this long."""


class Deed(StrEnum):
    """What the reaper did about a machine, or would do."""

    FREED = "freed"
    LEFT = "left"
    SETTLED = "settled"
    """There never was, or is no more, a machine: only the ledger had to be told."""
    FAILED = "failed"


@dataclass(frozen=True)
class Reaped:
    """One machine, or request for one, that the reaper looked at.

    Attributes:
        provider: Whose.
        machine_id: The provider's identifier; empty if none is known.
        name: Of the machine.
        run_id: The run that it served; empty if the ledger does not know it.
        deed: What was done, or would be on a dry run.
        why: For people.
        cost_usd: What it has cost; None if the ledger does not know it.
    """

    provider: str
    machine_id: str
    name: str
    run_id: str
    deed: Deed
    why: str
    cost_usd: float | None = None


@dataclass(frozen=True)
class Reaper:
    """See the module.

    Attributes:
        ledger: What was rented.
        provisioners: By provider; those that cannot be asked are missing.
        keys_folder: Where requests' keys lie.
        owner: Whose machines; no others are touched.
        is_dry: Only tell.
        frees_unknown: Also free machines of the owner that this ledger does not know. It knows its own owner's, so
            for that one they are always freed.
        sleep: Waits between attempts.
        attempts: How often each release is tried.
    """

    ledger: Ledger
    provisioners: Mapping[str, Provisioner]
    keys_folder: Path
    owner: str
    is_dry: bool = False
    frees_unknown: bool = False
    sleep: Callable[[float], None] = time.sleep
    attempts: int = 3

    def reap(self, *, ended_flow_run: str = "", ended_run: str = "") -> list[Reaped]:
        """Look at every machine and request of the owner; free what no live run claims and forget its keys.

        Args:
            ended_flow_run: A run in Prefect that is known to have ended: its machines go at once, and only they.
            ended_run: Likewise, a run of ours by its name.
        """
        only_ended = bool(ended_flow_run or ended_run)

        def has_ended(rental: LedgerEntry) -> bool:
            return (rental.flow_run_id == ended_flow_run != "") or (rental.run_id == ended_run != "")

        asked = set(self.provisioners)
        if only_ended:
            asked &= {rental.provider for rental in self.ledger.rentals(only_open=True) if has_ended(rental)}
        shown, found = self._ask(asked)
        rentals = self.ledger.rentals(owner=self.owner)
        for rental in rentals:
            if rental.state.is_over:
                self._remove_keys(rental)
            if rental.state.is_over or (only_ended and not has_ended(rental)):
                continue
            machines = shown.get(rental.provider)
            machine = next((item for item in machines or () if item.name == rental.name), None)
            found.append(self._look_at(rental, machine, was_asked=machines is not None, has_ended=has_ended(rental)))
        if not only_ended:
            for provider, machines in shown.items():
                found += self._look_at_rest(provider, machines, rentals)
        return found

    def _ask(self, providers: set[str]) -> tuple[dict[str, Sequence[Instance]], list[Reaped]]:
        """What providers show of the owner's; and who could not be asked."""
        shown: dict[str, Sequence[Instance]] = {}
        silent: list[Reaped] = []
        for provider in sorted(providers):
            try:
                shown[provider] = retry_transient(
                    lambda asked=provider: self.provisioners[asked].list(self.owner),  # type: ignore[misc]
                    attempts=self.attempts,
                    sleep=self.sleep,
                )
            except ApiKeyMissing:
                continue  # not set up here: that is a failure only where the ledger knows of a machine there
            except HostError as error:
                silent.append(Reaped(provider, "", "", "", Deed.FAILED, f"could not be asked: {error}"))
        return shown, silent

    def _look_at(self, rental: LedgerEntry, machine: Instance | None, *, was_asked: bool, has_ended: bool) -> Reaped:
        why = why_free(rental, self.ledger.now(), has_ended=has_ended)
        if why is None:
            return self._told(rental, Deed.LEFT, "a live run claims it, or its run may still attach to it")
        if rental.provider not in self.provisioners:
            return self._told(rental, Deed.FAILED, f"{why}, but {rental.provider} is not set up here")
        if rental.instance_id is None and machine is None:
            return self._settle(rental, why, was_asked=was_asked)
        if self.is_dry:
            return self._told(rental, Deed.FREED, why)
        claim = new_claim()
        # Whoever attached meanwhile has changed the claim: then it is theirs.
        if not self.ledger.take(rental.request_id, claim, instead_of=rental.claim):
            return self._told(rental, Deed.LEFT, "somebody has just taken it, or ended it")
        try:
            if rental.instance_id is None:
                rental = self.ledger.advance(rental.request_id, LeaseState.RELEASING, machine=machine, detail=why)
            return self._free(rental, why)
        finally:
            self.ledger.let_go(rental.request_id, claim)

    def _settle(self, rental: LedgerEntry, why: str, *, was_asked: bool) -> Reaped:
        """A request of which no machine is known: there may be none, or the provider's list may lag."""
        if not was_asked:
            return self._told(rental, Deed.FAILED, f"{why}; {rental.provider} did not say whether a machine was made")
        silent_s = self.ledger.now() - rental.seen_at
        if silent_s <= VANISHED_AFTER_S:
            return self._told(rental, Deed.LEFT, f"{why}; whether a machine was made is not known yet")
        if not self.is_dry:
            self.ledger.advance(rental.request_id, LeaseState.VANISHED, detail=why)
            self._remove_keys(rental)
        return self._told(rental, Deed.SETTLED, "no machine was made")

    def _look_at_rest(
        self, provider: str, machines: Sequence[Instance], rentals: Sequence[LedgerEntry]
    ) -> list[Reaped]:
        """Machines that carry our tag, but that the ledger holds for ended, or does not know."""
        by_name = {rental.name: rental for rental in rentals}
        found = []
        for machine in machines:
            rental = by_name.get(machine.name)
            if rental is not None and rental.state.is_over:
                found += self._end_again(machine, rental)
            elif rental is None:
                found.append(self._end_unknown(provider, machine))
        return found

    def _end_again(self, machine: Instance, rental: LedgerEntry) -> list[Reaped]:
        why = f"the ledger holds it for {rental.state.value}, but {rental.provider} still shows it"
        try:
            now = self.provisioners[rental.provider].describe(machine.instance_id)
        except HostError as error:
            return [self._told(rental, Deed.FAILED, f"{why}: {error}")]
        if now.state is InstanceState.GONE:
            return []  # it has ended since it was listed
        if self.is_dry:
            return [self._told(rental, Deed.FREED, why)]
        rental = self.ledger.advance(rental.request_id, LeaseState.RELEASING, machine=machine, detail=why)
        return [self._free(rental, why)]

    def _end_unknown(self, provider: str, machine: Instance) -> Reaped:
        parts = owner_and_request(machine.name)
        entry = (provider, machine.instance_id, machine.name, "")
        # The provider was asked for this owner's machines; that is not taken on trust.
        if machine.owner != self.owner or (parts is not None and parts[0] != self.owner):
            return Reaped(*entry, Deed.LEFT, "it is somebody else's")
        if self.owner != self.ledger.owner and not self.frees_unknown:
            return Reaped(*entry, Deed.LEFT, "this ledger does not know it; --unknown frees it nevertheless")
        why = "no ledger knows it any more"
        if not self.is_dry:
            try:
                retry_transient(
                    lambda: self.provisioners[provider].terminate(machine.instance_id),
                    attempts=self.attempts,
                    sleep=self.sleep,
                )
            except HostError as error:
                return Reaped(*entry, Deed.FAILED, f"{why}: {error}")
        return Reaped(*entry, Deed.FREED, why)

    def _free(self, rental: LedgerEntry, why: str) -> Reaped:
        try:
            ended = free(
                self.ledger,
                self.provisioners[rental.provider],
                rental,
                why,
                sleep=self.sleep,
                attempts=self.attempts,
            )
        except HostError as error:
            return self._told(self.ledger.rental(rental.request_id), Deed.FAILED, f"{why}: {error}")
        self._remove_keys(rental)
        return self._told(ended, Deed.FREED, why)

    def _remove_keys(self, rental: LedgerEntry) -> None:
        """Silent if they are gone; whoever was killed once its rental had ended has left them."""
        if not self.is_dry:
            RentalKeys(self.keys_folder / rental.request_id).remove()

    def _told(self, rental: LedgerEntry, deed: Deed, why: str) -> Reaped:
        cost = rental.cost_until(self.ledger.now())
        return Reaped(rental.provider, rental.instance_id or "", rental.name, rental.run_id, deed, why, cost)


def why_free(rental: LedgerEntry, now: float, *, has_ended: bool = False) -> str | None:
    """Return why an open rental is to be freed; None if somebody may still need it.

    Args:
        rental: One that may cost.
        now: Seconds since 1970.
        has_ended: Whether its run is known to have ended.
    """
    if has_ended:
        return "its run has ended"
    if rental.age_s(now) > rental.max_age_s + AGE_SLACK_S:
        return f"it is {rental.age_s(now) / 3600:.1f} h old, {rental.max_age_s / 3600:.1f} h were allowed"
    silent_s = now - rental.seen_at
    if rental.claim and silent_s <= CLAIM_S and not is_certainly_dead(rental.claim):
        return None
    if rental.state is LeaseState.TRAINING and silent_s <= rental.orphan_grace_s:
        return None
    return f"nobody has controlled it for {max(silent_s, 0.0) / 60:.0f} min"
