"""What can go wrong between this machine and those who lend machines.

ProviderError (a HostError)
├── NoCapacity             none of this kind now: the next candidate may be tried
│   └── KindDenied         the account may not have this kind: the next candidate may be tried
├── ProviderRefused        trying again cannot help; the person who called can put it right; exit code 2
│   ├── ApiKeyMissing      no key was given
│   ├── ApiKeyRefused      the key is wrong, or may not do this
│   ├── BalanceSpent       the account has no money left
│   ├── QuotaReached       the account may have no more machines (of this kind)
│   └── RequestRefused     the request itself: a field is wrong or unknown to the provider
├── ProviderUnavailable    transient: no answer, or one that says "later"; what was asked for may have happened
│   ├── RateLimited        transient: too many calls; nothing has happened
│   └── NothingSent        transient: no connection was made; nothing has happened
├── TerminationUnproven        transient: an end was asked for, but the provider does not confirm it
├── MachineLost            a machine of ours ended without us: taken away, ended by itself, deleted by somebody
│   └── MachineGoing       it is still there, but its provider has said that it takes it away in a moment
└── HoursSpent             the machines of a run have used up the hours that it was given; exit code 2

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

    def __init__(self, provider: str, doing: str, detail: str, *, status: str | int = "") -> None:
        self.provider, self.doing, self.status = provider, doing, str(status)
        self.detail = detail.strip()[:_SHOWN_CHARACTERS]
        said = " ".join(part for part in (f"({status})" if self.status else "", self.detail) if part)
        super().__init__(f"{provider}: {doing}: {self.summary}{f': {said}' if said else ''}{self._advice()}")

    def _advice(self) -> str:
        return ""


class NoCapacity(ProviderError):
    """The provider has none of this kind now; no machine was made."""

    summary = "none to be had now"


class KindDenied(NoCapacity):
    """The account, or its key, may not have this kind; no machine was made."""

    summary = "not for this account or API key"

    def _advice(self) -> str:
        return ". A read-only key rents nothing, and some kinds are not for every account."


class ProviderRefused(ProviderError):
    """The provider says no, and would again; no machine was made."""

    exit_code = 2
    summary = "refused"


class ApiKeyMissing(ProviderRefused):
    """No key was given.

    Args:
        setting: Where it is looked for, such as an environment variable; named in the message.
    """

    summary = "no API key"

    def __init__(self, provider: str, doing: str, *, setting: str) -> None:
        self.setting = setting
        super().__init__(provider, doing, "")

    def _advice(self) -> str:
        return f". Set {self.setting} in the environment."


class ApiKeyRefused(ProviderRefused):
    """The key is wrong, revoked, or may not do this."""

    summary = "the API key was refused"

    def _advice(self) -> str:
        return ". Check that the key is whole, not revoked, and may make and delete machines."


class BalanceSpent(ProviderRefused):
    """The account has no money left."""

    summary = "the account's balance does not suffice"

    def _advice(self) -> str:
        return ". Top it up with the provider, or take a cheaper GPU."


class QuotaReached(ProviderRefused):
    """The account may have no more machines of this kind."""

    summary = "the account's quota is reached"

    def _advice(self) -> str:
        return ". Free machines (`jade rented`), or ask the provider for a higher limit."


class RequestRefused(ProviderRefused):
    """A field of the request is wrong, or unknown to the provider."""

    summary = "the request was refused"


class ProviderUnavailable(ProviderError):
    """No answer, or one that says "later". What was asked for may have happened.

    Attributes:
        retry_after_s: How long the provider asks to wait; None if it does not say.
    """

    is_transient = True
    summary = "no answer"

    def __init__(
        self, provider: str, doing: str, detail: str, *, status: str | int = "", retry_after_s: float | None = None
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(provider, doing, detail, status=status)

    def _advice(self) -> str:
        return ". Try again later."


class RateLimited(ProviderUnavailable):
    """Too many calls; what was asked for has not happened."""

    summary = "too many calls"


class NothingSent(ProviderUnavailable):
    """No connection to the provider was made; what was asked for has not happened."""

    summary = "out of reach"

    def _advice(self) -> str:
        return ". Check this machine's network, or try again later."


class TerminationUnproven(ProviderError):
    """The end of a machine was asked for, but the provider does not confirm it in time: it may still cost.

    Attributes:
        instance_id: Which.
    """

    is_transient = True
    summary = "its end is not confirmed, and it may still cost"

    def __init__(self, provider: str, instance_id: str, detail: str, *, status: str | int = "") -> None:
        self.instance_id = instance_id
        super().__init__(provider, f"release {instance_id}", detail, status=status)


class MachineLost(ProviderError):
    """A machine of ours ended without us: taken away, ended by itself, or deleted by somebody.

    Attributes:
        instance_id: Which.
    """

    summary = "it is gone"

    def __init__(self, provider: str, instance_id: str, detail: str) -> None:
        self.instance_id = instance_id
        super().__init__(provider, f"machine {instance_id}", detail)


class MachineGoing(MachineLost):
    """Its provider has said that it takes the machine away in a moment; until then it can be used."""

    summary = "it is about to be taken away"


class HoursSpent(ProviderError):
    """The rented machines of a run have used up the hours that it was given."""

    exit_code = 2
    summary = "its time is up"

    def __init__(self, provider: str, instance_id: str, hours: float) -> None:
        self.instance_id, self.hours = instance_id, hours
        super().__init__(provider, f"machine {instance_id}", f"{hours:.2f} h were allowed")

    def _advice(self) -> str:
        return ". The same command with a higher --max-hours (or --budget) goes on from the last checkpoint."
