"""From a host's name in the settings to a connection to it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tasks.core.errors import SettingsError
from tasks.hosts.connection import SshAccess
from tasks.hosts.keys import HostTrust
from tasks.hosts.ssh import SshHost
from tasks.settings.host_entries import HostEntry
from tasks.settings.load import Settings, state_folder

KNOWN_HOSTS_NAME = "known_hosts"


def open_host(settings: Settings, name: str, *, connect_timeout_s: float | None = None) -> SshHost:
    """Return a host that connects when it is first used; the caller closes it.

    Args:
        settings: Where hosts are described.
        name: Which.
        connect_timeout_s: How long to try; None: the transport's own default.

    Raises:
        HostUnknown: It, or one that it goes through, is not described.
        SettingsError: Its jumps lead in a circle.
    """
    access = _access(settings, name, ())
    if connect_timeout_s is not None:
        access = dataclasses.replace(access, connect_timeout_s=connect_timeout_s)
    return SshHost(access, name=name)


def _access(settings: Settings, name: str, seen: tuple[str, ...]) -> SshAccess:
    if name in seen:
        raise SettingsError(f"the jumps of host {seen[0]!r} lead in a circle: {' -> '.join([*seen, name])}")
    entry = settings.entry(name)
    return SshAccess(
        entry.address,
        _trust(entry),
        key_file=Path(entry.key).expanduser() if entry.key else None,
        jump=_access(settings, entry.jump, (*seen, name)) if entry.jump else None,
    )


def _trust(entry: HostEntry) -> HostTrust:
    return HostTrust(
        pins=entry.fingerprint,
        own_file=state_folder() / KNOWN_HOSTS_NAME,
        user_file=Path.home() / ".ssh" / "known_hosts",
        trust_first_use=entry.trust_first_use,
    )
