"""The only reader of environment variables and of `jade.toml`.

A setting is taken from the first of these that has it: a flag of the command, the environment, `jade.toml` in the
working folder, `jade.toml` in the user's configuration folder. A host is taken whole from one file: an address from
one place and a fingerprint from another would be a host that nobody described. docs/settings.md lists every key.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jade_model.core.files import write_atomically
from tasks.core.errors import BadRequest, SettingsError
from tasks.settings.artifacts import DEFAULT_ARTIFACTS, S3Settings, check_s3_table, s3_from_environment, s3_settings
from tasks.settings.host_entries import LOCAL, PROVIDERS, HostEntry, entry_from_table, with_host, without_host

SETTINGS_NAME = "jade.toml"
_KNOWN_KEYS = ("host", "hosts", "artifacts", "s3", "ledger", *PROVIDERS)

PREFECT_DEFAULTS = {
    # A fresh database takes an ephemeral server some 20 s; Prefect gives up after 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class Settings:
    """What the environment and the settings files say together.

    Attributes:
        host: Where trainings run if no flag says so.
        hosts: Known hosts by name.
        sources: Name of a host -> the file that describes it.
        artifacts: Where runs are kept if no flag says so: a folder or `s3://bucket/prefix`.
        s3: How to reach the S3 endpoint.
        ledger: URL of the ledger of rented machines; empty: a file in the state folder.
        providers: What the files say of those who lend machines, by name; see tasks/provisioning/rent_settings.py.
    """

    host: str = LOCAL
    hosts: dict[str, HostEntry] = field(default_factory=dict)
    sources: dict[str, Path] = field(default_factory=dict)
    artifacts: str = DEFAULT_ARTIFACTS
    s3: S3Settings = field(default_factory=S3Settings)
    ledger: str = field(default="", repr=False)
    providers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def entry(self, name: str) -> HostEntry:
        """Return the host of that name.

        Raises:
            BadRequest: There is none; the closest name is offered.
        """
        if name not in self.hosts:
            close = get_close_matches(name, [*self.hosts, LOCAL, *PROVIDERS], n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            there = f"known: {', '.join(self.hosts)}" if self.hosts else "none is known"
            add = f"`jade hosts add {name} --host ADDRESS` adds it."
            raise BadRequest(f"no host is called {name!r}; {there}.{hint} {add}", name=name, known=list(self.hosts))
        return self.hosts[name]


def load_settings() -> Settings:
    """Read the environment and both settings files.

    Raises:
        SettingsError: A file is unreadable, no TOML, or has a key that is unknown or malformed.
    """
    host, artifacts = LOCAL, DEFAULT_ARTIFACTS
    hosts: dict[str, HostEntry] = {}
    sources: dict[str, Path] = {}
    s3: dict[str, Any] = {}
    ledger = ""
    providers: dict[str, dict[str, Any]] = {}
    for path in reversed(settings_files()):
        content = _read(path)
        ledger = content.get("ledger", ledger)
        providers |= {name: content[name] for name in PROVIDERS if name in content}
        host = content.get("host", host)
        artifacts = content.get("artifacts", artifacts)
        s3 |= content.get("s3", {})
        for name, entry in content.get("hosts", {}).items():
            hosts[name], sources[name] = entry, path
    return Settings(
        os.environ.get("JADE_HOST") or host,
        hosts,
        sources,
        os.environ.get("JADE_ARTIFACTS") or artifacts,
        s3_settings(s3 | s3_from_environment(os.environ), os.environ),
        ledger=os.environ.get("JADE_LEDGER_URL") or ledger,
        providers=providers,
    )


def provider_environment(names: tuple[str, ...]) -> dict[str, str]:
    """Return those of the named variables that are set: keys of providers, which no file here holds."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def settings_files() -> tuple[Path, Path]:
    """The settings files, the one that counts more first; either may be missing."""
    return Path.cwd() / SETTINGS_NAME, user_settings_file()


def user_settings_file() -> Path:
    """`jade.toml` in the user's configuration folder: `JADE_CONFIG_DIR`, else `jade` where the system keeps such."""
    return _folder("JADE_CONFIG_DIR", "XDG_CONFIG_HOME", ".config") / SETTINGS_NAME


def state_folder() -> Path:
    """Where known host keys and the records of remote runs lie: `JADE_STATE_DIR`, else where the system keeps such."""
    return _folder("JADE_STATE_DIR", "XDG_STATE_HOME", ".local/state")


def cache_folder() -> Path:
    """Where working copies of runs in a bucket lie: `JADE_CACHE_DIR`, else where the system keeps such."""
    return _folder("JADE_CACHE_DIR", "XDG_CACHE_HOME", ".cache")


def save_host(entry: HostEntry, *, replace: bool) -> Path:
    """Write a host into the user's settings file; return the file.

    Raises:
        SettingsError: It has a host of that name and `replace` was not asked for, or it cannot be changed.
    """
    path = user_settings_file()
    if entry.name in _read(path).get("hosts", {}) and not replace:
        raise SettingsError(f"{path} has a host {entry.name!r} already; --replace writes it anew")
    _rewrite(path, lambda text: with_host(text, entry))
    return path


def forget_host(name: str) -> Path:
    """Take a host out of the user's settings file; return the file.

    Raises:
        BadRequest: No file has it.
        SettingsError: Another file has it, or the file cannot be changed.
    """
    path = user_settings_file()
    if name not in _read(path).get("hosts", {}):
        settings = load_settings()
        settings.entry(name)
        raise SettingsError(f"host {name!r} stands in {settings.sources[name]}; remove its section there")
    _rewrite(path, lambda text: without_host(text, name))
    return path


