"""Files to and from a host, resumable, and checked by SHA-256 on the side where they arrive.

Up: small files leave as one tar; large ones one by one (`cat >> part`), and go on after a cut where they stood. Down:
one stream, split here at the sizes that the manifest gives; the host sends no names at all, so none need be trusted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shlex
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import IO, NoReturn, Self

from tasks.core.files import FileEntry
from tasks.hosts.errors import CommandTimedOut, NameRefused, TransferCorrupted
from tasks.hosts.host import CommandResult
from tasks.hosts.shell import (
    CHUNK_BYTES,
    NOT_PLAIN,
    NOT_PLAIN_STATUS,
    CommandStream,
    Shell,
    assigned,
    failure_of,
    no_space,
    opened,
    run_over,
)

SMALL_BYTES = 8 * 2**20
_BATCH_NAME_BYTES = 32_000
_READ_BYTES = 2**21  # all that paramiko buffers: of less, it would move the rest to the front each time
SYNC_BYTES = 2**26
"""So much is brought to the disk while more comes: at the end, all would take a third of the time of its way here."""

# openssl is several times faster than most sha256sum, and takes ten times as long to start.
_DIGEST = f"""export LC_ALL=C
if command -v sha256sum >/dev/null 2>&1; then digest_small() {{ sha256sum; }}
elif command -v shasum >/dev/null 2>&1; then digest_small() {{ shasum -a 256; }}
elif command -v openssl >/dev/null 2>&1; then digest_small() {{ openssl dgst -sha256 -r; }}
else echo 'jade: needs sha256sum, shasum or openssl' >&2; exit 127; fi
if command -v openssl >/dev/null 2>&1; then digest_large() {{ openssl dgst -sha256 -r; }}
else digest_large() {{ digest_small; }}; fi
digest() {{ if [ "$1" -gt {SMALL_BYTES} ]; then digest_large; else digest_small; fi; }}
not_plain() {{ echo "{NOT_PLAIN}$1" >&2; exit {NOT_PLAIN_STATUS}; }}
"""

# Input: folders to make, an empty line, then size, name and part's name of each file on a line of its own.
# Output, a line for each: its digest if it is there with the right size, else -; bytes of its part.
_SURVEY = """
mkdir -p -- "$folder" && cd -- "$folder" || exit 1
while IFS= read -r parent && [ -n "$parent" ]; do mkdir -p -- "$parent" || exit 1; done
while IFS= read -r want && IFS= read -r name && IFS= read -r part; do
  found=-; partial=0
  if [ -e "$name" ] && [ ! -f "$name" ]; then not_plain "$name"; fi
  if [ -f "$name" ] && [ $(wc -c < "$name") -eq "$want" ]; then
    set -- $(digest "$want" < "$name"); found=$1
  fi
  if [ -f "$part" ]; then partial=$(($(wc -c < "$part"))); fi
  echo "$found $partial"
done
"""

# Input: size, name, part's name and digest of each file on a line of its own.
# Output, a line for each: ok, or the digest that was found.
_PUBLISH = """
cd -- "$folder" || exit 1
while IFS= read -r size && IFS= read -r name && IFS= read -r part && IFS= read -r want; do
  set -- $(digest "$size" < "$part")
  if [ "$1" = "$want" ]; then mv -f -- "$part" "$name" || exit 1; echo ok
  else rm -f -- "$part"; echo "$1"; fi
