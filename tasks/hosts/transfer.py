"""Files to and from a host, resumable, and checked by SHA-256 on the side where they arrive.

Up: small files leave as one tar; large ones one by one (`cat >> part`), and go on after a cut where they stood. Down:
one stream, split here at the sizes that the manifest gives; the host sends no names at all, so none need be trusted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shlex
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import IO, NoReturn, cast

from tasks.core.names import FileEntry
from tasks.hosts.errors import CommandTimedOut, HostUserError, NameRefused, TransferCorrupted
from tasks.hosts.shell import CHUNK_BYTES, NO_SPACE, NOT_PLAIN, CommandStream, Shell, assigned

SMALL_BYTES = 8 * 2**20
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
not_plain() {{ echo "{NOT_PLAIN}$1" >&2; exit 1; }}
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

# Input: bytes to leave out and name of each file on a line of its own. Output: what is left of them.
_SEND = """
cd -- "$folder" || exit 1
while IFS= read -r start && IFS= read -r name; do
  if [ -L "$name" ] || { [ -e "$name" ] && [ ! -f "$name" ]; }; then not_plain "$name"; fi
  if [ "$start" -gt 0 ]; then tail -c "+$((start + 1))" < "./$name" || exit 1; else cat < "./$name" || exit 1; fi
done
"""


class _Transfer:
    """One call's way to a host: its folder and its budget of time."""

    def __init__(self, host: Shell, folder: str, doing: str, timeout_s: float) -> None:
        self.host, self.folder = host, folder
        self._doing, self._timeout_s, self._deadline = doing, timeout_s, monotonic() + timeout_s

    def left_s(self) -> float:
        """Seconds left; a CommandTimedOut if none are."""
        left = self._deadline - monotonic()
        if left <= 0:
            raise CommandTimedOut(self.host.name, self._doing, self._timeout_s)
        return left

    def script(self, what: str, body: str) -> str:
        """A script that has the folder in $folder and knows `digest` and `not_plain`."""
        return f"# jade: {what} in {shlex.quote(self.folder)}\n{assigned(folder=self.folder)}{_DIGEST}{body}"

    def ask(self, what: str, body: str, lines: Sequence[object], num_expected: int) -> list[str]:
        """Run a script that reads lines and answers with as many as expected."""
        if not num_expected:
            return []
        result = self.host.run(self.script(what, body), timeout_s=self.left_s(), stdin=_joined(lines))
        answer = result.text.splitlines()
        if len(answer) != num_expected:
            raise TransferCorrupted(self.host.name, f"{num_expected} lines of answer", repr(result.text[-500:]))
        return answer

    @contextlib.contextmanager
    def sending(self, what: str, program: str) -> Iterator[CommandStream]:
        """A stream to write to; on leaving, the program has ended well in the folder or its error is raised."""
        command = f"# jade: receive a {what}\nexport LC_ALL=C; cd -- {shlex.quote(self.folder)} && {program}"
        with self.host.opened(command, timeout_s=self.left_s()) as stream:
            # A command that closes its input early says why with its status, and better than the pipe can.
            with contextlib.suppress(BrokenPipeError):
                yield stream
                stream.end_input()
            self.host.end(command, stream)