def prepare_prefect(*, quiet: bool) -> None:
    """Set Prefect's defaults for a flow called from the command line; what the user has set stays.

    Must run before `prefect` is imported.

    Args:
        quiet: Keep Prefect's own lines off the terminal unless they are warnings, because progress bars are shown.

    Raises:
        SettingsError: Its temporary server would have nowhere to keep its database.
    """
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if quiet:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
    if not os.environ.get("PREFECT_API_URL"):
        home = os.environ.get("PREFECT_HOME") or "~/.prefect"
        try:
            # Prefect makes the last folder only, and starts a server that fails again and again for as long as it may.
            Path(home).expanduser().mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:
            raise SettingsError(
                f"Prefect keeps its database in {home}, which can't be made: {error}. Name a folder that can with "
                "PREFECT_HOME, or a server with PREFECT_API_URL"
            ) from error


def installation_environment(
    server: Path, *, home: Path, api_url: str, reports: tuple[Path, str] | None
) -> dict[str, str]:
    """Return the environment of the local installation's processes, and of the flows that its worker runs.

    What the user has set for Prefect stays out: the installation is one of its own.

    Args:
        server: File with the settings of every server of ours, a line each: NAME=VALUE.
        home: Where Prefect keeps the database.
        api_url: Of the installation's server.
        reports: Folder whose runs' reports are served, and under which address; None: they are not.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    if reports is not None:
        ours |= {"JADE_REPORTS_FOLDER": str(reports[0]), "JADE_REPORTS_URL": reports[1]}
    lines = [line for line in server.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return {
        **ours,
        **dict(line.split("=", 1) for line in lines),
        **THREADING,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api_url,
        "PREFECT_UI_API_URL": api_url,
        "PREFECT_LOGGING_COLORS": "false",
        "PYTHONUNBUFFERED": "1",
    }


def report_address(file: Path) -> str:
    """Return where a browser finds a file of a run's report: served by the installation, else on this machine's disk.

    Args:
        file: `<artifacts>/<run>/report/<name>`.
    """
    url, folder = os.environ.get("JADE_REPORTS_URL"), os.environ.get("JADE_REPORTS_FOLDER")
    if url and folder and file.is_relative_to(folder):
        return f"{url}/{file.relative_to(folder).as_posix()}"
    return file.as_uri()


def require_server() -> None:
    """Refuse to go on without a Prefect server that outlives this command.

    Raises:
        SettingsError: PREFECT_API_URL is not set.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise SettingsError(
            "this needs a Prefect server: start one with `jade up` and set PREFECT_API_URL as it says, or to yours"
        )


_SECRET_NAMES = ("SECRET", "TOKEN", "PASSWORD", "API_KEY", "AUTH_STRING", "CONNECTION_URL")
_SHORTEST_SECRET = 6


def secret_values() -> list[str]:
    """Return what the environment holds under names that say secret, longest first, to be masked in logs."""
    found = {
        value
        for name, value in os.environ.items()
        if any(word in name.upper() for word in _SECRET_NAMES) and len(value) >= _SHORTEST_SECRET
    }
    return sorted(found, key=len, reverse=True)


def secret_from_environment(name: str) -> str:
    """Return a secret that an environment variable holds; no message ever shows it.

    Raises:
        SettingsError: The variable is missing or empty.
    """
    value = os.environ.get(name)
    if not value:
        raise SettingsError(f"the environment variable {name} is not set; a secret is expected there")
    return value


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# One thread a training: parallelism comes from processes.
THREADING = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    # glibc gives each large tensor back to the kernel, and asks for it anew at the next step, unless told to keep them.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


def training_environment() -> dict[str, str]:
    """Return the environment of a training process on this machine."""
    return {**os.environ, **THREADING, "PYTHONUNBUFFERED": "1"}


def _folder(own: str, of_system: str, below_home: str) -> Path:
    if os.environ.get(own):
        return Path(os.environ[own]).expanduser()
    system = os.environ.get(of_system)
    return (Path(system) if system else Path.home() / below_home) / "jade"


def _read(path: Path) -> dict[str, Any]:
    try:
        return _checked(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} is not a readable TOML file: {error}") from error


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(content) - set(_KNOWN_KEYS)):
        raise SettingsError(f"unknown {', '.join(unknown)}; known: {', '.join(_KNOWN_KEYS)}")
    if not isinstance(content.get("host", ""), str) or not isinstance(content.get("hosts", {}), dict):
        raise SettingsError("host must be a name, and hosts have a section each: [hosts.NAME]")
    if not isinstance(content.get("artifacts", ""), str) or content.get("artifacts") == "":
        raise SettingsError("artifacts must be a folder or s3://bucket/prefix")
    if not isinstance(content.get("ledger", ""), str):
        raise SettingsError("ledger must be the URL of a database, such as postgresql://HOST/NAME")
    if untabled := [name for name in PROVIDERS if not isinstance(content.get(name, {}), dict)]:
        raise SettingsError(f"{untabled[0]} must be a section: [{untabled[0]}]")
    hosts = {name: entry_from_table(name, table) for name, table in content.get("hosts", {}).items()}
    return {**content, "hosts": hosts, "s3": check_s3_table(content.get("s3", {}))}


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text("utf-8") if path.exists() else ""
    try:
        changed = change(text)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, changed)
