"""What can go wrong between this machine, those who lend machines, and the ledger of what was lent.

HostError
├── ProviderError
│   ├── NoCapacity             none of this kind now, or not for this account: the next candidate may be tried
│   ├── ProviderRefused        trying again cannot help; the person who called can put it right; exit code 2
│   │   └── ApiKeyMissing      no key was given
│   ├── NotFound               the provider denies knowing it
│   ├── ProviderUnavailable    transient: no answer, or one that says "later"; what was asked for may have happened
│   │   └── NothingDone        transient: no connection, or too many calls; nothing has happened
│   ├── TerminationUnproven    transient: an end was asked for, but the provider does not confirm it
│   ├── InstanceLost           a machine of ours ended without us: taken away, ended by itself, deleted by somebody
│   │   └── Preempted          it is still there, but its provider has said that it takes it away in a moment
│   └── HoursSpent             the machines of a run have used up the hours that it was given; exit code 2
├── InstanceUnfit              a machine is no good: it is ended, and the next candidate tried
└── LedgerError                no such request, or a step that cannot be taken from where it stands
    ├── LedgerUnusable         it cannot be opened, read or written; exit code 2
    ├── BudgetSpent            what was spent and promised this month leaves too little; exit code 2
    └── ClaimLost              another process has taken this machine over

Evidence is what the provider said, shortened, and never holds a key: implementations pass in `detail` only what they
read, not what they sent.
"""

from __future__ import annotations

from tasks.hosts.errors import HostError

_SHOWN_CHARACTERS = 500


class ProviderError(HostError):
    """Base of what goes wrong with a provider.

    Attributes:
        provider: Its name, as in `Offer`.
        doing: What was asked of it, such as `create pod`.
        detail: What it said, shortened.
        status: Its HTTP status, or the name that it gives the error; empty if there was none.
    """

    summary = "failed"
    advice = ""

    def __init__(
        self,
        provider: str,
        doing: str,
        detail: str,
        *,
        status: str | int = "",
        summary: str | None = None,
        advice: str | None = None,
    ) -> None:
        self.provider, self.doing, self.status = provider, doing, str(status)
        self.detail = detail.strip()[:_SHOWN_CHARACTERS]
        said = " ".join(part for part in (f"({status})" if self.status else "", self.detail) if part)
        told = f"{summary or self.summary}{f': {said}' if said else ''}{self.advice if advice is None else advice}"
        super().__init__(f"{provider}: {doing}: {told}")


class NoCapacity(ProviderError):
    """The provider has none of this kind now, or none for this account; no machine was made."""

    summary = "none to be had now"


class ProviderRefused(ProviderError):
    """The provider says no, and would again; no machine was made."""

    exit_code = 2
    summary = "the request was refused"


class ApiKeyMissing(ProviderRefused):
    """No key was given.

    Args:
        setting: Where it is looked for, such as an environment variable; named in the message.
    """

    summary = "no API key"

    def __init__(self, provider: str, doing: str, *, setting: str) -> None:
        self.setting = setting
        super().__init__(provider, doing, "", advice=f". Set {setting} in the environment.")


def key_refused(provider: str, doing: str, detail: str, *, status: str | int = "") -> ProviderRefused:
    """Return what is raised where a key is wrong, revoked, or may not do this."""
    advice = ". Check that the key is whole, not revoked, and may make and delete machines."
    return ProviderRefused(provider, doing, detail, status=status, summary="the API key was refused", advice=advice)


class NotFound(ProviderError):
    """The provider denies knowing it."""

    summary = "there is no such thing"


class ProviderUnavailable(ProviderError):
    """No answer, or one that says "later". What was asked for may have happened.

    Attributes:
        retry_after_s: How long the provider asks to wait; None if it does not say.
    """

    is_transient = True
    summary = "no answer"
    advice = ". Try again later."

    def __init__(
        self,
        provider: str,
        doing: str,
        detail: str,
        *,
        status: str | int = "",
        summary: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(provider, doing, detail, status=status, summary=summary)


class NothingDone(ProviderUnavailable):
    """No connection to the provider was made, or it takes no more calls for now; nothing has happened."""

    summary = "out of reach"
    advice = ". Check this machine's network, or try again later."


class TerminationUnproven(ProviderError):
    """The end of a machine was asked for, but the provider does not confirm it in time: it may still cost.

    Attributes:
        instance_id: Which.
    """

    is_transient = True
    summary = "its end is not confirmed, and it may still cost"

    def __init__(self, provider: str, instance_id: str, detail: str) -> None:
        self.instance_id = instance_id
        super().__init__(provider, f"end machine {instance_id}", detail)


class InstanceLost(ProviderError):
    """A machine of ours ended without us: taken away, ended by itself, or deleted by somebody.

    Attributes:
        instance_id: Which.
    """

    summary = "it is gone"

    def __init__(self, provider: str, instance_id: str, detail: str) -> None:
        self.instance_id = instance_id
        super().__init__(provider, f"machine {instance_id}", detail)


class Preempted(InstanceLost):
    """Its provider has said that it takes the machine away in a moment; until then it can be used."""

    summary = "it is about to be taken away"


class HoursSpent(ProviderError):
    """The rented machines of a run have used up the hours that it was given."""

    exit_code = 2
    summary = "its time is up"
    advice = ". The same command with a higher --max-hours (or --budget) goes on from the last checkpoint."

    def __init__(self, provider: str, instance_id: str, hours: float) -> None:
        self.instance_id, self.hours = instance_id, hours
        super().__init__(provider, f"machine {instance_id}", f"{hours:.2f} h were allowed")


class InstanceUnfit(HostError):
    """This machine is no good: it is ended, and the next candidate tried."""


class LedgerError(HostError):
    """No such request, or a step that it cannot take: another process was quicker, or the code is wrong."""


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
        running = f" and running machines may cost {promised_usd:.2f} more" if promised_usd else ""
        super().__init__(
            f"The budget of {budget_usd:.2f} USD a month leaves too little for {price_usd_per_hour:.2f} USD/h: "
            f"{spent_usd:.2f} USD are spent{running}. Raise --budget, take a cheaper GPU, or wait for the next month."
        )


class ClaimLost(LedgerError):
    """Another process has taken this machine over, because this one was silent for too long."""

    def __init__(self, request_id: str, taken_by: str) -> None:
        self.request_id, self.taken_by = request_id, taken_by
        super().__init__(f"Request {request_id} was taken over by {taken_by}; this process lets go of it.")
