"""Who lends machines, and the ledger of what was lent, as the settings say: the one place where they are put together.

Further providers can be registered, and every step of a rental be observed; both are kept for the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.errors import BadRequest
from tasks.hosts.errors import HostError
from tasks.provisioning.connect import Lender
from tasks.provisioning.lease import Note, Renter, Served
from tasks.provisioning.ledger import Ledger, Observer
from tasks.provisioning.provisioner import Provisioner, check_owner
from tasks.provisioning.reaper import Reaped, Reaper
from tasks.provisioning.rent_settings import FACTORIES
from tasks.provisioning.rental_request import RentalRequest
from tasks.settings.load import Settings, load_settings, state_folder

LEDGER_NAME = "ledger.db"
KEYS_NAME = "rentals"

Factory = Callable[[Settings], Lender]

_factories: dict[str, Factory] = dict(FACTORIES)
_observers: list[Observer] = []


def register_provider(name: str, factory: Factory) -> None:
    """Make a provider known by its name, in this process."""
    _factories[name] = factory


def observe_rentals(observer: Observer) -> None:
    """Tell of every step of every rental, just before and just after it is durable, in this process."""
    _observers.append(observer)


def provider_names() -> tuple[str, ...]:
    """Return the names of all providers: what `--host` takes beside hosts."""
    return tuple(_factories)


def is_provider(name: str) -> bool:
    """Whether `--host NAME` rents."""
    return name in _factories


def check_provider(name: str) -> None:
    """Refuse a provider that cannot be asked as the settings are; asks it nothing.

    Raises:
        SettingsError, HostError: Its settings make no sense, or its API key is missing.
    """
    _factories[name](load_settings())


@dataclass
class Registry:
    """The ledger, and those who lend.

    Attributes:
        settings: What was set.
        ledger: Of what was lent.
        keys_folder: Where requests' keys lie.
    """

    settings: Settings
    ledger: Ledger
    keys_folder: Path
    _lenders: dict[str, Lender] = field(default_factory=dict)

    def lender(self, provider: str) -> Lender:
        """Return who lends under a name.

        Raises:
            BadRequest: Nobody does.
            ProviderRefused: Its API key, or another setting, is missing.
        """
        if provider not in _factories:
            raise BadRequest(f"no provider is called {provider!r}; there are: {', '.join(_factories)}")
        if provider not in self._lenders:
            self._lenders[provider] = _factories[provider](self.settings)
        return self._lenders[provider]

    def provisioners(self) -> tuple[dict[str, Provisioner], dict[str, HostError]]:
        """Return those who can be asked, and why the others cannot, by name."""
        there: dict[str, Provisioner] = {}
        missing: dict[str, HostError] = {}
        for name in _factories:
            try:
                there[name] = self.lender(name).provisioner
            except HostError as error:
                missing[name] = error
        return there, missing

    def renter(self, provider: str, request: RentalRequest, served: Served, *, note: Note) -> Renter:
        """Return who rents for a run.

        Raises:
            BadRequest, ProviderRefused: As `lender`.
        """
        return Renter(self.ledger, self.lender(provider), request, served, self.keys_folder, note)

    def reaper(self, owner: str | None, *, is_dry: bool = False, frees_unknown: bool = False) -> Reaper:
        """Return who frees an owner's machines; None is the ledger's own.

        Raises:
            BadRequest: It is no owner's tag.
        """
        there, _ = self.provisioners()
        tag = owner_tag(owner) or self.ledger.owner
        return Reaper(self.ledger, there, self.keys_folder, tag, is_dry=is_dry, frees_unknown=frees_unknown)

    def free_flow_run(self, flow_run_id: str) -> list[Reaped]:
        """Free what was rented for a run in Prefect that has ended, whoever pays."""
        owners = {rental.owner for rental in self.ledger.rentals(only_open=True) if rental.flow_run_id == flow_run_id}
        return [item for owner in sorted(owners) for item in self.reaper(owner).reap(ended_flow_run=flow_run_id)]

    def close(self) -> None:
        """Let go of the ledger."""
        self.ledger.close()


def open_registry(settings: Settings | None = None) -> Registry:
    """Open the ledger of the settings, which is made if need be; the caller closes it.

    Raises:
        LedgerUnusable: It cannot be opened.
    """
    settings = settings or load_settings()
    url = settings.ledger or f"sqlite:///{state_folder() / LEDGER_NAME}"
    return Registry(settings, Ledger(url, observers=_observers), state_folder() / KEYS_NAME)


def ledger_exists() -> bool:
    """Whether anything may ever have been rented: opening a ledger makes one."""
    return bool(load_settings().ledger) or (state_folder() / LEDGER_NAME).exists()


def owner_tag(owner: str | None) -> str | None:
    """Return an owner's tag as machines carry it; None stays None.

    Raises:
        BadRequest: It is none.
    """
    if owner is None:
        return None
    try:
        return check_owner(owner)
    except ValueError as error:
        raise BadRequest(str(error)) from error
