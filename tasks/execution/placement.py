"""Where trainings run: one model for the command line, the forms, `run.json` and every executor."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.artifacts.training_cache import say
from tasks.hosts.host import RemotePlace
from tasks.provisioning.ledger import Purpose
from tasks.provisioning.offers import RentalRequest
from tasks.provisioning.registry import open_registry
from tasks.settings.load import load_settings
from tasks.settings.models import LOCAL, PROVIDERS, Workers

DASK = "dask"
MOST_MACHINES = 256

_SCHEDULER = re.compile(r"(tcp|tls|ucx|ws|wss)://\S+")


class Where(BaseModel):
    """Where trainings run, and how many at once.

    A model is made of words alone; `check_placement` asks the settings and the providers whether they know them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: tuple[str, ...] = Field(
        default=(LOCAL,),
        title="Host",
        description=f"Where the trainings run: `{LOCAL}`, hosts that `jade hosts list` shows, or who rents machines "
        "(`runpod`, `ec2`, `static`; `ec2:4` for four at once), `dask` or a Dask scheduler (tcp://ADDRESS:PORT).",
        min_length=1,
    )
    device: Literal["cpu", "cuda"] | None = Field(
        default=None,
        title="Device",
        description="What trains there; empty: the host's own setting, the CPU on this machine.",
    )
    workers: Workers = Field(
        default=None,
        title="Workers",
        description="Trainings at once on each host; `arms`: one of each arm, if a GPU's memory allows; empty: one a "
        "core, or four on a GPU.",
    )

    @field_validator("host", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        """Names stand apart or with commas between them."""
        if isinstance(given, str):
            given = (given,)
        if isinstance(given, list | tuple) and all(isinstance(item, str) for item in given):
            return tuple(name for item in given for name in item.replace(",", " ").split())
        return given

    @field_validator("host")
    @classmethod
    def _make_sense(cls, host: tuple[str, ...]) -> tuple[str, ...]:
        for name in host:
            provider, colon, number = name.partition(":")
            if colon and not _SCHEDULER.fullmatch(name):
                if provider not in PROVIDERS:
                    raise ValueError(f"{name!r}: only {', '.join(PROVIDERS)} take a number of machines, such as ec2:4")
                if not number.isdecimal() or not 1 <= int(number) <= MOST_MACHINES:
                    raise ValueError(f"{name!r}: {provider}:NUMBER takes a number from 1 to {MOST_MACHINES}")
        rented = [name for name in host if _provider_of(name)]
        if len(rented) > 1:
            raise ValueError(f"{', '.join(rented)}: name one of them, with a number for several machines (ec2:4)")
        if len(set(host)) != len(host):
            raise ValueError(f"a host is named twice: {', '.join(host)}")
        alone = [name for name in host if name in {LOCAL, DASK} or _SCHEDULER.fullmatch(name)]
        if alone and len(host) > 1:
            raise ValueError(f"{alone[0]} is given alone, not beside {', '.join(n for n in host if n != alone[0])}")
        return host

    @field_validator("workers")
    @classmethod
    def _some(cls, workers: Workers) -> Workers:
        if isinstance(workers, int) and not 1 <= workers <= 256:
            raise ValueError(f"workers is a number from 1 to 256, or `arms`, not {workers}")
        return workers

    @model_validator(mode="after")
    def _arms_where_there_are_gpus(self) -> Self:
        if self.workers == "arms" and self.uses_dask:
            raise ValueError("workers is a number on Dask, whose scheduler shares the trainings out")
        return self

    @property
    def is_local(self) -> bool:
        """Whether all of it runs in processes of this machine."""
        return self.host == (LOCAL,)

    @property
    def uses_dask(self) -> bool:
        """Whether a Dask cluster runs it."""
        return self.host == (DASK,) or self.scheduler is not None

    @property
    def scheduler(self) -> str | None:
        """Address of a Dask scheduler; None on Dask: a cluster on this machine for the time of the run."""
        return self.host[0] if _SCHEDULER.fullmatch(self.host[0]) else None

    @property
    def provider(self) -> str | None:
        """Who rents machines out; None: nothing is rented."""
        return next((name for item in self.host if (name := _provider_of(item))), None)

    @property
    def machines(self) -> int:
        """Rented at once, at most."""
        return sum(int(item.partition(":")[2] or 1) for item in self.host if _provider_of(item))

    @property
    def named_hosts(self) -> tuple[str, ...]:
        """Hosts that the settings describe."""
        if self.is_local or self.uses_dask:
            return ()
        return tuple(item for item in self.host if _provider_of(item) is None)

    def applied_to(self, place: RemotePlace) -> RemotePlace:
        """Return how a host is used here that is used so if nothing else is said."""
        return replace(place, device=self.device or place.device, workers=self.workers)

    def renting(self, rental: RentalRequest) -> Placement:
        """Return the placement with what may be rented for it."""
        return Placement(**dict(self), rental=rental)

    def __str__(self) -> str:
        """In a word, for people and `run.json`."""
        return ", ".join(self.host)


class Placement(Where):
    """Where trainings run, and what may be rented for them: what flows, executors and lanes are given whole.

    In parameters the two stand apart: who changes the host alone keeps a deployment's limits and budget.
    """

    rental: RentalRequest = RentalRequest()


def _provider_of(choice: str) -> str | None:
    name = choice.partition(":")[0]
    return name if name in PROVIDERS else None


def check_placement(placement: Placement) -> None:
    """Refuse, before anything is prepared, what cannot run. Rents nothing.

    Raises:
        BadRequest: A host is in no settings file; the closest name is offered.
        BadRequest: What Dask needs is not installed, or nothing that is offered may be rented.
        SettingsError, ProviderRefused, ProviderUnavailable: The provider is not set up, or could not be asked.
    """
    if placement.uses_dask:
        from tasks.execution.dask import dask_runner_class

        dask_runner_class()
    if placement.named_hosts:
        known = load_settings()
        for name in placement.named_hosts:
            known.entry(name)
    if placement.provider is not None:
        with closing(open_registry()) as registry:
            registry.provider(placement.provider)
            if registry.ledger.entries(only_open=True):
                return  # it may attach to one of these, whatever is offered now
            registry.renter(placement.provider, placement.rental, Purpose("plan"), note=say).plan()
