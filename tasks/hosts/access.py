"""From a host's name in the settings to how to get onto it, with what `~/.ssh/config` says of its address."""

from __future__ import annotations

import glob
import re
import shlex
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
_UNKNOWN_MATCH = re.compile(r"(?i)\b(exec|localnetwork|tagged|version|sessiontype|command)\b")
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


def access_of(settings: Settings, name: str, *, connect_timeout_s: float = CONNECT_S) -> SshAccess:
    """How to get onto a host of the settings. What its section says counts more than `~/.ssh/config`.

    Raises:
        BadRequest: It, or one that it goes through, is not described.
        SettingsError: Its jumps lead in a circle, or `~/.ssh/config` cannot be understood.
    """
    return _of_entry(settings, name, connect_timeout_s, ())


def _of_entry(settings: Settings, name: str, timeout_s: float, seen: tuple[str, ...]) -> SshAccess:
    if name in seen:
        raise SettingsError(f"the jumps of host {seen[0]!r} lead in a circle: {' -> '.join([*seen, name])}")
    entry = settings.entry(name)
    access = _of_config(entry, () if entry.jump is None else None)
    return replace(
        access,
        trust=replace(access.trust, pins=entry.fingerprint, trust_first_use=entry.trust_first_use),
        key_file=Path(entry.key).expanduser() if entry.key else None,
        jump=_of_entry(settings, entry.jump, timeout_s, (*seen, name)) if entry.jump else access.jump,
        connect_timeout_s=float(entry.connect_timeout_s or timeout_s),
    )


def _of_config(entry: HostEntry, jumps: tuple[str, ...] | None) -> SshAccess:
    """What OpenSSH would make of an address; `jumps` are those that led here, None: the way there is known."""
    file = Path.home() / ".ssh" / "config"
    found = _lookup(file, entry.host)
    keys = [Path(name).expanduser() for name in found.get("identityfile", [])]
    through = found.get("proxyjump", "none")
    if jumps is not None and found.get("proxycommand") and through == "none":
        raise SettingsError(
            f"{file} reaches {entry.host} by a ProxyCommand, which is not supported; write a ProxyJump there, or "
            "`jump` in the host's section"
        )
    try:
        address = HostAddress(
            found.get("hostname", entry.host),
            entry.port or int(found.get("port", 22)),
            entry.user or found.get("user", "root"),
        )
    except ValueError as error:
        raise SettingsError(f"{file}: {entry.host}: {error}") from error
    return SshAccess(
        address,
        HostTrust(own_file=state_folder() / "known_hosts", files=_known_hosts_files(found)),
        preferred_keys=tuple(path for path in keys if path.exists() or Path(f"{path}.pub").exists()),
        only_preferred=bool(keys) and found.get("identitiesonly", "no") == "yes",
        jump=None if jumps is None or through.lower() == "none" else _through(through, (*jumps, entry.host), file),
    )


def _known_hosts_files(found: paramiko.SSHConfigDict) -> tuple[Path, ...]:
    """The known-hosts files that OpenSSH would read: the user's, then the machine's."""
    named = [found.get(option, usual) for option, usual in _KNOWN_HOSTS]
    return tuple(Path(name).expanduser() for names in named for name in shlex.split(names) if name != "none")


def _through(proxy_jump: str, seen: tuple[str, ...], file: Path) -> SshAccess:
    """The last of a ProxyJump's hosts, reached through those before it."""
    *before, last = [part.strip() for part in proxy_jump.split(",")]
    host, port, user = parse_address(last)
    if host in seen:
        raise SettingsError(f"the ProxyJumps of {file} lead in a circle: {' -> '.join([*seen, host])}")
    try:
        access = _of_config(HostEntry("jump", host, port, user), seen)
    except ValueError as error:
        raise SettingsError(f"{file}: ProxyJump {last}: {error}") from error
    if before:
        access = replace(access, jump=_through(",".join(before), (*seen, host), file))
    return access


def _lookup(file: Path, host: str) -> paramiko.SSHConfigDict:
    try:
        return paramiko.SSHConfig.from_text("\n".join(_lines(file, 0))).lookup(host)
    except FileNotFoundError:
        return paramiko.SSHConfigDict()
    except (ConfigParseError, CouldNotCanonicalize, OSError, ValueError, KeyError, ImportError) as error:
        raise SettingsError(f"{file} cannot be used for {host}: {error or type(error).__name__}") from error


def _lines(file: Path, depth: int) -> list[str]:
    """A file's lines, those of the files that it includes in their place; paramiko reads no others."""
    if depth > 16:
        raise ValueError(f"{file} is included too deep")
    lines, section = [], "Host *"
    for line in file.read_text("utf-8", "replace").splitlines():
        keyword, _, value = re.sub(r"^\s*(\w+)\s*=?\s*", r"\1 ", line).partition(" ")
        if keyword.lower() in {"host", "match"}:
            # A section that would run a program, or that is newer than paramiko, matches nothing.
            is_known = keyword.lower() == "host" or not _UNKNOWN_MATCH.search(value)
            section = line if is_known else "Host !*"
            lines.append(section)
            continue
        if keyword.lower() != "include":
            lines.append(line)
            continue
        for pattern in value.split():
            path = Path(pattern.strip('"')).expanduser()
            # OpenSSH reads what does not exist as nothing, and relative names below ~/.ssh.
            for name in sorted(glob.glob(str(path if path.is_absolute() else Path.home() / ".ssh" / path))):  # noqa: PTH207
                lines += [section, *_lines(Path(name), depth + 1)]
        lines.append(section)
    return lines
