"""Machines that are taken for a run and given back: the seam between orchestration and those who lend them.

`Provisioner` is implemented by what is at hand already (static hosts) and by each service that rents machines out. One
contract suite runs over all of them (`tests/fakes/provisioner_contract.py`). Implementations know their service alone:
which candidate is tried next, what is written to the ledger, and when a machine goes back is decided above them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from tasks.core.names import HostAddress

_OWNER = re.compile(r"[a-z0-9]{4,40}")
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
        name: Of the machine, `instance_name(owner, request_id)`; what a lost reply is recovered by.
        offer: Which kind.
        public_key: Line of `authorized_keys` that admits us.
        host_private_key: OpenSSH private key that the machine shall show as its own on the first connection.
        max_age_s: After this long the machine shall end itself, where it can.
        environment: Variables of the machine; the provider shows them to whoever holds its API key.
    """

    request_id: str
    owner: str
    name: str
    offer: Offer
    public_key: str
    host_private_key: str = field(repr=False)
    max_age_s: float
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


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
        """Ask for one machine. After a lost reply it is looked for by its name: none is ever asked for twice blindly.

        Raises:
            NoCapacity: None of this kind now: the next candidate may be tried.
            ProviderRefused: The request, the key, the balance or a quota; trying again cannot help.
            ProviderUnavailable: Whether a machine was made is not known; `find` and `list_ours` will tell. Transient.
        """
        ...

    def describe(self, instance_id: str) -> Instance:
        """Return how a machine stands; `GONE` if the provider denies knowing it."""
        ...

    def list(self, owner: str) -> Sequence[Instance]:
        """Return every machine that carries the owner's tag and is not gone, and none of others."""
        ...

    def terminate(self, instance_id: str) -> None:
        """End a machine; return only once the provider shows that it costs no more. Silent if it is already gone.

        Raises:
            TerminationUnproven: It was asked for, but the provider does not confirm it in time. Transient.
        """
        ...