def _joined(lines: Sequence[object]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def part_name(entry: FileEntry) -> str:
    """Where an unfinished copy lies: beside the file, hidden.

    The digest in the name keeps bytes of different contents apart, here and on a host.
    """
    path = PurePosixPath(entry.path)
    return str(path.with_name(f".{path.name[:60]}.{entry.sha256[:16]}.part"))


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


class ShellHost(Shell):
    """A `Host` whose files travel through its commands."""

    def put(self, files: Mapping[str, Path], folder: str, *, timeout_s: float) -> tuple[FileEntry, ...]:
        """Copy files into a folder of a host, as `Host.put`."""
        entries = describe_files(files)
        way = _Transfer(self, folder, f"copying {len(files)} files to {folder}", timeout_s)
        lines: list[object] = [*sorted({str(PurePosixPath(entry.path).parent) for entry in entries}), ""]
        for entry in entries:
            lines += [entry.size, entry.path, part_name(entry)]
        answers = map(str.split, way.ask("look for files", _SURVEY, lines, len(entries)))
        missing = {
            entry: int(num_there)
            for entry, (found, num_there) in zip(entries, answers, strict=True)
            if found != entry.sha256
        }
        # A small file goes again whole: a tar cannot append.
        if small := [entry for entry in missing if entry.size <= SMALL_BYTES]:
            _send_as_tar(way, small, files)
        for entry, num_there in missing.items():
            if entry.size > SMALL_BYTES:
                # A part that is too long was never ours.
                _send_rest(way, entry, files[entry.path], num_there if num_there <= entry.size else 0)
        lines = [line for entry in missing for line in (entry.size, entry.path, part_name(entry), entry.sha256)]
        answer = way.ask("verify files", _PUBLISH, lines, len(missing))
        for entry, line in zip(missing, answer, strict=True):
            if line != "ok":
                raise TransferCorrupted(f"{self.name}:{folder}/{entry.path}", entry.sha256, line)
        return entries

    def get(self, entries: Sequence[FileEntry], folder: str, into: Path, *, timeout_s: float) -> None:
        """Fetch the files of a manifest, as `Host.get`."""
        way = _Transfer(self, folder, f"fetching {len(entries)} files from {folder}", timeout_s)
        into.mkdir(parents=True, exist_ok=True)
        seen = set[str]()
        for entry in entries:
            if entry.path in seen:
                raise NameRefused(entry.path, "it is listed twice")
            if not (into / entry.path).parent.resolve().is_relative_to(into.resolve()):
                raise NameRefused(entry.path, f"a link in {into} leads out of it")
            seen.add(entry.path)
        missing = [entry for entry in entries if not _is_here(entry, into)]
        if not missing:
            return
        script = way.script(f"send files ({len(missing)})", _SEND)
        wanted = _joined([line for entry in missing for line in (_num_resumable(entry, into), entry.path)])
        with self.opened(script, timeout_s=way.left_s(), stdin=wanted) as stream:
            cut_short = next((entry for entry in missing if not receive_file(entry, into, stream.read)), None)
            if cut_short is None and stream.read(1):
                raise TransferCorrupted(f"{self.name}:{folder}", "the manifest's bytes", "more")
            self.end(script, stream)
        if cut_short is not None:
            _refuse(cut_short, into, f"{cut_short.size} bytes", f"{_num_resumable(cut_short, into)} bytes")


def _send_as_tar(way: _Transfer, entries: Sequence[FileEntry], files: Mapping[str, Path]) -> None:
    # -o: as root, tar would otherwise give the files to whichever account has our number there.
    with way.sending("tar", "tar -xof -") as stream:
        sink = cast("IO[bytes]", stream)  # a tar that is written as a stream only writes
        # Closing it after an error would write to a broken pipe.
        archive = tarfile.open(fileobj=sink, mode="w|", format=tarfile.GNU_FORMAT, bufsize=CHUNK_BYTES)  # noqa: SIM115
        for entry in entries:
            member = tarfile.TarInfo(part_name(entry))
            member.size, member.mode = entry.size, 0o644
            with files[entry.path].open("rb") as source:
                archive.addfile(member, source)
        archive.close()


def _send_rest(way: _Transfer, entry: FileEntry, source_file: Path, start: int) -> None:
    program = f"cat {'>>' if start else '>'} {shlex.quote('./' + part_name(entry))}"
    with way.sending("file", program) as stream, source_file.open("rb", buffering=0) as source:
        source.seek(start)
        while chunk := source.read(CHUNK_BYTES):
            stream.write(chunk)


def _is_here(entry: FileEntry, into: Path) -> bool:
    """Whether the file is here already under its name, and whole."""
    path = into / entry.path
    if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.size:
        return False
    return describe_files({entry.path: path}) == (entry,)


def _num_resumable(entry: FileEntry, into: Path) -> int:
    """Bytes that an earlier call left; what cannot be a part of this file is removed."""
    part = into / part_name(entry)
    if part.is_symlink() or (part.exists() and part.stat().st_size > entry.size):
        part.unlink()
    return part.stat().st_size if part.exists() else 0


def receive_file(entry: FileEntry, into: Path, read: Callable[[int], bytes]) -> bool:
    """Read what an earlier, cut transfer left out, and give the file its name; False if the stream ended before.

    Raises:
        TransferCorrupted: The digest differs; the part is removed.
        HostUserError: There is no space here.
    """
    target, part = into / entry.path, into / part_name(entry)
    part.parent.mkdir(parents=True, exist_ok=True)
    syncing: Future[None] | None = None
    try:
        with ThreadPoolExecutor(1, "sync") as syncer, part.open("a+b", buffering=0) as file:
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256")
            num_there = num_synced = file.tell()
            while num_there < entry.size:
                chunk = memoryview(read(min(_READ_BYTES, entry.size - num_there)))
                if not chunk:
                    return False
                digest.update(chunk)
                num_there += len(chunk)
                while chunk:
                    chunk = chunk[file.write(chunk) :]
                if num_there - num_synced >= SYNC_BYTES and (syncing is None or syncing.done()):
                    _raise_if_failed(syncing)
                    syncing, num_synced = syncer.submit(os.fsync, file.fileno()), num_there
            if digest.hexdigest() != entry.sha256:
                _refuse(entry, into, entry.sha256, digest.hexdigest())
            _raise_if_failed(syncing)
            os.fsync(file.fileno())
    except OSError as problem:
        if problem.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise HostUserError(NO_SPACE.format("this machine", f"{target}: {problem.strerror}")) from problem
        raise
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _raise_if_failed(syncing: Future[None] | None) -> None:
    # A disk's error is told once: to this, and not again to the fsync at the end.
    if syncing is not None:
        syncing.result()


def _refuse(entry: FileEntry, into: Path, expected: str, found: str) -> NoReturn:
    (into / part_name(entry)).unlink(missing_ok=True)
    raise TransferCorrupted(str(into / entry.path), expected, found)
