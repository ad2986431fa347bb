"""Machines that are taken for a run and given back: the seam between orchestration and those who lend them.

`Provisioner` is implemented by what is at hand already (static hosts) and by each service that rents machines out. One
contract suite runs over all of them. Implementations know their service alone: they ask once. How often one asks, what
a lost reply means and what proves an end is the same for all of them: `create_instance`, `terminate_instance`.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from tasks.core.names import HostAddress
from tasks.core.retry import retry_transient
from tasks.provisioning.errors import (
    NothingDone,
    ProviderError,
    ProviderUnavailable,
)

_log = logging.getLogger(__name__)

_OWNER = re.compile(r"[a-z0-9]{4,40}")
_NEVER = datetime.max.replace(tzinfo=UTC)
_NAME = re.compile(r"jade-([a-z0-9]{4,40})-([0-9a-f]{8,32})")


def check_owner(owner: str) -> str:
    """Return an owner's tag as machines carry it: lower-case letters and digits; a UUID loses its dashes.

    Raises:
        ValueError: It is no tag.
    """
    tag = owner.strip().lower().replace("-", "")
    if not _OWNER.fullmatch(tag):
        raise ValueError(f"an owner is 4 to 40 letters and digits, such as a ledger's UUID, not {owner!r}")
    return tag


def instance_name(owner: str, request_id: str) -> str:
    """Return what a machine is called: owner and request, so that both can be told where there is a name only."""
    name = f"jade-{owner}-{request_id}"
    if not _NAME.fullmatch(name):
        raise ValueError(f"{owner!r} and {request_id!r} make no name of a machine")
    return name


def owner_and_request(name: str) -> tuple[str, str] | None:
    """Return the owner and the request that a machine's name tells of; None if the name is not one of ours."""
    found = _NAME.fullmatch(name)
    return (found[1], found[2]) if found else None


