"""One authenticated SSH connection: address, server key, login, in this order and bounded in time.

Until the server has proved the right key, nothing but the protocol's own greeting is sent to it.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import time

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from tasks.core.retry import retry_transient
from tasks.hosts.access import SshAccess
from tasks.hosts.errors import HostKeyMismatch, HostUnreachable, HostUserError
from tasks.hosts.keys import KEY_FAMILIES
from tasks.hosts.login import NotYet, log_in

# AES-GCM is faster than paramiko's first choice, AES-CTR with a separate MAC; OpenSSH offers all of these.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
ATTEMPT_S = 15.0
"""A connection, or a greeting, that takes longer is tried anew. A login may take all the time that is left."""
KEEPALIVE_S = 15
"""Of silence, after which a sign of life is sent."""
_SILENCE_MS = 60_000

REKEY_BYTES = 2**35
"""About as OpenSSH for these ciphers. paramiko's 512 MiB lie within a transfer, and its key exchange hangs for 30 s,
then breaks the connection, where the other side closes a channel meanwhile."""

# paramiko logs a traceback for every broken connection, ours are typed errors. To see its side, give this logger
# a handler.
_PARAMIKO_LOG = "jade.paramiko"
logging.getLogger(_PARAMIKO_LOG).propagate = False
logging.getLogger(_PARAMIKO_LOG).addHandler(logging.NullHandler())


class _NoSuchKey(NotYet):
    """The server has no key of the kind that was asked for."""


class Transport(paramiko.Transport):
    """A connection, with those that it goes through, and with what the server can do, in case we can none of it."""

    wants_certificate = False

    def __init__(self, sock: socket.socket | paramiko.Channel, through: Transport | None) -> None:
        super().__init__(sock)
        self.offered: dict[str, list[str]] = {}
        self._through = through

    def close(self) -> None:
        """Close it and those that it goes through."""
        super().close()
        if self._through is not None:
            self._through.close()

    def _really_parse_kex_init(self, m: paramiko.Message, *args: object, **kwargs: object) -> dict[str, list[str]]:
        parsed: dict[str, list[str]] = super()._really_parse_kex_init(m, *args, **kwargs)  # type: ignore[misc]
        self.offered = {name: list(value) for name, value in parsed.items() if isinstance(value, list)}
        return parsed

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """Kinds of host keys in the order in which they are wanted; certificates last, unless they are what counts."""
        kinds = super().preferred_keys
        return tuple(sorted(kinds, key=lambda kind: ("-cert-" in kind) != self.wants_certificate))


def connect(access: SshAccess) -> Transport:
    """Connect, check the server's key and log in.

    Raises:
        HostUnreachable: Nothing that speaks SSH answered, or let us in, within `connect_timeout_s`.
        HostKeyMismatch: Nothing was sent.
        AuthenticationFailed: None of the keys is let in.
        HostUserError: Its name, key or ours is unknown or of no use, or the two sides have no algorithm in common.
    """
    started, failed = time.monotonic(), [0]
    deadline = started + access.connect_timeout_s
    try:
        return retry_transient(
            lambda: _attempt(access, deadline),
            attempts=sys.maxsize,
            limit_s=access.connect_timeout_s,
            pause_s=_FIRST_PAUSE_S,
            longest_pause_s=_LONGEST_PAUSE_S,
            only=NotYet,
            on_retry=lambda _, attempt: failed.append(attempt),
        )
    except NotYet as problem:
        tried_s = time.monotonic() - started
        raise HostUnreachable(str(access.address), tried_s, failed[-1] + 1, str(problem)) from problem


def _attempt(access: SshAccess, deadline: float) -> Transport:
    families = access.trust.preferred_families(access.address)
    refused: list[str] = []
    for wanted in [families, *([family] for family in families)]:
        try:
            return _attempt_with_families(access, wanted, deadline)
        except HostKeyMismatch as mismatch:
            # A pin may be of another of the server's keys than the one it prefers: ask for each kind once.
            if not access.trust.pins:
                raise
            refused += mismatch.found
        except _NoSuchKey:
            continue
    raise HostKeyMismatch(str(access.address), access.trust.pins, tuple(dict.fromkeys(refused)), "the pin")


def _attempt_with_families(access: SshAccess, families: list[str], deadline: float) -> Transport:
    with contextlib.ExitStack() as undo:
        through = connect(access.jump) if access.jump is not None else None
        if through is not None:
            undo.callback(through.close)
        sock = _socket(access, through, deadline)
        undo.callback(sock.close)
        transport = Transport(sock, through)
        undo.callback(transport.close)
        _negotiate(access, transport, families, deadline)
        access.trust.check(access.address, transport.get_remote_server_key())
        log_in(transport, access, deadline - time.monotonic())
        transport.set_keepalive(KEEPALIVE_S)
        undo.pop_all()
        return transport


def _left_s(deadline: float, what: str) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise NotYet(f"no time was left to {what}")
    return left


def _socket(access: SshAccess, through: Transport | None, deadline: float) -> socket.socket | paramiko.Channel:
    address = access.address
    timeout_s = min(_left_s(deadline, "connect"), ATTEMPT_S)
    if through is not None:
        try:
            return through.open_channel(
                "direct-tcpip", (address.host, address.port), ("127.0.0.1", 0), timeout=timeout_s
            )
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise NotYet(f"the jump host could not reach it: {error}") from error
    try:
        sock = socket.create_connection((address.host, address.port), timeout=timeout_s)
    except (socket.gaierror, UnicodeError) as error:  # the latter: an empty part, or one that is too long
        if isinstance(error, UnicodeError) or error.errno == socket.EAI_NONAME:
            raise HostUserError(
                f"No address is known for the host name {address.host!r}. Check its spelling and your DNS."
            ) from error
        raise NotYet(f"its name could not be looked up: {error.strerror}") from error
    except OSError as error:
        raise NotYet(error.strerror or str(error)) from error
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A peer that vanished is noticed when keep-alives stay unacknowledged this long, not after 15 min.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS)
    return sock


def _negotiate(access: SshAccess, transport: Transport, families: list[str], deadline: float) -> None:
    transport.set_log_channel(_PARAMIKO_LOG)
    transport.packetizer.REKEY_BYTES = REKEY_BYTES
    transport.wants_certificate = access.trust.wants_certificate(access.address)
    timeout_s = min(_left_s(deadline, "negotiate"), ATTEMPT_S)
    transport.banner_timeout = transport.handshake_timeout = timeout_s
    options = transport.get_security_options()
    options.ciphers = _CIPHERS
    options.key_types = [algorithm for family in families for algorithm in KEY_FAMILIES[family]]
    try:
        transport.start_client(timeout=timeout_s)
    except IncompatiblePeer as error:
        if "host key" in str(error) and len(families) < len(KEY_FAMILIES):
            raise _NoSuchKey(str(error)) from error
        raise HostUserError(_nothing_in_common(access, transport, str(error))) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise NotYet(f"it does not speak SSH well: {error or type(error).__name__}") from error
    if not transport.initial_kex_done:
        raise NotYet("it accepted the connection but did not finish the greeting")


def _nothing_in_common(access: SshAccess, transport: Transport, reason: str) -> str:
    options = transport.get_security_options()
    for words, what, offered, known in (
        ("kex", "key exchange", "kex_algo_list", options.kex),
        ("host key", "kind of host key", "server_key_algo_list", options.key_types),
        ("cipher", "cipher", "server_encrypt_algo_list", options.ciphers),
        ("mac", "MAC", "server_mac_algo_list", options.digests),
    ):
        if words in reason:
            return (
                f"{access.address} and this machine have no {what} in common. It offers "
                f"{', '.join(transport.offered.get(offered, [])) or 'none'}; this machine knows {', '.join(known)}. "
                "Its sshd_config can allow one of these."
            )
    return f"{access.address} and this machine have nothing in common to connect with: {reason}"
