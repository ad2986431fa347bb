"""The settings: the environment, and the two `jade.toml`, of the working folder and of the user.

A setting is taken from the first of these that has it: a flag of the command, the environment, `jade.toml` in the
working folder, `jade.toml` in the user's configuration folder. A host is taken whole from one file: an address from
one place and a fingerprint from another would be a host that nobody described. docs/settings.md lists every key.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jade_model.core.files import write_atomically
from tasks.core.errors import BadRequest, SettingsError
from tasks.settings.models import (
    DEFAULT_ARTIFACTS,
    LOCAL,
    PROVIDERS,
    HostEntry,
    S3Settings,
    SettingsFile,
    Tracker,
    checked,
)

SETTINGS_NAME = "jade.toml"
S3_VARIABLES = {f"JADE_S3_{name.upper()}": name for name in ("endpoint_url", "region", "path_style", "profile")}
AWS_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


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
        track: Who is told of runs if no flag says so.
        providers: What the files say of those who lend machines, by name; read by tasks/provisioning/registry.py.
    """

    host: str = LOCAL
    hosts: dict[str, HostEntry] = field(default_factory=dict)
    sources: dict[str, Path] = field(default_factory=dict)
    artifacts: str = DEFAULT_ARTIFACTS
    s3: S3Settings = field(default_factory=S3Settings)
    ledger: str = field(default="", repr=False)
    track: Tracker = "none"
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
    merged: dict[str, Any] = {}
    hosts: dict[str, HostEntry] = {}
    sources: dict[str, Path] = {}
    s3: dict[str, Any] = {}
    for path in reversed(settings_files()):
        content, told = _read(path)
        merged |= content
        s3 |= content.get("s3", {})
        hosts |= told.hosts
        sources |= dict.fromkeys(told.hosts, path)
    return Settings(
        os.environ.get("JADE_HOST") or merged.get("host", LOCAL),
        hosts,
        sources,
        os.environ.get("JADE_ARTIFACTS") or merged.get("artifacts", DEFAULT_ARTIFACTS),
        _s3_settings(s3),
        ledger=os.environ.get("JADE_LEDGER_URL") or merged.get("ledger", ""),
        track=_tracker(os.environ.get("JADE_TRACK")) or merged.get("track", "none"),
        providers={name: merged[name] for name in PROVIDERS if name in merged},
    )


def _tracker(given: str | None) -> Tracker | None:
    match given:
        case None | "":
            return None
        case "none" | "mlflow":
            return given
        case _:
            raise SettingsError(f"JADE_TRACK is {given!r}; it must be none or mlflow")


def _s3_settings(values: dict[str, Any]) -> S3Settings:
    """Return the settings of the endpoint: a bucket's name stands in the path where one is named, unless told so."""
    found = {name: os.environ[name] for name in AWS_ENDPOINTS if os.environ.get(name)}
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        found = {}
    sources = dict.fromkeys(values, "s3")
    for variable, name in S3_VARIABLES.items():
        if os.environ.get(variable):
            values, sources = {**values, name: os.environ[variable]}, {**sources, name: variable}
    if not values.get("endpoint_url") and found:
        variable, url = next(iter(found.items()))
        values, sources = {**values, "endpoint_url": url}, {**sources, "endpoint_url": variable}
    where = ", ".join(dict.fromkeys(sources.values()))
    return checked(S3Settings, {"path_style": bool(values.get("endpoint_url")), **values}, where)


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
    if entry.name in _read(path)[1].hosts and not replace:
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
    if name not in _read(path)[1].hosts:
        settings = load_settings()
        settings.entry(name)
        raise SettingsError(f"host {name!r} stands in {settings.sources[name]}; remove its section there")
    _rewrite(path, lambda text: without_host(text, name))
    return path


def section_of(entry: HostEntry) -> str:
    """The entry as a section of a `jade.toml`; what is left at its default is left out."""
    lines = [f"[hosts.{entry.name}]"]
    for item in dataclasses.fields(entry)[1:]:
        value = getattr(entry, item.name)
        if value != item.default:
            # A JSON string, number or list of strings is one in TOML, too.
            lines.append(f"{item.name} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def with_host(text: str, entry: HostEntry) -> str:
    """The text of a `jade.toml` with a host added, or its section replaced.

    Raises:
        SettingsError: The text is no TOML, or the host stands in it in a form that cannot be replaced.
    """
    expected = _parsed(text)
    kept = without_host(text, entry.name) if entry.name in expected.get("hosts", {}) else text
    section = section_of(entry)
    expected.setdefault("hosts", {})[entry.name] = tomllib.loads(section)["hosts"][entry.name]
    result = f"{kept.rstrip()}\n\n{section}" if kept.strip() else section
    return _checked(result, expected)


def without_host(text: str, name: str) -> str:
    """The text of a `jade.toml` without a host's section.

    Raises:
        SettingsError: The text is no TOML, or the host stands in it in a form that cannot be removed.
    """
    expected = _parsed(text)
    expected.get("hosts", {}).pop(name, None)
    if not expected.get("hosts", True):
        del expected["hosts"]
    header = re.compile(rf"""\s*\[\s*hosts\s*\.\s*["']?{re.escape(name)}["']?\s*\]\s*(#.*)?""")
    kept, is_inside = [], False
    for line in text.splitlines():
        if re.match(r"\s*\[", line):
            is_inside = header.fullmatch(line) is not None
        if not is_inside:
            kept.append(line)
    return _checked("\n".join(kept).strip("\n") + "\n" if any(kept) else "", expected)


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"it is not TOML: {error}") from error


def _checked(text: str, expected: dict[str, Any]) -> str:
    if _parsed(text) != expected:
        raise SettingsError("its hosts are written in a way that cannot be changed from here; edit it by hand")
    return text


def _folder(own: str, of_system: str, below_home: str) -> Path:
    if os.environ.get(own):
        return Path(os.environ[own]).expanduser()
    system = os.environ.get(of_system)
    return (Path(system) if system else Path.home() / below_home) / "jade"


def _read(path: Path) -> tuple[dict[str, Any], SettingsFile]:
    """Return what a settings file says, as it says it and checked; nothing if there is none."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        content = {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} is not a readable TOML file: {error}") from error
    return content, checked(SettingsFile, content, str(path))


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text("utf-8") if path.exists() else ""
    try:
        changed = change(text)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, changed)