class InstanceState(StrEnum):
    """Where a machine stands, in the provider's eyes."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    """Does not run but still costs, such as a pod that exited: its disk is kept."""
    FAILED = "failed"
    """Will never run, and may still cost."""
    GONE = "gone"
    """The provider has ended it, or denies knowing it: it costs nothing any more."""


_USELESS = {InstanceState.STOPPED, InstanceState.FAILED}


@dataclass(frozen=True)
class Offer:
    """One kind of machine that could be had now.

    Attributes:
        provider: Who lends it: `static`, `runpod`, `ec2`.
        kind: The provider's own identifier of a GPU or instance type, or a static host's name.
        title: As people call it.
        gpu_memory_gib: Of one GPU; None if unknown or there is none.
        price_usd_per_hour: What it is said to cost; 0 for static hosts.
        region: Where; empty if the provider chooses.
        spot: Whether the provider may take it away.
        available: False if the provider says that there is none; None if it does not tell.
    """

    provider: str
    kind: str
    title: str
    gpu_memory_gib: float | None
    price_usd_per_hour: float
    region: str = ""
    spot: bool = False
    available: bool | None = None


@dataclass(frozen=True)
class InstanceRequest:
    """What is wanted of a provider, once. Everything in it was written to the ledger before it is asked for.

    Attributes:
        request_id: Unique and durable, hexadecimal: the same one asked again never makes a second machine.
        owner: Tag of whoever pays; every machine carries it. See `check_owner`.
        offer: Which kind.
        public_key: Line of `authorized_keys` that admits us.
        host_private_key: OpenSSH private key that the machine shall show as its own on the first connection.
        max_age_s: After this long the machine shall end itself, where it can.
    """

    request_id: str
    owner: str
    offer: Offer
    public_key: str
    host_private_key: str = field(repr=False)
    max_age_s: float

    @property
    def name(self) -> str:
        """What the machine is called; what a lost reply is recovered by."""
        return instance_name(self.owner, self.request_id)


@dataclass(frozen=True)
class Instance:
    """A machine of ours as the provider tells of it.

    Attributes:
        provider: As in `Offer`.
        instance_id: The provider's identifier.
        name: As in `InstanceRequest`.
        owner: Tag that it carries.
        state: Where it stands.
        address: How to reach its SSH server; None until the provider tells, and it may change.
        price_usd_per_hour: What it costs now.
        started_at: Since when it costs, UTC; None if the provider does not tell.
        detail: What the provider says about it, for messages.
    """

    provider: str
    instance_id: str
    name: str
    owner: str
    state: InstanceState
    address: HostAddress | None
    price_usd_per_hour: float
    started_at: datetime | None
    detail: str = ""


@dataclass(frozen=True)
class InstanceScripts:
    """What a machine of a provider can do about itself, as POSIX sh that runs as the account that we log in as.

    Attributes:
        end: Ends the machine from inside, its cost included where that is possible; may be run again.
        end_is_certain: Whether `end` surely ends the cost. If not, somebody outside must delete the machine.
        renew_host_key: Makes a new host key that the SSH server shows from the next connection on, prints its public
            line (`ssh-ed25519 AAAA...`) as the last line, and leaves open connections alone; may be run again. Empty
            where nobody but us has seen the key that went in with the request, or the machine has a key of its own.
        notice: Prints a line once the provider is about to take the machine away, and nothing until then; ends with 0
            either way. Empty where no provider does that.
    """

    end: str
    end_is_certain: bool
    renew_host_key: str = ""
    notice: str = ""


def gone(provider: str, instance_id: str) -> Instance:
    """Return a machine that its provider denies knowing."""
    detail = "the provider denies knowing it"
    return Instance(provider, instance_id, "", "", InstanceState.GONE, None, 0.0, None, detail)


class Provisioner(Protocol):
    """Someone who lends machines. Every call is bounded in time; only transient errors may be tried again."""

    @property
    def provider(self) -> str:
        """Its name, as in `Offer`."""
        ...

    @property
    def scripts(self) -> InstanceScripts:
        """What its machines can do about themselves; holds no secret."""
        ...

    def offers(self) -> Sequence[Offer]:
        """Return what can be had now, with prices. Rents nothing.

        Raises:
            ProviderRefused: The key is missing or wrong.
            ProviderUnavailable: Transient.
        """
        ...

    def create(self, request: InstanceRequest) -> Instance:
        """Ask for one machine, once: what may have been heard is not sent again.

        Raises:
            NoCapacity: None of this kind now: the next candidate may be tried.
            ProviderRefused: The request, the key, the balance or a quota; trying again cannot help.
            NothingDone: Nothing has happened. Transient.
            ProviderUnavailable: Whether a machine was made is not known; `list` will tell. Transient.
        """
        ...

    def describe(self, instance_id: str) -> Instance:
        """Return how a machine stands; `GONE` if the provider denies knowing it."""
        ...

    def list(self, owner: str) -> Sequence[Instance]:
        """Return every machine that carries the owner's tag and is not gone, and none of others."""
        ...

    def terminate(self, instance_id: str) -> Instance:
        """Ask for the end of a machine, unless it is gone; return how it stood before.

        Raises:
            ProviderRefused: It is not one of ours, and nothing was sent; or the key may not end it.
            ProviderUnavailable: Transient.
        """
        ...


@dataclass(frozen=True)
class Timing:
    """How long one waits for a provider and its machines.

    Attributes:
        settle_s: After a lost reply: how long a machine is looked for, as lists lag behind.
        release_s: How long an end may take to be proved.
        look_s: Pause between two looks at first; doubled each time.
        start_limit_s: How long a machine may take from being made to letting us in.
        connect_s: Of one attempt to connect; then the provider is asked how the machine stands.
        notice_s: Between two looks whether a spot machine is about to be taken away. It is said two minutes before;
            AWS advises to look this often.
    """

    settle_s: float = 30.0
    release_s: float = 300.0
    look_s: float = 1.0
    start_limit_s: float = 900.0
    connect_s: float = 15.0
    notice_s: float = 5.0


