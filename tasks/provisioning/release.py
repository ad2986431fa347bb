"""Giving one machine back: written down, asked for until the provider shows that it costs no more, written down."""

from __future__ import annotations

import time
from collections.abc import Callable

from tasks.core.retry import retry_transient
from tasks.hosts.errors import HostError
from tasks.provisioning.costs import LedgerEntry
from tasks.provisioning.ledger import Ledger
from tasks.provisioning.ledger_states import LeaseState
from tasks.provisioning.provisioner import Instance, Provisioner

RELEASE_ATTEMPTS = 6
"""With pauses of 1, 2, 4, 8 and 16 s between them; after that the reaper goes on."""


def free(
    ledger: Ledger,
    provisioner: Provisioner,
    rental: LedgerEntry,
    why: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
    attempts: int = RELEASE_ATTEMPTS,
) -> LedgerEntry:
    """End a rental's machine, and prove it. Silent if that is done already.

    Args:
        ledger: Where it is written down.
        provisioner: Of its provider.
        rental: One whose machine is known, or that has ended.
        why: For people.
        sleep: Waits between attempts.
        attempts: How often a transient error is tried again.

    Raises:
        HostError: It is not proven; the rental stays `releasing`, which the reaper takes up.
    """
    rental = ledger.rental(rental.request_id)
    if rental.state.is_over:
        return rental
    if rental.instance_id is None:
        raise ValueError(f"rental {rental.request_id} has no machine: look for it by its name first")
    instance_id = rental.instance_id
    if rental.state is not LeaseState.RELEASING:
        rental = ledger.advance(rental.request_id, LeaseState.RELEASING, detail=why)
    try:
        retry_transient(lambda: provisioner.terminate(instance_id), attempts=attempts, sleep=sleep)
    except HostError as error:
        ledger.remark(rental.request_id, f"{why}; its end is not proven: {error}")
        raise
    # Another process may have proven it meanwhile.
    rental = ledger.rental(rental.request_id)
    return rental if rental.state.is_over else ledger.advance(rental.request_id, LeaseState.RELEASED)


def find_by_name(provisioner: Provisioner, rental: LedgerEntry) -> Instance | None:
    """Return the machine that a rental's request made, if the provider shows one."""
    return next((item for item in provisioner.list(rental.owner) if item.name == rental.name), None)
