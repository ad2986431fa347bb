"""A machine behind SSH: one connection, reused, made anew when it broke; every call bounded in time."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from time import monotonic

import paramiko

from tasks.core.retry import retry_transient
from tasks.hosts.access import CONNECT_S, SshAccess, access_of
from tasks.hosts.connection import ATTEMPT_S, BROKEN, Transport, connect
from tasks.hosts.errors import CommandTimedOut, ConnectionLost, HostError, HostUserError
from tasks.hosts.keys import fingerprint
from tasks.hosts.shell import MARK, Tail, program_of
from tasks.hosts.transfer import ShellHost
from tasks.settings.load import Settings

START_S = 60.0
"""How long an account's start-up files may take until a command begins."""
_SHELL = "exec sh"
_GRACE_S = 5.0
_REFUSED_S = 5.0
_SETTLE_S = 1.0
_MAX_NOISE_BYTES = 2**16
_START_UP_FILES = (
    "Start-up files of the account (.bashrc, .zshenv, .cshrc, config.fish) that wait for an answer, read the input or "
    "start another shell do that: let them do nothing where no terminal is."
)


class SshHost(ShellHost):
    """A host behind SSH. All calls share one connection, made when first needed, and anew when it broke.

    Args:
        access: Address, keys and trust.
        name: How messages call it; None is its address.
    """

    def __init__(self, access: SshAccess, *, name: str | None = None) -> None:
        self.access, self.name = access, name or str(access.address)
        self._lock, self._changed, self._opening = threading.Lock(), threading.Condition(), threading.Lock()
        self._connection: Transport | None = None
        self._channels: set[paramiko.Channel] = set()

    @property
    def host_key_fingerprint(self) -> str:
        """Of the key that the server proved; connects if need be."""
        return fingerprint(self._connected().get_remote_server_key().asbytes())

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def open(self, command: str, *, timeout_s: float, takes_input: bool = True) -> SshStream:
        """Start a command with `sh`, its input and output streaming.

        Raises:
            HostUserError: The server runs no commands; with what it said.
        """
        try:
            # A channel that closed on the way looks like a refusal: no is asked twice.
            return retry_transient(
                lambda: SshStream(self, command, timeout_s, takes_input=takes_input),
                attempts=2,
                pause_s=0.0,
                only=_NothingRan,
            )
        except _NothingRan as refusal:
            raise HostUserError(f"{self.name} runs no commands: {refusal} To train there takes a shell.") from refusal

    def _connected(self) -> Transport:
        with self._lock:
            if self._connection is not None and not self._connection.is_authenticated():
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
        deadline = monotonic() + timeout_s
        num_broken, refused_since, reason = 0, math.inf, "no session became free"
        while monotonic() < deadline and num_broken < 2:
            transport = self._connected()
            try:
                with self._opening:  # paramiko would tell one thread of another's refusal
                    channel = transport.open_session(timeout=min(timeout_s, ATTEMPT_S))
            except paramiko.ChannelException as error:
                reason = f"no further session: {error.text}"
                with self._changed:
                    self._channels = {channel for channel in self._channels if not channel.closed}
                    # A server may notice late that the last one has ended.
                    refused_since = math.inf if self._channels else min(refused_since, monotonic())
                    self._changed.wait(1.0 if self._channels else 0.1)
                if monotonic() - refused_since > _REFUSED_S:
                    raise HostUserError(
                        f"{self.access.address} opens no session ({error.text}). Its sshd_config may say MaxSessions 0."
                    ) from error
            except BROKEN as error:
                # An idle connection may have died unnoticed; nothing was sent yet, so try a new one.
                transport.close()
                num_broken, reason = num_broken + 1, str(error) or type(error).__name__
            else:
                with self._changed:
                    self._channels.add(channel)
                return channel, transport
        raise ConnectionLost(str(self.access.address), doing, reason)

    def close_channel(self, channel: paramiko.Channel) -> None:
        """Close a session."""
        channel.close()
        with self._changed:
            self._channels.discard(channel)
            self._changed.notify_all()


class _NothingRan(Exception):
    """The server refused a command, or its session ended before the command began; says how."""

    is_transient = True


