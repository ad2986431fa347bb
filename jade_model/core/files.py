"""Files that are either there in full or not at all, and digests of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there becomes `path` when the block ends well.

    The temporary name starts with a dot and keeps the suffix, so that writers which choose a format by suffix
    still do. Missing parent folders are made. If the block raises, the temporary file is removed and `path`
    stays as it was.

    Args:
        path: Where the file shall be in the end; an older file there is replaced in one step.

    Yields:
        A path in the same folder that does not exist yet.

    Raises:
        FileNotFoundError: The block ended without having written to the temporary path.
        OSError: The file could not be synced or renamed.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(6)}.tmp{target.suffix}")
    try:
        yield temporary
        # Without both syncs a power cut can leave the new name with the old, or no, content.
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write the whole file in one step: readers see the old content or the new, never a part.

    Args:
        path: Where to; missing parent folders are made.
        data: Content; text is written as UTF-8 with its newlines as they are.

    Raises:
        OSError: The file could not be written; `path` then is as it was.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of the file's bytes, 64 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """Return the SHA-256 of the value's canonical JSON: sorted keys, no spaces, UTF-8.

    Args:
        value: Dicts with string keys, lists, tuples, strings, finite numbers, booleans and None; a tuple and
            a list of the same items have the same digest.

    Raises:
        ValueError: A number is NaN or infinite: those are not JSON.
        TypeError: Something else than JSON values is inside.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
