"""From what the settings say of a provider to whoever lends under its name.

A section such as `[runpod]` has the fields of that provider's own settings, and a few that all have. Keys of providers
come from the environment alone.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tasks.core.errors import SettingsError
from tasks.core.names import HostAddress
from tasks.hosts.place import RemotePlace
from tasks.hosts.ssh import SshHost
from tasks.provisioning.connect import Lender
from tasks.provisioning.costs import LedgerEntry
from tasks.provisioning.rental_keys import RentalKeys
from tasks.provisioning.rented_hosts import open_rented
from tasks.settings.load import Settings, provider_environment

SettingsT = TypeVar("SettingsT")

_STATIC_CONNECT_S = 15.0
_EC2_ACCESS = ("region", "profile", "endpoint_url")
RUNPOD_KEY = "RUNPOD_API_KEY"
RUNPOD_URL = "JADE_RUNPOD_URL"


@dataclasses.dataclass(frozen=True)
class UseSettings:
    """How rented machines are used, whoever lends them.

    Attributes:
        folder: Where our files lie over there; `~/` is the account's home.
        python: Program that trains there.
        device: What trains there.
        time_limit_s: The machine ends a job after this long; it ends itself at its own age.
        start_limit_s: How long a machine may take from being made to letting us in.
    """

    folder: str = "~/.jade"
    python: str = "python3"
    device: Literal["cpu", "cuda"] = "cuda"
    time_limit_s: int = 14 * 86_400
    start_limit_s: float = 900.0


def runpod(settings: Settings) -> Lender:
    """Return who lends RunPod's pods.

    Raises:
        SettingsError: `[runpod]` has something unknown or of another type.
        ApiKeyMissing: RUNPOD_API_KEY is not set.
    """
    from pydantic import SecretStr

    from tasks.provisioning.runpod import RunPodProvisioner, RunPodSettings
    from tasks.provisioning.runpod_api import API_URL, RunPodAccess

    use, own, rest = divided("runpod", settings, RunPodSettings)
    environment = provider_environment((RUNPOD_KEY, RUNPOD_URL))
    url = environment.get(RUNPOD_URL) or str(rest.pop("api_url", API_URL))
    refuse_rest("runpod", rest, RunPodSettings, "api_url")
    try:
        access = RunPodAccess(SecretStr(environment.get(RUNPOD_KEY, "")), url)
    except ValueError as error:
        raise SettingsError(f"runpod: {error}") from error
    return lender(RunPodProvisioner(access, own), use)


def ec2(settings: Settings) -> Lender:
    """Return who lends machines of AWS EC2; credentials and region come as AWS's own tools have them.

    Raises:
        SettingsError: `[ec2]` has something unknown or of another type.
        ApiKeyMissing: There are no credentials.
    """
    from tasks.provisioning.ec2 import DEFAULT_PYTHON, Ec2Provisioner, Ec2Settings
    from tasks.provisioning.ec2_api import Ec2Access

    use, own, rest = divided("ec2", settings, Ec2Settings)
    if not {"python", "image", "launch_template"} & settings.providers.get("ec2", {}).keys():
        use = dataclasses.replace(use, python=DEFAULT_PYTHON)
    told = {name: _text("ec2", name, rest.pop(name)) for name in _EC2_ACCESS if name in rest}
    access = Ec2Access(told.get("region"), told.get("profile"), told.get("endpoint_url"))
    refuse_rest("ec2", rest, Ec2Settings, *_EC2_ACCESS)
    provisioner = Ec2Provisioner(access, own)
    return dataclasses.replace(lender(provisioner, use), admit=provisioner.admit)


def static(settings: Settings) -> Lender:
    """Return who lends the hosts of the settings, one run at a time."""
    from tasks.hosts.ssh import open_host
    from tasks.provisioning.static import StaticHost, StaticProvisioner, host_of

    use, _, rest = divided("static", settings, UseSettings)
    refuse_rest("static", rest, UseSettings)
    hosts = {
        name: StaticHost(
            entry.address,
            entry.remote_folder,
            lambda named=name: open_host(settings, named, connect_timeout_s=_STATIC_CONNECT_S),  # type: ignore[misc]
        )
        for name, entry in settings.hosts.items()
    }

    def place(instance_id: str) -> RemotePlace:
        entry = settings.entry(host_of(instance_id))
        return RemotePlace(entry.remote_folder, entry.python, entry.time_limit_s)

    def opened(
        rental: LedgerEntry,
        address: HostAddress,  # noqa: ARG001 - the settings say how a host of theirs is reached
        keys: RentalKeys,  # noqa: ARG001
        pin: str | None,  # noqa: ARG001
        *,
        connect_timeout_s: float,
    ) -> SshHost:
        return open_host(settings, host_of(rental.instance_id or ""), connect_timeout_s=connect_timeout_s)

    def device(instance_id: str) -> str:
        return settings.entry(host_of(instance_id)).device

    return Lender(StaticProvisioner(hosts), opened, place, device, use.start_limit_s, has_own_keys=True)


def lender(provisioner: Any, use: UseSettings) -> Lender:
    """Return how machines of a provider are used that show the host key which we gave them."""
    place = RemotePlace(use.folder.removeprefix("~/"), use.python, use.time_limit_s, provisioner.provider)
    return Lender(provisioner, open_rented, lambda _: place, lambda _: use.device, use.start_limit_s)


def divided(provider: str, settings: Settings, kind: type[SettingsT]) -> tuple[UseSettings, SettingsT, dict[str, Any]]:
    """Return a provider's section as the settings that all have, its own, and what belongs to neither.

    Raises:
        SettingsError: A value is of another type, or makes no sense.
    """
    table = dict(settings.providers.get(provider, {}))
    use = from_table(provider, table, UseSettings)
    own = from_table(provider, table, kind)
    return use, own, table


def from_table(provider: str, table: dict[str, Any], kind: type[SettingsT]) -> SettingsT:
    """Take the fields of a dataclass out of a table.

    Raises:
        SettingsError: A value is of another type, or the dataclass refuses it.
    """
    hints = get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for name in [name for name in names if name in table]:
        value = table.pop(name)
        value = tuple(value) if isinstance(value, list) else value
        if not _fits(value, hints[name]):
            raise SettingsError(f"{provider}: {name} must be {_named(hints[name])}, not {value!r}")
        given[name] = value
    try:
        return kind(**given)
    except ValueError as error:
        raise SettingsError(f"{provider}: {error}") from error


def refuse_rest(provider: str, rest: dict[str, Any], kind: type[Any], *further: str) -> None:
    """Refuse what no field has taken.

    Raises:
        SettingsError: With what there is.
    """
    if rest:
        known = [item.name for one in (UseSettings, kind) for item in dataclasses.fields(one)]
        raise SettingsError(f"{provider}: unknown {', '.join(sorted(rest))}; known: {', '.join([*known, *further])}")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in {Union, types.UnionType}:
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    # True is an int to Python, and no number to anybody.
    return isinstance(value, hint) and (isinstance(value, bool) is (hint is bool))


def _named(hint: Any) -> str:
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(repr(one) for one in arguments)
    if get_origin(hint) is Mapping:
        return f"a table of {_named(arguments[1])}"
    if get_origin(hint) is tuple:
        return f"a list of {_named(arguments[0])}"
    return " or ".join(_named(one) for one in arguments) if arguments else str(getattr(hint, "__name__", hint))


def _text(provider: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise SettingsError(f"{provider}: {name} must be text, not {value!r}")
    return value


FACTORIES: dict[str, Callable[[Settings], Lender]] = {"runpod": runpod, "ec2": ec2, "static": static}
