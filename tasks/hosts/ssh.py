"""A machine behind SSH: one connection, reused, made anew when it broke; every call bounded in time."""

from __future__ import annotations

import logging
import shlex
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import paramiko

from tasks.hosts import download, sftp, upload
from tasks.hosts.base import CommandResult, FileEntry, Progress
from tasks.hosts.connection import SshAccess
from tasks.hosts.errors import CommandTimedOut, ConnectionLost, NoShell
from tasks.hosts.shell import Tail, run_over
from tasks.hosts.ssh_link import SshLink

_log = logging.getLogger(__name__)
_PROBE_S = 20.0
_GRACE_S = 5.0
_SETTLE_S = 1.0

# The first line of output shows that a shell is there, ends what its start-up files may print, and carries the
# process id, which is its group's as well: closing a channel ends nothing over there, and OpenSSH refuses the
# protocol's own signal request where root is logged in.
_MARK = b"jade-begin "
_SAY_MARK = f'echo "{_MARK.decode()}$$"\n'
_MAX_NOISE_BYTES = 2**16


class SshHost:
    """A host behind SSH.

    Args:
        access: Address, keys and trust.
        name: How messages call it; None is its address.
    """

    def __init__(self, access: SshAccess, *, name: str | None = None) -> None:
        self._name = name or str(access.address)
        self._link = SshLink(access)
        self._has_shell: bool | None = None

    @property
    def name(self) -> str:
        """See `Host`."""
        return self._name

    @property
    def host_key_fingerprint(self) -> str:
        """Of the key that the server proved; connects if need be."""
        return self._link.connected().host_key_fingerprint

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        """See `Host`."""
        return run_over(self, command, timeout_s=timeout_s, stdin=stdin, check=check)

    def put(
        self,
        files: Mapping[str, Path],
        folder: str,
        *,
        timeout_s: float,
        progress: Progress | None = None,
    ) -> tuple[FileEntry, ...]:
        """See `Host`; by SFTP where there is no shell."""
        if self.has_shell():
            return upload.put_files(self, files, folder, timeout_s=timeout_s, progress=progress)
        with sftp.session(self._link, self._name, timeout_s) as client:
            return sftp.put_files(client, self._name, files, folder, progress)

    def get(
        self,
        entries: Sequence[FileEntry],
        folder: str,
        into: Path,
        *,
        timeout_s: float,
        progress: Progress | None = None,
    ) -> None:
        """See `Host`; by SFTP where there is no shell."""
        if self.has_shell():
            download.get_files(self, entries, folder, into, timeout_s=timeout_s, progress=progress)
            return
        with sftp.session(self._link, self._name, timeout_s) as client:
            sftp.get_files(client, self._name, entries, folder, into, progress)

    def close(self) -> None:
        """See `Host`."""
        self._link.close()

    def open(self, command: str, *, timeout_s: float) -> SshStream:
        """See `Shell`.

        Raises:
            NoShell: The server runs no commands.
        """
        if self._has_shell is None:
            # The first command is the question itself, where the answer is yes.
            try:
                stream = SshStream(self._link, self._name, command, timeout_s)
            except NoShell:
                _log.debug("%s may have no shell", self._name)
            else:
                self._has_shell = True
                return stream
        if not self.has_shell():
            raise NoShell(self._name)
        return SshStream(self._link, self._name, command, timeout_s)

    def has_shell(self) -> bool:
        """Whether commands can run there. Some servers offer SFTP only; the answer is kept."""
        if self._has_shell is None:
            # A channel that closed on the way looks like a refusal, and the answer holds for long: no is asked twice.
            self._has_shell = self._runs_commands() or self._runs_commands()
            if not self._has_shell:
                _log.info("%s has no shell: files go by SFTP, and nothing can run there", self._name)
        return self._has_shell

    def _runs_commands(self) -> bool:
        try:
            SshStream(self._link, self._name, "exit 0", _PROBE_S, has_input=False).finish()
        except NoShell:
            return False
        return True


