"""One authenticated SSH connection: address, server key, login, in this order and bounded in time.

Until the server has proved the right key, nothing but the protocol's own greeting is sent to it.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from tasks.hosts.base import HostAddress
from tasks.hosts.errors import (
    AuthenticationFailed,
    HostKeyMismatch,
    HostNameUnknown,
    HostUnreachable,
    PassphraseRequired,
)
from tasks.hosts.keys import KEY_FAMILIES, HostTrust, fingerprint, load_private_key, public_blob

# AES-GCM is faster than paramiko's first choice, AES-CTR with a separate MAC; OpenSSH offers all of these.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_DEFAULT_KEY_NAMES = ("id_ed25519", "id_ecdsa", "id_rsa")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
ATTEMPT_S = 15.0
_SILENCE_MS = 60_000

REKEY_BYTES = 2**35
"""About as OpenSSH for these ciphers. paramiko's 512 MiB lie within a transfer, and its key exchange hangs for 30 s,
then breaks the connection, where the other side closes a channel meanwhile."""

_Candidate = tuple[str, paramiko.PKey | PassphraseRequired]

# paramiko logs a traceback for every broken connection, ours are typed errors. To see its side, give this logger
# a handler.
_PARAMIKO_LOG = "jade.paramiko"
logging.getLogger(_PARAMIKO_LOG).propagate = False
logging.getLogger(_PARAMIKO_LOG).addHandler(logging.NullHandler())


@dataclass(frozen=True)
class SshAccess:
    """How to get onto a host.

    Attributes:
        address: Where and as whom.
        trust: Which server key is the right one.
        key_file: Private key; None tries the agent's keys and then the usual files in `~/.ssh`.
        passphrase: Of `key_file`; never shown.
        use_agent: Whether to ask the SSH agent.
        jump: The host to go through, with its own address, trust and key.
        connect_timeout_s: How long to keep trying; a refused connection is tried again until then.
        keepalive_s: Seconds of silence after which a sign of life is sent.
    """

    address: HostAddress
    trust: HostTrust
    key_file: Path | None = None
    passphrase: str | None = field(default=None, repr=False)
    use_agent: bool = True
    jump: SshAccess | None = None
    connect_timeout_s: float = 30.0
    keepalive_s: float = 15.0


class _NotYet(Exception):  # a message to the loop below, not an error of its own
    """This attempt failed in a way that another one may not."""


class Connection:
    """An authenticated transport, and those that it goes through."""

    def __init__(self, transport: paramiko.Transport, through: Connection | None) -> None:
        self.transport = transport
        self._through = through

    @property
    def host_key_fingerprint(self) -> str:
        """Of the key that the server proved."""
        return fingerprint(self.transport.get_remote_server_key().asbytes())

    def is_alive(self) -> bool:
        """Whether the transport has not noticed its end yet."""
        return self.transport.is_active() and self.transport.is_authenticated()

    def close(self) -> None:
        """Close it and those that it goes through."""
        self.transport.close()
        if self._through is not None:
            self._through.close()


def connect(access: SshAccess) -> Connection:
    """Connect, check the server's key and log in.

    Raises:
        HostUnreachable: Nothing that speaks SSH answered within `connect_timeout_s`.
        HostNameUnknown, HostKeyUnknown, HostKeyMismatch: Nothing was sent.
        AuthenticationFailed, PassphraseRequired, PrivateKeyUnusable: As they say.
    """
    started = time.monotonic()
    deadline = started + access.connect_timeout_s
    attempts, pause_s = 0, _FIRST_PAUSE_S
    while True:
        attempts += 1
        try:
            return _attempt(access, deadline)
        except _NotYet as problem:
            reason = str(problem)
        left_s = deadline - time.monotonic()
        if left_s <= pause_s:
            raise HostUnreachable(str(access.address), time.monotonic() - started, attempts, reason)
        time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 -- jitter, not a secret
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _attempt(access: SshAccess, deadline: float) -> Connection:
    families = access.trust.preferred_families(access.address)
    refused: list[str] = []
    try:
        return _attempt_with_families(access, families, deadline)
    except HostKeyMismatch as mismatch:
        if not access.trust.pins:
            raise
        refused += mismatch.found
    # A pin may be of another of the server's keys than the one it prefers: ask for each kind once.
    for family in families:
        try:
            return _attempt_with_families(access, [family], deadline)
        except HostKeyMismatch as mismatch:
            refused += mismatch.found
        except _NoSuchKey:
            continue
    found = tuple(dict.fromkeys(refused))
    raise HostKeyMismatch(str(access.address), access.trust.pins, found, "the pin")


class _NoSuchKey(_NotYet):
    """The server has no key of the kind that was asked for."""


def _attempt_with_families(access: SshAccess, families: list[str], deadline: float) -> Connection:
    through = connect(access.jump) if access.jump is not None else None
    transport: paramiko.Transport | None = None
    try:
        sock = _socket(access, through, deadline)
        transport = _negotiate(sock, families, deadline)
        key = transport.get_remote_server_key()
        access.trust.check(access.address, key.get_name(), key.asbytes())
        _log_in(transport, access, deadline)
    except BaseException:
        if transport is not None:
            transport.close()
        if through is not None:
            through.close()
        raise
    transport.set_keepalive(int(access.keepalive_s))
    return Connection(transport, through)


def _left_s(deadline: float, what: str) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise _NotYet(f"no time was left to {what}")
    return min(left, ATTEMPT_S)


def _socket(access: SshAccess, through: Connection | None, deadline: float) -> socket.socket | paramiko.Channel:
    address = access.address
    timeout_s = _left_s(deadline, "connect")
    if through is not None:
        try:
            return through.transport.open_channel(
                "direct-tcpip", (address.host, address.port), ("127.0.0.1", 0), timeout=timeout_s
            )
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise _NotYet(f"the jump host could not reach it: {error}") from error
    try:
        sock = socket.create_connection((address.host, address.port), timeout=timeout_s)
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            raise HostNameUnknown(address.host) from error
        raise _NotYet(f"its name could not be looked up: {error.strerror}") from error
    except UnicodeError as error:  # an empty part, or one that is too long
        raise HostNameUnknown(address.host) from error
    except OSError as error:
        raise _NotYet(error.strerror or str(error)) from error
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A peer that vanished is noticed when keep-alives stay unacknowledged this long, not after 15 min.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS)
    return sock


def _negotiate(sock: socket.socket | paramiko.Channel, families: list[str], deadline: float) -> paramiko.Transport:
    try:
        transport = paramiko.Transport(sock)
    except BaseException:
        sock.close()
        raise
    transport.set_log_channel(_PARAMIKO_LOG)
    transport.packetizer.REKEY_BYTES = REKEY_BYTES
    timeout_s = _left_s(deadline, "negotiate")
    transport.banner_timeout = transport.handshake_timeout = timeout_s
    options = transport.get_security_options()
    options.ciphers = _CIPHERS
    options.key_types = [algorithm for family in families for algorithm in KEY_FAMILIES[family]]
    try:
        transport.start_client(timeout=timeout_s)
    except IncompatiblePeer as error:
        transport.close()
        raise _NoSuchKey(str(error)) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        transport.close()
        raise _NotYet(f"it does not speak SSH well: {error or type(error).__name__}") from error
    except BaseException:
        transport.close()
        raise
    if not transport.initial_kex_done:
        transport.close()
        raise _NotYet("it accepted the connection but did not finish the greeting")
    return transport


def _log_in(transport: paramiko.Transport, access: SshAccess, deadline: float) -> None:
    with _agent_keys(access) as agent_keys:
        _offer(transport, access, _candidates(access, agent_keys), deadline)


def _offer(transport: paramiko.Transport, access: SshAccess, candidates: Iterator[_Candidate], deadline: float) -> None:
    address = str(access.address)
    tried: list[str] = []
    reason = "no key to offer"
    locked: PassphraseRequired | None = None
    for label, key in candidates:
        if isinstance(key, PassphraseRequired):
            locked = locked or key
            continue
        tried.append(f"{label} ({fingerprint(key.asbytes())})")
        transport.auth_timeout = _left_s(deadline, "log in")
        try:
            still_wanted = transport.auth_publickey(access.address.user, key)
        except paramiko.BadAuthenticationType as error:
            wanted = ", ".join(error.allowed_types)
            raise AuthenticationFailed(address, tuple(tried), f"it wants {wanted}, not a key") from error
        except paramiko.AuthenticationException as error:
            reason = str(error).rstrip(".")
            if transport.is_active():
                continue
            if len(tried) == 1:
                raise _NotYet("it closed the connection during the login") from error
            break  # servers hang up after a few wrong keys
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise _NotYet(f"the connection broke during the login: {error}") from error
        if not still_wanted:
            return
        raise AuthenticationFailed(address, tuple(tried), f"it also wants {', '.join(still_wanted)}")
    if locked is not None and not tried:
        raise locked
    raise AuthenticationFailed(address, tuple(tried), reason)


@contextlib.contextmanager
def _agent_keys(access: SshAccess) -> Iterator[tuple[paramiko.AgentKey, ...]]:
    if not access.use_agent:
        yield ()
        return
    with contextlib.closing(paramiko.Agent()) as agent:
        yield agent.get_keys()


def _candidates(access: SshAccess, agent_keys: Sequence[paramiko.AgentKey]) -> Iterator[_Candidate]:
    """Keys to offer, in order; in the place of a locked one, the error that says so."""
    if access.key_file is not None:
        try:
            yield str(access.key_file), load_private_key(access.key_file, access.passphrase)
        except PassphraseRequired as locked:
            public = public_blob(access.key_file)
            held = [key for key in agent_keys if key.asbytes() == public]
            yield str(access.key_file), held[0] if held else locked
        return
    for key in agent_keys:
        yield "agent", key
    for name in _DEFAULT_KEY_NAMES:
        path = Path.home() / ".ssh" / name
        if path.exists():
            try:
                yield str(path), load_private_key(path)
            except PassphraseRequired as locked:
                yield str(path), locked
