"""Where trainings run, as `compare` and `sweep` let a user set it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flows.parameters.fields import Device, Host, NumWorkers
from flows.parameters.rental import (
    MAX_HOURS,
    ORPHAN_GRACE_MIN,
    RENT_FIELDS,
    AcceptUnreaped,
    Budget,
    Gpus,
    MaxHours,
    MaxPrice,
    OrphanGrace,
    Owner,
    Provider,
    Rent,
    Spot,
    rental_wish,
)
from tasks.execution.base import EngineName, EngineSettings
from tasks.provisioning.rental_wish import RentalWish
from tasks.settings.host_entries import LOCAL, PROVIDERS

Engine = Annotated[
    EngineName,
    Field(
        title="Engine",
        description="What runs the trainings: `processes` here, `dask` on a cluster, `hosts` shared out over SSH.",
    ),
]
Scheduler = Annotated[
    str | None,
    Field(
        title="Scheduler",
        description="Dask scheduler, tcp://HOST:PORT; empty: a cluster on this machine for the time of the run.",
        pattern=r"^(tcp|tls|ucx|ws|wss)://\S+$",
    ),
]
Hosts = Annotated[
    list[str],
    Field(title="Hosts", description="Hosts that share the trainings, as `jade hosts list` shows them."),
]


class EngineParameters(BaseModel):
    """Which engine runs the trainings, and on what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Host = LOCAL
    engine: Engine = "processes"
    scheduler: Scheduler = None
    hosts: Hosts = []
    rent: Rent = 0
    provider: Provider = None
    gpu: Gpus = []
    max_price: MaxPrice = None
    max_hours: MaxHours = MAX_HOURS
    budget: Budget = None
    spot: Spot = False
    orphan_grace: OrphanGrace = ORPHAN_GRACE_MIN
    accept_unreaped: AcceptUnreaped = False
    owner: Owner = None
    device: Device = None
    workers: NumWorkers = None

    @model_validator(mode="after")
    def _host_or_engine(self) -> EngineParameters:
        if self.host != LOCAL and (self.engine != "processes" or self.hosts or self.rent or self.provider):
            raise ValueError(f"host {self.host} is one host alone: leave engine, hosts, rent and provider out")
        return self

    def engine_settings(self) -> EngineSettings:
        """Return the engine's settings; one host alone, of ours or rented, is an engine of one host.

        Raises:
            BadRequest: They contradict each other.
        """
        if self.host in PROVIDERS:
            return EngineSettings("hosts", self.device, self.workers, self.scheduler, rent=1, wish=self.wish)
        if self.host != LOCAL:
            return EngineSettings("hosts", self.device, self.workers, self.scheduler, (self.host,))
        return EngineSettings(
            engine=self.engine,
            device=self.device,
            workers=self.workers,
            scheduler=self.scheduler,
            hosts=tuple(self.hosts),
            rent=self.rent,
            wish=self.wish,
        )

    @property
    def where(self) -> str:
        """Where the trainings run, in a word for people: a host, or an engine."""
        return self.engine if self.host == LOCAL else self.host

    @property
    def wish(self) -> RentalWish | None:
        """What is rented; None: nothing."""
        provider = self.host if self.host in PROVIDERS else self.provider
        if provider is None:
            return None
        return rental_wish(provider, {name: getattr(self, name) for name in RENT_FIELDS})
