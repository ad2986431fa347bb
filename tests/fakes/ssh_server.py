"""An SSH server inside the test's process, with a real shell behind it and faults on demand."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED, cMSG_CHANNEL_SUCCESS

logging.getLogger("fake-ssh-server").propagate = False
logging.getLogger("fake-ssh-server").addHandler(logging.NullHandler())


def write_private_key(path: Path, passphrase: str | None = None) -> paramiko.PKey:
    """A new Ed25519 key in OpenSSH's format at `path`."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    data = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, encryption
    )
    path.write_bytes(data)
    path.chmod(0o600)
    return paramiko.Ed25519Key.from_private_key_file(str(path), passphrase)


class FakeSshServer:
    """Listens on a free loopback port; every connection has its threads.

    Args:
        home: Where commands start.
        user_keys: Public keys that are let in.
        host_keys: Private keys of the server, of different kinds; None makes one.

    Attributes:
        has_shell: Whether commands run.
        num_refusals: Commands that are refused before the next one runs.
        startup_noise: Printed before each command, as some start-up files do.
        commands: All that was asked to run.
        logins: User and fingerprint of every attempt.
        change_output: Applied to the beginning of what a command reads, and to what it prints: damage on the way.
        cut_after_bytes: Cut all connections once this many more bytes of input and output went by.
    """

    def __init__(
        self,
        home: Path,
        user_keys: list[paramiko.PKey],
        host_keys: list[paramiko.PKey] | None = None,
    ) -> None:
        self.home = home
        self.has_shell = True
        self.num_refusals = 0
        self.startup_noise = b""
        self.commands: list[str] = []
        self.logins: list[tuple[str, str]] = []
        self.change_output: Callable[[str, bytes], bytes] = lambda given, data: data
        self.cut_after_bytes: int | None = None
        self.user_blobs = {key.asbytes() for key in user_keys}
        self.host_keys = host_keys or [paramiko.ECDSAKey.generate()]
        self._transports: list[paramiko.Transport] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def fingerprint(self) -> str:
        """Of the first host key."""
        return self.host_keys[0].fingerprint

    @property
    def known_hosts_line(self) -> str:
        key = self.host_keys[0]
        return f"[127.0.0.1]:{self.port} {key.get_name()} {key.get_base64()}\n"

    def cut(self) -> int:
        """Close every connection without a word."""
        with self._lock:
            victims, self._transports = self._transports, []
        for transport in victims:
            transport.close()
        return len(victims)

    def close(self) -> None:
        # Closing alone does not wake a thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def count(self, num_bytes: int) -> None:
        if self.cut_after_bytes is None:
            return
        self.cut_after_bytes -= num_bytes
        if self.cut_after_bytes <= 0:
            self.cut_after_bytes = None
            self.cut()

    def remember(self, process: subprocess.Popen[bytes]) -> None:
        self._processes.append(process)

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            transport = _Transport(connection)
            transport.set_log_channel("fake-ssh-server")
            for key in self.host_keys:
                transport.add_server_key(key)
            with self._lock:
                self._transports.append(transport)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                # With an event it returns at once; a client that goes away must not end this loop.
                transport.start_server(event=threading.Event(), server=_Session(self, transport))


class _Transport(paramiko.Transport):
    """Starts a command once its request is answered: no real server sends output, or the end, before."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.commands_to_start: list[threading.Thread] = []

    def _send_user_message(self, data: paramiko.Message) -> None:
        super()._send_user_message(data)  # type: ignore[misc]
        if data.asbytes()[:1] == cMSG_CHANNEL_SUCCESS:
            while self.commands_to_start:
                self.commands_to_start.pop().start()


class _Session(paramiko.ServerInterface):
    def __init__(self, server: FakeSshServer, transport: _Transport) -> None:
        self._server, self._transport = server, transport

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self._server.logins.append((username, key.fingerprint))
        is_known = key.asbytes() in self._server.user_blobs
        return AUTH_SUCCESSFUL if is_known else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        if not self._server.has_shell:
            return False
        if self._server.num_refusals > 0:
            self._server.num_refusals -= 1
            return False
        self._server.commands.append(command.decode())
        serving = threading.Thread(target=self._serve, args=(channel, command.decode()), daemon=True)
        self._transport.commands_to_start.append(serving)
        return True

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        threading.Thread(target=self._relay, args=(destination,), daemon=True).start()
        return OPEN_SUCCEEDED

    def _relay(self, destination: tuple[str, int]) -> None:
        channel = self._transport.accept(5)
        if channel is None:
            return
        with socket.create_connection(destination) as onward:
            back = threading.Thread(target=_pump, args=(onward.recv, channel.sendall), daemon=True)
            back.start()
            _pump(channel.recv, onward.sendall)
        with contextlib.suppress(EOFError, OSError):  # the connection may be gone before
            channel.close()

    def _serve(self, channel: paramiko.Channel, command: str) -> None:
        process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=self._server.home,
            env={**os.environ, "HOME": str(self._server.home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self._server.remember(process)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr

        begun = bytearray()

        def send(data: bytes) -> None:
            self._server.count(len(data))
            channel.sendall(self._server.change_output(begun.decode("utf-8", "replace"), data))

        def receive(data: bytes) -> None:
            self._server.count(len(data))
            begun.extend(data[: 2**16 - len(begun)])
            stdin.write(data)

        feeder = threading.Thread(target=_feed, args=(channel, receive, stdin), daemon=True)
        errors = threading.Thread(target=_pump, args=(stderr.read, channel.sendall_stderr), daemon=True)
        feeder.start()
        errors.start()
        with stdout, stderr, contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            if self._server.startup_noise:
                channel.sendall(self._server.startup_noise)
            _pump(stdout.read, send)
            status = process.wait()
            errors.join()
            if status >= 0:
                channel.send_exit_status(status)
            channel.close()


def _feed(channel: paramiko.Channel, receive: Callable[[bytes], object], stdin: IO[bytes]) -> None:
    _pump(channel.recv, receive)
    with contextlib.suppress(OSError):
        stdin.close()


def _pump(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
    with contextlib.suppress(paramiko.SSHException, EOFError, OSError, ValueError):
        while chunk := read(2**15):
            write(chunk)


@contextlib.contextmanager
def running_fake_server(
    home: Path, user_keys: list[paramiko.PKey], host_keys: list[paramiko.PKey] | None = None
) -> Iterator[FakeSshServer]:
    """A server that is closed on leaving, with all that it started."""
    home.mkdir(parents=True, exist_ok=True)
    server = FakeSshServer(home, user_keys, host_keys)
    try:
        yield server
    finally:
        server.close()
