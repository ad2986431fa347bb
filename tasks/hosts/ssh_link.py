"""The one connection to a host that all of its calls share."""

from __future__ import annotations

import threading

import paramiko

from tasks.hosts.connection import ATTEMPT_S, Connection, SshAccess, connect
from tasks.hosts.errors import ConnectionLost


class SshLink:
    """The one connection to a host: made when first needed, and anew when it broke.

    Args:
        access: How to get onto the host.
    """

    def __init__(self, access: SshAccess) -> None:
        self.access = access
        self._lock = threading.Lock()
        self._connection: Connection | None = None

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
        """A new session on the connection.

        Raises:
            ConnectionLost: Not even a new connection gave one.
        """
        reason = ""
        for _ in range(2):  # an idle connection may have died unnoticed; nothing was sent yet, so try a new one
            transport = self.connected().transport
            try:
                channel = transport.open_session(timeout=min(timeout_s, ATTEMPT_S))
            except paramiko.ChannelException as error:
                raise ConnectionLost(str(self.access.address), doing, f"no further session: {error.text}") from error
            except (paramiko.SSHException, EOFError, OSError) as error:
                reason = str(error) or type(error).__name__
                self.drop(transport)
            else:
                return channel, transport
        raise ConnectionLost(str(self.access.address), doing, reason)

    def drop(self, transport: paramiko.Transport) -> None:
        """Close a connection that is no good; the next call makes a new one."""
        transport.close()

    def drop_if_dead(self, transport: paramiko.Transport, *, within_s: float) -> None:
        """Close the connection if it does not answer any more."""
        try:
            transport.open_session(timeout=within_s).close()
        except (paramiko.SSHException, EOFError, OSError):
            self.drop(transport)

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
