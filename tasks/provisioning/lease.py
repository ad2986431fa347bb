"""Getting a machine that trains: candidates in order, each written down before it is asked for, looked over before use.

Whatever goes wrong with one, it is freed and the next is tried; what was tried is told. A machine that is not freed,
because nobody answered or this process died, is left to the reaper with a row that says what may be there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.errors import HostNotReady, NothingRented, ReaperMissing, RentalBusy, RentingCancelled
from tasks.core.retry import retry_transient
from tasks.hosts.errors import HostError
from tasks.provisioning.claims import CLAIM_S, is_certainly_dead, new_claim
from tasks.provisioning.connect import POLL_S, Connector, Lender, MachineUnfit, RentedMachine
from tasks.provisioning.costs import HOUR_S, LedgerEntry
from tasks.provisioning.ledger import Intent, Ledger
from tasks.provisioning.ledger_errors import BudgetSpent
from tasks.provisioning.ledger_states import LeaseState
from tasks.provisioning.provider_errors import (
    HoursSpent,
    NoCapacity,
    NothingSent,
    ProviderRefused,
    ProviderUnavailable,
    RateLimited,
)
from tasks.provisioning.provisioner import Instance, InstanceRequest, InstanceState, Offer
from tasks.provisioning.release import find_by_name, free
from tasks.provisioning.rental_keys import RentalKeys
from tasks.provisioning.rental_request import RentalRequest, candidates

REAPER_SEEN_WITHIN_S = 15 * 60.0
ASK_ATTEMPTS = 5
LOOK_FOR_S = 20.0
"""How long a machine is looked for by its name after a lost reply, beyond what its provider did itself: lists lag."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class Served:
    """What a machine is rented for.

    Attributes:
        run_id: The run.
        flow_run_id: That run in Prefect; empty if there is none.
        run_keys: Of its trainings; none where the machine takes whatever is next: nobody attaches to it.
    """

    run_id: str
    flow_run_id: str
    run_keys: tuple[str, ...]


@dataclass(frozen=True)
class Tried:
    """What became of one candidate, for the report."""

    what: str
    price_usd_per_hour: float
    outcome: str


