"""Files from a host with a shell, as one stream.

The stream is split here, at the sizes that the manifest gives: the host sends no names at all, so there is none to
mistrust, and no more bytes than the manifest's are taken.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.hosts.base import CommandResult, FileEntry, Progress
from tasks.hosts.errors import TransferCorrupted
from tasks.hosts.incoming import IncomingFile, open_incoming
from tasks.hosts.shell import CommandStream, Shell, failure_of, opened
from tasks.hosts.transfer import Budget, Counter, script_in

_READ_BYTES = 2**21  # all that paramiko buffers: of less, it would move the rest to the front each time
_BATCH_NAME_BYTES = 32_000  # a single argument of a program may have 128 KiB on Linux

# Positional parameters, a pair for each file: bytes to leave out, name.
_SEND = """
cd -- "$folder" || exit 1
while [ $# -gt 0 ]; do
  if [ -L "$2" ] || { [ -e "$2" ] && [ ! -f "$2" ]; }; then not_plain "$2"; fi
  if [ "$1" -gt 0 ]; then tail -c "+$(($1 + 1))" < "$2" || exit 1; else cat < "$2" || exit 1; fi
  shift 2
done
"""


def get_files(
    shell: Shell,
    entries: Sequence[FileEntry],
    folder: str,
    into: Path,
    *,
    timeout_s: float,
    progress: Progress | None,
) -> None:
    """See `Host.get`."""
    budget = Budget(shell.name, f"fetching {len(entries)} files from {folder}", timeout_s)
    counter = Counter(entries, progress)
    missing = []
    for file in open_incoming(entries, into):
        if file.is_here():
            counter.add(file.entry.size)
        else:
            missing.append(file)
    for batch in _batches(missing):
        _fetch(shell, batch, folder, budget, counter)


def _batches(files: Sequence[IncomingFile]) -> Iterator[list[IncomingFile]]:
    batch: list[IncomingFile] = []
    num_bytes = 0
    for file in files:
        num_name_bytes = len(shlex.quote(file.entry.path).encode()) + 3
        if batch and num_bytes + num_name_bytes > _BATCH_NAME_BYTES:
            yield batch
            batch, num_bytes = [], 0
        batch.append(file)
        num_bytes += num_name_bytes
    if batch:
        yield batch


def _fetch(shell: Shell, files: Sequence[IncomingFile], folder: str, budget: Budget, counter: Counter) -> None:
    wanted = " ".join(f"{file.num_resumable()} {shlex.quote('./' + file.entry.path)}" for file in files)
    script = script_in(f"set -- {wanted}\n{_SEND}", folder, what="send files")
    cut_short: IncomingFile | None = None
    with opened(shell, script, timeout_s=budget.left_s()) as stream:
        stream.end_input()
        for file in files:
            with file:
                counter.add(file.num_there)
                if not _receive(stream, file, counter):
                    cut_short = file
                    break
        if cut_short is None and stream.read(1):
            raise TransferCorrupted(f"{shell.name}:{folder}", "the manifest's bytes", "more")
        exit_status, stderr = stream.finish()
    if exit_status != 0:
        raise failure_of(shell.name, CommandResult(script, exit_status, b"", stderr))
    if cut_short is not None:
        cut_short.discard(f"{cut_short.entry.size} bytes", f"{cut_short.num_there} bytes")


def _receive(stream: CommandStream, file: IncomingFile, counter: Counter) -> bool:
    """Read one file off the stream; False if the stream ended before it did."""
    while file.num_missing:
        chunk = stream.read(min(_READ_BYTES, file.num_missing))
        if not chunk:
            return False
        file.write(chunk)
        counter.add(len(chunk))
    file.publish()
    return True
