"""One authenticated SSH connection: address, server key, login, in this order and bounded in time.

Until the server has proved the right key, nothing but the protocol's own greeting is sent to it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from tasks.core.retry import TookTooLong, retry_transient, within
from tasks.hosts.access import SshAccess
from tasks.hosts.errors import AuthenticationFailed, HostKeyMismatch, HostUnreachable, HostUserError
from tasks.hosts.keys import KEY_FAMILIES, fingerprint, load_private_key, public_blob

# AES-GCM is faster than paramiko's first choice, AES-CTR with a separate MAC; OpenSSH offers all of these.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_USUAL_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
ATTEMPT_S = 15.0
"""A connection, or a greeting, that takes longer is tried anew. A login may take all the time that is left."""
AGENT_S = 5.0
"""An SSH agent that does not tell its keys for so long is left out."""
KEEPALIVE_S = 15
"""Of silence, after which a sign of life is sent."""
_SILENCE_MS = 60_000
BROKEN = (paramiko.SSHException, EOFError, OSError)
"""What paramiko raises where a connection is no good any more."""

REKEY_BYTES = 2**35
"""About as OpenSSH for these ciphers. paramiko's 512 MiB lie within a transfer, and its key exchange hangs for 30 s,
then breaks the connection, where the other side closes a channel meanwhile."""

# paramiko logs a traceback for every broken connection, ours are typed errors. To see its side, give this logger
# a handler.
_PARAMIKO_LOG = "jade.paramiko"
logging.getLogger(_PARAMIKO_LOG).propagate = False
logging.getLogger(_PARAMIKO_LOG).addHandler(logging.NullHandler())

# What paramiko's refusal names -> what a person calls it, the server's list, and ours.
_NEGOTIATED = {
    "kex": ("key exchange", "kex_algo_list", "kex"),
    "host key": ("kind of host key", "server_key_algo_list", "key_types"),
    "cipher": ("cipher", "server_encrypt_algo_list", "ciphers"),
    "mac": ("MAC", "server_mac_algo_list", "digests"),
}


class _NotYet(Exception):
    """This attempt failed in a way that another one may not; says how."""

    is_transient = True


class _NoSuchKey(_NotYet):
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
    began, failed = monotonic(), [0]
    try:
        return retry_transient(
            lambda: _attempt(access, began + access.connect_timeout_s),
            attempts=sys.maxsize,
            limit_s=access.connect_timeout_s,
            pause_s=_FIRST_PAUSE_S,
            longest_pause_s=_LONGEST_PAUSE_S,
            only=_NotYet,
            on_retry=lambda _, attempt: failed.append(attempt),
        )
    except _NotYet as problem:
        raise HostUnreachable(str(access.address), monotonic() - began, failed[-1] + 1, str(problem)) from problem


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
    with contextlib.ExitStack() as undo, contextlib.closing(_Keys(access)) as keys:
        through = undo.enter_context(contextlib.closing(connect(access.jump))) if access.jump is not None else None
        sock = undo.enter_context(contextlib.closing(_socket(access, through, _step_s(deadline))))
        transport = undo.enter_context(contextlib.closing(Transport(sock, through)))
        _negotiate(access, transport, families, _step_s(deadline))
        access.trust.check(access.address, transport.get_remote_server_key())
        _log_in(transport, access, keys, deadline)
        transport.set_keepalive(KEEPALIVE_S)
        undo.pop_all()
        return transport


def _step_s(deadline: float) -> float:
    return min(max(deadline - monotonic(), 0.1), ATTEMPT_S)


def _socket(access: SshAccess, through: Transport | None, timeout_s: float) -> socket.socket | paramiko.Channel:
    there = (access.address.host, access.address.port)
    if through is not None:
        try:
            return through.open_channel("direct-tcpip", there, ("127.0.0.1", 0), timeout=timeout_s)
        except BROKEN as error:
            raise _NotYet(f"the jump host could not reach it: {error}") from error
    try:
        sock = socket.create_connection(there, timeout=timeout_s)
    except (OSError, UnicodeError) as error:
        # A name with an empty part, or one that is too long, is no name either.
        if isinstance(error, UnicodeError) or (isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME):
            raise HostUserError(
                f"No address is known for the host name {there[0]!r}. Check its spelling and your DNS."
            ) from error
        what = "its name could not be looked up: " if isinstance(error, socket.gaierror) else ""
        raise _NotYet(f"{what}{error.strerror or error}") from error
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A peer that vanished is noticed when keep-alives stay unacknowledged this long, not after 15 min.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS)
    return sock


def _negotiate(access: SshAccess, transport: Transport, families: list[str], timeout_s: float) -> None:
    transport.set_log_channel(_PARAMIKO_LOG)
    transport.packetizer.REKEY_BYTES = REKEY_BYTES
    transport.wants_certificate = access.trust.wants_certificate(access.address)
    transport.banner_timeout = transport.handshake_timeout = timeout_s
    options = transport.get_security_options()
    options.ciphers = _CIPHERS
    options.key_types = [algorithm for family in families for algorithm in KEY_FAMILIES[family]]
    try:
        transport.start_client(timeout=timeout_s)
    except IncompatiblePeer as error:
        if "host key" in str(error) and len(families) < len(KEY_FAMILIES):
            raise _NoSuchKey(str(error)) from error
        sides = f"{access.address} and this machine have"
        for words, (what, theirs, ours) in _NEGOTIATED.items():
            if words in str(error):
                raise HostUserError(
                    f"{sides} no {what} in common. It offers {', '.join(transport.offered.get(theirs, [])) or 'none'}; "
                    f"this machine knows {', '.join(getattr(options, ours))}. Its sshd_config can allow one of these."
                ) from error
        raise HostUserError(f"{sides} nothing in common to connect with: {error}") from error
    except BROKEN as error:
        raise _NotYet(f"it does not speak SSH well: {error or type(error).__name__}") from error
    if not transport.initial_kex_done:
        raise _NotYet("it accepted the connection but did not finish the greeting")


def _log_in(transport: Transport, access: SshAccess, keys: _Keys, deadline: float) -> None:
    tried: list[str] = []
    reason = "no key to offer"
    for label, key in keys.offered():
        tried.append(f"{label} ({fingerprint(key.asbytes())})")
        transport.auth_timeout = max(deadline - monotonic(), 0.1)
        try:
            still_wanted = transport.auth_publickey(access.address.user, key)
        except paramiko.BadAuthenticationType as error:
            reason = f"it wants {', '.join(error.allowed_types)}, not a key"
            break
        except paramiko.AuthenticationException as error:
            reason = str(error).rstrip(".")
            if "timeout" in reason.lower():
                raise _NotYet(
                    f"the login with {label} took longer than the {access.connect_timeout_s:g} s that it is given; "
                    "connect_timeout_s of the host gives more"
                ) from error
            if transport.is_active():
                continue
            if len(tried) == 1:
                raise _NotYet("it closed the connection during the login") from error
            break  # servers hang up after a few wrong keys
        except BROKEN as error:
            raise _NotYet(f"the connection broke during the login: {error}") from error
        if not still_wanted:
            return
        reason = f"it also wants {', '.join(still_wanted)}"
        break
    if keys.unusable is not None and not tried:
        raise HostUserError(f"{keys.unusable}{keys.problem}") from keys.unusable
    shown = ", ".join(tried) or "no key at all: there is no agent and no key file"
    raise AuthenticationFailed(
        f"{access.address} refused to log in ({reason}{keys.problem}). Tried {shown}. "
        "Check the user name, and that the public key stands in the account's authorized_keys."
    )


class _Keys:
    """The keys to offer: from files, and from the SSH agent, which is asked once, when needed, and not for ever.

    Attributes:
        unusable: Why the first file that cannot be used cannot.
        problem: Why the agent's keys are not known, to be added to a message; empty if nothing is wrong.
    """

    def __init__(self, access: SshAccess) -> None:
        self.unusable: HostUserError | None = None
        self.problem = ""
        self._access = access
        self._agent: paramiko.Agent | None = None

    def close(self) -> None:
        """Let go of the agent."""
        if self._agent is not None:
            self._agent.close()

    def offered(self) -> Iterator[tuple[str, paramiko.PKey]]:
        """Where each key is from, and the key, in the order in which they are tried."""
        access = self._access
        if access.key_file is not None:
            yield from self._of_file(access.key_file)
            return
        for path in access.preferred_keys:
            yield from self._of_file(path)
        if access.only_preferred:
            return
        for key in self._held:
            yield "agent", key
        for path in (Path(name).expanduser() for name in _USUAL_KEYS):
            if path.exists() and path not in access.preferred_keys:
                yield from self._of_file(path)

    def _of_file(self, path: Path) -> Iterator[tuple[str, paramiko.PKey]]:
        try:
            yield str(path), load_private_key(path)
        except HostUserError as unusable:
            # The agent may hold it. Where nothing tells the public key, it may be any of the agent's.
            wanted = public_blob(path)
            has_file = wanted is not None or path.expanduser().exists()
            held = [key for key in self._held if wanted in {None, key.asbytes()}] if has_file else []
            if not held:
                self.unusable = self.unusable or unusable
            for key in held:
                yield f"{path}, held by the agent", key

    @functools.cached_property
    def _held(self) -> list[paramiko.AgentKey]:
        """What the agent holds; none if it does not say."""
        try:
            return within(AGENT_S, self._ask_agent) if self._access.use_agent else []
        except TookTooLong:
            self.problem = f" The SSH agent did not answer within {AGENT_S:g} s."
        except (paramiko.SSHException, OSError) as error:
            self.problem = f" The SSH agent cannot be used: {error}."
        return []

    def _ask_agent(self) -> list[paramiko.AgentKey]:
        self._agent = paramiko.Agent()
        keys = list(self._agent.get_keys())
        for key in keys:
            if key.get_name().endswith("-cert-v01@openssh.com"):
                # Without it paramiko offers the plain key under the name of a certificate.
                key.public_blob = getattr(getattr(key, "inner_key", None), "public_blob", None)
        return keys