class SshStream:
    """A command on an exec channel; its program goes by standard input, so that no login shell needs to quote it."""

    def __init__(self, host: SshHost, command: str, timeout_s: float, *, takes_input: bool) -> None:
        self._host, self._command, self._timeout_s = host, command, timeout_s
        deadline = monotonic() + timeout_s
        self._channel, self._transport = host.open_channel(command, timeout_s)
        self._expired: CommandTimedOut | None = None
        self._group = self._broken = ""
        self._early = b""
        self._stderr = Tail()
        self._stderr_reader = threading.Thread(target=self._collect_stderr, daemon=True)
        self._stderr_reader.start()
        # paramiko's own waits have no limits everywhere; closing the channel under them ends them all.
        self._watchdog = _started_timer(min(timeout_s, START_S), self._expire, _START_UP_FILES)
        try:
            self._begin(program_of(command), takes_input=takes_input)
        except BROKEN as error:
            self._watchdog.cancel()
            self._transport.join(timeout=_SETTLE_S)
            self._raise_if_over(str(error))
            said = self._what_was_said()
            self.close()
            raise _NothingRan(said) from error
        self._watchdog.cancel()
        self._watchdog = _started_timer(deadline - monotonic(), self._expire)

    def _begin(self, program: bytes, *, takes_input: bool) -> None:
        self._channel.exec_command(_SHELL)
        # What ends at once may have closed its input already; what it said comes all the same.
        with contextlib.suppress(OSError):
            self._channel.sendall(program)
            if not takes_input:
                self._channel.shutdown_write()
        while True:
            noise, mark, rest = self._early.partition(MARK)
            if mark and b"\n" in rest:
                group, _, self._early = rest.partition(b"\n")
                self._group = group.decode("ascii", "replace")
                return
            chunk = self._channel.recv(_MAX_NOISE_BYTES)
            self._early += chunk
            if not chunk or len(noise) > _MAX_NOISE_BYTES:
                raise EOFError("the session ended before the command began")

    def _what_was_said(self) -> str:
        """How a session ended in which nothing ran, in the server's own words."""
        self._stderr_reader.join(timeout=_SETTLE_S)
        said = f"{self._early.decode('utf-8', 'replace')}\n{self._stderr.text()}".strip()[-1000:]
        if said:
            return f"it said {said!r}."
        if (status := self._channel.exit_status) >= 0:
            return f"the session said nothing and ended with status {status}. {_START_UP_FILES}"
        return "it refused to start one."

    def write(self, data: bytes) -> None:
        """Send all of `data` to standard input."""
        with self._sending():
            self._channel.sendall(data)

    def end_input(self) -> None:
        """Close standard input."""
        with self._sending():
            self._channel.shutdown_write()

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        try:
            yield
        except BROKEN as error:
            self._raise_if_over(str(error))
            raise BrokenPipeError(str(error)) from error

    def read(self, max_bytes: int) -> bytes:
        """The next bytes of standard output; empty at its end, and where the connection broke."""
        if self._early:
            data, self._early = self._early[:max_bytes], self._early[max_bytes:]
            return data
        try:
            return self._channel.recv(max_bytes)
        except BROKEN as error:
            self._broken = str(error) or type(error).__name__
            return b""

    def finish(self) -> tuple[int, str]:
        """Wait for the end; returns exit status (-1: a signal) and the end of standard error."""
        while self.read(2**16):
            pass
        exit_status = self._channel.recv_exit_status()
        if exit_status == -1 and not self._expired:
            # The end by a signal looks like a broken connection, until that connection's thread has gone.
            self._transport.join(timeout=_SETTLE_S)
        self._watchdog.cancel()
        if exit_status == -1 or self._broken:
            self._raise_if_over(self._broken or "it was closed")
        self._stderr_reader.join(timeout=_GRACE_S)
        self.close()
        return exit_status, self._stderr.text()

    def abort(self) -> None:
        """End the command now."""
        self._watchdog.cancel()
        self._end_command()

    def close(self) -> None:
        """Give the session back."""
        self._host.close_channel(self._channel)

    def _raise_if_over(self, reason: str) -> None:
        if self._expired:
            self._watchdog.join(timeout=_GRACE_S)  # it ends the command first
            raise self._expired
        # Where reading broke, the status may have come all the same, and what was to be read is not whole.
        if self._broken or not self._transport.is_active():
            self.close()
            raise ConnectionLost(self._host.name, self._command, reason or "the connection was closed")

    def _collect_stderr(self) -> None:
        try:
            while chunk := self._channel.recv_stderr(2**15):
                self._stderr.add(chunk)
        except BROKEN:
            return

    def _expire(self, hint: str = "") -> None:
        limit_s = min(self._timeout_s, START_S) if hint else self._timeout_s
        self._expired = CommandTimedOut(self._host.name, self._command, limit_s, hint)
        # On a dead network even the closing can block, in a full send buffer.
        last_resort = _started_timer(_GRACE_S, self._transport.close)
        self._end_command()
        last_resort.cancel()

    def _end_command(self) -> None:
        """End what still runs: closing a channel ends nothing over there.

        OpenSSH refuses the protocol's own signal request where root is logged in.
        """
        try:
            has_ended = self._channel.exit_status_ready()
            self.close()
            if not has_ended and self._group.isdigit():
                self._kill_group()
        except (*BROKEN, HostError):
            # It does not even open a session: the network is gone, not just the command slow.
            self._transport.close()

    def _kill_group(self) -> None:
        with contextlib.ExitStack() as beside:
            try:
                killer = self._transport.open_session(timeout=_GRACE_S / 2)
            except paramiko.ChannelException:
                # The server allows so many sessions a connection, and ours counts until its command has ended.
                other = beside.enter_context(contextlib.closing(connect(self._host.access)))
                killer = other.open_session(timeout=_GRACE_S / 2)
            killer.exec_command(_SHELL)
            killer.sendall(program_of(f"kill -KILL -{self._group} || kill -KILL {self._group}"))
            killer.shutdown_write()
            killer.status_event.wait(_GRACE_S / 2)
            killer.close()


def _started_timer(limit_s: float, action: Callable[..., None], *values: str) -> threading.Timer:
    timer = threading.Timer(max(limit_s, 0.0), action, args=values)
    timer.daemon = True
    timer.start()
    return timer


def open_host(settings: Settings, name: str, *, connect_timeout_s: float = CONNECT_S) -> SshHost:
    """Return a host of the settings, see `access_of`; it connects when it is first used, and the caller closes it."""
    return SshHost(access_of(settings, name, connect_timeout_s=connect_timeout_s), name=name)
