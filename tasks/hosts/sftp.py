"""Files to and from a host that has no shell, by SFTP.

The protocol has no digests: what went up is read back to be checked, so it moves twice.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import paramiko

from tasks.hosts.base import FileEntry, Progress
from tasks.hosts.errors import (
    CommandTimedOut,
    ConnectionLost,
    HostError,
    NameRefused,
    NoSpaceLeft,
    RemoteFileMissing,
    RemotePermissionDenied,
    TransferCorrupted,
)
from tasks.hosts.incoming import IncomingFile, open_incoming, part_name
from tasks.hosts.shell import CHUNK_BYTES
from tasks.hosts.ssh_link import SshLink
from tasks.hosts.transfer import Counter, describe_files

# With its 25 bytes and the file's handle (4 bytes of OpenSSH's, and up to 256) a request to write fills one packet: the
# rest of a longer one would go as another.
_WRITE_BYTES = CHUNK_BYTES - 25 - 256


@contextlib.contextmanager
def session(link: SshLink, host: str, timeout_s: float) -> Iterator[paramiko.SFTPClient]:
    """An SFTP session that ends with the block, or at its time limit; its errors come out as ours."""
    doing = "moving files by SFTP"
    channel, transport = link.open_channel(doing, timeout_s)
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        channel.close()
        link.drop_if_dead(transport, within_s=2.0)

    watchdog = threading.Timer(timeout_s, expire)
    watchdog.daemon = True
    watchdog.start()
    try:
        channel.invoke_subsystem("sftp")
        yield paramiko.SFTPClient(channel)
    except HostError:
        raise
    except (paramiko.SSHException, EOFError, OSError) as error:
        if expired.is_set():
            raise CommandTimedOut(host, doing, timeout_s) from error
        raise _meaning(host, error, doing) from error
    finally:
        watchdog.cancel()
        channel.close()


def _meaning(host: str, error: Exception, doing: str) -> Exception:
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and error.filename is not None and number is not None:
        return error  # a file of this machine
    if number == errno.ENOENT:
        return RemoteFileMissing(host, str(error))
    if number in {errno.EACCES, errno.EPERM}:
        return RemotePermissionDenied(host, str(error))
    if isinstance(error, OSError) and str(error) == "Failure":
        # SFTP version 3 has this one word for a full disk and everything else without a number of its own.
        return NoSpaceLeft(host, "the SFTP server says no more than 'Failure', mostly a full disk or quota")
    return ConnectionLost(host, doing, str(error) or type(error).__name__)


def put_files(
    client: paramiko.SFTPClient,
    host: str,
    files: Mapping[str, Path],
    folder: str,
    progress: Progress | None,
) -> tuple[FileEntry, ...]:
    """See `Host.put`."""
    entries = describe_files(files)
    counter = Counter(entries, progress)
    for parent in sorted({str(PurePosixPath(folder, entry.path).parent) for entry in entries} | {folder}):
        _make_folders(client, parent)
    for entry in entries:
        target = str(PurePosixPath(folder, entry.path))
        part = str(PurePosixPath(folder, part_name(entry)))
        if _size(client, target, host) == entry.size and _digest(client, target, entry.size) == entry.sha256:
            counter.add(entry.size)
            continue
        _send_rest(client, host, files[entry.path], entry, part, counter)
        found = _digest(client, part, entry.size)
        if found != entry.sha256:
            client.remove(part)
            raise TransferCorrupted(f"{host}:{target}", entry.sha256, found)
        client.posix_rename(part, target)
    return entries


def _make_folders(client: paramiko.SFTPClient, folder: str) -> None:
    for path in [*reversed(PurePosixPath(folder).parents), PurePosixPath(folder)]:
        try:
            client.stat(str(path))
        except FileNotFoundError:
            client.mkdir(str(path))


def _size(client: paramiko.SFTPClient, path: str, host: str) -> int:
    """Bytes of a plain file; -1 if there is none."""
    try:
        attributes = client.lstat(path)
    except FileNotFoundError:
        return -1
    if not stat.S_ISREG(attributes.st_mode or 0):
        raise NameRefused(path, f"it is a link or no plain file on {host}")
    return attributes.st_size or 0


def _send_rest(
    client: paramiko.SFTPClient, host: str, source: Path, entry: FileEntry, part: str, counter: Counter
) -> None:
    num_there = max(_size(client, part, host), 0)
    if num_there > entry.size:
        num_there = 0
    counter.add(num_there)
    with client.open(part, "ab" if num_there else "wb") as remote, source.open("rb") as local:
        remote.set_pipelined(True)
        local.seek(num_there)
        while chunk := local.read(_WRITE_BYTES):
            remote.write(chunk)
            counter.add(len(chunk))


def _digest(client: paramiko.SFTPClient, path: str, size: int) -> str:
    digest = hashlib.sha256()
    with client.open(path, "rb") as remote:
        remote.prefetch(size)
        while chunk := remote.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def get_files(
    client: paramiko.SFTPClient,
    host: str,
    entries: Sequence[FileEntry],
    folder: str,
    into: Path,
    progress: Progress | None,
) -> None:
    """See `Host.get`."""
    counter = Counter(entries, progress)
    for file in open_incoming(entries, into):
        if file.is_here():
            counter.add(file.entry.size)
            continue
        with file:
            _fetch(client, host, file, str(PurePosixPath(folder, file.entry.path)), counter)


def _fetch(client: paramiko.SFTPClient, host: str, file: IncomingFile, path: str, counter: Counter) -> None:
    size = _size(client, path, host)
    if size < 0:
        raise RemoteFileMissing(host, path)
    if size != file.entry.size:
        file.discard(f"{file.entry.size} bytes", f"{size} bytes")
    counter.add(file.num_there)
    with client.open(path, "rb") as remote:
        remote.seek(file.num_there)
        remote.prefetch(size)
        while file.num_missing:
            chunk = remote.read(min(CHUNK_BYTES, file.num_missing))
            if not chunk:
                break
            file.write(chunk)
            counter.add(len(chunk))
    file.publish()
