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
from typing import NamedTuple

import paramiko
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, SSHCertificate, SSHCertificateType
from paramiko.pkey import PublicBlob

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
_KINDS: tuple[tuple[type, type[paramiko.PKey]], ...] = (
    (rsa.RSAPrivateKey, paramiko.RSAKey),
    (ec.EllipticCurvePrivateKey, paramiko.ECDSAKey),
    (ed25519.Ed25519PrivateKey, paramiko.Ed25519Key),
)


def fingerprint(key_blob: bytes) -> str:
    """What `ssh-keygen -lE sha256` prints for a public key, `SHA256:` and base64 without padding."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key_blob).digest()).decode().rstrip("=")


def fingerprint_of_line(line: str) -> str:
    """The fingerprint of a public key's line, `ssh-ed25519 AAAA... comment`; a ValueError if it is none."""
    key = PublicBlob.from_string(line.strip())
    if key.key_type not in KEY_FAMILIES:
        raise ValueError(f"not a public key: {line[:80]!r}")
    return fingerprint(key.key_blob)


class KnownKey(NamedTuple):
    """One line of a known-hosts file that speaks of a host; the key is in wire format.

    Attributes:
        marker: Empty, `@revoked` (the line forbids this key) or `@cert-authority` (it signs hosts' certificates).
        has_port: Whether the line names the port, too, where that is not 22. One that does not vouches for the same
            key, but says nothing against another.
    """

    key_type: str
    key_blob: bytes
    marker: str
    source: Path
    has_port: bool


def known_keys(file: Path, address: HostAddress) -> Iterator[KnownKey]:
    """The lines of a known-hosts file that speak of an address; none if there is no file.

    Lines that make no sense are passed over, as OpenSSH does.
    """
    for line in file.read_text("utf-8", "replace").splitlines() if file.is_file() else ():
        # sshd(8), SSH_KNOWN_HOSTS FILE FORMAT
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in {"", "@revoked", "@cert-authority"}:
            continue
        hosts, key_type, encoded = fields[:3]
        has_port = _speaks_of(hosts, _name_of(address))
        if has_port or _speaks_of(hosts, address.host):
            with contextlib.suppress(binascii.Error):
                yield KnownKey(key_type, base64.b64decode(encoded, validate=True), marker, file, has_port)


def _name_of(address: HostAddress) -> str:
    return address.host if address.port == 22 else f"[{address.host}]:{address.port}"


