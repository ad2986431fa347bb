"""Connections to rented machines."""

from __future__ import annotations

from tasks.core.names import HostAddress
from tasks.hosts.access import SshAccess
from tasks.hosts.host import Host
from tasks.hosts.keys import HostTrust
from tasks.hosts.ssh import SshHost
from tasks.provisioning.costs import LedgerEntry
from tasks.provisioning.rental_keys import RentalKeys


def rented_name(rental: LedgerEntry) -> str:
    """What messages and records call a rented machine."""
    return f"{rental.provider}-{rental.instance_id or rental.request_id}"


def open_rented(
    rental: LedgerEntry, address: HostAddress, keys: RentalKeys, pin: str | None, *, connect_timeout_s: float
) -> Host:
    """See `tasks.provisioning.lease.OpenMachine`: our own key, and no other server key than the pinned one."""
    if pin is None:
        raise ValueError("a rented machine is never reached without a pinned key")
    access = SshAccess(
        address,
        HostTrust(pins=(pin,)),
        key_file=keys.login_file,
        use_agent=False,
        connect_timeout_s=connect_timeout_s,
    )
    return SshHost(access, name=rented_name(rental))
