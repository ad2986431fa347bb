"""The login: which keys are offered, from files and the SSH agent, and what a refusal means."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko

from tasks.core.retry import TookTooLong, within
from tasks.hosts.access import SshAccess
from tasks.hosts.errors import AuthenticationFailed, HostUserError
from tasks.hosts.keys import fingerprint, load_private_key, public_blob

_USUAL_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
AGENT_S = 5.0
"""An SSH agent that does not tell its keys for so long is left out."""


class NotYet(Exception):
    """This attempt failed in a way that another one may not; a message to whoever tries again."""

    is_transient = True


def log_in(transport: paramiko.Transport, access: SshAccess, limit_s: float) -> None:
    """Prove who we are to a server that has proved itself, with the keys that the access names.

    Raises:
        NotYet: The connection broke, or it took too long.
        AuthenticationFailed: None of the keys is let in.
        HostUserError: There is none that can be used.
    """
    deadline = time.monotonic() + limit_s
    with contextlib.closing(_Agent(is_asked=access.use_agent)) as agent:
        _offer(transport, access, agent, deadline)


def _offer(transport: paramiko.Transport, access: SshAccess, agent: _Agent, deadline: float) -> None:
    address = str(access.address)
    tried: list[str] = []
    reason = "no key to offer"
    unusable: HostUserError | None = None
    for label, key in _candidates(access, agent):
        if isinstance(key, HostUserError):
            unusable = unusable or key
            continue
        tried.append(f"{label} ({fingerprint(key.asbytes())})")
        transport.auth_timeout = max(deadline - time.monotonic(), 0.1)
        try:
            still_wanted = transport.auth_publickey(access.address.user, key)
        except paramiko.BadAuthenticationType as error:
            wanted = ", ".join(error.allowed_types)
            raise _refusal(address, tried, f"it wants {wanted}, not a key") from error
        except paramiko.AuthenticationException as error:
            reason = str(error).rstrip(".")
            if "timeout" in reason.lower():
                raise NotYet(
                    f"the login with {label} took longer than the {access.connect_timeout_s:g} s that it is given; "
                    "connect_timeout_s of the host gives more"
                ) from error
            if transport.is_active():
                continue
            if len(tried) == 1:
                raise NotYet("it closed the connection during the login") from error
            break  # servers hang up after a few wrong keys
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise NotYet(f"the connection broke during the login: {error}") from error
        if not still_wanted:
            return
        raise _refusal(address, tried, f"it also wants {', '.join(still_wanted)}")
    if unusable is not None and not tried:
        raise HostUserError(f"{unusable}{agent.problem}") from unusable
    raise _refusal(address, tried, reason + agent.problem)


def _refusal(address: str, tried: list[str], reason: str) -> AuthenticationFailed:
    keys = ", ".join(tried) if tried else "no key at all: there is no agent and no key file"
    return AuthenticationFailed(
        f"{address} refused to log in ({reason}). Tried {keys}. "
        "Check the user name, and that the public key stands in the account's authorized_keys."
    )


class _Agent:
    """The SSH agent's keys, asked for when they are needed, once, and not for ever.

    Attributes:
        problem: Why they are not known, to be added to a message; empty if nothing is wrong.
    """

    def __init__(self, *, is_asked: bool) -> None:
        self.problem = ""
        self._agent: paramiko.Agent | None = None
        self._keys: list[paramiko.AgentKey] | None = None if is_asked else []

    def close(self) -> None:
        """Let go of it."""
        if self._agent is not None:
            self._agent.close()

    def held(self) -> list[paramiko.AgentKey]:
        """What it holds; none if it does not say."""
        if self._keys is None:
            self._keys = []
            try:
                self._keys = within(AGENT_S, self._ask)
            except TookTooLong:
                self.problem = f" The SSH agent did not answer within {AGENT_S:g} s."
            except (paramiko.SSHException, OSError) as error:
                self.problem = f" The SSH agent cannot be used: {error}."
        return self._keys

    def _ask(self) -> list[paramiko.AgentKey]:
        self._agent = paramiko.Agent()
        keys = list(self._agent.get_keys())
        for key in keys:
            if key.get_name().endswith("-cert-v01@openssh.com"):
                # Without it paramiko offers the plain key under the name of a certificate.
                key.public_blob = getattr(getattr(key, "inner_key", None), "public_blob", None)
        return keys


def _candidates(access: SshAccess, agent: _Agent) -> Iterator[tuple[str, paramiko.PKey | HostUserError]]:
    """Keys to offer, in order; in the place of one that cannot be used, the error that says why."""
    if access.key_file is not None:
        yield from _of_file(access.key_file, agent)
        return
    for path in access.preferred_keys:
        yield from _of_file(path, agent)
    if access.only_preferred:
        return
    for key in agent.held():
        yield "agent", key
    for path in (Path(name).expanduser() for name in _USUAL_KEYS):
        if path.exists() and path not in access.preferred_keys:
            yield from _of_file(path, agent)


def _of_file(path: Path, agent: _Agent) -> Iterator[tuple[str, paramiko.PKey | HostUserError]]:
    try:
        yield str(path), load_private_key(path)
    except HostUserError as unusable:
        # The agent may hold it. Where nothing tells the public key, it may be any of the agent's.
        wanted = public_blob(path)
        has_file = wanted is not None or path.expanduser().exists()
        held = [key for key in agent.held() if wanted in {None, key.asbytes()}] if has_file else []
        for key in held:
            yield f"{path}, held by the agent", key
        if not held:
            yield str(path), unusable
