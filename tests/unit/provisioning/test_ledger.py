"""The ledger in one file, and ledgers that cannot be used."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.provisioning.entries import TRANSITIONS, LeaseState
from tasks.provisioning.errors import LedgerUnusable
from tasks.provisioning.ledger import Ledger
from tests.fakes.ledger_contract import LedgerContract, put_into


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path / 'state' / 'ledger.db'}")
    yield opened
    opened.close()


class TestInOneFile(LedgerContract):
    """The contract of all ledgers."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'state' / 'ledger.db'}"


def test_every_state_can_be_reached_and_from_every_one_the_money_can_be_stopped() -> None:
    reached = {LeaseState.REQUESTED}
    while more := {new for old, new in TRANSITIONS if old in reached} - reached:
        reached |= more
    assert reached == set(LeaseState)
    for state in LeaseState:
        ends = {state}
        while more := {new for old, new in TRANSITIONS if old in ends} - ends:
            ends |= more
        assert any(state.is_over for state in ends)


def test_only_its_owner_can_read_the_file(tmp_path: Path, ledger: Ledger) -> None:
    put_into(ledger, LeaseState.PROVISIONING)
    folder = tmp_path / "state"
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


@pytest.mark.parametrize("url", ["nonsense", "postgresql://", "sqlite:////proc/nowhere/ledger.db"])
def test_a_ledger_that_cannot_be_opened_is_named_with_what_to_do(url: str) -> None:
    with pytest.raises(LedgerUnusable, match="JADE_LEDGER_URL"):
        Ledger(url)


def test_a_password_in_the_url_is_never_shown() -> None:
    with pytest.raises(LedgerUnusable) as refused:
        Ledger("postgresql://jade:s3cr3t-w0rd@127.0.0.1:1/none")
    assert "s3cr3t-w0rd" not in str(refused.value)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 100)
    with pytest.raises(LedgerUnusable, match="not a database"):
        Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")


def test_a_newer_ledger_is_refused(tmp_path: Path, ledger: Ledger) -> None:
    with sqlite3.connect(tmp_path / "state" / "ledger.db") as connection:
        connection.execute("UPDATE jade_ledger SET schema_version = 99")
    with pytest.raises(LedgerUnusable, match="99"):
        Ledger(f"sqlite:///{tmp_path / 'state' / 'ledger.db'}")