done
"""

# Positional parameters, a pair for each file: bytes to leave out, name.
_SEND = """
cd -- "$folder" || exit 1
while [ $# -gt 0 ]; do
  if [ -L "$2" ] || { [ -e "$2" ] && [ ! -f "$2" ]; }; then not_plain "$2"; fi
  if [ "$1" -gt 0 ]; then tail -c "+$(($1 + 1))" < "$2" || exit 1; else cat < "$2" || exit 1; fi
  shift 2
done
"""


class _Transfer:
    """One call's way to a host: its folder and its budget of time."""

    def __init__(self, shell: Shell, folder: str, doing: str, timeout_s: float) -> None:
        self.shell, self.folder = shell, folder
        self._doing, self._timeout_s, self._deadline = doing, timeout_s, monotonic() + timeout_s

    def left_s(self) -> float:
        """Seconds left.

        Raises:
            CommandTimedOut: None are.
        """
        left = self._deadline - monotonic()
        if left <= 0:
            raise CommandTimedOut(self.shell.name, self._doing, self._timeout_s)
        return left

    def script(self, what: str, body: str) -> str:
        """A script that has the folder in $folder and knows `digest` and `not_plain`."""
        return f"# jade: {what} in {shlex.quote(self.folder)}\n{assigned(folder=self.folder)}{_DIGEST}{body}"

    def ask(self, what: str, body: str, lines: Sequence[str], num_expected: int) -> list[str]:
        """Run a script that reads lines and answers with as many as expected."""
        if not num_expected:
            return []
        data = "".join(line + "\n" for line in lines).encode()
        result = run_over(self.shell, self.script(what, body), timeout_s=self.left_s(), stdin=data, check=True)
        answer = result.text.splitlines()
        if len(answer) != num_expected:
            raise TransferCorrupted(self.shell.name, f"{num_expected} lines of answer", repr(result.text[-500:]))
        return answer

    @contextlib.contextmanager
    def sending(self, command: str) -> Iterator[CommandStream]:
        """A stream to write to; on leaving, the command has ended well or its error is raised."""
        with opened(self.shell, command, timeout_s=self.left_s()) as stream:
            # A command that closes its input early says why with its status, and better than the pipe can.
            with contextlib.suppress(BrokenPipeError):
                yield stream
                stream.end_input()
            exit_status, stderr = stream.finish()
        if exit_status != 0:
            raise failure_of(self.shell.name, CommandResult(command, exit_status, b"", stderr))


def part_name(entry: FileEntry) -> str:
    """Where an unfinished copy lies: beside the file, hidden.

    The digest in the name keeps bytes of different contents apart, here and on a host.
    """
    path = PurePosixPath(entry.path)
    return str(path.with_name(f".{path.name[:60]}.{entry.sha256[:16]}.part"))


class IncomingFile:
    """Takes the bytes of one file; what an earlier, cut transfer left is kept and counted in `num_there`."""

    def __init__(self, entry: FileEntry, into: Path) -> None:
        self.entry = entry
        self.num_there = 0
        self._target = into / entry.path
        self._part = into / part_name(entry)
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None
        self._num_unsynced = 0
        self._syncing: Future[None] | None = None
        self._syncer: ThreadPoolExecutor | None = None

    def is_here(self) -> bool:
        """Whether the file is here already under its name, and whole."""
        if self._target.is_symlink() or not self._target.is_file():
            return False
        if self._target.stat().st_size != self.entry.size:
            return False
        with self._target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.entry.sha256

    def num_resumable(self) -> int:
        """Bytes that an earlier call left; what cannot be a part of this file is removed."""
        if self._part.is_symlink() or (self._part.exists() and self._part.stat().st_size > self.entry.size):
            self._part.unlink()
        return self._part.stat().st_size if self._part.exists() else 0

    def __enter__(self) -> Self:
        self._part.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._part.open("a+b", buffering=0)
        self._file.seek(0)
        while chunk := self._file.read(_READ_BYTES):
            self._digest.update(chunk)
            self.num_there += len(chunk)
        return self

    def __exit__(self, *_: object) -> None:
        if self._syncer is not None:
            self._syncer.shutdown()
        if self._file is not None:
            self._file.close()

    def receive(self, read: Callable[[int], bytes]) -> bool:
        """Read what is missing, and give the file its name; False if the stream ended before.

        Raises:
            TransferCorrupted: The digest differs; the part is removed.
            HostUserError: There is no space here.
        """
        while self.num_there < self.entry.size:
            chunk = read(min(_READ_BYTES, self.entry.size - self.num_there))
            if not chunk:
                return False
            self._write(chunk)
        self._publish()
        return True

    def _write(self, data: bytes) -> None:
        assert self._file is not None, "used outside its with block"  # noqa: S101
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError as problem:
            if problem.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise no_space("this machine", f"{self._target}: {problem.strerror}") from problem
            raise
        self._digest.update(data)
        self.num_there += len(data)
        self._num_unsynced += len(data)
        if self._num_unsynced >= SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._raise_if_not_synced()
            self._syncer = self._syncer or ThreadPoolExecutor(1, "sync")
            self._syncing = self._syncer.submit(os.fsync, self._file.fileno())
            self._num_unsynced = 0

    def _raise_if_not_synced(self) -> None:
        # A disk's error is told once: to this, and not again to the fsync at the end.
        if self._syncing is not None:
            self._syncing.result()

    def _publish(self) -> None:
        assert self._file is not None, "used outside its with block"  # noqa: S101
        found = self._digest.hexdigest()
        if found != self.entry.sha256:
            self.discard(self.entry.sha256, found)
        self._raise_if_not_synced()
        os.fsync(self._file.fileno())
        self._part.replace(self._target)
        folder = os.open(self._target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self, expected: str, found: str) -> NoReturn:
        """Remove the part and say what was wrong with it."""
        self._part.unlink(missing_ok=True)
        raise TransferCorrupted(str(self._target), expected, found)


def describe_files(files: Mapping[str, Path]) -> tuple[FileEntry, ...]:
    """Size and digest of local files, each under the name that it has elsewhere.

    Raises:
        ValueError: A name could leave its folder.
        FileNotFoundError: A file is not there.
    """
    entries = []
    for name, path in files.items():
        FileEntry(name, 0, "0" * 64)  # refuses the name before anything is read
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            entries.append(FileEntry(name, file.tell(), digest))
    return tuple(entries)


def put_files(shell: Shell, files: Mapping[str, Path], folder: str, *, timeout_s: float) -> tuple[FileEntry, ...]:
    """Copy files into a folder of a host, as `Host.put`."""
    entries = describe_files(files)
    transfer = _Transfer(shell, folder, f"copying {len(files)} files to {folder}", timeout_s)
    lines = [*sorted({str(PurePosixPath(entry.path).parent) for entry in entries}), ""]
    for entry in entries:
        lines += [str(entry.size), entry.path, part_name(entry)]
    missing: list[tuple[FileEntry, int]] = []
    for entry, line in zip(entries, transfer.ask("look for files", _SURVEY, lines, len(entries)), strict=True):
        found, partial = line.split()
        if found == entry.sha256:
            continue
        # A part that is too long was never ours. A small file goes again whole: a tar cannot append.
        can_resume = entry.size > SMALL_BYTES and int(partial) <= entry.size
        missing.append((entry, int(partial) if can_resume else 0))
    small = [entry for entry, _ in missing if entry.size <= SMALL_BYTES]
    if small:
        _send_as_tar(transfer, small, files)
    for entry, start in missing:
        if entry.size > SMALL_BYTES:
            _send_rest(transfer, entry, files[entry.path], start)
    lines = [text for entry, _ in missing for text in (str(entry.size), entry.path, part_name(entry), entry.sha256)]
    answer = transfer.ask("verify files", _PUBLISH, lines, len(missing))
    for (entry, _), line in zip(missing, answer, strict=True):
        if line != "ok":
            raise TransferCorrupted(f"{shell.name}:{folder}/{entry.path}", entry.sha256, line)
    return entries


class _Sink(io.RawIOBase):
    """A command's input as a file that tarfile can write to."""

    def __init__(self, stream: CommandStream) -> None:
        self._stream = stream

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # tarfile gives it nothing but bytes
        self._stream.write(data)
        return len(data)


def _send_as_tar(transfer: _Transfer, entries: Sequence[FileEntry], files: Mapping[str, Path]) -> None:
    # -o: as root, tar would otherwise give the files to whichever account has our number there.
    command = f"# jade: receive a tar\nexport LC_ALL=C; cd -- {shlex.quote(transfer.folder)} && tar -xof -"
    with transfer.sending(command) as stream:
        archive = tarfile.open(  # noqa: SIM115 -- closing it after an error would write to a broken pipe
            fileobj=_Sink(stream), mode="w|", format=tarfile.GNU_FORMAT, bufsize=CHUNK_BYTES
        )
        for entry in entries:
            member = tarfile.TarInfo(part_name(entry))
            member.size, member.mode = entry.size, 0o644
            with files[entry.path].open("rb") as source:
                archive.addfile(member, source)
        archive.close()


def _send_rest(transfer: _Transfer, entry: FileEntry, source_file: Path, start: int) -> None:
    redirect = f"{'>>' if start else '>'} {shlex.quote('./' + part_name(entry))}"
    command = f"# jade: receive a file\nexport LC_ALL=C; cd -- {shlex.quote(transfer.folder)} && cat {redirect}"
    with transfer.sending(command) as stream, source_file.open("rb", buffering=0) as source:
        source.seek(start)
        while chunk := source.read(CHUNK_BYTES):
            stream.write(chunk)


def get_files(shell: Shell, entries: Sequence[FileEntry], folder: str, into: Path, *, timeout_s: float) -> None:
    """Fetch the files of a manifest, as `Host.get`."""
    transfer = _Transfer(shell, folder, f"fetching {len(entries)} files from {folder}", timeout_s)
    batch: list[IncomingFile] = []
    num_name_bytes = 0
    for file in _incoming_files(entries, into):
        if file.is_here():
            continue
        if num_name_bytes > _BATCH_NAME_BYTES:
            _fetch(transfer, batch)
            batch, num_name_bytes = [], 0
        batch.append(file)
        num_name_bytes += len(file.entry.path.encode())
    if batch:
        _fetch(transfer, batch)


def _incoming_files(entries: Sequence[FileEntry], into: Path) -> list[IncomingFile]:
    into.mkdir(parents=True, exist_ok=True)
    inside, seen = into.resolve(), set[str]()
    for entry in entries:
        if entry.path in seen:
            raise NameRefused(entry.path, "it is listed twice")
        if not (into / entry.path).parent.resolve().is_relative_to(inside):
            raise NameRefused(entry.path, f"a link in {into} leads out of it")
        seen.add(entry.path)
    return [IncomingFile(entry, into) for entry in entries]


def _fetch(transfer: _Transfer, files: Sequence[IncomingFile]) -> None:
    wanted = " ".join(f"{file.num_resumable()} {shlex.quote('./' + file.entry.path)}" for file in files)
    script = transfer.script("send files", f"set -- {wanted}\n{_SEND}")
    where = f"{transfer.shell.name}:{transfer.folder}"
    cut_short: IncomingFile | None = None
    with opened(transfer.shell, script, timeout_s=transfer.left_s(), takes_input=False) as stream:
        for file in files:
            with file:
                if not file.receive(stream.read):
                    cut_short = file
                    break
        if cut_short is None and stream.read(1):
            raise TransferCorrupted(where, "the manifest's bytes", "more")
        exit_status, stderr = stream.finish()
    if exit_status != 0:
        raise failure_of(transfer.shell.name, CommandResult(script, exit_status, b"", stderr))
    if cut_short is not None:
        cut_short.discard(f"{cut_short.entry.size} bytes", f"{cut_short.num_there} bytes")
