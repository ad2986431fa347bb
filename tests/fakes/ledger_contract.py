"""What every ledger must do, whatever database it lies in."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tasks.provisioning.costs import HOUR_S, LedgerEntry, month_of
from tasks.provisioning.ledger import Intent, Ledger, Transition
from tasks.provisioning.ledger_errors import BudgetSpent, ClaimLost, RentalUnknown, TransitionRefused
from tasks.provisioning.ledger_states import TRANSITIONS, LeaseState
from tasks.provisioning.provisioner import Instance, InstanceState, Offer, owner_and_request

OFFER = Offer("fake", "NVIDIA L4", "L4", 24, 0.5)
NOON = 1_795_521_600.0  # 2026-11-24, 12:00 UTC


INTEND_AND_DIE = """
import os, signal, sys
from tasks.provisioning.ledger import Intent, Ledger
from tasks.provisioning.provisioner import Offer
ledger = Ledger(sys.argv[1])
for _ in range(3):
    ledger.intend(Intent(ledger.owner, Offer("fake", "k", "K", 1, 1.0), 1, 1, "r", "", (), "c"), budget_usd=None)
os.kill(os.getpid(), signal.SIGKILL)
"""


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def intent(ledger: Ledger, *, claim: str = "me", hours: float = 2.0, offer: Offer = OFFER) -> Intent:
    return Intent(ledger.owner, offer, hours, 900, "run", "", ("k1", "k2"), claim)


def machine(rental: LedgerEntry, instance_id: str = "m1") -> Instance:
    return Instance("fake", instance_id, rental.name, rental.owner, InstanceState.RUNNING, None, 0.5, None)


def put_into(ledger: Ledger, state: LeaseState) -> LedgerEntry:
    """A rental that has come to a state by allowed steps."""
    paths: dict[LeaseState, list[LeaseState]] = {LeaseState.INTENDED: []}
    while state not in paths:
        for old, new in TRANSITIONS:
            if old in paths and new not in paths:
                paths[new] = [*paths[old], new]
    rental = ledger.intend(intent(ledger), budget_usd=None)
    for step in paths[state]:
        rental = ledger.advance(rental.request_id, step)
    return rental


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
        rental = ledger.intend(intent(ledger), budget_usd=None)
        assert owner_and_request(rental.name) == (ledger.owner, rental.request_id)

    def test_a_rental_takes_the_steps_of_the_table_and_no_others(self, ledger: Ledger) -> None:
        for old in LeaseState:
            rental = put_into(ledger, old)
            for new in (state for state in LeaseState if (old, state) not in TRANSITIONS):
                with pytest.raises(TransitionRefused):
                    ledger.advance(rental.request_id, new)
            assert ledger.rental(rental.request_id).state is old
        for old, new in TRANSITIONS:
            rental = put_into(ledger, old)
            assert ledger.advance(rental.request_id, new).state is new
            assert ledger.history(rental.request_id)[-1] == Transition(rental.request_id, old, new)

    def test_cost_counts_from_the_intent_to_the_end_and_nothing_for_what_was_refused(
        self, ledger: Ledger, clock: Clock
    ) -> None:
        rental = put_into(ledger, LeaseState.TRAINING)
        clock.now += HOUR_S
        assert ledger.touch(rental.request_id, "me").cost_usd == pytest.approx(0.5)
        clock.now += HOUR_S
        for state in (LeaseState.RELEASING, LeaseState.RELEASED):
            rental = ledger.advance(rental.request_id, state)
        clock.now += 5 * HOUR_S
        assert ledger.spent_usd() == pytest.approx(1.0)
        put_into(ledger, LeaseState.REFUSED)
        assert ledger.spent_usd() == pytest.approx(1.0)

    def test_a_machine_over_the_end_of_a_month_costs_each_month_its_part(self, ledger: Ledger, clock: Clock) -> None:
        _, end = month_of(NOON)
        clock.now = end - HOUR_S
        put_into(ledger, LeaseState.TRAINING)
        clock.now = end + 3 * HOUR_S
        assert ledger.spent_usd() == pytest.approx(1.5)

    def test_a_budget_counts_what_was_spent_and_what_running_machines_may_cost(
        self, ledger: Ledger, clock: Clock
    ) -> None:
        first = ledger.intend(intent(ledger, hours=2.0), budget_usd=1.2)
        assert first.max_age_s == 2 * HOUR_S
        second = ledger.intend(intent(ledger, hours=2.0), budget_usd=1.2)
        assert second.max_age_s == pytest.approx(0.4 * HOUR_S)  # 0.20 USD were left
        with pytest.raises(BudgetSpent) as refused:
            ledger.intend(intent(ledger), budget_usd=1.2)
        assert refused.value.promised_usd == pytest.approx(1.2)
        assert "Raise --budget" in str(refused.value)
        assert len(ledger.rentals()) == 2
        clock.now = month_of(NOON)[1] + HOUR_S
        for rental in (first, second):
            ledger.advance(rental.request_id, LeaseState.REFUSED)
        assert ledger.intend(intent(ledger), budget_usd=1.2).max_age_s == 2 * HOUR_S

    def test_of_many_that_promise_at_once_none_goes_over_the_budget(self, url: str, clock: Clock) -> None:
        got: list[LedgerEntry | BudgetSpent] = []

        def promise() -> None:
            ledger = Ledger(url, clock=clock)
            try:
                got.append(ledger.intend(intent(ledger), budget_usd=3.0))
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
        rental = put_into(ledger, LeaseState.TRAINING)
        assert not ledger.take(rental.request_id, "other", instead_of="somebody")
        assert ledger.take(rental.request_id, "other", instead_of="me")
        with pytest.raises(ClaimLost, match="other"):
            ledger.touch(rental.request_id, "me")
        ledger.let_go(rental.request_id, "me")
        assert ledger.rental(rental.request_id).claim == "other"

    def test_what_has_ended_cannot_be_taken(self, ledger: Ledger) -> None:
        rental = put_into(ledger, LeaseState.RELEASED)
        assert not ledger.take(rental.request_id, "other", instead_of="me")

    def test_a_machine_that_comes_back_costs_again(self, ledger: Ledger, clock: Clock) -> None:
        rental = put_into(ledger, LeaseState.VANISHED)
        rental = ledger.advance(rental.request_id, LeaseState.RELEASING, machine=machine(rental))
        clock.now += HOUR_S
        assert rental.instance_id == "m1"
        assert rental.cost_until(clock.now) == pytest.approx(0.5)

    def test_a_step_is_told_of_just_before_and_just_after_it_is_durable(self, url: str) -> None:
        seen: list[tuple[str, int]] = []

        def watch(step: Transition, when: str) -> None:
            other = Ledger(url)
            seen.append((when, len(other.history(step.request_id))))
            other.close()

        ledger = Ledger(url, observers=[watch])
        rental = ledger.intend(intent(ledger), budget_usd=None)
        ledger.advance(rental.request_id, LeaseState.ACQUIRED)
        assert seen == [("before", 0), ("after", 1), ("before", 1), ("after", 2)]
        ledger.close()

    def test_a_killed_process_leaves_whole_steps(self, url: str) -> None:
        subprocess.run([sys.executable, "-c", INTEND_AND_DIE, url], check=False)
        ledger = Ledger(url)
        assert [rental.state for rental in ledger.rentals()] == [LeaseState.INTENDED] * 3
        ledger.close()

    def test_reapers_are_remembered_by_owner(self, ledger: Ledger, clock: Clock) -> None:
        assert ledger.reaper_age_s(ledger.owner) is None
        ledger.note_reaper(ledger.owner, "here")
        clock.now += 60
        ledger.note_reaper("someoneelse", "there")
        assert ledger.reaper_age_s(ledger.owner) == 60

    def test_an_unknown_request_is_said_to_be_unknown(self, ledger: Ledger) -> None:
        with pytest.raises(RentalUnknown):
            ledger.advance("0123456789abcdef", LeaseState.ACQUIRED)
