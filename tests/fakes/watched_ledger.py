"""A ledger that tells of every step just before and just after it is durable: where processes are killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from tasks.provisioning.entries import LeaseState, LedgerEntry
from tasks.provisioning.ledger import Ledger

Watch = Callable[[str, LeaseState, Literal["before", "after"]], object]
"""Told the state before, `-` at a request's birth, and the one after."""


class WatchedLedger(Ledger):
    """The real one."""

    watch: Watch = staticmethod(lambda old, new, when: None)

    def request(self, *arguments: Any, **options: Any) -> LedgerEntry:
        self.watch("-", LeaseState.REQUESTED, "before")
        entry = super().request(*arguments, **options)
        self.watch("-", LeaseState.REQUESTED, "after")
        return entry

    def advance(self, request_id: str, new: LeaseState, **options: Any) -> LedgerEntry:
        old = self.entry(request_id).state
        self.watch(old, new, "before")
        entry = super().advance(request_id, new, **options)
        self.watch(old, new, "after")
        return entry
