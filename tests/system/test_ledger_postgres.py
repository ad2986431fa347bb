"""The ledger on PostgreSQL, as machines of a team share it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from helpers.postgres import postgres

from tasks.provisioning.entries import metadata
from tests.fakes.ledger_contract import LedgerContract

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("ledger on postgres")]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres("SQL_ASCII") as place:
        yield place


class TestOnPostgresql(LedgerContract):
    """The contract of all ledgers."""

    @pytest.fixture
    def url(self, server: str) -> Iterator[str]:
        yield f"postgresql://jade@{server}"
        engine = sa.create_engine(f"postgresql+psycopg://jade@{server}?client_encoding=utf8")
        metadata.drop_all(engine)
        engine.dispose()
