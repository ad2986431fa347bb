"""What every ledger must do, whatever database it lies in."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tasks.provisioning import entries as tables
from tasks.provisioning.entries import HOUR_S, TRANSITIONS, LeaseState, LedgerEntry, month_of
from tasks.provisioning.errors import BudgetSpent, ClaimLost, LedgerError
from tasks.provisioning.ledger import SCHEMA_VERSION, Ledger, Purpose
from tasks.provisioning.provisioner import Instance, InstanceState, Offer, owner_and_request

OFFER = Offer("fake", "NVIDIA L4", "L4", 24, 0.5)
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
        assert refused.value.promised_usd == pytest.approx(1.2)
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
        before = Ledger(url, clock=clock)
        entries = {old: put_into(before, LeaseState.PROVISIONING) for old in STATES_OF_VERSION_1}
        before.close()
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), connect_args=_text(url))
        with engine.begin() as connection:
            connection.execute(sa.update(tables.ledger).values(schema_version=1))
            for old, entry in entries.items():
                mine = tables.rentals.c.request_id == entry.request_id
                connection.execute(sa.update(tables.rentals).where(mine).values(state=old))
                connection.execute(
                    sa.update(tables.events).where(tables.events.c.request_id == entry.request_id).values(new=old)
                )
        after = Ledger(url, clock=clock)
        assert after.owner == before.owner
        for old, new in STATES_OF_VERSION_1.items():
            entry = after.entry(entries[old].request_id)
            assert (entry.state, entry.name) == (new, entries[old].name)
            assert after.history(entry.request_id)[-1] is new
        still_open = {entry.request_id for entry in after.entries(only_open=True)}
        assert still_open == {entries[old].request_id for old in entries if not STATES_OF_VERSION_1[old].is_over}
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
