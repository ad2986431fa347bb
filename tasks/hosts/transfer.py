"""What moving files up and down has in common: digests, budgets of time, and a host's own list of a folder."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic

from tasks.hosts.base import FileEntry, Host, Progress, check_name
from tasks.hosts.errors import CommandTimedOut, NameRefused
from tasks.hosts.shell import NOT_PLAIN, NOT_PLAIN_STATUS, TOOL_MISSING

SMALL_BYTES = 8 * 2**20

# openssl is several times faster than most sha256sum, and takes ten times as long to start.
_DIGEST = f"""export LC_ALL=C
if command -v sha256sum >/dev/null 2>&1; then digest_small() {{ sha256sum; }}
elif command -v shasum >/dev/null 2>&1; then digest_small() {{ shasum -a 256; }}
elif command -v openssl >/dev/null 2>&1; then digest_small() {{ openssl dgst -sha256 -r; }}
else echo '{TOOL_MISSING}sha256sum, shasum or openssl' >&2; exit 127; fi
if command -v openssl >/dev/null 2>&1; then digest_large() {{ openssl dgst -sha256 -r; }}
else digest_large() {{ digest_small; }}; fi
digest() {{ if [ "$1" -gt {SMALL_BYTES} ]; then digest_large; else digest_small; fi; }}
not_plain() {{ echo "{NOT_PLAIN}$1" >&2; exit {NOT_PLAIN_STATUS}; }}
"""

# Output, a line for each file: digest, size, name.
_LIST = """
cd -- "$folder" || exit 1
find . ! -type f ! -type d | { if IFS= read -r name; then not_plain "$name"; fi; } || exit
find . -type f ! -name '*.part' ! -name '*.tmp' | while IFS= read -r name; do
  [ -f "$name" ] || not_plain "$name"
  size=$(($(wc -c < "$name")))
  set -- $(digest "$size" < "$name")
  echo "$1 $size $name"
done
"""


class Counter:
    """Adds up bytes and tells whoever wants to know."""

    def __init__(self, entries: Sequence[FileEntry], progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, sum(entry.size for entry in entries), progress

    def add(self, num_bytes: int) -> None:
        """Count more of them."""
        self._done += num_bytes
        if self._progress is not None:
            self._progress(self._done, self._total)


class Budget:
    """The seconds left of a call's time limit."""

    def __init__(self, host: str, doing: str, timeout_s: float) -> None:
        self._host, self._doing, self._timeout_s = host, doing, timeout_s
        self._deadline = monotonic() + timeout_s

    def left_s(self) -> float:
        """Seconds left.

        Raises:
            CommandTimedOut: None are.
        """
        left = self._deadline - monotonic()
        if left <= 0:
            raise CommandTimedOut(self._host, self._doing, self._timeout_s)
        return left


def describe_files(files: Mapping[str, Path]) -> tuple[FileEntry, ...]:
    """Size and digest of local files, each under the name that it has elsewhere.

    Raises:
        NameRefused: A name could leave its folder.
        FileNotFoundError: A file is not there.
    """
    entries = []
    for name, path in files.items():
        check_name(name)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            entries.append(FileEntry(name, file.tell(), digest))
    return tuple(entries)


def list_files(
    host: Host, folder: str, *, timeout_s: float, max_files: int = 10_000, max_bytes: int = 50 * 2**30
) -> tuple[FileEntry, ...]:
    """A manifest made by the host of what lies in one of its folders now, for outputs that brought none.

    It protects the way from there to here, not against the host itself. Files called `*.part` and `*.tmp` are
    left out as unfinished.

    Raises:
        NameRefused: There is a link, a device or an unsafe name; or more files or bytes than allowed.
        RemoteFileMissing: There is no such folder.
    """
    result = host.run(script_in(_LIST, folder, what="list files"), timeout_s=timeout_s)
    entries = []
    for line in result.text.splitlines():
        sha256, size, name = line.split(" ", 2) if line.count(" ") >= 2 else ("", "", line)
        if not name.startswith("./") or not size.isdigit():
            raise NameRefused(line, f"{host.name}:{folder} has a file name with a line break in it")
        entries.append(FileEntry(name[2:], int(size), sha256))
    if len(entries) > max_files:
        raise NameRefused(folder, f"it has {len(entries)} files, {max_files} are allowed")
    total = sum(entry.size for entry in entries)
    if total > max_bytes:
        raise NameRefused(folder, f"its files have {total} bytes, {max_bytes} are allowed")
    return tuple(sorted(entries, key=lambda entry: entry.path))


def script_in(body: str, folder: str, *, what: str) -> str:
    """A script that has the folder in $folder and knows `digest` and `not_plain`."""
    return f"# jade: {what} in {shlex.quote(folder)}\nfolder={shlex.quote(folder)}\n{_DIGEST}{body}"