class SshStream:
    """A command on an exec channel.

    Raises:
        NoShell: The server runs no commands.
    """

    def __init__(self, link: SshLink, host: str, command: str, timeout_s: float, *, has_input: bool = True) -> None:
        self._link, self._host, self._command, self._timeout_s = link, host, command, timeout_s
        self._channel, self._transport = link.open_channel(command, timeout_s)
        self._has_expired = False
        self._group = ""
        self._early = b""
        self._broken = ""
        self._stderr = Tail()
        self._stderr_reader = threading.Thread(target=self._collect_stderr, daemon=True)
        self._stderr_reader.start()
        # paramiko's own waits have no limits everywhere; closing the channel under them ends them all.
        self._watchdog = threading.Timer(timeout_s, self._expire)
        self._watchdog.daemon = True
        self._watchdog.start()
        try:
            # Accounts have all sorts of login shells; what they share is quoting by single quotes.
            self._channel.exec_command(f"exec sh -c {shlex.quote(_SAY_MARK + command)}")
            if not has_input:
                self._channel.shutdown_write()
            self._await_mark()
        except (paramiko.SSHException, EOFError, OSError) as error:
            self._watchdog.cancel()
            self._raise_if_over(str(error))
            self._channel.close()
            raise NoShell(host) from error

    def _await_mark(self) -> None:
        head = b""
        while True:
            noise, mark, rest = head.partition(_MARK)
            if mark and b"\n" in rest:
                group, _, self._early = rest.partition(b"\n")
                self._group = group.decode("ascii", "replace")
                return
            chunk = self._channel.recv(_MAX_NOISE_BYTES)
            head += chunk
            if not chunk or len(noise) > _MAX_NOISE_BYTES:
                self._transport.join(timeout=_SETTLE_S)
                raise EOFError(f"no shell answered, but {head[-200:]!r}")

    def write(self, data: bytes) -> None:
        """See `CommandStream`."""
        try:
            self._channel.sendall(data)
        except (paramiko.SSHException, EOFError, OSError) as error:
            self._raise_if_over(str(error))
            raise BrokenPipeError(str(error)) from error

    def end_input(self) -> None:
        """See `CommandStream`."""
        try:
            self._channel.shutdown_write()
        except (paramiko.SSHException, EOFError, OSError) as error:
            self._raise_if_over(str(error))
            raise BrokenPipeError(str(error)) from error

    def read(self, max_bytes: int) -> bytes:
        """See `CommandStream`."""
        if self._early:
            data, self._early = self._early[:max_bytes], self._early[max_bytes:]
            return data
        try:
            return self._channel.recv(max_bytes)
        except (paramiko.SSHException, EOFError, OSError) as error:
            self._broken = str(error) or type(error).__name__
            return b""

    def finish(self) -> tuple[int, str]:
        """See `CommandStream`."""
        while self.read(2**16):
            pass
        exit_status = self._channel.recv_exit_status()
        if exit_status == -1 and not self._has_expired:
            # The end by a signal looks like a broken connection, until that connection's thread has gone.
            self._transport.join(timeout=_SETTLE_S)
        self._watchdog.cancel()
        if exit_status == -1:
            self._raise_if_over("it was closed")
        if self._broken:
            # The status may have come all the same, and what was to be read is not whole.
            self._raise_if_over(self._broken)
            raise ConnectionLost(self._host, self._command, self._broken)
        self._stderr_reader.join(timeout=_GRACE_S)
        self._channel.close()
        return exit_status, self._stderr.text()

    def abort(self) -> None:
        """See `CommandStream`."""
        self._watchdog.cancel()
        self._end_command()

    def _raise_if_over(self, reason: str) -> None:
        if self._has_expired:
            self._watchdog.join(timeout=_GRACE_S)  # it ends the command first
            raise CommandTimedOut(self._host, self._command, self._timeout_s)
        if not self._transport.is_active():
            raise ConnectionLost(self._host, self._command, reason or "the connection was closed")

    def _collect_stderr(self) -> None:
        try:
            while chunk := self._channel.recv_stderr(2**15):
                self._stderr.add(chunk)
        except (paramiko.SSHException, EOFError, OSError):
            return

    def _expire(self) -> None:
        self._has_expired = True
        # On a dead network even the closing can block, in a full send buffer.
        last_resort = threading.Timer(_GRACE_S, self._link.drop, args=(self._transport,))
        last_resort.daemon = True
        last_resort.start()
        self._end_command()
        last_resort.cancel()

    def _end_command(self) -> None:
        try:
            has_ended = self._channel.exit_status_ready()
            self._channel.close()
            if not has_ended and self._group.isdigit():
                killer = self._transport.open_session(timeout=_GRACE_S / 2)
                killer.exec_command(f"kill -KILL -{self._group} || kill -KILL {self._group}")
                killer.status_event.wait(_GRACE_S / 2)
                killer.close()
        except (paramiko.SSHException, EOFError, OSError):
            # It does not even open a session: the network is gone, not just the command slow.
            self._link.drop(self._transport)
