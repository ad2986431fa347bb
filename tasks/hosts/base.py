"""A machine as the rest of the program sees it: it runs commands, and takes and gives files.

`Host` is the seam. `LocalHost` and `SshHost` implement it, one contract suite runs over both
(`tests/fakes/host_contract.py`), and the detached jobs of `job.py` are built on it alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.core.names import name_fault
from tasks.hosts.errors import NameRefused

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all; what was already there counts as done."""

MAX_NAME_BYTES = 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HostAddress:
    """Where an SSH server listens, and as whom to log in."""

    host: str
    port: int = 22
    user: str = "root"

    def __post_init__(self) -> None:
        # What starts with a dash would be an option to programs that get it on their command line.
        for what, value in (("host", self.host), ("user", self.user)):
            if not value or value.startswith("-") or any(c.isspace() or not c.isprintable() for c in value):
                raise ValueError(f"{what} must be a plain name or address, not {value!r}")
        if not 0 < self.port < 65536:
            raise ValueError(f"port must lie in 1..65535, not {self.port}")

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


@dataclass(frozen=True)
class CommandResult:
    """What a command left behind.

    Attributes:
        command: As it was given.
        exit_status: 0..255, or -1 if a signal ended it.
        stdout: Bytes, for logs may hold any.
        stderr: The end of it, at most 64 KiB.
    """

    command: str
    exit_status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are shown as replacement characters."""
        return self.stdout.decode("utf-8", "replace")


@dataclass(frozen=True)
class FileEntry:
    """One file as a manifest names it.

    Attributes:
        path: Relative, with forward slashes; never leaves its folder (see `check_name`).
        size: Bytes.
        sha256: 64 lower-case hexadecimal digits.
    """

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        check_name(self.path)
        if self.size < 0:
            raise NameRefused(self.path, f"its size is given as {self.size}")
        if not _SHA256.fullmatch(self.sha256):
            raise NameRefused(self.path, f"its SHA-256 is given as {self.sha256!r}")


class Host(Protocol):
    """A machine that runs commands and holds files.

    Relative remote paths start at the account's home folder (SSH) or the host's root folder (local). Every
    call is bounded in time; an SSH host adds at most its `connect_timeout_s` where it must connect first.
    A broken connection raises a transient error, and the next call connects again.
    """

    @property
    def name(self) -> str:
        """How messages call this host."""
        ...

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        """Run a command with POSIX `sh -c` and wait for its end.

        Args:
            command: Seen by every user of the host in its process list: secrets go through `stdin`.
            timeout_s: After it the command is ended and `CommandTimedOut` raised.
            stdin: What the command can read; then its input ends.
            check: Whether a status other than 0 raises.

        Raises:
            CommandFailed: The status is not 0; more exactly `NoSpaceLeft`, `RemotePermissionDenied`,
                `RemoteFileMissing` or `HostToolMissing` where standard error says so.
            CommandTimedOut, ConnectionLost, HostUnreachable: Transient.
            OutputTooLong: More than 64 MiB came back.
        """
        ...

    def put(
        self,
        files: Mapping[str, Path],
        folder: str,
        *,
        timeout_s: float,
        progress: Progress | None = None,
    ) -> tuple[FileEntry, ...]:
        """Copy files into a folder of the host, which is made if need be.

        A file appears under its name only when its SHA-256 was found equal over there; until then it is a
        hidden `.part`. After a cut, the same call goes on where it stood; what is there already is not sent.

        Args:
            files: Name below `folder` -> local file.
            folder: Remote folder.
            timeout_s: For the whole call.
            progress: Told as bytes go out.

        Returns:
            Name, size and digest of each, in the order given.

        Raises:
            TransferCorrupted: A digest differs; transient.
            NoSpaceLeft, RemotePermissionDenied: As they say.
        """
        ...

    def get(
        self,
        entries: Sequence[FileEntry],
        folder: str,
        into: Path,
        *,
        timeout_s: float,
        progress: Progress | None = None,
    ) -> None:
        """Fetch exactly the files of a manifest from a folder of the host.

        A file appears under its name only when size and SHA-256 are the manifest's; until then it is a hidden
        `.part`, with which the same call goes on after a cut. Nothing that the host says chooses a name or a
        size here. Files that are here already with the right digest are not fetched.

        Raises:
            TransferCorrupted: Size or digest differ; transient.
            RemoteFileMissing: A file is not there.
            NameRefused: A name leaves its folder, or is a link or no plain file over there.
        """
        ...

    def close(self) -> None:
        """Let go of the connection. Silent if there is none."""
        ...


def check_name(path: str) -> None:
    """Refuse a relative file name that could leave its folder or confuse a shell, a terminal or a log.

    Raises:
        NameRefused: It is absolute, has an empty, `.` or `..` part, a backslash or a control character, or is
            too long.
    """
    if fault := name_fault(path, MAX_NAME_BYTES):
        raise NameRefused(*fault)


def check_no_duplicates(paths: Sequence[str]) -> None:
    """Refuse a manifest that names a file twice.

    Raises:
        NameRefused: For the first such name.
    """
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise NameRefused(path, "it is listed twice")
        seen.add(path)
