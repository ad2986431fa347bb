"""The lender on this machine, by which runs on rented machines are tested, keeps the contract of all who lend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.provisioning.provisioner import Timing
from tests.fakes.machines import LocalMachines, lent_machines
from tests.fakes.provisioner_contract import SeamContract

pytestmark = pytest.mark.system


class LocalWorld:
    secrets: tuple[str, ...] = ()

    def __init__(self, provisioner: LocalMachines) -> None:
        self.provisioner = provisioner
        self.timing = Timing(settle_s=0.3, release_s=60.0, look_s=0.05)

    def costing(self) -> int:
        return len(self.provisioner.all())


class TestLentMachines(SeamContract):
    """The contract of all who lend."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[LocalWorld]:
        with lent_machines(tmp_path) as lender:
            yield LocalWorld(lender)
