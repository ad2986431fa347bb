"""Files to a host with a shell: streamed, resumable, and checked by SHA-256 on the far side.

Small files leave as one tar; large ones one by one (`cat >> part`), and go on after a cut where they stood.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tasks.hosts.base import CommandResult, FileEntry, Progress
from tasks.hosts.errors import TransferCorrupted
from tasks.hosts.incoming import part_name
from tasks.hosts.shell import CHUNK_BYTES, CommandStream, Shell, failure_of, opened, run_over
from tasks.hosts.transfer import SMALL_BYTES, Budget, Counter, describe_files, script_in

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


@dataclass(frozen=True)
class _Upload:
    entry: FileEntry
    source: Path
    num_there: int
    is_published: bool


def put_files(
    shell: Shell, files: Mapping[str, Path], folder: str, *, timeout_s: float, progress: Progress | None
) -> tuple[FileEntry, ...]:
    """See `Host.put`."""
    budget = Budget(shell.name, f"copying {len(files)} files to {folder}", timeout_s)
    entries = describe_files(files)
    counter = Counter(entries, progress)
    uploads = _survey(shell, entries, files, folder, budget)
    counter.add(sum(upload.num_there for upload in uploads))
    unpublished = [upload for upload in uploads if not upload.is_published]
    small = [upload for upload in unpublished if upload.entry.size <= SMALL_BYTES]
    if small:
        _send_as_tar(shell, small, folder, budget, counter)
    for upload in unpublished:
        if upload.entry.size > SMALL_BYTES:
            _send_rest(shell, upload, folder, budget, counter)
    _publish(shell, unpublished, folder, budget)
    return entries


def _survey(
    shell: Shell, entries: Sequence[FileEntry], files: Mapping[str, Path], folder: str, budget: Budget
) -> list[_Upload]:
    lines = [*sorted({str(PurePosixPath(entry.path).parent) for entry in entries}), ""]
    for entry in entries:
        lines += [str(entry.size), entry.path, part_name(entry)]
    uploads = []
    answer = _answer(shell, script_in(_SURVEY, folder, what="look for files"), lines, len(entries), budget)
    for entry, line in zip(entries, answer, strict=True):
        found, partial = line.split()
        is_published = found == entry.sha256
        # A part that is too long was never ours. A small file goes again whole: a tar cannot append.
        can_resume = entry.size > SMALL_BYTES and int(partial) <= entry.size
        num_there = entry.size if is_published else int(partial) if can_resume else 0
        uploads.append(_Upload(entry, files[entry.path], num_there, is_published))
    return uploads


def _send_as_tar(shell: Shell, uploads: Sequence[_Upload], folder: str, budget: Budget, counter: Counter) -> None:
    # -o: as root, tar would otherwise give the files to whichever account has our number there.
    command = f"# jade: receive a tar\nexport LC_ALL=C; cd -- {shlex.quote(folder)} && tar -xof -"
    with _sending(shell, command, budget) as stream:
        archive = tarfile.open(  # noqa: SIM115 -- closing it after an error would write to a broken pipe
            fileobj=_Sink(stream), mode="w|", format=tarfile.GNU_FORMAT, bufsize=CHUNK_BYTES
        )
        for upload in uploads:
            member = tarfile.TarInfo(part_name(upload.entry))
            member.size, member.mode = upload.entry.size, 0o644
            with upload.source.open("rb") as source:
                archive.addfile(member, source)
            counter.add(upload.entry.size)
        archive.close()


def _send_rest(shell: Shell, upload: _Upload, folder: str, budget: Budget, counter: Counter) -> None:
    redirect = ">>" if upload.num_there else ">"
    part = shlex.quote("./" + part_name(upload.entry))
    command = f"# jade: receive a file\nexport LC_ALL=C; cd -- {shlex.quote(folder)} && cat {redirect} {part}"
    with (
        _sending(shell, command, budget) as stream,
        upload.source.open("rb", buffering=0) as source,
    ):
        source.seek(upload.num_there)
        while chunk := source.read(CHUNK_BYTES):
            stream.write(chunk)
            counter.add(len(chunk))


class _Sink(io.RawIOBase):
    """A command's input as a file that tarfile can write to."""

    def __init__(self, stream: CommandStream) -> None:
        self._stream = stream

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # tarfile gives it nothing but bytes
        self._stream.write(data)
        return len(data)


@contextlib.contextmanager
def _sending(shell: Shell, command: str, budget: Budget) -> Iterator[CommandStream]:
    """A stream to write to; on leaving, the command has ended well or its error is raised."""
    with opened(shell, command, timeout_s=budget.left_s()) as stream:
        # A command that closes its input early says why with its status, and better than the pipe can.
        with contextlib.suppress(BrokenPipeError):
            yield stream
            stream.end_input()
        exit_status, stderr = stream.finish()
    if exit_status != 0:
        raise failure_of(shell.name, CommandResult(command, exit_status, b"", stderr))


def _publish(shell: Shell, uploads: Sequence[_Upload], folder: str, budget: Budget) -> None:
    lines = []
    for upload in uploads:
        entry = upload.entry
        lines += [str(entry.size), entry.path, part_name(entry), entry.sha256]
    answer = _answer(shell, script_in(_PUBLISH, folder, what="verify files"), lines, len(uploads), budget)
    for upload, line in zip(uploads, answer, strict=True):
        if line != "ok":
            raise TransferCorrupted(f"{shell.name}:{folder}/{upload.entry.path}", upload.entry.sha256, line)


def _answer(shell: Shell, script: str, lines: Sequence[str], num_expected: int, budget: Budget) -> list[str]:
    if not num_expected:
        return []
    data = "".join(line + "\n" for line in lines).encode()
    result = run_over(shell, script, timeout_s=budget.left_s(), stdin=data, check=True)
    answer = result.text.splitlines()
    if len(answer) != num_expected:
        # Something else speaks there, such as a login script that prints; nothing was published.
        raise TransferCorrupted(shell.name, f"{num_expected} lines of answer", repr(result.text[-500:]))
    return answer
