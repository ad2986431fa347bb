"""Getting a machine that trains: candidates in order, each written down before it is asked for, looked over before use.

Whatever goes wrong with one, it is ended and the next is tried; what was tried is told. A machine that is not ended,
because nobody answered or this process died, is left to the reaper with a row that says what may be there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from tasks.core.errors import BadRequest, HostNotReady, RentingCancelled, RunError
from tasks.core.retry import retry_transient
from tasks.hosts.errors import HostError
from tasks.provisioning.connect import Connector
from tasks.provisioning.entries import CLAIM_S, HOUR_S, LeaseState, LedgerEntry, hours_within, is_certainly_dead
from tasks.provisioning.errors import (
    BudgetSpent,
    ClaimLost,
    HoursSpent,
    InstanceLost,
    NoCapacity,
    NothingDone,
    ProviderRefused,
    ProviderUnavailable,
)
from tasks.provisioning.lease import Lease, release
from tasks.provisioning.ledger import Purpose
from tasks.provisioning.offers import RentalRequest, candidates
from tasks.provisioning.provisioner import InstanceRequest, InstanceState, Offer, create_instance, find_named

REAPER_SEEN_WITHIN_S = 15 * 60.0
OVER_BUDGET = "over the budget"
_ATTACHABLE = {LeaseState.READY, LeaseState.BUSY}


@dataclass(frozen=True)
class Tried:
    """What became of one candidate, for the report."""

    what: str
    price_usd_per_hour: float
    outcome: str


@dataclass(kw_only=True)
class Renter(Connector):
    """Rents for one run.

    Attributes:
        request: What, within which limits.
        purpose: For what.
        tried: What became of every candidate so far.
        rented: Every request of this run that became a machine, in order.
        requests: Every request of this run that it still answers for.
        is_over: Tells whether the run has ended: whatever is under way then ends soon, and frees what it has.
    """

    request: RentalRequest
    purpose: Purpose
    tried: list[Tried] = field(default_factory=list)
    rented: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    is_over: Callable[[], bool] = lambda: False

    @property
    def provider(self) -> str:
        """Of whom."""
        return self.lender.provisioner.provider

    @property
    def owner(self) -> str:
        """The tag that our machines carry."""
        return self.request.owner or self.ledger.owner

    def rent(self) -> Lease:
        """Return a new machine that is ready, be it in the place of one that was lost; limits count for all together.

        Raises:
            BadRequest, BudgetSpent, ProviderRefused: The person who asked can put it right.
            RunError: No candidate could be had or used.
            ProviderUnavailable: The provider does not answer.
        """
        budget: BudgetSpent | None = None
        unanswered: ProviderUnavailable | None = None
        # A night outlasts a minute in which its provider is away; a person who asks what there is need not wait for it.
        for offer in retry_transient(self.plan, on_retry=self._tell_away, sleep=self.pause):
            try:
                lease = self._try(offer)
            except BudgetSpent as error:
                budget = budget or error
                self.tried.append(Tried(offer.title, offer.price_usd_per_hour, OVER_BUDGET))
            except ProviderUnavailable as error:
                if unanswered is not None:
                    raise
                unanswered = error
            else:
                if lease is not None:
                    return lease
        if budget is not None and all(item.outcome == OVER_BUDGET for item in self.tried):
            raise budget
        if unanswered is not None:
            raise unanswered
        listed = "; ".join(f"{item.what} at {item.price_usd_per_hour:g} USD/h: {item.outcome}" for item in self.tried)
        raise RunError(
            f"{self.provider}: no candidate could be had or used. Name others with --gpu, or try again later; "
            f"`jade offers --provider {self.provider}` lists what there is. Tried: {listed}"
        )

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
        offers, entries, request = self.plan(), self.ledger.entries(), self.request
        for offer in offers:
            price = offer.price_usd_per_hour
            try:
                hours = hours_within(request.budget, price, request.max_hours, entries, self.ledger.now())
            except BudgetSpent as error:
                spent, hours = spent or error, 0.0
            quoted.append((offer, hours))
        if spent is not None and not any(hours for _, hours in quoted):
            raise spent
        return quoted

    def end(self, lease: Lease, why: str) -> None:
        """Let go of a machine: it is ended, unless somebody else has taken it over or it has ended without us."""
        lease.stop_heartbeat()
        lease.close()
        entry = self.ledger.entry(lease.entry.request_id)
        if isinstance(lease.over, ClaimLost):
            self.note(f"{lease.name}: {lease.over}")
            self.requests.remove(entry.request_id)
        elif isinstance(lease.over, InstanceLost) and self._is_gone(entry):
            self.ledger.advance(entry.request_id, LeaseState.TERMINATED, reason=str(lease.over))
            self.keys(entry).remove()
        else:
            self.release(entry, str(lease.over or why))

    def release(self, entry: LedgerEntry, why: str) -> bool:
        """End a machine; return whether that is proven. If it is not, the reaper goes on; that is said."""
        provisioner, timing = self.lender.provisioner, self.lender.timing
        try:
            ended = release(self.ledger, provisioner, entry, why, timing, sleep=self.sleep)
        except HostError as error:
            self.ledger.let_go(entry.request_id, self.claim)
            self.note(
                f"{entry.provider}: machine {entry.instance_id} may still cost {entry.price_usd_per_hour:g} USD/h: "
                f"{error} `jade reap` frees it; `jade rented` shows it."
            )
            return False
        self.keys(entry).remove()
        self.note(f"{entry.provider}: machine {entry.instance_id} is freed; it has cost {ended.cost_usd:.2f} USD")
        return True

    def hours_left(self) -> float:
        """Return for how much longer machines of this run may be there."""
        now = self.ledger.now()
        used_s = sum(self.ledger.entry(request_id).age_s(now) for request_id in self.rented)
        return self.request.max_hours - used_s / HOUR_S

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            RentingCancelled: The run has ended.
        """
        if self.is_over():
            raise RentingCancelled("renting was cancelled")
        self.sleep(seconds)

    def release_rest(self, why: str) -> None:
        """End whatever this run still answers for."""
        for request_id in self.requests:
            entry = self.ledger.entry(request_id)
            if not entry.state.is_over and entry.claim == self.claim:
                self._abandon(request_id, why)

    def _is_gone(self, entry: LedgerEntry) -> bool:
        try:
            return self.lender.provisioner.describe(entry.machine).state is InstanceState.GONE
        except HostError:
            return False

    def _check_reaper(self) -> None:
        if self.lender.provisioner.scripts.end_is_certain or self.request.accept_unreaped:
            return
        age_s = self.ledger.reaper_age_s(self.owner)
        if age_s is not None and age_s <= REAPER_SEEN_WITHIN_S:
            return
        seen = "never seen" if age_s is None else f"last seen {age_s / 60:.0f} min ago"
        raise BadRequest(
            f"a machine of {self.provider} cannot end its own cost, and the reaper that would free it if this "
            f"process died was {seen}. Start the deployment reap/every-10-minutes, or call `jade reap --scheduled` "
            "from cron, on a machine that stays up; or rent anyway with --accept-unreaped."
        )

    # Attaching to what an earlier process of the same command has left.

    def attach(self, beside: Collection[str] = ()) -> Lease | None:
        """Return a machine that trains just this and lost its controller; None if there is none.

        Args:
            beside: Requests that others of this run answer for: they are left alone.

        Raises:
            RunError: Another process that is alive trains this on it.
        """
        wanted = self.purpose.run_keys
        for entry in self.ledger.entries(owner=self.owner, only_open=True) if wanted else ():
            if entry.provider != self.provider or not entry.run_keys.issuperset(wanted) or entry.request_id in beside:
                continue
            if entry.state not in _ATTACHABLE or not self.keys(entry).exist():
                continue
            left = self._when_unclaimed(entry)
            if left.state not in _ATTACHABLE:
                continue  # its owner has ended it meanwhile
            if not self.ledger.take(left.request_id, self.claim, instead_of=left.claim):
                raise RunError(f"machine {left.instance_id} of {left.provider} was just taken by another process")
            found = self._attach_to(left)
            if found is not None:
                return found
        return None

    def _when_unclaimed(self, entry: LedgerEntry) -> LedgerEntry:
        """Return how a machine stands once nobody claims it, the claim has run out or its process is dead.

        Raises:
            RunError: It is alive.
        """
        told = False
        while entry.claim and entry.state in _ATTACHABLE and not is_certainly_dead(entry.claim):
            now = self.ledger.now()
            if now - entry.seen_at > CLAIM_S:
                break
            if not told:
                self.note(f"{entry.provider}: waiting whether {entry.run_id} still controls {entry.instance_id}")
                told = True
            self.pause(min(CLAIM_S - (now - entry.seen_at) + 1, 10.0))
            later = self.ledger.entry(entry.request_id)
            if later.claim == entry.claim and later.seen_at > entry.seen_at and later.state in _ATTACHABLE:
                raise RunError(
                    f"{entry.run_id} is alive and trains just this on machine {entry.instance_id} of "
                    f"{entry.provider}. Wait for it: its trainings are then taken over. Or stop it."
                )
            entry = later
        return entry

    def _attach_to(self, entry: LedgerEntry) -> Lease | None:
        self.rented.append(entry.request_id)
        self.requests.append(entry.request_id)
        try:
            with self.claimed(entry.request_id):
                lease = Lease(self, *self.connect_again(entry))
        except HostError as problem:
            self._tell_tried(entry, f"had an earlier run's work, but {problem}")
            self.release(entry, f"could not be attached to: {problem}")
            return None
        except BaseException:
            self._abandon(entry.request_id, "interrupted")
            raise
        now = self.ledger.now()
        self.note(
            f"{entry.provider}: attached to machine {entry.instance_id}, rented {round(entry.age_s(now) / 60)} min ago "
            f"for {entry.run_id}, {entry.cost_until(now):.2f} USD so far"
        )
        return lease

    # Renting anew.

    def _tell_away(self, error: HostError, attempt: int) -> None:
        if attempt == 1:
            self.note(f"{error} Trying again.")

    def _try(self, offer: Offer) -> Lease | None:
        """Rent one candidate and look it over; None if it is no good, which is told and ended."""
        self.pause(0.0)
        hours = self.hours_left()
        if hours <= 0:
            raise HoursSpent(offer.provider, "the next machine", f"{self.request.max_hours:.2f} h were allowed")
        entry = self.ledger.request(
            offer,
            self.purpose,
            claim=self.claim,
            max_hours=hours,
            orphan_grace_s=self.request.orphan_grace * 60,
            budget_usd=self.request.budget,
            owner=self.owner,
        )
        self.requests.append(entry.request_id)
        try:
            with self.claimed(entry.request_id):
                self._announce(entry)
                self.keys(entry).make()
                instance = create_instance(
                    self.lender.provisioner,
                    self._instance_request(entry, offer),
                    self.lender.timing,
                    sleep=self.pause,
                    clock=self.ledger.now,
                )
                entry = self.ledger.advance(entry.request_id, LeaseState.PROVISIONING, instance=instance)
                self.rented.append(entry.request_id)
                self._check_price(entry)
                return Lease(self, *self.connect(entry))
        except (NoCapacity, ProviderRefused, NothingDone) as problem:
            # An answer to the request, or to a later call about the machine that there is by now.
            self._tell_tried(entry, str(problem))
            if entry.state is LeaseState.REQUESTED:
                self.ledger.advance(entry.request_id, LeaseState.FAILED, reason=str(problem))
                self.keys(entry).remove()
            else:
                self.release(entry, str(problem))
            if isinstance(problem, NoCapacity):
                return None
            raise
        except ProviderUnavailable as problem:
            self._tell_tried(entry, f"no answer: {problem}")
            self._abandon(entry.request_id, f"the provider did not answer: {problem}")
            raise
        except (HostError, HostNotReady) as problem:
            self._tell_tried(entry, str(problem))
            self.release(entry, str(problem))
            return None
        except BaseException as problem:
            self._abandon(entry.request_id, str(problem) or "interrupted")
            raise

    def _check_price(self, entry: LedgerEntry) -> None:
        cap = self.request.max_price
        if cap is not None and entry.price_usd_per_hour > cap:
            raise HostError(f"it costs {entry.price_usd_per_hour:g} USD/h, more than {cap:g}")

    def _announce(self, entry: LedgerEntry) -> None:
        hours = entry.max_age_s / HOUR_S
        most = hours * entry.price_usd_per_hour
        spot = ", spot" if entry.spot else ""
        self.note(
            f"{entry.provider}: renting {entry.title}{spot} at {entry.price_usd_per_hour:g} USD/h for at most "
            f"{hours:.2g} h: {most:.2f} USD at most"
        )

    def _instance_request(self, entry: LedgerEntry, offer: Offer) -> InstanceRequest:
        keys = self.keys(entry)
        return InstanceRequest(
            entry.request_id,
            entry.owner,
            offer,
            public_key=keys.public_key,
            host_private_key=keys.host_private_key,
            max_age_s=entry.max_age_s,
        )

    def _tell_tried(self, entry: LedgerEntry, outcome: str) -> None:
        self.tried.append(Tried(entry.title, entry.price_usd_per_hour, outcome))
        self.note(f"{entry.provider}: {entry.title}: {outcome}")

    def _abandon(self, request_id: str, why: str) -> None:
        """End what there may be of a machine, or leave it to the reaper; never raises what a provider says."""
        entry = self.ledger.entry(request_id)
        if entry.state.is_over:
            return
        if entry.instance_id is None:
            try:
                instance = find_named(self.lender.provisioner, entry.owner, entry.name)
            except HostError:
                instance = None
            if instance is None:
                self.ledger.let_go(request_id, self.claim)
                self.ledger.correct(request_id, reason=why)
                self.note(
                    f"{entry.provider}: whether {entry.name} was made is not known; the next `jade reap` will see"
                )
                return
            entry = self.ledger.advance(request_id, LeaseState.TERMINATING, instance=instance, reason=why)
        self.release(entry, why)