def _speaks_of(hosts: str, wanted: str) -> bool:
    if hosts.startswith("|1|"):
        with contextlib.suppress(binascii.Error, AssertionError):  # what makes no sense speaks of nobody
            return paramiko.HostKeys.hash_host(wanted, hosts) == hosts
        return False
    # Only * and ? are wild there; fnmatch would read the brackets around a host with a port as a set.
    patterns = hosts.lower().replace("[", "[[]").split(",")
    meant = [pattern for pattern in patterns if fnmatch.fnmatchcase(wanted.lower(), pattern.removeprefix("!"))]
    return bool(meant) and not any(pattern.startswith("!") for pattern in meant)


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
        markers = {key.marker for key in self.known(address)}
        return not self.pins and markers - {"@revoked"} == {"@cert-authority"}

    def check(self, address: HostAddress, key: paramiko.PKey) -> None:
        """Return if the key, or the certificate that came with it, is the right one; a first use is remembered.

        Raises:
            HostKeyMismatch: Another one is pinned or known, or this one is revoked.
            HostUserError: No pin and no file speaks of the host, or its certificate does not count.
        """
        key_blob, found, why = key.asbytes(), fingerprint(key.asbytes()), ""
        if self.pins:
            if found not in self.pins:
                raise HostKeyMismatch(str(address), self.pins, (found,), "the pin")
            return
        known = self.known(address)
        markers = {line.marker for line in known if line.key_blob == key_blob}
        if "@revoked" in markers:
            raise HostKeyMismatch(str(address), ("any other: this one is revoked",), (found,), "the known-hosts file")
        if "" in markers:
            return
        if key.public_blob is not None:
            authorities = {line.key_blob for line in known if line.marker == "@cert-authority"}
            fault = _certificate_fault(key.public_blob.key_blob, address.host, authorities)
            if not fault:
                return
            why = f" Its certificate does not count: {fault}."
        if others := [line for line in known if not line.marker and line.has_port]:
            expected = tuple(dict.fromkeys(fingerprint(line.key_blob) for line in others))
            sources = " and ".join(dict.fromkeys(str(line.source) for line in others))
            raise HostKeyMismatch(str(address), expected, (found,), sources)
        if not self.trust_first_use or self.own_file is None:
            raise HostUserError(
                f"The host key of {address} is unknown: {key.get_name()} {found}.{why} Nothing was sent. "
                "Compare it with what the host's console or provider shows, then pin it "
                f"(--fingerprint {found}) or accept it by name with --trust-first-use."
            )
        self.own_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One write in append mode: two processes that meet the same host at once leave two whole lines.
        descriptor = os.open(self.own_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            file.write(f"{_name_of(address)} {key.get_name()} {key.get_base64()}\n".encode())
            os.fsync(descriptor)


def _certificate_fault(certificate: bytes, host: str, authorities: set[bytes]) -> str:
    """Why a host's certificate does not count; empty if it does."""
    line = f"{paramiko.Message(certificate).get_text()} {base64.b64encode(certificate).decode()}"
    try:
        read = serialization.load_ssh_public_identity(line.encode())
        if not isinstance(read, SSHCertificate) or read.type is not SSHCertificateType.HOST:
            return "it is none of a host"
        signer = read.signature_key().public_bytes(Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
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


def load_private_key(path: Path) -> paramiko.PKey:
    """A private key of any kind and format that OpenSSH reads, but DSA, with the certificate beside it, if any.

    Raises:
        HostUserError: It is missing, unreadable, no private key, or a passphrase locks it, which nobody is asked for.
    """
    path, data = path.expanduser(), b""
    try:
        data = path.read_bytes()
        is_openssh = b"BEGIN OPENSSH PRIVATE KEY" in data
        loaded = (serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key)(data, None)
        # paramiko reads fewer formats than cryptography does.
        text = loaded.private_bytes(
            Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ).decode()
        key = next(wrapper for kind, wrapper in _KINDS if isinstance(loaded, kind)).from_private_key(io.StringIO(text))
        certificate = path.with_name(f"{path.name}-cert.pub")
        if certificate.is_file():
            key.load_certificate(str(certificate))
    except OSError as error:
        raise HostUserError(f"Cannot use the private key {path}: {error.strerror or error}.") from error
    except TypeError as error:  # so cryptography says that it wants a passphrase
        unlock = f"Unlock it once with: ssh-add {path}"
        raise HostUserError(f"A passphrase protects the private key {path}. {unlock}") from error
    except (ValueError, StopIteration, UnsupportedAlgorithm, paramiko.SSHException) as error:
        reason = "it is not a private key that can be read, or of a kind that only an SSH agent can use"
        if data.lstrip().startswith((b"ssh-", b"ecdsa-")):
            reason = "it is a public key. Give the private key's file"
        raise HostUserError(f"Cannot use the private key {path}: {reason}.") from error
    return key


def public_blob(key_file: Path) -> bytes | None:
    """The public key of a private key's file that cannot be read itself, or None if it is not to be found.

    It stands beside it (`.pub`), or unlocked at the beginning of a key in OpenSSH's own format, or is the file itself.
    """
    path = key_file.expanduser()
    for file in (path.with_name(path.name + ".pub"), path):
        with contextlib.suppress(OSError, ValueError, paramiko.SSHException):
            text = file.read_text("ascii")
            if "BEGIN OPENSSH PRIVATE KEY" not in text:
                return PublicBlob.from_string(text).key_blob
            message = paramiko.Message(base64.b64decode("".join(text.strip().splitlines()[1:-1])))
            message.get_bytes(len(b"openssh-key-v1\0"))
            for _ in ("cipher", "key derivation", "its options"):
                message.get_string()
            message.get_int()
            return message.get_binary()
    return None
