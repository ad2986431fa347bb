from __future__ import annotations

from pathlib import Path

import pytest

from tasks.hosts.host import Host
from tests.fakes.host_contract import CommandContract, TransferContract
from tests.fakes.local_host import LocalHost


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "host" / "place"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return LocalHost(tmp_path / "host")


class TestLocalHost(CommandContract, TransferContract):
    def test_relative_folders_start_at_the_root(self, host: Host, place: Path, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"x")
        host.put({"file": source}, "place", timeout_s=60)
        assert (place / "file").read_bytes() == b"x"
