"""One authenticated SSH connection: address, server key, login, in this order and bounded in time.

Until the server has proved the right key, nothing but the protocol's own greeting is sent to it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import sys
import threading
import time

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from tasks.core.retry import retry_transient
from tasks.hosts.access import SshAccess
from tasks.hosts.errors import ConnectionLost, HostKeyMismatch, HostUnreachable, HostUserError
from tasks.hosts.keys import KEY_FAMILIES, fingerprint
from tasks.hosts.login import NotYet, log_in

# AES-GCM is faster than paramiko's first choice, AES-CTR with a separate MAC; OpenSSH offers all of these.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
ATTEMPT_S = 15.0
"""A connection, or a greeting, that takes longer is tried anew. A login may take all the time that is left."""
_REFUSED_S = 5.0
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


class _Transport(paramiko.Transport):
    """Keeps what the server can do, for the case that it is nothing that we can."""

    wants_certificate = False

    def __init__(self, sock: socket.socket | paramiko.Channel) -> None:
        super().__init__(sock)
        self.offered: dict[str, list[str]] = {}

    def _really_parse_kex_init(self, m: paramiko.Message, *args: object, **kwargs: object) -> dict[str, list[str]]:
        parsed: dict[str, list[str]] = super()._really_parse_kex_init(m, *args, **kwargs)  # type: ignore[misc]
        self.offered = {name: list(value) for name, value in parsed.items() if isinstance(value, list)}
        return parsed

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """Kinds of host keys in the order in which they are wanted; certificates last, unless they are what counts."""
        kinds = super().preferred_keys
        return tuple(sorted(kinds, key=lambda kind: ("-cert-" in kind) != self.wants_certificate))


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


def _attempt_with_families(access: SshAccess, families: list[str], deadline: float) -> Connection:
    with contextlib.ExitStack() as undo:
        through = connect(access.jump) if access.jump is not None else None
        if through is not None:
            undo.callback(through.close)
        sock = _socket(access, through, deadline)
        undo.callback(sock.close)
        transport = _negotiate(access, sock, families, deadline)
        undo.callback(transport.close)
        access.trust.check(access.address, transport.get_remote_server_key())
        log_in(transport, access, deadline - time.monotonic())
        transport.set_keepalive(KEEPALIVE_S)
        undo.pop_all()
        return Connection(transport, through)


def _left_s(deadline: float, what: str) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise NotYet(f"no time was left to {what}")
    return left


def _socket(access: SshAccess, through: Connection | None, deadline: float) -> socket.socket | paramiko.Channel:
    address = access.address
    timeout_s = min(_left_s(deadline, "connect"), ATTEMPT_S)
    if through is not None:
        try:
            return through.transport.open_channel(
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


def _negotiate(
    access: SshAccess, sock: socket.socket | paramiko.Channel, families: list[str], deadline: float
) -> paramiko.Transport:
    transport = _Transport(sock)
    with contextlib.ExitStack() as undo:
        undo.callback(transport.close)
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
        undo.pop_all()
    return transport


def _nothing_in_common(access: SshAccess, transport: _Transport, reason: str) -> str:
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


class SshLink:
    """The one connection to a host that all of its calls share: made when first needed, and anew when it broke.

    Args:
        access: How to get onto the host.
    """

    def __init__(self, access: SshAccess) -> None:
        self.access = access
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._channels: set[paramiko.Channel] = set()
        self._max_channels = math.inf
        self._changed = threading.Condition()
        self._opening = threading.Lock()

    def connected(self) -> Connection:
        """The connection, made if there is none that is alive; several threads share it."""
        with self._lock:
            if self._connection is not None and not self._connection.is_alive():
                self._connection.close()
                self._connection = None
            if self._connection is None:
                self._connection = connect(self.access)
            return self._connection

    def open_channel(self, doing: str, timeout_s: float) -> tuple[paramiko.Channel, paramiko.Transport]:
        """A new session on the connection, which `close_channel` gives back.

        Where the server allows no more at once (MaxSessions), it waits until one of ours has ended.

        Raises:
            ConnectionLost: Not even a new connection gave one.
            HostUserError: The server gives none, though none of ours is open.
        """
        deadline = time.monotonic() + timeout_s
        num_broken, refused_since, reason = 0, math.inf, "no session became free"
        while self._wait_for_session(deadline):
            transport = self.connected().transport
            try:
                with self._opening:  # paramiko would tell one thread of another's refusal
                    channel = transport.open_session(timeout=min(timeout_s, ATTEMPT_S))
            except paramiko.ChannelException as error:
                reason = f"no further session: {error.text}"
                with self._changed:
                    self._max_channels = len(self._channels) or self._max_channels
                    # A server may notice late that the last one has ended.
                    refused_since = math.inf if self._channels else min(refused_since, time.monotonic())
                    self._changed.wait(0.1)
                if time.monotonic() - refused_since > _REFUSED_S:
                    raise HostUserError(
                        f"{self.access.address} opens no session ({error.text}). Its sshd_config may say MaxSessions 0."
                    ) from error
            except (paramiko.SSHException, EOFError, OSError) as error:
                # An idle connection may have died unnoticed; nothing was sent yet, so try a new one.
                transport.close()
                num_broken, reason = num_broken + 1, str(error) or type(error).__name__
                if num_broken > 1:
                    break
            else:
                with self._changed:
                    self._channels.add(channel)
                return channel, transport
        raise ConnectionLost(str(self.access.address), doing, reason)

    def _wait_for_session(self, deadline: float) -> bool:
        """Wait until the server may open one more session; False if it is too late."""
        with self._changed:
            while (left_s := deadline - time.monotonic()) > 0:
                self._channels = {channel for channel in self._channels if not channel.closed}
                if len(self._channels) < self._max_channels:
                    return True
                self._changed.wait(min(left_s, 1.0))
        return False

    def close_channel(self, channel: paramiko.Channel) -> None:
        """Close a session."""
        channel.close()
        with self._changed:
            self._channels.discard(channel)
            self._changed.notify_all()

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
