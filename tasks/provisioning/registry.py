"""Who lends machines, and the ledger of what was lent, as the settings say: the one place where they are put together.

A section such as `[runpod]` has the fields of that provider's own settings, and a few that all have. Keys of providers
come from the environment alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import SecretStr, TypeAdapter, ValidationError

from tasks.core.errors import BadRequest, SettingsError
from tasks.hosts.errors import HostError
from tasks.hosts.host import RemotePlace, place_on
from tasks.provisioning.connect import Note, Provider
from tasks.provisioning.entries import HOUR_S, LedgerEntry, month_of, new_claim
from tasks.provisioning.errors import ApiKeyMissing
from tasks.provisioning.keys import open_rented
from tasks.provisioning.ledger import Ledger, Purpose
from tasks.provisioning.provisioner import Instance, Provisioner, Timing, check_owner
from tasks.provisioning.reaper import Reaped, Reaper
from tasks.provisioning.renter import Renter
from tasks.settings.environment import provider_environment
from tasks.settings.load import Settings, load_settings, state_folder

if TYPE_CHECKING:
    from tasks.provisioning.offers import RentalRequest

LEDGER_NAME = "ledger.db"
KEYS_NAME = "rentals"
RUNPOD_KEY = "RUNPOD_API_KEY"
RUNPOD_URL = "JADE_RUNPOD_URL"

T = TypeVar("T")
Factory = Callable[[Settings], Provider]


@dataclass(frozen=True)
class UseSettings(Timing):
    """How rented machines are used, whoever lends them.

    Attributes:
        folder: Where our files lie over there; `~/` is the account's home.
        python: Program that trains there.
        device: What trains there.
        time_limit_s: The machine ends a job after this long; it ends itself at its own age.
    """

    folder: str = "~/.jade"
    python: str = "python3"
    device: Literal["cpu", "cuda"] = "cuda"
    time_limit_s: int = 14 * 86_400


def runpod(settings: Settings) -> Provider:
    """Return who lends RunPod's pods.

    Raises:
        SettingsError: `[runpod]` has something unknown or of another type.
        ApiKeyMissing: RUNPOD_API_KEY is not set.
    """
    from tasks.provisioning.runpod import RunPodProvisioner, RunPodSettings
    from tasks.provisioning.runpod_api import RunPodApi

    use, own = _read("runpod", settings, UseSettings, RunPodSettings)
    environment = provider_environment((RUNPOD_KEY, RUNPOD_URL))
    try:
        api = RunPodApi(SecretStr(environment.get(RUNPOD_KEY, "")), environment.get(RUNPOD_URL) or own.api_url)
    except ValueError as error:
        raise SettingsError(f"runpod: {error}") from error
    return provider_of(RunPodProvisioner(api, own), use)


def ec2(settings: Settings) -> Provider:
    """Return who lends machines of AWS EC2; credentials and region come as AWS's own tools have them.

    Raises:
        SettingsError: `[ec2]` has something unknown or of another type.
        ApiKeyMissing: There are no credentials.
    """
    from tasks.provisioning.ec2 import DEFAULT_PYTHON, Ec2Provisioner
    from tasks.provisioning.ec2_api import Ec2Api, Ec2Settings

    use, own = _read("ec2", settings, UseSettings, Ec2Settings)
    if not {"python", "image", "launch_template"} & settings.providers.get("ec2", {}).keys():
        use = dataclasses.replace(use, python=DEFAULT_PYTHON)
    provisioner = Ec2Provisioner(Ec2Api(own), own, timing=use)
    return dataclasses.replace(provider_of(provisioner, use), admit=provisioner.admit)


def static(settings: Settings) -> Provider:
    """Return who lends the hosts of the settings, one run at a time."""
    from tasks.hosts.ssh import open_host
    from tasks.provisioning.static import StaticHost, StaticProvisioner, host_of

    (use,) = _read("static", settings, UseSettings)
    hosts = {
        name: StaticHost(
            entry.address,
            entry.remote_folder,
            lambda named=name: open_host(settings, named, connect_timeout_s=use.connect_s),  # type: ignore[misc]
        )
        for name, entry in settings.hosts.items()
    }

    return Provider(
        StaticProvisioner(hosts),
        # The settings say how a host of theirs is reached.
        lambda entry, *_, connect_timeout_s: open_host(
            settings, host_of(entry.machine), connect_timeout_s=connect_timeout_s
        ),
        lambda instance_id: place_on(settings.entry(host_of(instance_id))),
        use,
        has_own_keys=True,
    )


FACTORIES: dict[str, Factory] = {"runpod": runpod, "ec2": ec2, "static": static}
"""Who lends, by the names in `PROVIDERS`."""


def provider_of(provisioner: Provisioner, use: UseSettings) -> Provider:
    """Return how machines of a provisioner are used that show the host key which we gave them."""
    place = RemotePlace(use.folder.removeprefix("~/"), use.python, use.time_limit_s, provisioner.provider, use.device)
    return Provider(provisioner, open_rented, lambda _: place, use)


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
    _providers: dict[str, Provider] = field(default_factory=dict)

    def provider(self, name: str) -> Provider:
        """Return who lends under a name.

        Raises:
            BadRequest: Nobody does.
            ProviderRefused: Its API key, or another setting, is missing.
        """
        if name not in FACTORIES:
            raise BadRequest(f"no provider is called {name!r}; there are: {', '.join(FACTORIES)}")
        if name not in self._providers:
            self._providers[name] = FACTORIES[name](self.settings)
        return self._providers[name]

    def provisioners(self) -> tuple[dict[str, Provisioner], dict[str, HostError]]:
        """Return those who can be asked, and why the others cannot, by name."""
        there: dict[str, Provisioner] = {}
        missing: dict[str, HostError] = {}
        for name in FACTORIES:
            try:
                there[name] = self.provider(name).provisioner
            except HostError as error:
                missing[name] = error
        return there, missing

    def renter(self, provider: str, request: RentalRequest, purpose: Purpose, *, note: Note) -> Renter:
        """Return who rents for a run.

        Raises:
            BadRequest, ProviderRefused: As `provider`.
        """
        lender = self.provider(provider)
        return Renter(self.ledger, lender, self.keys_folder, new_claim(), note, request=request, purpose=purpose)

    def reaper(self, owner: str | None, *, is_dry: bool = False, frees_unknown: bool = False) -> Reaper:
        """Return who frees an owner's machines; None is the ledger's own.

        Raises:
            BadRequest: It is no owner's tag.
        """
        there, _ = self.provisioners()
        timings = {name: self.provider(name).timing for name in there}
        tag = self.owner_tag(owner)
        return Reaper(self.ledger, there, self.keys_folder, tag, timings, is_dry=is_dry, frees_unknown=frees_unknown)

    def owner_tag(self, owner: str | None) -> str:
        """Return an owner's tag as machines carry it; None is the ledger's own.

        Raises:
            BadRequest: It is none.
        """
        try:
            return self.ledger.owner if owner is None else check_owner(owner)
        except ValueError as error:
            raise BadRequest(str(error)) from error

    def free_flow_run(self, flow_run_id: str) -> list[Reaped]:
        """Free what was rented for a run in Prefect that has ended, whoever pays."""
        owners = {entry.owner for entry in self.ledger.entries(only_open=True) if entry.flow_run_id == flow_run_id}
        return [item for owner in sorted(owners) for item in self.reaper(owner).reap(ended_flow_run=flow_run_id)]

    def rented(self, owner: str | None, *, wants_all: bool = False) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Return an owner's machines, as ledger and providers tell, and why providers that have some did not answer.

        Of each machine, or request for one: `provider`, `machine_id` (the provider's), `request_id` (the ledger's),
        `title` of the GPU, `state` (the ledger's, or the provider's where the ledger knows nothing), `hours` of age,
        `price_usd_per_hour`, `cost_usd` so far, the run that it serves (`run_id`), and a `note` on what does not agree
        or went wrong. What nobody knows is None.

        Args:
            owner: Tag; None is the ledger's own.
            wants_all: Also what has ended this month.

        Raises:
            BadRequest: It is no owner's tag.
        """
        tag, now = self.owner_tag(owner), self.ledger.now()
        there, missing = self.provisioners()
        shown: dict[str, dict[str, Instance]] = {}
        problems: dict[str, str] = {}
        for name, provisioner in there.items():
            try:
                shown[name] = {instance.name: instance for instance in provisioner.list(tag)}
            except ApiKeyMissing as error:
                missing[name] = error
            except HostError as error:
                problems[name] = str(error)
        entries = self.ledger.entries(owner=tag)
        known = {entry.name: entry.provider for entry in entries if not entry.state.is_over}
        problems |= {name: str(error) for name, error in missing.items() if name in known.values()}
        month, _ = month_of(now)
        listed = [
            _known(entry, shown.get(entry.provider), now)
            for entry in entries
            if not entry.state.is_over or (wants_all and (entry.ended_at or 0.0) >= month)
        ]
        return listed + [
            _unknown(instance, now)
            for instances in shown.values()
            for instance in instances.values()
            if instance.name not in known
        ], problems

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
    return Registry(settings, Ledger(url), state_folder() / KEYS_NAME)


