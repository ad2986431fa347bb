"""The keys of a rental: ours to log in, and the one that the machine shows on the first connection.

They lie in a folder of the request's own, files of mode 0600, never in the ledger; gone with the rental.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tasks.core.names import HostAddress
from tasks.hosts.access import SshAccess
from tasks.hosts.host import Host
from tasks.hosts.keys import HostTrust, fingerprint, load_private_key
from tasks.hosts.ssh import SshHost
from tasks.provisioning.entries import LedgerEntry

_LOGIN, _HOST = "login_key", "host_key"


@dataclass(frozen=True)
class RentalKeys:
    """Key pairs of one request.

    Attributes:
        folder: The request's own.
    """

    folder: Path

    @property
    def login_file(self) -> Path:
        """Our private key."""
        return self.folder / _LOGIN

    @property
    def public_key(self) -> str:
        """Line of `authorized_keys` that admits us."""
        return f"ssh-ed25519 {load_private_key(self.login_file).get_base64()} jade"

    @property
    def host_private_key(self) -> str:
        """Private key that the machine shall show, as OpenSSH writes one."""
        return (self.folder / _HOST).read_text("ascii")

    @property
    def first_fingerprint(self) -> str:
        """Of the key that the machine shall show on the first connection."""
        return fingerprint(load_private_key(self.folder / _HOST).asbytes())

    def exist(self) -> bool:
        """Whether both are here: they are nowhere else."""
        return self.login_file.is_file() and (self.folder / _HOST).is_file()

    def make(self) -> None:
        """Write two new key pairs."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (_LOGIN, _HOST):
            data = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
            descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)

    def remove(self) -> None:
        """Remove them. Silent if they are gone."""
        shutil.rmtree(self.folder, ignore_errors=True)


def open_rented(
    entry: LedgerEntry, address: HostAddress, keys: RentalKeys, pin: str | None, *, connect_timeout_s: float
) -> Host:
    """Return a connection with our own key, and to no other server key than the pinned one."""
    if pin is None:
        raise ValueError("a rented machine is never reached without a pinned key")
    access = SshAccess(
        address,
        HostTrust(pins=(pin,)),
        key_file=keys.login_file,
        use_agent=False,
        connect_timeout_s=connect_timeout_s,
    )
    return SshHost(access, name=entry.host_name)
