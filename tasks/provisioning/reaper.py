"""Freeing the machines that no live run claims: read from the ledger and the providers, never from anybody's memory.

Providers are asked first and the ledger is read afterwards: as every request is written down before it is made, each
machine that was listed is known by then, unless the ledger itself was lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

from tasks.core.retry import retry_transient
from tasks.hosts.errors import HostError
from tasks.provisioning.entries import CLAIM_S, LeaseState, LedgerEntry, is_certainly_dead, new_claim
from tasks.provisioning.errors import ApiKeyMissing
from tasks.provisioning.keys import RentalKeys
from tasks.provisioning.lease import release
from tasks.provisioning.ledger import Ledger
from tasks.provisioning.provisioner import (
    Instance,
    InstanceState,
    Provisioner,
    Timing,
    owner_and_request,
    terminate_instance,
)

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
    """Frees what no live run claims.

    Attributes:
        ledger: What was rented.
        provisioners: By provider; those that cannot be asked are missing.
        keys_folder: Where requests' keys lie.
        owner: Whose machines; no others are touched.
        timings: How long one waits, by provider, where it is not as usual.
        is_dry: Only tell.
        frees_unknown: Also free machines of the owner that this ledger does not know. It knows its own owner's, so
            for that one they are always freed.
        sleep: Waits between attempts.
    """

    ledger: Ledger
    provisioners: Mapping[str, Provisioner]
    keys_folder: Path
    owner: str
    timings: Mapping[str, Timing] = field(default_factory=dict)
    is_dry: bool = False
    frees_unknown: bool = False
    sleep: Callable[[float], None] = time.sleep

    def reap(self, *, ended_flow_run: str = "", ended_run: str = "") -> list[Reaped]:
        """Look at every machine and request of the owner; free what no live run claims and forget its keys.

        Args:
            ended_flow_run: A run in Prefect that is known to have ended: its machines go at once, and only they.
            ended_run: Likewise, a run of ours by its name.
        """
        only_ended = bool(ended_flow_run or ended_run)

        def has_ended(entry: LedgerEntry) -> bool:
            return (entry.flow_run_id == ended_flow_run != "") or (entry.run_id == ended_run != "")

        asked = set(self.provisioners)
        if only_ended:
            asked &= {entry.provider for entry in self.ledger.entries(only_open=True) if has_ended(entry)}
        shown, found = self._ask(asked)
        entries = self.ledger.entries(owner=self.owner)
        for entry in entries:
            if entry.state.is_over:
                self._remove_keys(entry)
            elif has_ended(entry) or not only_ended:
                instances = shown.get(entry.provider)
                instance = next((item for item in instances or () if item.name == entry.name), None)
                is_known = instances is not None
                found.append(self._look_at(entry, instance, was_asked=is_known, has_ended=has_ended(entry)))
        if not only_ended:
            by_name = {entry.name: entry for entry in entries}
            for instance in (item for instances in shown.values() for item in instances):
                known = by_name.get(instance.name)
                if known is None:
                    found.append(self._end_unknown(instance))
                elif known.state.is_over:
                    found += self._end_again(instance, known)
        return found

    def _ask(self, providers: set[str]) -> tuple[dict[str, Sequence[Instance]], list[Reaped]]:
        """What providers show of the owner's; and who could not be asked."""
        shown: dict[str, Sequence[Instance]] = {}
        silent: list[Reaped] = []
        for provider in sorted(providers):
            ask = partial(self.provisioners[provider].list, self.owner)
            try:
                shown[provider] = retry_transient(ask, attempts=3, sleep=self.sleep)
            except ApiKeyMissing:
                continue  # not set up here: that is a failure only where the ledger knows of a machine there
            except HostError as error:
                silent.append(Reaped(provider, "", "", "", Deed.FAILED, f"could not be asked: {error}"))
        return shown, silent

    def _look_at(self, entry: LedgerEntry, instance: Instance | None, *, was_asked: bool, has_ended: bool) -> Reaped:
        why = why_free(entry, self.ledger.now(), has_ended=has_ended)
        if why is None:
            return self._told(entry, Deed.LEFT, "a live run claims it, or its run may still attach to it")
        if entry.provider not in self.provisioners:
            return self._told(entry, Deed.FAILED, f"{why}, but {entry.provider} is not set up here")
        if entry.instance_id is None and instance is None:
            return self._settle(entry, why, was_asked=was_asked)
        if self.is_dry:
            return self._told(entry, Deed.FREED, why)
        claim = new_claim()
        # Whoever attached meanwhile has changed the claim: then it is theirs.
        if not self.ledger.take(entry.request_id, claim, instead_of=entry.claim):
            return self._told(entry, Deed.LEFT, "somebody has just taken it, or ended it")
        try:
            if entry.instance_id is None:
                self.ledger.advance(entry.request_id, LeaseState.TERMINATING, instance=instance, reason=why)
            return self._free(entry, why)
        finally:
            self.ledger.let_go(entry.request_id, claim)

    def _settle(self, entry: LedgerEntry, why: str, *, was_asked: bool) -> Reaped:
        """A request of which no machine is known: there may be none, or the provider's list may lag."""
        if not was_asked:
            return self._told(entry, Deed.FAILED, f"{why}; {entry.provider} did not say whether a machine was made")
        if self.ledger.now() - entry.seen_at <= VANISHED_AFTER_S:
            return self._told(entry, Deed.LEFT, f"{why}; whether a machine was made is not known yet")
        if not self.is_dry:
            self.ledger.advance(entry.request_id, LeaseState.FAILED, reason=why)
            self._remove_keys(entry)
        return self._told(entry, Deed.SETTLED, "no machine was made")

    def _end_again(self, instance: Instance, entry: LedgerEntry) -> list[Reaped]:
        """A machine that the ledger holds for ended."""
        why = f"the ledger holds it for {entry.state.value}, but {entry.provider} still shows it"
        try:
            now = self.provisioners[entry.provider].describe(instance.instance_id)
        except HostError as error:
            return [self._told(entry, Deed.FAILED, f"{why}: {error}")]
        if now.state is InstanceState.GONE:
            return []  # it has ended since it was listed
        if self.is_dry:
            return [self._told(entry, Deed.FREED, why)]
        self.ledger.advance(entry.request_id, LeaseState.TERMINATING, instance=instance, reason=why)
        return [self._free(entry, why)]

    def _end_unknown(self, instance: Instance) -> Reaped:
        """A machine that carries our tag, but that the ledger does not know."""
        provider, name = instance.provider, instance.name
        parts = owner_and_request(name)

        def told(deed: Deed, why: str) -> Reaped:
            return Reaped(provider, instance.instance_id, name, "", deed, why)

        # The provider was asked for this owner's machines; that is not taken on trust.
        if instance.owner != self.owner or (parts is not None and parts[0] != self.owner):
            return told(Deed.LEFT, "it is somebody else's")
        if self.owner != self.ledger.owner and not self.frees_unknown:
            return told(Deed.LEFT, "this ledger does not know it; --unknown frees it nevertheless")
        why = "no ledger knows it any more"
        if not self.is_dry:
            try:
                terminate_instance(
                    self.provisioners[provider],
                    instance.instance_id,
                    self._timing(provider),
                    sleep=self.sleep,
                    clock=self.ledger.now,
                )
            except HostError as error:
                return told(Deed.FAILED, f"{why}: {error}")
        return told(Deed.FREED, why)

    def _free(self, entry: LedgerEntry, why: str) -> Reaped:
        provisioner, timing = self.provisioners[entry.provider], self._timing(entry.provider)
        try:
            ended = release(self.ledger, provisioner, entry, why, timing, sleep=self.sleep)
        except HostError as error:
            return self._told(self.ledger.entry(entry.request_id), Deed.FAILED, f"{why}: {error}")
        self._remove_keys(entry)
        return self._told(ended, Deed.FREED, why)

    def _timing(self, provider: str) -> Timing:
        return self.timings.get(provider, Timing())

    def _remove_keys(self, entry: LedgerEntry) -> None:
        """Silent if they are gone; whoever was killed once its machine had ended has left them."""
        if not self.is_dry:
            RentalKeys(self.keys_folder / entry.request_id).remove()

    def _told(self, entry: LedgerEntry, deed: Deed, why: str) -> Reaped:
        cost = entry.cost_until(self.ledger.now())
        return Reaped(entry.provider, entry.instance_id or "", entry.name, entry.run_id, deed, why, cost)


def why_free(entry: LedgerEntry, now: float, *, has_ended: bool = False) -> str | None:
    """Return why an open entry is to be freed; None if somebody may still need it.

    Args:
        entry: One that may cost.
        now: Seconds since 1970.
        has_ended: Whether its run is known to have ended.
    """
    if has_ended:
        return "its run has ended"
    if entry.age_s(now) > entry.max_age_s + AGE_SLACK_S:
        return f"it is {entry.age_s(now) / 3600:.1f} h old, {entry.max_age_s / 3600:.1f} h were allowed"
    silent_s = now - entry.seen_at
    if entry.claim and silent_s <= CLAIM_S and not is_certainly_dead(entry.claim):
        return None
    if entry.state is LeaseState.BUSY and silent_s <= entry.orphan_grace_s:
        return None
    return f"nobody has controlled it for {max(silent_s, 0.0) / 60:.0f} min"
