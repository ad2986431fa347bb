"""A file on its way here is brought to the disk while it comes, and a disk that fails meanwhile is not passed over."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import threading
from pathlib import Path

import pytest

from tasks.core.names import FileEntry
from tasks.hosts import transfer
from tasks.hosts.transfer import part_name, receive_file

DATA = bytes(range(256)) * 64


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> FileEntry:
    monkeypatch.setattr(transfer, "SYNC_BYTES", 1000)
    monkeypatch.setattr(transfer, "_READ_BYTES", 512)
    return FileEntry("runs/model.pt", len(DATA), hashlib.sha256(DATA).hexdigest())


def receive(entry: FileEntry, into: Path) -> None:
    assert receive_file(entry, into, io.BytesIO(DATA).read)


def test_a_file_arrives_whole_and_was_synced_while_it_came(
    entry: FileEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by: list[str] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        by.append(threading.current_thread().name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    receive(entry, tmp_path)
    assert (tmp_path / entry.path).read_bytes() == DATA
    assert by[0].startswith("sync")
    assert threading.current_thread().name in by


def test_a_disk_that_fails_meanwhile_keeps_the_file_unpublished(
    entry: FileEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, failed = os.fsync, list[int]()

    def fails_once(descriptor: int) -> None:
        # As the kernel does: whoever asks next is told nothing.
        if not failed:
            failed.append(descriptor)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fails_once)
    with pytest.raises(OSError, match="Input/output"):
        receive(entry, tmp_path)
    assert failed
    assert not (tmp_path / entry.path).exists()
    assert (tmp_path / part_name(entry)).exists()
