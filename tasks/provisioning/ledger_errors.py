"""What can go wrong with the ledger of rented machines.

LedgerError (a HostError)
├── LedgerUnusable      it cannot be opened, read or written; exit code 2
├── BudgetSpent         what was spent and promised this month leaves too little; exit code 2
├── RentalUnknown       no request of that identifier
├── TransitionRefused   a rental cannot take this step from where it stands
└── ClaimLost           another process has taken this rental over
"""

from __future__ import annotations

from tasks.hosts.errors import HostError


class LedgerError(HostError):
    """Base of what goes wrong with the ledger."""


class LedgerUnusable(LedgerError):
    """The ledger cannot be opened, read or written; nothing is rented without it."""

    exit_code = 2

    def __init__(self, where: str, reason: str) -> None:
        self.where, self.reason = where, reason
        super().__init__(
            f"The ledger of rented machines, {where}, cannot be used: {reason}. Without it nothing is rented. "
            "JADE_LEDGER_URL, or `ledger` in jade.toml, says where it is."
        )


class BudgetSpent(LedgerError):
    """What was spent, and what running machines may still cost, leaves too little of the month's budget.

    Attributes:
        budget_usd: What may be spent in a calendar month (UTC), over all runs.
        spent_usd: What was spent this month.
        promised_usd: What machines that still run may cost more.
    """

    exit_code = 2

    def __init__(self, budget_usd: float, spent_usd: float, promised_usd: float, price_usd_per_hour: float) -> None:
        self.budget_usd, self.spent_usd, self.promised_usd = budget_usd, spent_usd, promised_usd
        self.price_usd_per_hour = price_usd_per_hour
        running = f" and running machines may cost {promised_usd:.2f} more" if promised_usd else ""
        super().__init__(
            f"The budget of {budget_usd:.2f} USD a month leaves too little for {price_usd_per_hour:.2f} USD/h: "
            f"{spent_usd:.2f} USD are spent{running}. Raise --budget, take a cheaper GPU, or wait for the next month."
        )


class RentalUnknown(LedgerError):
    """The ledger has no request of that identifier."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        super().__init__(f"The ledger has no request {request_id!r}.")


class TransitionRefused(LedgerError):
    """A rental cannot take this step from where it stands: another process was quicker, or the code is wrong."""

    def __init__(self, request_id: str, old: str, new: str) -> None:
        self.request_id, self.old, self.new = request_id, old, new
        super().__init__(f"LedgerEntry {request_id} is {old} and cannot become {new}.")


class ClaimLost(LedgerError):
    """Another process has taken this rental over, because this one was silent for too long."""

    def __init__(self, request_id: str, claim: str, taken_by: str) -> None:
        self.request_id, self.claim, self.taken_by = request_id, claim, taken_by
        super().__init__(f"LedgerEntry {request_id} was taken over by {taken_by}; this process lets go of it.")
