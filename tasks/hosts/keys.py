"""Which server is the right one, and with which key to log in.

A server is the right one if its key is pinned, or stands in our own known-hosts file or the user's. There is
no asking and no silent acceptance: a first contact counts only where `trust_first_use` was asked for by name.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from tasks.hosts.base import HostAddress
from tasks.hosts.errors import HostKeyMismatch, HostKeyUnknown, PassphraseRequired, PrivateKeyUnusable

KEY_FAMILIES: dict[str, tuple[str, ...]] = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
"""A key's type as files name it -> the signature algorithms that a server may prove it with."""


def fingerprint(key_blob: bytes) -> str:
    """What `ssh-keygen -lE sha256` prints for a public key, `SHA256:` and base64 without padding."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key_blob).digest()).decode().rstrip("=")


def fingerprint_of_line(line: str) -> str:
    """The fingerprint of a public key's line, `ssh-ed25519 AAAA... comment`.

    Raises:
        ValueError: It is no such line.
    """
    fields = line.split()
    if len(fields) < 2 or fields[0] not in KEY_FAMILIES:
        raise ValueError(f"not a public key: {line[:80]!r}")
    try:
        blob = base64.b64decode(fields[1], validate=True)
    except binascii.Error as error:
        raise ValueError(f"not a public key: {line[:80]!r}") from error
    # The blob begins with its own type, which must be the one that the line claims.
    if blob[4 : 4 + len(fields[0])] != fields[0].encode():
        raise ValueError(f"not a public key: {line[:80]!r}")
    return fingerprint(blob)


@dataclass(frozen=True)
class KnownKey:
    """One line of a known-hosts file that speaks of a host.

    Attributes:
        key_type: Such as `ssh-ed25519`.
        key_blob: The public key in wire format.
        is_revoked: Whether the line forbids this key.
        source: The file.
    """

    key_type: str
    key_blob: bytes
    is_revoked: bool
    source: Path


def known_keys(file: Path, address: HostAddress) -> Iterator[KnownKey]:
    """The lines of a known-hosts file that speak of an address; none if there is no file.

    Lines that make no sense, and certificate authorities, are passed over, as OpenSSH does.
    """
    if not file.is_file():
        return
    # See sshd(8), SSH_KNOWN_HOSTS FILE FORMAT.
    wanted = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in {"", "@revoked"}:
            continue
        hosts, key_type, encoded = fields[:3]
        if _speaks_of(hosts, wanted):
            try:
                key_blob = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                continue
            yield KnownKey(key_type, key_blob, marker == "@revoked", file)


def _speaks_of(hosts: str, wanted: str) -> bool:
    if hosts.startswith("|1|"):
        salt, _, digest = hosts.removeprefix("|1|").partition("|")
        try:
            found = hmac.new(base64.b64decode(salt), wanted.encode(), hashlib.sha1).digest()
        except binascii.Error:
            return False
        return base64.b64encode(found).decode() == digest
    is_meant = False
    for pattern in hosts.lower().split(","):
        # Only * and ? are wild there; fnmatch would read the brackets around a host with a port as a set.
        plain = pattern.removeprefix("!").replace("[", "[[]")
        if fnmatch.fnmatchcase(wanted.lower(), plain):
            if pattern.startswith("!"):
                return False
            is_meant = True
    return is_meant


@dataclass(frozen=True)
class HostTrust:
    """Decides whether a server's key is the right one.

    Attributes:
        pins: Fingerprints (`SHA256:...`); if there are any, nothing else counts.
        own_file: Our known-hosts file; first uses are written here.
        user_file: The user's known-hosts file, only read; None if it shall not count.
        trust_first_use: Whether to accept, and remember, the key of a host that no file speaks of.
    """

    pins: tuple[str, ...] = ()
    own_file: Path | None = None
    user_file: Path | None = None
    trust_first_use: bool = False

    def __post_init__(self) -> None:
        for pin in self.pins:
            digest = pin.removeprefix("SHA256:")
            if digest == pin or len(digest) != 43:
                raise ValueError(
                    f"a pin is SHA256: and 43 characters of base64 as ssh-keygen -l prints it, not {pin!r}"
                )
        if self.trust_first_use and self.own_file is None:
            raise ValueError("trust_first_use needs own_file to remember the key in")

    def known(self, address: HostAddress) -> tuple[KnownKey, ...]:
        """All that the files say about an address."""
        files = [file for file in (self.own_file, self.user_file) if file is not None]
        return tuple(known for file in files for known in known_keys(file, address))

    def preferred_families(self, address: HostAddress) -> list[str]:
        """Key types in the order to ask the server for: those first that it is known by."""
        known = {key.key_type for key in self.known(address) if not key.is_revoked}
        return sorted(KEY_FAMILIES, key=lambda family: family not in known)

    def check(self, address: HostAddress, key_type: str, key_blob: bytes) -> None:
        """Return if the key is the right one; a first use is remembered.

        Raises:
            HostKeyMismatch: Another one is pinned or known, or this one is revoked.
            HostKeyUnknown: No pin and no file speaks of the host.
        """
        found = fingerprint(key_blob)
        if self.pins:
            if found not in self.pins:
                raise HostKeyMismatch(str(address), self.pins, (found,), "the pin")
            return
        known = self.known(address)
        if any(key.is_revoked and key.key_blob == key_blob for key in known):
            raise HostKeyMismatch(str(address), ("any other: this one is revoked",), (found,), "the known-hosts file")
        accepted = [key for key in known if not key.is_revoked]
        if any(key.key_blob == key_blob for key in accepted):
            return
        if accepted:
            expected = tuple(dict.fromkeys(fingerprint(key.key_blob) for key in accepted))
            sources = " and ".join(dict.fromkeys(str(key.source) for key in accepted))
            raise HostKeyMismatch(str(address), expected, (found,), sources)
        if not self.trust_first_use or self.own_file is None:
            raise HostKeyUnknown(str(address), key_type, found)
        remember(self.own_file, address, key_type, key_blob)


def remember(file: Path, address: HostAddress, key_type: str, key_blob: bytes) -> None:
    """Append a key to a known-hosts file, which is made, readable by its owner only, if need be."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
    line = f"{wanted} {key_type} {base64.b64encode(key_blob).decode()}\n"
    # One write in append mode: two processes that meet the same host at once leave two whole lines.
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_private_key(path: Path, passphrase: str | None = None) -> paramiko.PKey:
    """A private key of any kind that OpenSSH writes, but DSA.

    Raises:
        PassphraseRequired: It is locked and no, or the wrong, passphrase was given.
        PrivateKeyUnusable: It is missing, unreadable, or no private key.
    """
    path = path.expanduser()
    try:
        # It declares text and hands it to cryptography, which takes nothing but bytes.
        return paramiko.PKey.from_path(path, None if passphrase is None else passphrase.encode())  # type: ignore[arg-type]
    except (paramiko.PasswordRequiredException, TypeError) as error:
        if passphrase is not None:
            # cryptography says so, with a TypeError, when a passphrase was given for a key that has none.
            raise PrivateKeyUnusable(str(path), str(error)) from error
        raise PassphraseRequired(str(path)) from error
    except OSError as error:
        raise PrivateKeyUnusable(str(path), error.strerror or str(error)) from error
    except (ValueError, paramiko.SSHException) as error:
        if passphrase is not None and b"PRIVATE KEY" in path.read_bytes():
            raise PassphraseRequired(str(path), wrong=True) from error
        raise PrivateKeyUnusable(str(path), "it is not a private key that can be read") from error
    except paramiko.pkey.UnknownKeyType as error:
        raise PrivateKeyUnusable(str(path), f"its type {error.key_type} is not supported") from error


def public_blob(key_file: Path) -> bytes | None:
    """The public key beside a private one (`.pub`), or None if there is none that can be read."""
    public = key_file.expanduser()
    public = public.with_name(public.name + ".pub")
    try:
        return base64.b64decode(public.read_text().split()[1])
    except (OSError, IndexError, binascii.Error, UnicodeDecodeError):
        return None
