"""What every ledger must do, whatever database it lies in."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.provisioning import entries as tables
from tasks.provisioning.entries import HOUR_S, TRANSITIONS, LeaseState, LedgerEntry, month_of
from tasks.provisioning.errors import BudgetSpent, ClaimLost, LedgerError
from tasks.provisioning.ledger import SCHEMA_VERSION, Ledger, Purpose
from tasks.provisioning.provisioner import Instance, InstanceState, Offer, owner_and_request

OFFER = Offer("fake", "NVIDIA L4", "L4", 24, 0.5)
OWNER = "c0ffee00c0ffee00c0ffee00c0ffee00"
NOON = 1_795_521_600.0  # 2026-11-24, 12:00 UTC


REQUEST_AND_DIE = """
import os, signal, sys
from tasks.provisioning.ledger import Ledger, Purpose
from tasks.provisioning.provisioner import Offer
ledger = Ledger(sys.argv[1])
for _ in range(3):
    ledger.request(Offer("fake", "k", "K", 1, 1.0), Purpose("r"), claim="c", max_hours=1, orphan_grace_s=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


TABLES_OF_VERSION_1 = """
CREATE TABLE jade_ledger (
  id INTEGER NOT NULL PRIMARY KEY, schema_version INTEGER NOT NULL, owner VARCHAR(40) NOT NULL,
  made_at DOUBLE PRECISION NOT NULL);
CREATE TABLE jade_rentals (
  request_id VARCHAR(32) NOT NULL PRIMARY KEY, owner VARCHAR(40) NOT NULL, provider VARCHAR(32) NOT NULL,
  name VARCHAR(96) NOT NULL, state VARCHAR(16) NOT NULL, kind VARCHAR(128) NOT NULL, title VARCHAR(128) NOT NULL,
  region VARCHAR(64) NOT NULL, spot BOOLEAN NOT NULL, price_usd_per_hour DOUBLE PRECISION NOT NULL,
  max_age_s DOUBLE PRECISION NOT NULL, orphan_grace_s DOUBLE PRECISION NOT NULL, run_id VARCHAR(128) NOT NULL,
  flow_run_id VARCHAR(64) NOT NULL, run_keys TEXT NOT NULL, claim VARCHAR(200) NOT NULL, machine_id VARCHAR(128),
  host VARCHAR(255), port INTEGER, "user" VARCHAR(64), fingerprint VARCHAR(64),
  intended_at DOUBLE PRECISION NOT NULL, acquired_at DOUBLE PRECISION, seen_at DOUBLE PRECISION NOT NULL,
  ended_at DOUBLE PRECISION, cost_usd DOUBLE PRECISION NOT NULL, problem TEXT NOT NULL);
CREATE TABLE jade_rental_events (
  id {serial}, request_id VARCHAR(32) NOT NULL REFERENCES jade_rentals (request_id), at DOUBLE PRECISION NOT NULL,
  old VARCHAR(16) NOT NULL, new VARCHAR(16) NOT NULL, detail TEXT NOT NULL);
CREATE TABLE jade_reapers (
  owner VARCHAR(40) NOT NULL, name VARCHAR(200) NOT NULL, seen_at DOUBLE PRECISION NOT NULL, PRIMARY KEY (owner, name));
INSERT INTO jade_ledger VALUES (1, 1, '{owner}', {now})
"""
RENTAL_OF_VERSION_1 = """
INSERT INTO jade_rentals VALUES (
  '{id}', '{owner}', 'fake', 'jade-{owner}-{id}', '{state}', 'NVIDIA L4', 'L4', '', FALSE, 0.5, 7200, 900, 'run', '',
  'k1 k2', 'me', 'm-{id}', '192.0.2.1', 22, 'root', NULL, {now}, {now}, {now}, {ended}, 0, '');
INSERT INTO jade_rental_events (request_id, at, old, new, detail) VALUES ('{id}', {now}, '', '{state}', '')
"""
STATES_OF_VERSION_1 = {
    "intended": LeaseState.REQUESTED,
    "acquired": LeaseState.PROVISIONING,
    "reached": LeaseState.PROVISIONING,
    "ready": LeaseState.READY,
    "training": LeaseState.BUSY,
    "collected": LeaseState.BUSY,
    "releasing": LeaseState.TERMINATING,
    "released": LeaseState.TERMINATED,
    "refused": LeaseState.FAILED,
    "vanished": LeaseState.FAILED,
    "gone": LeaseState.TERMINATED,
}


def _text(url: str) -> dict[str, str]:
    """A database made under the locale C gives bytes for text unless it is asked not to."""
    return {"client_encoding": "utf8"} if url.startswith("postgresql") else {}


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def requested(ledger: Ledger, *, hours: float = 2.0, budget_usd: float | None = None) -> LedgerEntry:
    purpose = Purpose("run", "", ("k1", "k2"))
    return ledger.request(OFFER, purpose, claim="me", max_hours=hours, orphan_grace_s=900, budget_usd=budget_usd)


def machine(entry: LedgerEntry, instance_id: str = "m1") -> Instance:
    return Instance("fake", instance_id, entry.name, entry.owner, InstanceState.RUNNING, None, 0.5, None)


def put_into(ledger: Ledger, state: LeaseState) -> LedgerEntry:
    """A entry that has come to a state by allowed steps."""
    paths: dict[LeaseState, list[LeaseState]] = {LeaseState.REQUESTED: []}
    while state not in paths:
        for old, new in TRANSITIONS:
            if old in paths and new not in paths:
                paths[new] = [*paths[old], new]
    entry = requested(ledger)
    for step in paths[state]:
        entry = ledger.advance(entry.request_id, step)
    return entry


class LedgerContract:
    """Subclasses give `url`, of a database that holds no ledger yet."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def ledger(self, url: str, clock: Clock) -> Iterator[Ledger]:
        opened = Ledger(url, clock=clock)
        yield opened
        opened.close()

    def test_the_owner_is_made_once_and_names_tell_it(self, ledger: Ledger, url: str) -> None:
        again = Ledger(url)
        assert again.owner == ledger.owner
        again.close()
        entry = requested(ledger)
        assert owner_and_request(entry.name) == (ledger.owner, entry.request_id)

    def test_a_rental_takes_the_steps_of_the_table_and_no_others(self, ledger: Ledger) -> None:
        for old in LeaseState:
            entry = put_into(ledger, old)
            for new in (state for state in LeaseState if (old, state) not in TRANSITIONS):
                with pytest.raises(LedgerError):
                    ledger.advance(entry.request_id, new)
            assert ledger.entry(entry.request_id).state is old
        for old, new in TRANSITIONS:
            entry = put_into(ledger, old)
            assert ledger.advance(entry.request_id, new).state is new
            assert ledger.history(entry.request_id)[-2:] == [old, new]

    def test_cost_counts_from_the_intent_to_the_end_and_nothing_for_what_was_refused(
        self, ledger: Ledger, clock: Clock
    ) -> None:
        entry = put_into(ledger, LeaseState.BUSY)
        clock.now += HOUR_S
        assert ledger.touch(entry.request_id, "me").cost_usd == pytest.approx(0.5)
        clock.now += HOUR_S
        for state in (LeaseState.TERMINATING, LeaseState.TERMINATED):
            entry = ledger.advance(entry.request_id, state)
        clock.now += 5 * HOUR_S
        assert ledger.spent_usd() == pytest.approx(1.0)
        put_into(ledger, LeaseState.FAILED)
        assert ledger.spent_usd() == pytest.approx(1.0)

    def test_a_machine_over_the_end_of_a_month_costs_each_month_its_part(self, ledger: Ledger, clock: Clock) -> None:
        _, end = month_of(NOON)
        clock.now = end - HOUR_S
        put_into(ledger, LeaseState.BUSY)
        clock.now = end + 3 * HOUR_S
        assert ledger.spent_usd() == pytest.approx(1.5)

    def test_a_budget_counts_what_was_spent_and_what_running_machines_may_cost(
        self, ledger: Ledger, clock: Clock
    ) -> None:
        first = requested(ledger, budget_usd=1.2)
        assert first.max_age_s == 2 * HOUR_S
        second = requested(ledger, budget_usd=1.2)
        assert second.max_age_s == pytest.approx(0.4 * HOUR_S)  # 0.20 USD were left
        with pytest.raises(BudgetSpent) as refused:
            requested(ledger, budget_usd=1.2)
        assert refused.value.facts["promised_usd"] == pytest.approx(1.2)
        assert "Raise --budget" in str(refused.value)
        assert len(ledger.entries()) == 2
        clock.now = month_of(NOON)[1] + HOUR_S
        for entry in (first, second):
            ledger.advance(entry.request_id, LeaseState.FAILED)
        assert requested(ledger, budget_usd=1.2).max_age_s == 2 * HOUR_S

    def test_of_many_that_promise_at_once_none_goes_over_the_budget(self, url: str, clock: Clock) -> None:
        got: list[LedgerEntry | BudgetSpent] = []

        def promise() -> None:
            ledger = Ledger(url, clock=clock)
            try:
                got.append(requested(ledger, budget_usd=3.0))
            except BudgetSpent as error:
                got.append(error)
            ledger.close()

        threads = [threading.Thread(target=promise) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 8
        assert sum(isinstance(item, LedgerEntry) for item in got) == 3

    def test_a_claim_is_taken_only_from_whom_one_thinks_has_it(self, ledger: Ledger) -> None:
        entry = put_into(ledger, LeaseState.BUSY)
        assert not ledger.take(entry.request_id, "other", instead_of="somebody")
        assert ledger.take(entry.request_id, "other", instead_of="me")
        with pytest.raises(ClaimLost, match="other"):
            ledger.touch(entry.request_id, "me")
        ledger.let_go(entry.request_id, "me")
        assert ledger.entry(entry.request_id).claim == "other"

    def test_what_has_ended_cannot_be_taken(self, ledger: Ledger) -> None:
        entry = put_into(ledger, LeaseState.TERMINATED)
        assert not ledger.take(entry.request_id, "other", instead_of="me")

    def test_a_machine_that_comes_back_costs_again(self, ledger: Ledger, clock: Clock) -> None:
        entry = put_into(ledger, LeaseState.FAILED)
        entry = ledger.advance(entry.request_id, LeaseState.TERMINATING, instance=machine(entry))
        clock.now += HOUR_S
        assert entry.instance_id == "m1"
        assert entry.cost_until(clock.now) == pytest.approx(0.5)

    def test_a_killed_process_leaves_whole_steps(self, url: str) -> None:
        subprocess.run([sys.executable, "-c", REQUEST_AND_DIE, url], check=False)
        ledger = Ledger(url)
        assert [entry.state for entry in ledger.entries()] == [LeaseState.REQUESTED] * 3
        ledger.close()

    def test_a_ledger_of_the_version_before_is_read_with_every_machine_in_its_new_state(
        self, url: str, clock: Clock
    ) -> None:
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), connect_args=_text(url))
        if url.startswith("sqlite"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir()
        serial = "SERIAL PRIMARY KEY" if url.startswith("postgresql") else "INTEGER PRIMARY KEY"
        script = TABLES_OF_VERSION_1.format(serial=serial, owner=OWNER, now=NOON)
        ids = {old: f"{number:016x}" for number, old in enumerate(STATES_OF_VERSION_1)}
        for old, new in STATES_OF_VERSION_1.items():
            ended = NOON if new.is_over else "NULL"
            script += ";" + RENTAL_OF_VERSION_1.format(id=ids[old], owner=OWNER, state=old, now=NOON, ended=ended)
        with engine.begin() as connection:
            for statement in script.split(";"):
                connection.execute(sa.text(statement))
        after = Ledger(url, clock=clock)
        assert after.owner == OWNER
        for old, new in STATES_OF_VERSION_1.items():
            entry = after.entry(ids[old])
            assert (entry.state, entry.instance_id, entry.requested_at) == (new, f"m-{ids[old]}", NOON)
            assert str(entry.address) == "root@192.0.2.1:22"
            assert after.history(ids[old]) == [new]
        still_open = {entry.request_id for entry in after.entries(only_open=True)}
        assert still_open == {ids[old] for old, new in STATES_OF_VERSION_1.items() if not new.is_over}
        for request_id in still_open:
            assert after.take(request_id, "other", instead_of="me")
            if after.entry(request_id).state is not LeaseState.TERMINATING:
                after.advance(request_id, LeaseState.TERMINATING)
            after.advance(request_id, LeaseState.TERMINATED)
        assert after.entries(only_open=True) == []
        after.close()
        with engine.connect() as connection:
            # Whoever knows the earlier states only is to refuse it.
            assert connection.execute(sa.select(tables.ledger.c.schema_version)).scalar() == SCHEMA_VERSION
        engine.dispose()

    def test_reapers_are_remembered_by_owner(self, ledger: Ledger, clock: Clock) -> None:
        assert ledger.reaper_age_s(ledger.owner) is None
        ledger.note_reaper(ledger.owner, "here")
        clock.now += 60
        ledger.note_reaper("someoneelse", "there")
        assert ledger.reaper_age_s(ledger.owner) == 60

    def test_an_unknown_request_is_said_to_be_unknown(self, ledger: Ledger) -> None:
        with pytest.raises(LedgerError):
            ledger.advance("0123456789abcdef", LeaseState.PROVISIONING)
