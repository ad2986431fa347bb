"""Getting into a machine that a provisioner has rented, as whoever rented it would."""

from __future__ import annotations

import base64
import contextlib
import io
from pathlib import Path

import paramiko

from tasks.hosts.access import SshAccess
from tasks.hosts.errors import ConnectionLost
from tasks.hosts.keys import HostTrust
from tasks.hosts.ssh import SshHost
from tasks.provisioning.lease import Lease
from tasks.provisioning.provisioner import Instance, InstanceState, Offer, Provisioner
from tests.fakes.provisioner_contract import new_request
from tests.fakes.ssh_server import write_private_key
from tests.helpers.processes import wait_until


class Rented:
    """A machine, from one request, and the key to it.

    Args:
        provisioner: Of whom.
        offer: What.
        folder: For the key; made.
        max_age_s: Of the machine.
    """

    def __init__(self, provisioner: Provisioner, offer: Offer, folder: Path, *, max_age_s: float = 3600) -> None:
        folder.mkdir()
        self.key_file = folder / "id_ed25519"
        key = write_private_key(self.key_file)
        line = f"{key.get_name()} {key.get_base64()} ours"
        self.request = new_request(offer, public_key=line, max_age_s=max_age_s)
        self.provisioner = provisioner
        self.instance_id = provisioner.create(self.request).instance_id

    @property
    def first_fingerprint(self) -> str:
        """Of the host key that the machine was given."""
        return paramiko.Ed25519Key.from_private_key(io.StringIO(self.request.host_private_key)).fingerprint

    @property
    def described(self) -> Instance:
        """How it stands, by its provider."""
        return self.provisioner.describe(self.instance_id)

    def host(self, *pins: str, connect_timeout_s: float = 30.0) -> SshHost:
        """Not connected yet; pinned to the first key, or to others."""
        wait_until(lambda: self.described.address is not None, 60, lambda: str(self.described))
        trust = HostTrust(pins=pins or (self.first_fingerprint,))
        access = SshAccess(
            self.described.address, trust, key_file=self.key_file, use_agent=False, connect_timeout_s=connect_timeout_s
        )
        return SshHost(access)

    def wait_for(self, state: InstanceState, limit_s: float = 60.0) -> None:
        wait_until(lambda: self.described.state is state, limit_s, lambda: str(self.described))


def end_from_within(host: SshHost | Lease, provisioner: Provisioner) -> None:
    """Have a machine end itself, as its switch would; it may be gone before it answers."""
    with contextlib.suppress(ConnectionLost):
        host.run(provisioner.scripts.end, timeout_s=60)


def fingerprint_of_line(line: str) -> str:
    """Of a public key as files name it."""
    kind, encoded = line.split()[:2]
    return paramiko.PKey.from_type_string(kind, base64.b64decode(encoded)).fingerprint