def ledger_exists() -> bool:
    """Whether anything may ever have been rented: opening a ledger makes one."""
    return bool(load_settings().ledger) or (state_folder() / LEDGER_NAME).exists()


def _read(provider: str, settings: Settings, *kinds: type[Any]) -> list[Any]:
    """Return a provider's section as the dataclasses that its keys are the fields of; a key may belong to several.

    Raises:
        SettingsError: A key is unknown, or a value is of another type or makes no sense.
    """
    table = settings.providers.get(provider, {})
    known = list(dict.fromkeys(item.name for kind in kinds for item in dataclasses.fields(kind)))
    if unknown := sorted(table.keys() - known):
        raise SettingsError(f"{provider}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    found = []
    for kind in kinds:
        given = {item.name: table[item.name] for item in dataclasses.fields(kind) if item.name in table}
        try:
            # As JSON, a list is what a tuple is written as, and yet no text passes for a number.
            found.append(TypeAdapter(kind).validate_json(json.dumps(given, default=str), strict=True))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise SettingsError(f"{provider}: {where}: {first['msg']}, not {first['input']!r}") from error
    return found


def _known(entry: LedgerEntry, shown: dict[str, Instance] | None, now: float) -> dict[str, Any]:
    instance, note = (shown or {}).get(entry.name), entry.reason
    if not entry.state.is_over and shown is not None and instance is None:
        note = f"{note}; the provider does not show it".lstrip("; ")
    return {
        "provider": entry.provider,
        "machine_id": entry.instance_id or (instance.instance_id if instance else None),
        "request_id": entry.request_id,
        "title": entry.title + (" (spot)" if entry.spot else ""),
        "state": entry.state.value,
        "hours": round(entry.age_s(now) / HOUR_S, 4),
        "price_usd_per_hour": entry.price_usd_per_hour,
        "cost_usd": round(entry.cost_until(now), 4),
        "run_id": entry.run_id or None,
        "note": note or None,
    }


def _unknown(instance: Instance, now: float) -> dict[str, Any]:
    hours = None if instance.started_at is None else max(now - instance.started_at.timestamp(), 0.0) / HOUR_S
    return {
        "provider": instance.provider,
        "machine_id": instance.instance_id,
        "request_id": None,
        "title": "",
        "state": instance.state.value,
        "hours": None if hours is None else round(hours, 4),
        "price_usd_per_hour": instance.price_usd_per_hour,
        "cost_usd": None if hours is None else round(hours * instance.price_usd_per_hour, 4),
        "run_id": None,
        "note": "the ledger holds it for ended, or does not know it: `jade reap` frees it",
    }
