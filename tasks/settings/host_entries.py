"""A host as the settings name it, and how it is written into and taken out of a `jade.toml`.

A section is replaced or removed as text, so that the rest of the file, comments included, stays as its owner wrote it;
what came out is parsed again before it counts.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tasks.core.errors import SettingsError
from tasks.core.names import HostAddress, check_pins

LOCAL = "local"
"""The name that stands for this machine."""

PROVIDERS = ("runpod", "ec2", "static")
"""Names that stand for a machine that is taken for a run and given back."""

Workers = int | Literal["arms"] | None
"""Trainings at once: so many; of each arm one, as far as a GPU's memory allows; None: one a core, or four on a GPU."""

DAY_S = 86_400
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class HostEntry:
    """One `[hosts.NAME]` section. No secret is among its fields: it names a key's file, never a key.

    Attributes:
        name: What `--host` says.
        host: Address or DNS name.
        port: Of the SSH server.
        user: Who logs in.
        key: Private key's file; None: the agent's keys, then the usual files in `~/.ssh`.
        fingerprint: Pins (`SHA256:...`); if there are any, no other server key counts.
        jump: Name of the host to go through.
        trust_first_use: Whether the first key that the server shows is accepted and remembered.
        folder: Where everything of ours lies over there; `~/` is the account's home.
        python: Program that trains: a plain name or an absolute path.
        device: Where trainings run if nothing else is said.
        time_limit_s: The host ends a job after this long.
    """

    name: str
    host: str
    port: int = 22
    user: str = "root"
    key: str | None = None
    fingerprint: tuple[str, ...] = ()
    jump: str | None = None
    trust_first_use: bool = False
    folder: str = "~/.jade"
    python: str = "python3"
    device: Literal["cpu", "cuda"] = "cpu"
    time_limit_s: int = DAY_S

    def __post_init__(self) -> None:
        check_host_name(self.name)
        try:
            HostAddress(self.host, self.port, self.user)
            check_pins(self.fingerprint)
        except ValueError as error:
            raise SettingsError(f"host {self.name!r}: {error}") from error
        if not self.remote_folder or not self.folder.isprintable() or self.folder.startswith(("-", "~~")):
            raise SettingsError(f"host {self.name!r}: folder must be a path such as ~/.jade, not {self.folder!r}")
        if not self.python or ("/" in self.python and not self.python.startswith("/")) or not self.python.isprintable():
            raise SettingsError(
                f"host {self.name!r}: python must be a program's name or an absolute path, not {self.python!r}"
            )
        if self.device not in {"cpu", "cuda"}:
            raise SettingsError(f"host {self.name!r}: device must be cpu or cuda, not {self.device!r}")
        if self.time_limit_s < 1:
            raise SettingsError(f"host {self.name!r}: time_limit_s must be at least 1, not {self.time_limit_s}")

    @property
    def address(self) -> HostAddress:
        """Where it listens, and as whom to log in."""
        return HostAddress(self.host, self.port, self.user)

    @property
    def remote_folder(self) -> str:
        """`folder` as the host's commands take it: relative paths start at the account's home."""
        return self.folder.removeprefix("~/")


def check_host_name(name: str) -> None:
    """Refuse a name that a host cannot have.

    Raises:
        SettingsError: With what is allowed.
    """
    if name == LOCAL:
        raise SettingsError(f"{LOCAL!r} is this machine; give the host another name")
    if name in PROVIDERS:
        raise SettingsError(f"{name!r} stands for machines that are rented; give the host another name")
    if not _NAME.fullmatch(name):
        raise SettingsError(f"a host's name has letters, digits, '-' and '_', at most 64 of them, not {name!r}")


def entry_from_table(name: str, table: Any) -> HostEntry:
    """Read a `[hosts.NAME]` section as TOML gave it.

    Raises:
        SettingsError: A field is missing, unknown, or of another type.
    """
    if not isinstance(table, dict):
        raise SettingsError(f"hosts.{name} must be a section, not {table!r}")
    kinds: Mapping[str, tuple[type, ...]] = {
        "host": (str,),
        "port": (int,),
        "user": (str,),
        "key": (str,),
        "fingerprint": (str, list),
        "jump": (str,),
        "trust_first_use": (bool,),
        "folder": (str,),
        "python": (str,),
        "device": (str,),
        "time_limit_s": (int,),
    }
    if unknown := sorted(set(table) - set(kinds)):
        raise SettingsError(f"host {name!r}: unknown {', '.join(unknown)}; known: {', '.join(kinds)}")
    if "host" not in table:
        raise SettingsError(f"host {name!r}: it lacks host, its address")
    for field, value in table.items():
        # True is an int to Python, and no port to anybody.
        if not isinstance(value, kinds[field]) or (isinstance(value, bool) and bool not in kinds[field]):
            wanted = " or ".join(kind.__name__ for kind in kinds[field])
            raise SettingsError(f"host {name!r}: {field} must be {wanted}, not {value!r}")
    pins = table.get("fingerprint", [])
    pins = [pins] if isinstance(pins, str) else pins
    if not all(isinstance(pin, str) for pin in pins):
        raise SettingsError(f"host {name!r}: fingerprint must be text or a list of texts, not {pins!r}")
    return HostEntry(name, **{**table, "fingerprint": tuple(pins)})


def section_of(entry: HostEntry) -> str:
    """The entry as a section of a `jade.toml`; what is left at its default is left out."""
    lines = [f"[hosts.{entry.name}]"]
    for field in dataclasses.fields(entry)[1:]:
        value = getattr(entry, field.name)
        if value != field.default:
            # A JSON string, number or list of strings is one in TOML, too.
            lines.append(f"{field.name} = {json.dumps(value, ensure_ascii=False)}")
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
