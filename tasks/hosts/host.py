"""A machine as the rest of the program sees it: it runs commands, and takes and gives files.

Every implementation passes `tests/fakes/host_contract.py`; the detached jobs of `job.py` are built on `Host` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.core.names import FileEntry
from tasks.settings.models import HostEntry, Workers


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


class Host(Protocol):
    """A machine that runs commands and holds files.

    Relative remote paths start at the account's home folder (SSH) or the host's root folder (local). Every
    call is bounded in time; an SSH host adds at most its `connect_timeout_s` where it must connect first.
    A broken connection raises a transient error (CommandTimedOut, ConnectionLost, HostUnreachable), and the next call
    connects again.
    """

    @property
    def name(self) -> str:
        """How messages call this host."""
        ...

    def run(self, command: str, *, timeout_s: float, stdin: bytes = b"", check: bool = True) -> CommandResult:
        """Run a command with POSIX `sh -c` and wait for its end, `timeout_s` at most; then it is ended.

        It can read `stdin`, through which secrets go; a status other than 0 raises unless `check` is false.

        Raises:
            CommandFailed: The status is not 0; `RemoteFileMissing`, or a `HostUserError` about space, permission or a
                missing program, where standard error says so.
            HostError: More than 64 MiB came back.
        """
        ...

    def put(self, files: Mapping[str, Path], folder: str, *, timeout_s: float) -> tuple[FileEntry, ...]:
        """Copy files (name below `folder` -> local file) into a folder of the host, which is made if need be.

        A file appears under its name only when its SHA-256 was found equal over there; until then it is a
        hidden `.part`. After a cut, the same call goes on where it stood; what is there already is not sent.
        Returns name, size and digest of each, in the order given.

        Raises:
            TransferCorrupted: A digest differs; transient.
            HostUserError: There is no space or no permission over there.
        """
        ...

    def get(self, entries: Sequence[FileEntry], folder: str, into: Path, *, timeout_s: float) -> None:
        """Fetch exactly the files of a manifest from a folder of the host, as safely as `put` sends them.

        Nothing that the host says chooses a name or a size here.

        Raises:
            TransferCorrupted: Size or digest differ; transient.
            RemoteFileMissing: A file is not there.
            NameRefused: A name leaves its folder, or is a link or no plain file over there.
        """
        ...

    def close(self) -> None:
        """Let go of the connection. Silent if there is none."""
        ...


@dataclass(frozen=True)
class RemotePlace:
    """How a host is used.

    Below its folder lie `code/DIGEST/jade_model/`, the sources, sent once and shared by all runs; `runs/KEY/`, with
    job.json, arrays, splits and what the trainings leave, as in a run's folder here; `jobs/KEY/attempt-N/`, see job.sh.

    Attributes:
        folder: Ours over there; relative paths start at the account's home.
        python: Program that trains.
        time_limit_s: The host ends a job after this long.
        provider: Whose machine it is, where it is rented; empty: a host of the settings.
        device: What trains there.
        workers: Trainings at once; None: as many as the host does by itself.
    """

    folder: str
    python: str
    time_limit_s: int
    provider: str = ""
    device: str = "cpu"
    workers: Workers = None

    @property
    def jobs(self) -> str:
        """Folder of the detached jobs."""
        return f"{self.folder}/jobs"

    def run(self, key: str) -> str:
        """Return the folder of what one job reads and writes."""
        return f"{self.folder}/runs/{key}"

    def code(self, digest: str) -> str:
        """Return the folder of one version of the sources."""
        return f"{self.folder}/code/{digest}"


def place_on(entry: HostEntry) -> RemotePlace:
    """Return how a host of the settings is used."""
    return RemotePlace(entry.remote_folder, entry.python, entry.time_limit_s, device=entry.device)
