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
        host: Address, DNS name, or name of a section in `~/.ssh/config`.
        port: Of the SSH server; None: as `~/.ssh/config` says, else 22.
        user: Who logs in; None: as `~/.ssh/config` says, else root.
        key: Private key's file; None: the agent's keys, then the usual files in `~/.ssh`.
        fingerprint: Pins (`SHA256:...`); if there are any, no other server key counts.
        jump: Name of the host to go through.
        trust_first_use: Whether the first key that the server shows is accepted and remembered.
        folder: Where everything of ours lies over there; `~/` is the account's home.
        python: Program that trains: a plain name or an absolute path.
        device: Where trainings run if nothing else is said.
        time_limit_s: The host ends a job after this long.
        connect_timeout_s: How long a connection and the login may take; None: half a minute.
    """

    name: str
    host: str
    port: int | None = None
    user: str | None = None
    key: str | None = None
    fingerprint: tuple[str, ...] = ()
    jump: str | None = None
    trust_first_use: bool = False
    folder: str = "~/.jade"
    python: str = "python3"
    device: Literal["cpu", "cuda"] = "cpu"
    time_limit_s: int = DAY_S
    connect_timeout_s: int | None = None

    def __post_init__(self) -> None:
        check_host_name(self.name)
        try:
            HostAddress(self.host, self.port or 22, self.user or "root")
            check_pins(self.fingerprint)
            fault = self._fault()
        except ValueError as error:
            fault = str(error)
        if fault:
            raise SettingsError(f"host {self.name!r}: {fault}")

    def _fault(self) -> str:
        if parse_address(self.host) != (self.host, None, None):
            return f"host must be an address or a name alone, with port and user beside it, not {self.host!r}"
        if self.port == 0:
            return "port must lie in 1..65535, not 0"
        below_home = self.folder.startswith("~/") and self.remote_folder
        if not self.folder.isprintable() or not (below_home or self.folder.lstrip("-~$") == self.folder != ""):
            return f"folder must be a path such as /data/jade, or ~/.jade below the home there, not {self.folder!r}"
        is_path = self.python.startswith("/") and " -" not in self.python
        if not self.python.isprintable() or not (is_path or re.fullmatch(r"[^\s/~$-][^\s/~$]*", self.python)):
            return (
                f"python must be one program without flags, its name or its absolute path, not {self.python!r}. That "
                "of a conda environment is such as /opt/conda/envs/NAME/bin/python"
            )
        if self.device not in {"cpu", "cuda"}:
            return f"device must be cpu or cuda, not {self.device!r}"
        if self.time_limit_s < 1 or (self.connect_timeout_s is not None and self.connect_timeout_s < 1):
            return "time_limit_s and connect_timeout_s must be at least 1"
        return ""

    @property
    def address(self) -> HostAddress:
        """Where it listens, and as whom to log in, as far as its section says."""
        return HostAddress(self.host, self.port or 22, self.user or "root")

    @property
    def remote_folder(self) -> str:
        """`folder` as the host's commands take it: relative paths start at the account's home."""
        return self.folder.removeprefix("~/").rstrip("/")


def parse_address(text: str) -> tuple[str, int | None, str | None]:
    """Read an address as people write it: `HOST`, `USER@HOST`, `HOST:PORT`, `[IPV6]:PORT` or `ssh://USER@HOST:PORT`.

    Returns:
        Host, port and user; None where it names none.

    Raises:
        SettingsError: It is none of these.
    """
    user, _, place = text.strip().removeprefix("ssh://").rstrip("/").rpartition("@")
    if found := re.fullmatch(r"\[([^\[\]]+)\](?::(\d+))?", place) or re.fullmatch(r"([^:]+):(\d+)", place):
        host, port = found[1], int(found[2]) if found[2] else None
    else:
        host, port = place, None
    if (
        not host
        or host.startswith("-")
        or re.search(r"[\s/@\[\]]", host + user)
        or (":" in host and host.count(":") < 2)
    ):
        raise SettingsError(f"an address is HOST, USER@HOST, HOST:PORT or ssh://USER@HOST:PORT, not {text!r}")
    return host, port, user or None


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
        "connect_timeout_s": (int,),
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