@dataclass
class Renter:
    """Rents for one run. See the module.

    Attributes:
        ledger: Where everything is written down first.
        lender: Of whom.
        request: What, within which limits.
        served: For what.
        keys_folder: Where requests' keys lie.
        note: Told what a person should know.
        sleep: Waits.
        tried: What became of every candidate so far.
        rented: Every request of this run that became a machine, in order.
        requests: Every request of this run that it still answers for.
    """

    ledger: Ledger
    lender: Lender
    request: RentalRequest
    served: Served
    keys_folder: Path
    note: Note
    sleep: Callable[[float], None] = time.sleep
    claim: str = field(default_factory=new_claim)
    tried: list[Tried] = field(default_factory=list)
    rented: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def provider(self) -> str:
        """Of whom."""
        return self.lender.provisioner.provider

    @property
    def owner(self) -> str:
        """The tag that our machines carry."""
        return self.request.owner or self.ledger.owner

    def rent(self) -> RentedMachine:
        """Return a machine that is ready: one that trains just this and lost its controller, else a new one.

        Raises:
            BadRequest, BudgetSpent, ProviderRefused: The person who asked can put it right.
            NothingRented: No candidate could be had or used.
            ProviderUnavailable: The provider does not answer.
            RentalBusy: Another process that is alive trains this on a rented machine.
        """
        return (self._attach() if self.served.run_keys else None) or self._rent_anew()

    def replace(self) -> RentedMachine:
        """Return a new machine in the place of one that was lost; limits count for all of them together."""
        return self._rent_anew()

    def plan(self) -> list[Offer]:
        """Return the offers that would be tried, in order. Rents nothing; errors as `rent`."""
        offers = candidates(self.provider, self.lender.provisioner.offers(), self.request)
        self._check_reaper()
        return offers

    def quotes(self) -> list[tuple[Offer, float]]:
        """Return the plan's offers, each with the hours that would be rented; 0 where it is over the budget.

        Raises:
            BudgetSpent: All are; else as `rent`. Rents nothing.
        """
        quoted: list[tuple[Offer, float]] = []
        spent: BudgetSpent | None = None
        for offer in self.plan():
            try:
                hours = self.ledger.hours_within(self.request.budget, offer.price_usd_per_hour, self.request.max_hours)
            except BudgetSpent as error:
                spent, hours = spent or error, 0.0
            quoted.append((offer, hours))
        if spent is not None and not any(hours for _, hours in quoted):
            raise spent
        return quoted

    def keys(self, rental: LedgerEntry) -> RentalKeys:
        """Return where a rental's keys lie."""
        return RentalKeys(self.keys_folder / rental.request_id)

    def release(self, rental: LedgerEntry, why: str) -> bool:
        """Free a machine; return whether that is proven. If it is not, the reaper goes on; that is said."""
        try:
            ended = free(self.ledger, self.lender.provisioner, rental, why, sleep=self.sleep)
        except HostError as error:
            self.ledger.let_go(rental.request_id, self.claim)
            self.note(
                f"{rental.provider}: machine {rental.instance_id} may still cost {rental.price_usd_per_hour:g} USD/h: "
                f"{error} `jade reap` frees it; `jade rented` shows it."
            )
            return False
        self.keys(rental).remove()
        self.note(f"{rental.provider}: machine {rental.instance_id} is freed; it has cost {ended.cost_usd:.2f} USD")
        return True

    def cost_usd(self) -> float:
        """Return what the machines of this run have cost so far."""
        return sum(self.ledger.rental(request_id).cost_usd for request_id in self.rented)

    def hours_left(self) -> float:
        """Return for how much longer machines of this run may be there."""
        now = self.ledger.now()
        used_s = sum(self.ledger.rental(request_id).age_s(now) for request_id in self.rented)
        return self.request.max_hours - used_s / HOUR_S

    @property
    def connector(self) -> Connector:
        """How machines are reached for this run."""
        return Connector(self.ledger, self.lender, self.keys_folder, self.claim, self._pause)

    def cancel(self) -> None:
        """Rent no more: whatever is under way in another thread ends at its next pause and frees what it has."""
        self._cancelled.set()

    def resume(self) -> None:
        """Rent again after a `cancel`."""
        self._cancelled.clear()

    def release_rest(self, why: str) -> None:
        """Free whatever this run still answers for."""
        for request_id in self.requests:
            rental = self.ledger.rental(request_id)
            if not rental.state.is_over and rental.claim == self.claim:
                self._abandon(request_id, why)

    def forget(self, rental: LedgerEntry) -> None:
        """Answer no more for a rental that somebody else has taken over."""
        self.requests.remove(rental.request_id)

    def is_gone(self, rental: LedgerEntry) -> bool:
        """Whether the provider shows, or denies, a machine as one that costs no more."""
        try:
            return self.connector.describe(rental).state is InstanceState.GONE
        except HostError:
            return False

    def _pause(self, seconds: float) -> None:
        if self._cancelled.is_set():
            raise RentingCancelled("renting was cancelled")
        self.sleep(seconds)

    def _check_reaper(self) -> None:
        if self.lender.provisioner.scripts.end_is_certain or self.request.accept_unreaped:
            return
        age_s = self.ledger.reaper_age_s(self.owner)
        if age_s is not None and age_s <= REAPER_SEEN_WITHIN_S:
            return
        seen = "never seen" if age_s is None else f"last seen {age_s / 60:.0f} min ago"
        raise ReaperMissing(
            f"a machine of {self.provider} cannot end its own cost, and the reaper that would free it if this "
            f"process died was {seen}. Start the deployment reap/every-10-minutes, or call `jade reap --scheduled` "
            "from cron, on a machine that stays up; or rent anyway with --accept-unreaped."
        )

    # Attaching to what an earlier process of the same command has left.

    def _attach(self) -> RentedMachine | None:
        for rental in self.ledger.rentals(owner=self.owner, only_open=True):
            if rental.provider != self.provider or not rental.run_keys.issuperset(self.served.run_keys):
                continue
            if rental.state not in {LeaseState.READY, LeaseState.TRAINING} or not self.keys(rental).exist():
                continue
            self._wait_for_claim(rental)
            if not self.ledger.take(rental.request_id, self.claim, instead_of=rental.claim):
                raise RentalBusy(f"machine {rental.instance_id} of {rental.provider} was just taken by another process")
            found = self._attach_to(rental)
            if found is not None:
                return found
        return None

    def _wait_for_claim(self, rental: LedgerEntry) -> None:
        """Return once the claim has run out or its process is dead.

        Raises:
            RentalBusy: It is alive.
        """
        told = False
        while rental.claim and not is_certainly_dead(rental.claim):
            now = self.ledger.now()
            if now - rental.seen_at > CLAIM_S:
                return
            if not told:
                self.note(f"{rental.provider}: waiting whether {rental.run_id} still controls {rental.instance_id}")
                told = True
            self._pause(min(CLAIM_S - (now - rental.seen_at) + 1, 10.0))
            later = self.ledger.rental(rental.request_id)
            if later.claim == rental.claim and later.seen_at > rental.seen_at:
                raise RentalBusy(
                    f"{rental.run_id} is alive and trains just this on machine {rental.instance_id} of "
                    f"{rental.provider}. Wait for it: its trainings are then taken over. Or stop it."
                )
            if later.state.is_over or later.claim != rental.claim:
                return

    def _attach_to(self, rental: LedgerEntry) -> RentedMachine | None:
        self.rented.append(rental.request_id)
        self.requests.append(rental.request_id)
        try:
            machine = self.connector.reach_again(rental)
        except (MachineUnfit, HostError) as problem:
            self._tell_tried(rental, f"had an earlier run's work, but {problem}")
            self._end_unfit(rental, f"could not be attached to: {problem}")
            return None
        except BaseException:
            self._abandon(rental.request_id, "interrupted")
            raise
        self.note(
            f"{rental.provider}: attached to machine {rental.instance_id}, rented {self._age_min(rental)} min ago for "
            f"{rental.run_id}, {rental.cost_until(self.ledger.now()):.2f} USD so far"
        )
        return machine

    def _age_min(self, rental: LedgerEntry) -> int:
        return round(rental.age_s(self.ledger.now()) / 60)

    # Renting anew.

    def _rent_anew(self) -> RentedMachine:
        budget: BudgetSpent | None = None
        unanswered: ProviderUnavailable | None = None
        # A night outlasts a minute in which its provider is away; a person who asks what there is need not wait for it.
        for offer in retry_transient(self.plan, on_retry=self._tell_away, sleep=self._pause):
            try:
                machine = self._try(offer)
            except BudgetSpent as error:
                budget = budget or error
                self.tried.append(Tried(offer.title, offer.price_usd_per_hour, "over the budget"))
                continue
            except ProviderUnavailable as error:
                if unanswered is not None:
                    raise
                unanswered = error
                continue
            if machine is not None:
                return machine
        if budget is not None and all(item.outcome == "over the budget" for item in self.tried):
            raise budget
        if unanswered is not None:
            raise unanswered
        listed = "; ".join(f"{item.what} at {item.price_usd_per_hour:g} USD/h: {item.outcome}" for item in self.tried)
        raise NothingRented(
            f"{self.provider}: no candidate could be had or used. Name others with --gpu, or try again later; "
            f"`jade offers --provider {self.provider}` lists what there is. Tried: {listed}"
        )

    def _tell_away(self, error: HostError, attempt: int) -> None:
        if attempt == 1:
            self.note(f"{error} Trying again.")

    def _try(self, offer: Offer) -> RentedMachine | None:
        """Rent one candidate and look it over; None if it is no good, which is told and freed."""
        hours = self.hours_left()
        if hours <= 0:
            raise HoursSpent(offer.provider, "the next", self.request.max_hours)
        intent = Intent(
            self.owner,
            offer,
            max_hours=hours,
            orphan_grace_s=self.request.orphan_grace * 60,
            run_id=self.served.run_id,
            flow_run_id=self.served.flow_run_id,
            run_keys=self.served.run_keys,
            claim=self.claim,
        )
        rental = self.ledger.intend(intent, budget_usd=self.request.budget)
        self.requests.append(rental.request_id)
        try:
            self._announce(rental)
            self.keys(rental).make()
            machine = self._ask(rental, offer)
            rental = self.ledger.advance(rental.request_id, LeaseState.ACQUIRED, machine=machine)
            self.rented.append(rental.request_id)
            self._check_price(rental)
            return self.connector.make_ready(rental)
        except NoCapacity as problem:
            self._refuse(rental, str(problem))
            return None
        except ProviderRefused as problem:
            self._refuse(rental, str(problem))
            raise
        except (RateLimited, NothingSent) as problem:
            self._refuse(rental, str(problem))
            raise
        except ProviderUnavailable as problem:
            self._tell_tried(rental, f"no answer: {problem}")
            self._abandon(rental.request_id, f"the provider did not answer: {problem}")
            raise
        except (MachineUnfit, HostError, HostNotReady) as problem:
            self._tell_tried(rental, str(problem))
            self._end_unfit(rental, str(problem))
            return None
        except BaseException as problem:
            self._abandon(rental.request_id, str(problem) or "interrupted")
            raise

    def _check_price(self, rental: LedgerEntry) -> None:
        cap = self.request.max_price
        if cap is not None and rental.price_usd_per_hour > cap:
            raise MachineUnfit(f"it costs {rental.price_usd_per_hour:g} USD/h, more than {cap:g}")

    def _announce(self, rental: LedgerEntry) -> None:
        hours = rental.max_age_s / HOUR_S
        most = hours * rental.price_usd_per_hour
        spot = ", spot" if rental.spot else ""
        self.note(
            f"{rental.provider}: renting {rental.title}{spot} at {rental.price_usd_per_hour:g} USD/h for at most "
            f"{hours:.2g} h: {most:.2f} USD at most"
        )

    def _request(self, rental: LedgerEntry, offer: Offer) -> InstanceRequest:
        keys = self.keys(rental)
        return InstanceRequest(
            rental.request_id,
            rental.owner,
            rental.name,
            offer,
            public_key=keys.public_key,
            host_private_key=keys.host_private_key,
            max_age_s=rental.max_age_s,
        )

    def _ask(self, rental: LedgerEntry, offer: Offer) -> Instance:
        """Ask for a machine once; after a lost reply look for it by its name."""
        request = self._request(rental, offer)
        for attempt in range(1, ASK_ATTEMPTS + 1):
            try:
                return self.lender.provisioner.create(request)
            except (RateLimited, NothingSent) as error:
                # Nothing has happened: nothing is to be looked for.
                if attempt == ASK_ATTEMPTS:
                    raise
                self._pause(min(error.retry_after_s or 2.0**attempt, 60.0))
            except ProviderUnavailable as error:
                machine = self._look_for(rental)
                if machine is None:
                    raise
                self.note(f"{rental.provider}: the reply was lost ({error}); found {machine.instance_id} by its name")
                return machine
        raise AssertionError("unreachable")

    def _look_for(self, rental: LedgerEntry) -> Instance | None:
        deadline = self.ledger.now() + LOOK_FOR_S
        while True:
            try:
                machine = find_by_name(self.lender.provisioner, rental)
            except ProviderUnavailable:
                machine = None
            if machine is not None or self.ledger.now() >= deadline:
                return machine
            self._pause(POLL_S)

    # Ending what is no good.

    def _tell_tried(self, rental: LedgerEntry, outcome: str) -> None:
        self.tried.append(Tried(rental.title, rental.price_usd_per_hour, outcome))
        self.note(f"{rental.provider}: {rental.title}: {outcome}")

    def _refuse(self, rental: LedgerEntry, outcome: str) -> None:
        self._tell_tried(rental, outcome)
        self.ledger.advance(rental.request_id, LeaseState.REFUSED, detail=outcome)
        self.keys(rental).remove()

    def _end_unfit(self, rental: LedgerEntry, why: str) -> None:
        rental = self.ledger.rental(rental.request_id)
        if rental.state.is_over:
            return
        self.release(rental, why)

    def _abandon(self, request_id: str, why: str) -> None:
        """Free what there may be of a rental, or leave it to the reaper; never raises what a provider says."""
        rental = self.ledger.rental(request_id)
        if rental.state.is_over:
            return
        if rental.instance_id is None:
            try:
                machine = find_by_name(self.lender.provisioner, rental)
            except HostError:
                machine = None
            if machine is None:
                self.ledger.let_go(request_id, self.claim)
                self.ledger.remark(request_id, why)
                self.note(
                    f"{rental.provider}: whether {rental.name} was made is not known; the next `jade reap` will see"
                )
                return
            rental = self.ledger.advance(request_id, LeaseState.RELEASING, machine=machine, detail=why)
        self.release(rental, why)