def find_named(provisioner: Provisioner, owner: str, name: str) -> Instance | None:
    """Return the machine of an owner that has a name; of several, the oldest stays and the others are ended."""
    same = [instance for instance in provisioner.list(owner) if instance.name == name]
    same.sort(key=lambda instance: (instance.state in _USELESS, instance.started_at or _NEVER, instance.instance_id))
    for twin in same[1:]:
        _log.warning("two machines are called %s: %s is ended, %s stays", name, twin.instance_id, same[0].instance_id)
        # If this fails, the next look sees it again, as does the reaper.
        with contextlib.suppress(ProviderError):
            provisioner.terminate(twin.instance_id)
    return same[0] if same else None


def create_instance(
    provisioner: Provisioner,
    request: InstanceRequest,
    timing: Timing,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Instance:
    """Create the machine of a request, which there is once, whatever happens to calls and replies.

    It is looked for before it is asked for, and after a lost reply; it is asked for again only where nothing happened.

    Raises:
        NoCapacity, ProviderRefused, NothingDone: As `Provisioner.create`: no machine was made.
        ProviderUnavailable: Whether one was made is not known. Transient.
    """
    if (found := find_named(provisioner, request.owner, request.name)) is not None:
        return found
    lost: ProviderUnavailable
    try:
        return retry_transient(
            lambda: provisioner.create(request), only=NothingDone, pause_s=timing.look_s, sleep=sleep, clock=clock
        )
    except NothingDone:
        raise
    except ProviderUnavailable as error:
        lost = error

    def look() -> Instance:
        found = find_named(provisioner, request.owner, request.name)
        if found is None:
            detail = f"{lost.detail}; no machine called {request.name} was seen within {timing.settle_s:g} s"
            raise ProviderUnavailable(lost.provider, lost.doing, detail, status=lost.status) from lost
        _log.warning("the reply was lost (%s); found %s by its name", lost, found.instance_id)
        return found

    return retry_transient(
        look,
        attempts=None,
        limit_s=timing.settle_s,
        pause_s=timing.look_s,
        longest_pause_s=10,
        sleep=sleep,
        clock=clock,
    )


def terminate_instance(
    provisioner: Provisioner,
    instance_id: str,
    timing: Timing,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """End a machine; return only once the provider shows, or denies, it as one that costs no more.

    Raises:
        ProviderUnavailable: It was asked for, but is not proved within `timing.release_s`.
        ProviderRefused: It is not one of ours; or the key may not end it.
    """

    def ask() -> None:
        cause = None
        try:
            instance = provisioner.terminate(instance_id)
            if instance.state is InstanceState.GONE:
                return
            detail = f"it is still shown as {instance.detail or instance.state.value}"
        except ProviderUnavailable as error:
            cause, detail = error, str(error)
        doing, summary = f"end machine {instance_id}", "its end is not confirmed, and it may still cost"
        raise ProviderUnavailable(provisioner.provider, doing, detail, summary=summary, advice="") from cause

    retry_transient(
        ask,
        attempts=None,
        limit_s=timing.release_s,
        pause_s=timing.look_s,
        longest_pause_s=10,
        sleep=sleep,
        clock=clock,
    )


@dataclass(frozen=True)
class CallLimits:
    """Bounds of every call of a service's API.

    Attributes:
        connect_timeout_s: For the connection.
        read_timeout_s: For each part of an answer.
        call_timeout_s: For a call with all its attempts, but for the end of the last.
        attempts: The first included, of what may be repeated.
        pause_s: Before the second; doubled each time, and jittered.
        longest_wait_s: How long is waited where the service says for how long; if it asks for more, the call fails.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    call_timeout_s: float = 120.0
    attempts: int = 5
    pause_s: float = 1.0
    longest_wait_s: float = 60.0
