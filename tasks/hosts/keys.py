"""Which server is the right one, and with which key to log in.

A server is the right one if its key is pinned, or stands in a known-hosts file: our own, the user's or the
machine's. There is no asking and no silent acceptance: a first contact counts only where `trust_first_use` was asked
for by name.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fnmatch
import hashlib
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    SSHCertificate,
    SSHCertificateType,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_identity,
)

from tasks.core.names import HostAddress, check_pins
from tasks.hosts.errors import HostKeyMismatch, HostUserError

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
    kind, _, rest = line.strip().partition(" ")
    with contextlib.suppress(binascii.Error, IndexError):
        blob = base64.b64decode(rest.split()[0], validate=True)
        # The blob begins with its own type, which must be the one that the line claims.
        if kind in KEY_FAMILIES and blob[4 : 4 + len(kind)] == kind.encode():
            return fingerprint(blob)
    raise ValueError(f"not a public key: {line[:80]!r}")


@dataclass(frozen=True)
class KnownKey:
    """One line of a known-hosts file that speaks of a host.

    Attributes:
        key_type: Such as `ssh-ed25519`.
        key_blob: The public key in wire format.
        marker: Empty, `@revoked` (the line forbids this key) or `@cert-authority` (it signs hosts' certificates).
        source: The file.
        has_port: Whether the line names the port, too, where that is not 22. One that does not vouches for the same
            key, but says nothing against another.
    """

    key_type: str
    key_blob: bytes
    marker: str
    source: Path
    has_port: bool = True


def known_keys(file: Path, address: HostAddress) -> Iterator[KnownKey]:
    """The lines of a known-hosts file that speak of an address; none if there is no file.

    Lines that make no sense are passed over, as OpenSSH does.
    """
    if not file.is_file():
        return
    with_port = _name_of(address)
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        # sshd(8), SSH_KNOWN_HOSTS FILE FORMAT
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in {"", "@revoked", "@cert-authority"}:
            continue
        hosts, key_type, encoded = fields[:3]
        has_port = _speaks_of(hosts, with_port)
        if has_port or _speaks_of(hosts, address.host):
            try:
                key_blob = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                continue
            yield KnownKey(key_type, key_blob, marker, file, has_port)


def _name_of(address: HostAddress) -> str:
    return address.host if address.port == 22 else f"[{address.host}]:{address.port}"


def _speaks_of(hosts: str, wanted: str) -> bool:
    if hosts.startswith("|1|"):
        with contextlib.suppress(binascii.Error, AssertionError):  # what makes no sense speaks of nobody
            return paramiko.HostKeys.hash_host(wanted, hosts) == hosts
        return False
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
        files: Further known-hosts files, the user's and the machine's, only read.
        trust_first_use: Whether to accept, and remember, the key of a host that no file speaks of.
    """

    pins: tuple[str, ...] = ()
    own_file: Path | None = None
    files: tuple[Path, ...] = ()
    trust_first_use: bool = False

    def __post_init__(self) -> None:
        check_pins(self.pins)
        if self.trust_first_use and self.own_file is None:
            raise ValueError("trust_first_use needs own_file to remember the key in")

    def known(self, address: HostAddress) -> tuple[KnownKey, ...]:
        """All that the files say about an address."""
        files = [file for file in (self.own_file, *self.files) if file is not None]
        return tuple(known for file in files for known in known_keys(file, address))

    def preferred_families(self, address: HostAddress) -> list[str]:
        """Key types in the order to ask the server for: those first that it is known by."""
        known = {key.key_type for key in self.known(address) if not key.marker}
        return sorted(KEY_FAMILIES, key=lambda family: family not in known)

    def wants_certificate(self, address: HostAddress) -> bool:
        """Whether the server should show a certificate: a file names an authority for it, and no key of its own."""
        known = self.known(address)
        return not self.pins and {key.marker for key in known if key.marker != "@revoked"} == {"@cert-authority"}

    def check(self, address: HostAddress, key: paramiko.PKey) -> None:
        """Return if the key, or the certificate that came with it, is the right one; a first use is remembered.

        Raises:
            HostKeyMismatch: Another one is pinned or known, or this one is revoked.
            HostUserError: No pin and no file speaks of the host, or its certificate does not count.
        """
        key_type, key_blob, found = key.get_name(), key.asbytes(), fingerprint(key.asbytes())
        if self.pins:
            if found not in self.pins:
                raise HostKeyMismatch(str(address), self.pins, (found,), "the pin")
            return
        known = self.known(address)
        if any(line.marker == "@revoked" and line.key_blob == key_blob for line in known):
            raise HostKeyMismatch(str(address), ("any other: this one is revoked",), (found,), "the known-hosts file")
        own = [line for line in known if not line.marker]
        if any(line.key_blob == key_blob for line in own):
            return
        certificate_fault = ""
        if key.public_blob is not None:
            authorities = {line.key_blob for line in known if line.marker == "@cert-authority"}
            certificate_fault = _certificate_fault(key.public_blob.key_blob, address.host, authorities)
            if not certificate_fault:
                return
        if expected := tuple(dict.fromkeys(fingerprint(line.key_blob) for line in own if line.has_port)):
            sources = " and ".join(dict.fromkeys(str(line.source) for line in own if line.has_port))
            raise HostKeyMismatch(str(address), expected, (found,), sources)
        if not self.trust_first_use or self.own_file is None:
            why = f" Its certificate does not count: {certificate_fault}." if certificate_fault else ""
            raise HostUserError(
                f"The host key of {address} is unknown: {key_type} {found}.{why} Nothing was sent. "
                "Compare it with what the host's console or provider shows, then pin it "
                f"(--fingerprint {found}) or accept it by name with --trust-first-use."
            )
        remember(self.own_file, address, key_type, key_blob)


def _certificate_fault(certificate: bytes, host: str, authorities: set[bytes]) -> str:
    """Why a host's certificate does not count; empty if it does."""
    key_type = paramiko.Message(certificate).get_text()
    try:
        read = load_ssh_public_identity(f"{key_type} {base64.b64encode(certificate).decode()}".encode())
        if not isinstance(read, SSHCertificate) or read.type is not SSHCertificateType.HOST:
            return "it is none of a host"
        signer = read.signature_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        if base64.b64decode(signer.split()[1]) not in authorities:
            return "no known-hosts file names its authority for this host"
        read.verify_cert_signature()
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        return f"it cannot be verified ({error or type(error).__name__})"
    if read.valid_principals and host.encode() not in read.valid_principals:
        names = ", ".join(name.decode("utf-8", "replace") for name in read.valid_principals)
        return f"it is for {names}, not {host}"
    if not read.valid_after <= time.time() < read.valid_before:
        return "it is not valid at this time"
    return "it has options that are not known here" if read.critical_options else ""


def remember(file: Path, address: HostAddress, key_type: str, key_blob: bytes) -> None:
    """Append a key to a known-hosts file, which is made, readable by its owner only, if need be."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = f"{_name_of(address)} {key_type} {base64.b64encode(key_blob).decode()}\n"
    # One write in append mode: two processes that meet the same host at once leave two whole lines.
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_private_key(path: Path) -> paramiko.PKey:
    """A private key of any kind and format that OpenSSH reads, but DSA, with the certificate beside it, if any.

    Raises:
        HostUserError: It is missing, unreadable, no private key, or a passphrase locks it, which nobody is asked for.
    """
    path = path.expanduser()
    try:
        data = path.read_bytes()
        key = _parsed(data, path)
        certificate = path.with_name(f"{path.name}-cert.pub")
        if certificate.is_file():
            key.load_certificate(str(certificate))
    except OSError as error:
        raise HostUserError(f"Cannot use the private key {path}: {error.strerror or error}.") from error
    except (ValueError, UnsupportedAlgorithm, paramiko.SSHException) as error:
        if data.split(None, 1)[:1] and data.split(None, 1)[0].decode("utf-8", "replace").startswith(("ssh-", "ecdsa-")):
            reason = "it is a public key. Give the private key's file"
        else:
            reason = "it is not a private key that can be read, or of a kind that only an SSH agent can use"
        raise HostUserError(f"Cannot use the private key {path}: {reason}.") from error
    return key


def _parsed(data: bytes, path: Path) -> paramiko.PKey:
    load = load_ssh_private_key if b"BEGIN OPENSSH PRIVATE KEY" in data else load_pem_private_key
    try:
        loaded = load(data, None)
    except TypeError as error:  # so it says that it wants a passphrase
        unlock = f"Unlock it once with: ssh-add {path}"
        raise HostUserError(f"A passphrase protects the private key {path}. {unlock}") from error
    kinds: tuple[tuple[type, type[paramiko.PKey]], ...] = (
        (rsa.RSAPrivateKey, paramiko.RSAKey),
        (ec.EllipticCurvePrivateKey, paramiko.ECDSAKey),
        (ed25519.Ed25519PrivateKey, paramiko.Ed25519Key),
    )
    for kind, wrapper in kinds:
        if isinstance(loaded, kind):
            # paramiko reads fewer formats than cryptography does.
            text = loaded.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            ).decode()
            return wrapper.from_private_key(io.StringIO(text))
    raise ValueError(f"{type(loaded).__name__} is of no use here")


def public_blob(key_file: Path) -> bytes | None:
    """The public key of a private key's file that cannot be read itself, or None if it is not to be found.

    It stands beside it (`.pub`), or unlocked at the beginning of a key in OpenSSH's own format, or is the file itself.
    """
    path = key_file.expanduser()
    for file in (path.with_name(path.name + ".pub"), path):
        try:
            text = file.read_text("ascii")
            if "BEGIN OPENSSH PRIVATE KEY" in text:
                message = paramiko.Message(base64.b64decode("".join(text.strip().splitlines()[1:-1])))
                message.get_bytes(len(b"openssh-key-v1\0"))
                for _ in ("cipher", "key derivation", "its options"):
                    message.get_string()
                message.get_int()
                return message.get_binary()
            if text.startswith(("ssh-", "ecdsa-", "sk-")):
                return base64.b64decode(text.split()[1])
        except (OSError, IndexError, ValueError, paramiko.SSHException):
            continue
    return None
