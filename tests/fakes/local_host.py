"""This machine behind the same seam as one over SSH: the quick host of the tests."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from pathlib import Path
from typing import IO

from tasks.hosts.errors import CommandTimedOut
from tasks.hosts.shell import Tail
from tasks.hosts.transfer import ShellHost

_TICK_S = 0.5


class OnlyAsked:
    """What hosts have in common that tests answer for: no file goes there or comes from there."""

    def put(self, *_: object, **__: object) -> tuple[()]:
        raise AssertionError("nothing is sent to this host")

    def get(self, *_: object, **__: object) -> None:
        raise AssertionError("nothing is fetched from this host")

    def close(self) -> None:
        pass


class LocalHost(ShellHost):
    """Runs commands here, in a folder.

    Args:
        root: Where relative paths start; made if need be.
        name: How messages call it.
    """

    def __init__(self, root: Path, *, name: str = "localhost") -> None:
        self._root = root
        self.name = name
        root.mkdir(parents=True, exist_ok=True)

    def open(self, command: str, *, timeout_s: float, takes_input: bool = True) -> LocalStream:
        """See `Shell`."""
        stream = LocalStream(self.name, self._root, command, timeout_s)
        if not takes_input:
            stream.end_input()
        return stream

    def close(self) -> None:
        """See `Host`; there is no connection to let go of."""


class LocalStream:
    """A child process in a session of its own, so that its whole group can be ended."""

    def __init__(self, host: str, root: Path, command: str, timeout_s: float) -> None:
        self._host, self._command, self._timeout_s = host, command, timeout_s
        self._has_expired = False
        self._process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self._stderr = Tail()
        self._stderr_reader = threading.Thread(target=self._collect_stderr, args=(self._process.stderr,), daemon=True)
        self._stderr_reader.start()
        self._watchdog = threading.Timer(timeout_s, self._expire)
        self._watchdog.daemon = True
        self._watchdog.start()

    def write(self, data: bytes) -> None:
        """See `CommandStream`."""
        view = memoryview(data)
        while view:
            try:
                _, writable, _ = select.select([], [self._stdin], [], _TICK_S)
                num_written = self._stdin.write(view) if writable else 0
            except (ValueError, OSError) as error:  # closed here, because the command has ended, or over there
                raise BrokenPipeError(str(error)) from error
            if self._has_expired:
                raise CommandTimedOut(self._host, self._command, self._timeout_s)
            view = view[num_written or 0 :]

    def end_input(self) -> None:
        """See `CommandStream`."""
        self._stdin.close()

    def read(self, max_bytes: int) -> bytes:
        """See `CommandStream`."""
        # A grandchild that left the group may hold the pipe for ever: no single read may wait for it.
        while not self._has_expired:
            readable, _, _ = select.select([self._stdout], [], [], _TICK_S)
            if readable:
                return self._stdout.read(max_bytes) or b""
        return b""

    def finish(self) -> tuple[int, str]:
        """See `CommandStream`."""
        while self.read(2**16):
            pass
        status = self._process.wait()
        self._release()
        if self._has_expired:
            raise CommandTimedOut(self._host, self._command, self._timeout_s)
        return max(status, -1), self._stderr.text()

    def abort(self) -> None:
        """See `CommandStream`."""
        self._kill()
        self._process.wait()
        self._release()

    def _release(self) -> None:
        self._watchdog.cancel()
        self._stderr_reader.join(timeout=6 * _TICK_S)
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def _collect_stderr(self, stderr: IO[bytes]) -> None:
        with stderr:
            while chunk := stderr.read(2**16):
                self._stderr.add(chunk)

    def _expire(self) -> None:
        self._has_expired = True
        self._kill()

    def _kill(self) -> None:
        # The leader may have ended before the rest of its group, so this does not ask whether it lives.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
