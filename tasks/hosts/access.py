"""From a host's name in the settings to how to get onto it, with what `~/.ssh/config` says of its address."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko
from paramiko.ssh_exception import ConfigParseError, CouldNotCanonicalize

from tasks.core.errors import SettingsError
from tasks.core.names import HostAddress
from tasks.hosts.keys import HostTrust
from tasks.settings.load import Settings, state_folder
from tasks.settings.models import HostEntry, parse_address

CONNECT_S = 30.0
_UNKNOWN_MATCH = re.compile(r"(?i)match\b.*\b(exec|localnetwork|tagged|version|sessiontype|command)\b")
_KNOWN_HOSTS = (
    ("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2"),
    ("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"),
)


@dataclass(frozen=True)
class SshAccess:
    """How to get onto a host.

    Attributes:
        address: Where and as whom.
        trust: Which server key is the right one.
        key_file: Private key; None tries `preferred_keys`, the agent's keys, then the usual files in `~/.ssh`.
        use_agent: Whether to ask the SSH agent, where the key needs it.
        preferred_keys: Private keys that `~/.ssh/config` names for the host; some may be missing.
        only_preferred: Whether no others are tried, if there are any.
        jump: The host to go through, with its own address, trust and key.
        connect_timeout_s: How long to keep trying, the login included; a refused connection is tried again until then.
    """

    address: HostAddress
    trust: HostTrust
    key_file: Path | None = None
    use_agent: bool = True
    preferred_keys: tuple[Path, ...] = ()
    only_preferred: bool = False
    jump: SshAccess | None = None
    connect_timeout_s: float = CONNECT_S


def access_of(
    settings: Settings, name: str, *, connect_timeout_s: float = CONNECT_S, seen: tuple[str, ...] = ()
) -> SshAccess:
    """How to get onto a host of the settings. What its section says counts more than `~/.ssh/config`.

    `connect_timeout_s` counts where the section says nothing; `seen` are the hosts that lead here.

    Raises:
        BadRequest: It, or one that it goes through, is not described.
        SettingsError: Its jumps lead in a circle, or `~/.ssh/config` cannot be understood.
    """
    _refuse_circle(f"jumps of host {(*seen, name)[0]!r}", (*seen, name))
    entry = settings.entry(name)
    access = _of_config(entry, ())
    jump = access.jump
    if entry.jump is not None:
        jump = access_of(settings, entry.jump, connect_timeout_s=connect_timeout_s, seen=(*seen, name))
    return replace(
        access,
        jump=jump,
        trust=replace(access.trust, pins=entry.fingerprint, trust_first_use=entry.trust_first_use),
        key_file=Path(entry.key).expanduser() if entry.key else None,
        connect_timeout_s=float(entry.connect_timeout_s or connect_timeout_s),
    )


def _refuse_circle(what: str, way: tuple[str, ...]) -> None:
    if way[-1] in way[:-1]:
        raise SettingsError(f"the {what} lead in a circle: {' -> '.join(way)}")


def _of_config(entry: HostEntry, way: tuple[str, ...]) -> SshAccess:
    """What OpenSSH would make of an address; `way` are the jumps that led here."""
    file = Path.home() / ".ssh" / "config"
    try:
        found = paramiko.SSHConfig.from_text("\n".join(_lines(file, 0))).lookup(entry.host)
    except FileNotFoundError:
        found = paramiko.SSHConfigDict()
    except (ConfigParseError, CouldNotCanonicalize, OSError, ValueError, KeyError, ImportError) as error:
        raise SettingsError(f"{file} cannot be used for {entry.host}: {error or type(error).__name__}") from error
    jump, through = None, found.get("proxyjump", "none")
    if entry.jump is None and through.lower() != "none":
        jump = _through(through, (*way, entry.host), file)
    elif entry.jump is None and found.get("proxycommand"):
        raise SettingsError(
            f"{file} reaches {entry.host} by a ProxyCommand, which is not supported; write a ProxyJump there, or "
            "`jump` in the host's section"
        )
    try:
        port = entry.port or int(found.get("port", 22))
        address = HostAddress(found.get("hostname", entry.host), port, entry.user or found.get("user", "root"))
    except ValueError as error:
        raise SettingsError(f"{file}: {entry.host}: {error}") from error
    keys = [Path(name).expanduser() for name in found.get("identityfile", [])]
    known_hosts = shlex.split(" ".join(found.get(option, usual) for option, usual in _KNOWN_HOSTS))
    known_files = tuple(Path(name).expanduser() for name in known_hosts if name != "none")
    return SshAccess(
        address,
        HostTrust(own_file=state_folder() / "known_hosts", files=known_files),
        preferred_keys=tuple(path for path in keys if path.exists() or Path(f"{path}.pub").exists()),
        only_preferred=bool(keys) and found.get("identitiesonly", "no") == "yes",
        jump=jump,
    )


def _through(proxy_jump: str, way: tuple[str, ...], file: Path) -> SshAccess:
    """The last of a ProxyJump's hosts, reached through those before it."""
    before, _, last = proxy_jump.rpartition(",")
    host, port, user = parse_address(last.strip())
    _refuse_circle(f"ProxyJumps of {file}", (*way, host))
    try:
        access = _of_config(HostEntry("jump", host, port, user), way)
    except ValueError as error:
        raise SettingsError(f"{file}: ProxyJump {last}: {error}") from error
    return replace(access, jump=_through(before, (*way, host), file)) if before else access


def _lines(file: Path, depth: int) -> Iterator[str]:
    """A file's lines, those of the files that it includes in their place; paramiko reads no others."""
    if depth > 16:
        raise ValueError(f"{file} is included too deep")
    section = "Host *"
    for line in file.read_text("utf-8", "replace").splitlines():
        keyword, _, value = re.sub(r"^\s*(\w+)\s*=?\s*", r"\1 ", line).partition(" ")
        if keyword.lower() in {"host", "match"}:
            # A section that would run a program, or that is newer than paramiko, matches nothing.
            section = "Host !*" if _UNKNOWN_MATCH.match(line.lstrip()) else line
            yield section
        elif keyword.lower() != "include":
            yield line
        else:
            for pattern in value.split():
                # OpenSSH reads what does not exist as nothing, and relative names below ~/.ssh.
                path = Path.home() / ".ssh" / Path(pattern.strip('"')).expanduser()
                for name in sorted(glob.glob(str(path))):  # noqa: PTH207
                    yield section
                    yield from _lines(Path(name), depth + 1)
            yield section
